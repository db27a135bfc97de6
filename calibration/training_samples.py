"""Training samples: random crops of photographs, some degraded, with the score that each should get.

A photograph with a few known faults teaches what a label cannot: how far the score must fall when the
same retina is defocused, dark or covered, and that it must not fall when another camera or a paler eye makes
it brighter, darker or of another colour. Samples come in pairs; half of the pairs show one photograph twice,
the second time with one fault more or another field of it, so that a ranking loss sees that and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from fthnet_kit.calibration.dim_labels import in_full_light
from fthnet_kit.calibration.drawn_non_retinas import not_retina
from fthnet_kit.calibration.grain import grain_severity, grainy
from fthnet_kit.calibration.local_faults import hidden_share, importance, kept, local_fault, lost_levels
from fthnet_kit.calibration.looks import dirty, expose, fall_off, glow, jitter_colour
from fthnet_kit.calibration.other_fields import OTHER_FIELD_KEPT, decentred, other_field
from fthnet_kit.edge.capture.degradations import DEGRADATIONS, Rng, degrade
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.model.preprocess import INPUT, MARGIN, RESIZE

FAULTS = tuple(DEGRADATIONS)

# How often a fault is drawn, and the share of its score that a photograph loses at severity 1.
FREQUENCY = {
    "defocus": 5.0,
    "motion_blur": 3.0,
    "under_exposure": 3.5,
    "over_exposure": 3.0,
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
STEEPNESS_OF = {"under_exposure": 2.8, "over_exposure": 1.5, "uneven_illumination": 1.7}  # a little of it is a look

TURNS = (cv2.ROTATE_90_COUNTERCLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_CLOCKWISE)

FAULT_FREE_MOS = 55.0  # a photograph this good counts as free of faults: severities are known to be zero
DEGRADABLE_MOS = 40.0  # below this a photograph has too little left to lose
LOOK_SHARE = 0.6  # photographs in another light
FALL_OFF_SHARE = 0.6  # looks whose light also grows weaker to a side, to the rim or to the middle
GLOW_SHARE = 0.25  # looks with light that leaks in at the rim
LEAST_LOST = 0.002  # share of the picture that a look may clip without a price
CONTRAST_SHARE = 0.5  # pairs that show one photograph twice
OTHER_FIELD_SHARE = 0.5  # share of these: pairs whose second picture shows neither macula nor disc
FAULTY_BOTH_SHARE = 0.4  # share of the rest, which show one crop: pairs whose first picture has a fault too
SAME_FAULT_SHARE = 0.5  # share of those: pairs in which that fault only grows
OTHER_LOOK_SHARE = 0.5  # of the pairs that show one crop: those whose second picture comes in a look of its own
DECENTRED_SHARE = 0.2  # photographs that show macula and disc elsewhere than where most cameras aim, at no cost
NOT_RETINA_SHARE = 0.2  # share of the other samples: outer eyes and rooms, which score nothing
EMPTY_SHARE = 0.15  # of the rest: hardly anything to see but light, blur and grain
EMPTY_BLUR = (0.4, 1.0)  # severity of their defocus
EMPTY_LOCAL_SHARE = 0.3  # of them: those with dust, a reflex or a lid before it
SINGLE_FAULT_SHARE = 0.3  # share of the other photographs: those that get a fault
LOCAL_SHARE = 0.35  # share of faults: those that hide a part of the field
DIRT_SHARE = 0.3  # photographs with fine specks of dirt, which cost nothing
GRAIN_SHARE = 0.35  # samples with grain over whatever they show, at the price of noise
FAULTY_OTHER_SHARE = 0.5  # other fields with a fault too
NEGATIVES = 300  # different drawn pictures, made when first needed and kept: one takes ten times as long as a sample


@dataclass(frozen=True)
class TrainingSample:
    """One training sample.

    Attributes:
        image: RGB uint8 (384, 384, 3).
        quality: what the network should say, MOS / 100.
        severities: float32 (10,), severity of each of `FAULTS`.
        known: whether the severities are known; a poor photograph's own faults are not, nor has an
            outer eye any.
        hidden: share of the field that a local fault, or a look that clips, takes away.
        other_field: whether neither macula nor disc is shown.
    """

    image: Image
    quality: float
    severities: npt.NDArray[np.float32]
    known: bool
    hidden: float = 0.0
    other_field: bool = False


@dataclass(frozen=True)
class _Crop:
    """A crop before faults: BGR, the photograph's number, the share of the field that its look lost, which field."""

    image: Image
    chosen: int
    lost: float
    other_field: bool = False


