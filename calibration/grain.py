"""Grain over whatever a training sample shows: fine structure that is no detail of an eye.

Where blur and noise hardly ever come together in training, a network takes any fine structure for sharpness, and a
blurred field with a sensor's noise over it, or with what a JPEG makes of that noise, passes.
"""

from __future__ import annotations

import itertools
from functools import cache

import cv2
import numpy as np

from fthnet_kit.edge.capture.degradations import NOISE_SIGMA, Rng
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.model.preprocess import INPUT, RESIZE

STRONGEST = 0.3  # highest severity, as of `sensor_noise`; small ones more often
WIDTHS = (0.0, 0.5, 0.8, 1.2)  # sigma in pixels: grain of a larger picture is correlated in a smaller one
JPEGS = ((40, 512), (60, 600), (75, 700), (88, 560))  # quality, and side of the picture that was packed
LEVELS = (1.5, 4.0)  # sigma of the noise that was packed
SLOW = 16.0  # sigma in pixels of what is no grain any more
GREY = 128


def grain_severity(rng: Rng) -> float:
    """Between 0 and `STRONGEST`, small severities more often."""
    return float(STRONGEST * rng.random() ** 2)


@cache
def _grains() -> tuple[Image, ...]:
    """Noise of sigma `NOISE_SIGMA` around 128, uint8 (512, 512, 3).

    Of each of `WIDTHS` in grey, in colour and in rows; and what is left of noise in a JPEG of smooth light:
    blocks, steps and short lines.
    """
    rng = np.random.default_rng(0)
    grains = []
    for width in WIDTHS:
        for shape in ((RESIZE, RESIZE, 1), (RESIZE, RESIZE, 3), (RESIZE, 1, 1)):
            noise = rng.standard_normal(shape, dtype=np.float32)
            if width:
                noise = cv2.GaussianBlur(noise, (0, 0), width).reshape(noise.shape)
            grains.append(np.broadcast_to(noise, (RESIZE, RESIZE, 3)))
    for (quality, side), level in itertools.product(JPEGS, LEVELS):
        corners = rng.uniform(40, 200, (4, 4, 3)).astype(np.float32)
        light = cv2.resize(corners, (side, side), interpolation=cv2.INTER_CUBIC)
        noise = level * rng.standard_normal(light.shape, dtype=np.float32)
        noisy = np.clip(light + noise, 0, 255).astype(np.uint8)
        _, packed = cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, quality])
        rest = cv2.imdecode(packed, cv2.IMREAD_COLOR) - light
        rest -= cv2.GaussianBlur(rest, (0, 0), SLOW)  # grain moves no level
        grains.append(cv2.resize(rest, (RESIZE, RESIZE), interpolation=cv2.INTER_AREA))
    levels = (GREY + noise * (NOISE_SIGMA / noise.std()) for noise in grains)
    return tuple(np.clip(np.round(each), 0, 255).astype(np.uint8) for each in levels)


def grainy(image: Image, severity: float, rng: Rng) -> Image:
    """Grain as a camera's sensor leaves it in a picture that was scaled down, coarser than `sensor_noise` or as fine.

    Args:
        image: BGR uint8 (384, 384, 3); not changed.
        severity: of `sensor_noise` with as large a sigma.
        rng: which grain, and which part of it.

    Returns:
        BGR uint8 (384, 384, 3).
    """
    top, left = rng.integers(0, RESIZE - INPUT + 1, size=2)
    grain = _grains()[int(rng.integers(len(_grains())))][top : top + INPUT, left : left + INPUT]
    return cv2.addWeighted(image, 1, grain, severity, -GREY * severity)
