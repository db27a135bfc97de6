"""What a look that is no fault costs, and what costs nearly all: covers and blur, on the best photographs of a set.

A brighter or darker camera, another tone curve, or little colour takes nothing away from what the retina shows, and
should move no score; a dim picture hides a little in its few gray levels. A lid, a shadow or a black area hides part
of the field, and should. Where all is blurred away nothing is left to score, and the noise of a sensor over it is no
sharpness. All act on the field at 512x512, seeded by file name. A score that follows brightness among good photographs
judges the eye's colour, not the photograph.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rich.table import Table

from fthnet_kit.calibration.agreement import srcc
from fthnet_kit.calibration.labelled_images import LabelledImage
from fthnet_kit.edge.formats.read import read_image
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.inference.backend import Backend
from fthnet_kit.edge.model.preprocess import INPUT, MARGIN, Preprocessing, canonical
from fthnet_kit.edge.model.score import Thresholds, Verdict

Rng = np.random.Generator
Look = Callable[[Image, Rng], Image]

DARK = 12  # gray levels; what is no brighter in any channel is no field
LID = (40, 52, 84)  # BGR
SHADOW = 0.1  # share of the light that is left in the shadow
EDGE = 0.04  # share of the field's side: how wide the edge of a lid or shadow is
BLUR = 0.05  # sigma, share of the field's side: no vessel and no disc is left
SHOT = 0.8  # gray levels by the root of the level, at twice the resolution: 4 of level 100 are left of it


def tone(image: Image, rng: Rng, *, stops: float = 0.0, gamma: float = 1.0) -> Image:
    """Linear light (gamma 2.2) times 2**stops, clipped, then the stored level to the power of gamma."""
    levels = np.clip(np.arange(256) / 255 * 2 ** (stops / 2.2), 0, 1) ** gamma
    return cv2.LUT(image, np.round(255 * levels).astype(np.uint8))


def grey(image: Image, rng: Rng, *, stops: float = 0.0) -> Image:
    """No colour at all, as from a monochrome camera or a very dark eye: luma (ITU-R BT.601), then `tone`."""
    return tone(cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR), rng, stops=stops)


def covered(image: Image, rng: Rng, *, kind: str, share: float) -> Image:
    """A straight cover over this share of the field's pixels: a lid from above or below, else from any side."""
    angle = rng.choice([-1, 1]) * np.pi / 2 + rng.uniform(-0.4, 0.4) if kind == "lid" else rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1 : 1 : image.shape[0] * 1j, -1 : 1 : image.shape[1] * 1j]
    position = x * np.cos(angle) + y * np.sin(angle)
    field = image.max(axis=2) > DARK
    edge = float(np.quantile(position[field], 1 - share)) if field.any() else 1.0
    weight = np.clip((position - edge) / (2 * EDGE) + 0.5, 0, 1)
    weight = ((np.round(weight) if kind == "black" else weight) * field)[..., np.newaxis]
    over = SHADOW * image if kind == "shadow" else np.broadcast_to(LID if kind == "lid" else (0, 0, 0), image.shape)
    return np.round(image * (1 - weight) + over * weight).astype(np.uint8)


def blurred_away(image: Image, rng: Rng, *, noise: bool) -> Image:
    """Light without a retina; with the shot noise of a sensor of twice the resolution over it, or without."""
    side = image.shape[0]
    blurred = cv2.GaussianBlur(image, (0, 0), BLUR * side)
    if not noise:
        return blurred
    large = cv2.resize(blurred, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR).astype(np.float32)
    large += SHOT * np.sqrt(large) * rng.standard_normal(large.shape, dtype=np.float32)
    return np.round(cv2.resize(large.clip(0, 255), (side, side), interpolation=cv2.INTER_AREA)).astype(np.uint8)


LOOKS: dict[str, Look] = {
    "gain -0.5 stop": partial(tone, stops=-0.5),
    "gain +0.5 stop": partial(tone, stops=0.5),
    "gamma 0.75": partial(tone, gamma=0.75),
    "gamma 1.35": partial(tone, gamma=1.35),
    "gain -2.5 stops": partial(tone, stops=-2.5),
    "grey": grey,
    "grey, -1.5 stops": partial(grey, stops=-1.5),
    **{
        f"{kind} over {share:.0%}": partial(covered, kind=kind, share=share)
        for kind in ("lid", "shadow", "black")
        for share in (0.3, 0.5)
    },
    "blurred away": partial(blurred_away, noise=False),
    "blurred away, noise": partial(blurred_away, noise=True),
}


@dataclass(frozen=True)
class LooksReport:
    """Scores of photographs as they are, and under every look.

    Attributes:
        clean: points (N,).
        brightness: mean gray level of each network input, (N,).
        scores: points (N,) by look.
        thresholds: of the verdicts.
    """

    clean: npt.NDArray[np.float64]
    brightness: npt.NDArray[np.float64]
    scores: dict[str, npt.NDArray[np.float64]]
    thresholds: Thresholds

    def moved(self, name: str) -> float:
        """Points by which a look moves the score, mean without its sign."""
        return float(np.abs(self.scores[name] - self.clean).mean())

    def count(self, name: str, verdict: Verdict) -> int:
        """Photographs that have this verdict under a look."""
        return sum(self.thresholds.verdict(score) == verdict for score in self.scores[name].tolist())

    def follows_brightness(self) -> float:
        """Spearman correlation of clean score and brightness; nan where one of them is flat."""
        return srcc(self.clean, self.brightness)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, photograph by photograph."""
        follows = self.follows_brightness()
        return {
            "clean": self.clean.round(3).tolist(),
            "brightness": self.brightness.round(3).tolist(),
            "score_against_brightness": None if math.isnan(follows) else round(follows, 4),
            "looks": {
                name: {
                    "mean_moved": round(self.moved(name), 3),
                    "good": self.count(name, "good"),
                    "reject": self.count(name, "reject"),
                    "scores": scores.round(3).tolist(),
                }
                for name, scores in self.scores.items()
            },
        }


def measure_looks(
    backend: Backend, preprocessing: Preprocessing, images: Iterable[LabelledImage], thresholds: Thresholds
) -> LooksReport:
    """Score the centre view of every photograph as it is and under every look; the retina gate is left out.

    Raises:
        InputError: a photograph cannot be read.
        EngineError: the engine failed.
    """
    scores, brightness = [], []
    for image in images:
        field = canonical(read_image(image.path), preprocessing)
        seed = zlib.crc32(image.path.name.encode())
        pictures = [field, *(look(field, np.random.default_rng(seed)) for look in LOOKS.values())]
        views = np.stack([picture[MARGIN : MARGIN + INPUT, MARGIN : MARGIN + INPUT, ::-1] for picture in pictures])
        scores.append(np.clip(backend.infer(views), 0, 100))
        brightness.append(float(views[0].mean()))
    table = np.array(scores, np.float64)
    return LooksReport(table[:, 0], np.array(brightness), dict(zip(LOOKS, table[:, 1:].T, strict=True)), thresholds)


def looks_table(report: LooksReport) -> Table:
    """Mean score, mean change without its sign, and how many are good or rejected, one row a look."""
    table = Table()
    table.add_column("look", no_wrap=True)
    for column in ("mean", "mean |Δ|", "good", "rejected"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, scores in report.scores.items():
        counts = (str(report.count(name, "good")), str(report.count(name, "reject")))
        table.add_row(name, f"{scores.mean():.1f}", f"{report.moved(name):.1f}", *counts)
    return table