def remaining(name: str, severity: float) -> float:
    """Share of its score that a photograph keeps at a fault's severity."""
    return 1.0 - LOSS_AT_WORST[name] * severity ** STEEPNESS_OF.get(name, STEEPNESS)


def draw_severity(rng: Rng) -> float:
    """Between 0.04 and 1, small severities more often: there the scores must differ clearly."""
    return float(0.04 + 0.96 * rng.random() ** 1.4)


def draw_fault(rng: Rng) -> str:
    """One of `FAULTS`, by `FREQUENCY`."""
    weights = np.array([FREQUENCY[name] for name in FAULTS])
    return str(rng.choice(FAULTS, p=weights / weights.sum()))


def draw_grain(rng: Rng) -> float:
    """Severity of the grain over a sample, most often 0."""
    return grain_severity(rng) if rng.random() < GRAIN_SHARE else 0.0


def random_crop(canonical: Image, rng: Rng) -> Image:
    """A 384x384 crop of a 512x512 field, mirrored and turned at random; every second one the centre."""
    top, left = (MARGIN, MARGIN) if rng.random() < 0.5 else rng.integers(0, RESIZE - INPUT + 1, size=2)
    return turned(canonical[top : top + INPUT, left : left + INPUT], rng)


def turned(crop: Image, rng: Rng) -> Image:
    """A square picture, mirrored and turned by quarters at random."""
    quarters = int(rng.integers(4))
    if quarters:
        crop = cv2.rotate(crop, TURNS[quarters - 1])
    return cv2.flip(crop, 1) if rng.random() < 0.5 else np.ascontiguousarray(crop)


