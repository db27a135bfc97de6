"""Labels of dim photographs, as they would be in full light.

Whoever grades a dim photograph grades its exposure too, and a network learns from it that dark means poor: it
then rejects sharp photographs of dark eyes and weak lamps. Brightened, such a photograph shows what it is
worth, and what noise and blur the dark hid.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from fthnet_kit.calibration.local_faults import LIT, brightest_channel
from fthnet_kit.edge.image import Image

FULL_LEVEL = 150  # median of the field's brightest channel in full light
MOST_GAIN = 5.0
DIM = (1.2, 1.8)  # gain to full light from which a photograph counts as dim, and from which wholly so


def median_level(image: Image) -> float | None:
    """Median of the brightest channel over the field, 0-255, of BGR or RGB uint8 (H, W, 3); None if all is black."""
    brightest = brightest_channel(image[::4, ::4])
    lit = brightest[brightest > LIT]
    return float(np.median(lit)) if lit.size else None


def gain_to_full_light(image: Image) -> float:
    """Gain that brings the median level to `FULL_LEVEL`: 1 for a bright photograph, at most `MOST_GAIN`."""
    level = median_level(image)
    return 1.0 if level is None else min(MOST_GAIN, max(1.0, FULL_LEVEL / level))


def in_full_light(image: Image) -> Image:
    """The photograph with that gain, uint8 (H, W, 3)."""
    levels = np.round(np.clip(np.arange(256) * gain_to_full_light(image), 0, 255)).astype(np.uint8)
    return cv2.LUT(image, levels)


def relit(
    mos: npt.NDArray[np.floating], gains: npt.NDArray[np.floating], seen: npt.NDArray[np.floating], share: float
) -> npt.NDArray[np.floating]:
    """Labels raised towards what a network says of the photographs in full light; none is lowered.

    Args:
        mos: labels, 0-100, (N,).
        gains: `gain_to_full_light` of each.
        seen: score of each in full light, 0-100.
        share: of the difference that the label of a wholly dim photograph gains.
    """
    dim = np.clip((gains - DIM[0]) / (DIM[1] - DIM[0]), 0, 1)
    return mos + share * dim * np.maximum(seen - mos, 0)
