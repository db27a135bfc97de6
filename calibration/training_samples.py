"""Training samples: random crops of photographs, some degraded, with the score that each should get.

A photograph with a few known faults teaches what a label cannot: how far the score must fall when the
same retina is defocused, dark or covered. Samples come in pairs; half of the pairs show one crop twice,
the second time with one fault more, so that a ranking loss sees the fault and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from fthnet_kit.calibration.drawn_non_retinas import not_retina
from fthnet_kit.edge.capture.degradations import DEGRADATIONS, Rng, degrade
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.model.preprocess import INPUT, MARGIN, RESIZE

FAULTS = tuple(DEGRADATIONS)

# How often a fault is drawn, and the share of its score that a photograph loses at severity 1.
FREQUENCY = {
    "defocus": 5.0,
    "motion_blur": 3.0,
    "under_exposure": 2.0,
    "over_exposure": 2.0,
    "uneven_illumination": 2.5,
    "haze": 1.5,
    "flare": 4.0,
    "occlusion": 1.5,
    "sensor_noise": 4.0,
    "jpeg": 1.0,
}
LOSS_AT_WORST = {
    "defocus": 0.90,
    "motion_blur": 0.85,
    "under_exposure": 0.90,
    "over_exposure": 0.90,
    "uneven_illumination": 0.85,
    "haze": 0.90,
    "flare": 0.70,
    "occlusion": 0.85,
    "sensor_noise": 0.80,
    "jpeg": 0.60,
}
STEEPNESS = 0.8  # below 1: the first bit of blur costs more than the last

FAULT_FREE_MOS = 55.0  # a photograph this good counts as free of faults: severities are known to be zero
DEGRADABLE_MOS = 40.0  # below this a photograph has too little left to lose
CAST_SHARE = 0.35  # photographs in the colours of another camera
CONTRAST_SHARE = 0.5  # pairs that show one crop twice
FAULTY_BOTH_SHARE = 0.4  # of these: pairs whose first picture has a fault too
SAME_FAULT_SHARE = 0.5  # of those: pairs in which that fault only grows
NOT_RETINA_SHARE = 0.2  # of the other samples: outer eyes and rooms, which score nothing
SINGLE_FAULT_SHARE = 0.3  # of the other photographs: those that get a fault


@dataclass(frozen=True)
class Sample:
    """One training sample.

    Attributes:
        image: RGB uint8 (384, 384, 3).
        quality: what the network should say, MOS / 100.
        severities: float32 (10,), severity of each of `FAULTS`.
        known: whether the severities are known; a poor photograph's own faults are not, nor has an
            outer eye any.
    """

    image: Image
    quality: float
    severities: npt.NDArray[np.float32]
    known: bool


def remaining(name: str, severity: float) -> float:
    """Share of its score that a photograph keeps at a fault's severity."""
    return 1.0 - LOSS_AT_WORST[name] * severity**STEEPNESS


def draw_severity(rng: Rng) -> float:
    """Between 0.04 and 1, small severities more often: that is where the score must be told apart."""
    return float(0.04 + 0.96 * rng.random() ** 1.4)


def draw_fault(rng: Rng) -> str:
    """One of `FAULTS`, by `FREQUENCY`."""
    weights = np.array([FREQUENCY[name] for name in FAULTS])
    return str(rng.choice(FAULTS, p=weights / weights.sum()))


def random_crop(canonical: Image, rng: Rng) -> Image:
    """A 384x384 crop of a 512x512 field, mirrored and turned at random; every second one the centre."""
    top, left = (MARGIN, MARGIN) if rng.random() < 0.5 else rng.integers(0, RESIZE - INPUT + 1, size=2)
    crop = canonical[top : top + INPUT, left : left + INPUT]
    crop = np.rot90(crop, int(rng.integers(4)))
    return np.ascontiguousarray(crop[:, ::-1] if rng.random() < 0.5 else crop)


def jitter_colour(image: Image, rng: Rng) -> Image:
    """Cameras differ: gain of each channel by up to 8 %, common gain by up to 8 %, and in some a strong cast.

    A cast is no fault: some cameras hardly show blue. Without casts, a network that has seen outer eyes in
    odd colours takes a yellow retina for one.
    """
    gain = rng.uniform(0.92, 1.08) * rng.uniform(0.92, 1.08, size=3)
    if rng.random() < CAST_SHARE:
        gain = gain * rng.uniform((0.05, 0.75, 0.8), (1.15, 1.15, 1.15))
    tables = np.clip(np.arange(256)[:, None] * gain, 0, 255).astype(np.uint8)
    return cv2.LUT(image, tables.reshape(1, 256, 3))


class SampleSource:
    """Endless, indexable pairs of samples; pair `index` is the same in every run with the same seed.

    Args:
        photographs: BGR uint8 (512, 512, 3), as `edge.preprocess.canonical` makes them.
        mos: score of each, 0-100.
        seed: of everything random.
    """

    def __init__(self, photographs: list[Image], mos: npt.NDArray[np.floating], seed: int) -> None:
        self.photographs = photographs
        self.mos = mos
        self.seed = seed
        self.degradable = np.flatnonzero(mos >= min(DEGRADABLE_MOS, float(np.median(mos))))

    def pair(self, index: int) -> tuple[Sample, Sample]:
        """Two samples: two photographs, or one crop without and with a further fault."""
        rng = np.random.default_rng([self.seed, index])
        if rng.random() >= CONTRAST_SHARE:
            return self._single(rng), self._single(rng)
        chosen = int(rng.choice(self.degradable))
        crop = self._crop(chosen, rng)
        faults: dict[str, float] = {}
        name = draw_fault(rng)
        if rng.random() < FAULTY_BOTH_SHARE:
            first = name if rng.random() < SAME_FAULT_SHARE else draw_fault(rng)
            faults[first] = draw_severity(rng) * 0.6
        worse = dict(faults)
        worse[name] = min(1.0, faults.get(name, 0.0) + draw_severity(rng))
        return self._sample(chosen, crop, faults, rng), self._sample(chosen, crop, worse, rng)

    def _single(self, rng: Rng) -> Sample:
        if rng.random() < NOT_RETINA_SHARE:
            crop = cv2.cvtColor(random_crop(not_retina(rng), rng), cv2.COLOR_BGR2RGB)
            return Sample(crop, 0.0, np.zeros(len(FAULTS), np.float32), known=False)
        degraded = rng.random() < SINGLE_FAULT_SHARE
        chosen = int(rng.choice(self.degradable)) if degraded else int(rng.integers(len(self.photographs)))
        faults = {draw_fault(rng): draw_severity(rng)} if degraded else {}
        return self._sample(chosen, self._crop(chosen, rng), faults, rng)

    def _crop(self, chosen: int, rng: Rng) -> Image:
        return jitter_colour(random_crop(self.photographs[chosen], rng), rng)

    def _sample(self, chosen: int, crop: Image, faults: dict[str, float], rng: Rng) -> Sample:
        quality = float(self.mos[chosen]) / 100
        severities = np.zeros(len(FAULTS), np.float32)
        for name, severity in faults.items():
            crop = degrade(crop, name, severity, rng, field=RESIZE)
            quality *= remaining(name, severity)
            severities[FAULTS.index(name)] = severity
        rgb = cv2.cvtColor(crop, cv2.COLOR_BGR2RGB)
        return Sample(rgb, quality, severities, bool(self.mos[chosen] >= FAULT_FREE_MOS))