class SampleSource:
    """Endless, indexable pairs of samples; pair `index` is the same in every run with the same seed.

    Args:
        photographs: BGR uint8 (512, 512, 3), as `edge.preprocess.canonical` makes them.
        mos: score of each, 0-100.
        seed: of everything random.
        plain: share of pairs that show two photographs as they are, every second one in full light.
    """

    def __init__(
        self, photographs: list[Image], mos: npt.NDArray[np.floating], seed: int, *, plain: float = 0.0
    ) -> None:
        self.photographs = photographs
        self.mos = mos
        self.seed = seed
        self.plain = plain
        self.degradable = np.flatnonzero(mos >= min(DEGRADABLE_MOS, float(np.median(mos))))
        self._drawn: dict[int, Image] = {}

    def pair(self, index: int) -> tuple[TrainingSample, TrainingSample]:
        """Two samples: two photographs, one crop without and with a further fault, or two fields of one photograph."""
        rng = np.random.default_rng([self.seed, index])
        if self.plain and rng.random() < self.plain:
            return self._as_it_is(rng), self._as_it_is(rng)
        if rng.random() >= CONTRAST_SHARE:
            return self._single(rng), self._single(rng)
        chosen = int(rng.choice(self.degradable))
        view = self._view(chosen, rng)
        crop, grain = self._looked(view, chosen, rng), draw_grain(rng)
        if rng.random() < OTHER_FIELD_SHARE:
            beside = self._other_field(chosen, rng)
            if beside is not None:
                faults = {draw_fault(rng): draw_severity(rng)} if rng.random() < FAULTY_OTHER_SHARE else {}
                return self._sample(crop, {}, grain, rng), self._sample(beside, faults, grain, rng)
        local = rng.random() < LOCAL_SHARE
        faults = {}
        name = draw_fault(rng)
        if rng.random() < FAULTY_BOTH_SHARE:
            first = name if rng.random() < SAME_FAULT_SHARE else draw_fault(rng)
            faults[first] = draw_severity(rng) * 0.6
        worse = dict(faults)
        if not local:
            worse[name] = min(1.0, faults.get(name, 0.0) + draw_severity(rng))
        again = self._looked(view, chosen, rng) if rng.random() < OTHER_LOOK_SHARE else crop
        return self._sample(crop, faults, grain, rng), self._sample(again, worse, grain, rng, local=local)

    def _single(self, rng: Rng) -> TrainingSample:
        if rng.random() < NOT_RETINA_SHARE:
            crop = jitter_colour(random_crop(self._negative(int(rng.integers(NEGATIVES))), rng), rng)
            grain = draw_grain(rng)
            if grain:
                crop = grainy(crop, grain, rng)
            return TrainingSample(
                cv2.cvtColor(crop, cv2.COLOR_BGR2RGB), 0.0, np.zeros(len(FAULTS), np.float32), known=False
            )
        if rng.random() < EMPTY_SHARE:
            return self._empty(rng)
        degraded = rng.random() < SINGLE_FAULT_SHARE
        local = degraded and rng.random() < LOCAL_SHARE
        chosen = int(rng.choice(self.degradable)) if degraded else int(rng.integers(len(self.photographs)))
        faults = {draw_fault(rng): draw_severity(rng)} if degraded and not local else {}
        return self._sample(self._crop(chosen, rng), faults, draw_grain(rng), rng, local=local)

    def _empty(self, rng: Rng) -> TrainingSample:
        """What is left of a photograph behind strong blur, another fault and grain: crisp, but not the eye."""
        chosen = int(rng.choice(self.degradable))
        beside = self._other_field(chosen, rng) if rng.random() < 0.5 else None
        faults = {"defocus": 0.0, draw_fault(rng): 0.6 * draw_severity(rng)}  # blur comes first
        faults["defocus"] = float(rng.uniform(*EMPTY_BLUR))
        grain, local = grain_severity(rng), rng.random() < EMPTY_LOCAL_SHARE
        return self._sample(beside or self._crop(chosen, rng), faults, grain, rng, local=local)

    def _as_it_is(self, rng: Rng) -> TrainingSample:
        """The centre view of a photograph, which is what most devices score."""
        chosen = int(rng.integers(len(self.photographs)))
        field = self.photographs[chosen]
        if rng.random() < 0.5:
            field = in_full_light(field)
        rgb = cv2.cvtColor(field[MARGIN : MARGIN + INPUT, MARGIN : MARGIN + INPUT], cv2.COLOR_BGR2RGB)
        mos = float(self.mos[chosen])
        return TrainingSample(rgb, mos / 100, np.zeros(len(FAULTS), np.float32), known=mos >= FAULT_FREE_MOS)

    def _negative(self, number: int) -> Image:
        """One of the drawn pictures without a retina, BGR (512, 512, 3)."""
        if number not in self._drawn:
            self._drawn[number] = not_retina(np.random.default_rng([self.seed, number, NEGATIVES]))
        return self._drawn[number]

    def _other_field(self, chosen: int, rng: Rng) -> _Crop | None:
        beside = other_field(self.photographs[chosen], rng)
        return beside if beside is None else replace(self._looked(turned(beside, rng), chosen, rng), other_field=True)

    def _crop(self, chosen: int, rng: Rng) -> _Crop:
        """A part of a photograph's field that shows macula and disc, turned, in some look."""
        return self._looked(self._view(chosen, rng), chosen, rng)

    def _view(self, chosen: int, rng: Rng) -> Image:
        """The same as it came."""
        field = self.photographs[chosen]
        return turned(decentred(field, rng), rng) if rng.random() < DECENTRED_SHARE else random_crop(field, rng)

    def _looked(self, crop: Image, chosen: int, rng: Rng) -> _Crop:
        """A crop in the colours of some camera, some in another light, which costs only what it clips or loses."""
        crop = jitter_colour(crop, rng)
        if rng.random() >= LOOK_SHARE:
            return _Crop(crop, chosen, 0.0)
        looked = fall_off(crop, rng) if rng.random() < FALL_OFF_SHARE else crop
        looked = expose(looked, rng)
        if rng.random() < GLOW_SHARE:
            looked = glow(looked, rng)
        lost = np.maximum(lost_levels(looked) - lost_levels(crop), 0)
        seen = float(lost.mean()) > LEAST_LOST
        return _Crop(looked, chosen, hidden_share(lost, importance(crop)) if seen else 0.0)

    def _sample(
        self, crop: _Crop, faults: dict[str, float], grain: float, rng: Rng, *, local: bool = False
    ) -> TrainingSample:
        image, quality = crop.image, float(self.mos[crop.chosen]) / 100 * kept(crop.lost)
        if crop.other_field:
            quality *= OTHER_FIELD_KEPT
        share = 0.0
        if local:
            worth = importance(image)
            image, hidden = local_fault(image, rng)
            share = hidden_share(hidden, worth)
            quality *= kept(share)
        severities = np.zeros(len(FAULTS), np.float32)
        for name, severity in faults.items():
            image = degrade(image, name, severity, rng, field=RESIZE)
            quality *= remaining(name, severity)
            severities[FAULTS.index(name)] = severity
        if rng.random() < DIRT_SHARE:
            image = dirty(image, rng)
        if grain and "sensor_noise" not in faults:
            image = grainy(image, grain, rng)
            quality *= remaining("sensor_noise", grain)
            severities[FAULTS.index("sensor_noise")] = grain
        known = bool(self.mos[crop.chosen] >= FAULT_FREE_MOS) and not (local or crop.other_field)
        rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        return TrainingSample(rgb, quality, severities, known, max(share, crop.lost), crop.other_field)
