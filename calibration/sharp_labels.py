"""A part of each label by how sharp the vessels are, where whoever graded saw too small a picture to tell.

Fine sharpness cannot be graded on a tile of a few hundred pixels, and a network learns from such labels that
haze is no fault as long as a picture is bright and whole. The mean gradient of green, smoothed to the width
of vessels so that grain and dust count little, orders photographs by what was missed. It says nothing of
lids, shadows or reflexes: it may only be a share of a label.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from fthnet_kit.calibration.dim_labels import gain_to_full_light
from fthnet_kit.edge.image import Image

VESSEL_SIGMA = 2.0  # pixels of a view of 384
MOST_GAIN = 1.5  # of a dim photograph: more would raise its noise to the level of vessels


def vessel_gradient(view: Image) -> float:
    """Mean gradient (Sobel) of smoothed green, levels a pixel times 8, of BGR or RGB uint8 (H, W, 3)."""
    gain = min(MOST_GAIN, gain_to_full_light(view))
    green = np.minimum(view[..., 1].astype(np.float32) * gain, 255)
    smooth = cv2.GaussianBlur(green, (0, 0), VESSEL_SIGMA)
    across, down = (cv2.Sobel(smooth, cv2.CV_32F, *axis) for axis in ((1, 0), (0, 1)))
    return float(cv2.magnitude(across, down).mean())


def sharpened(
    mos: npt.NDArray[np.floating], gradients: npt.NDArray[np.floating], share: float
) -> npt.NDArray[np.floating]:
    """Labels of which a share is what the photograph's place by gradient is worth.

    Args:
        mos: labels, 0-100, (N,).
        gradients: `vessel_gradient` of each; the k-th smallest is worth the k-th smallest label.
        share: of the label that it makes up.
    """
    worth = np.interp(gradients, np.sort(gradients), np.sort(mos))
    return (1 - share) * mos + share * worth
