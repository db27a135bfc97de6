"""Measures of a picture that take one line: what a network must beat to earn its place.

Each looks at what the network looks at, an RGB view of the field, (384, 384, 3) uint8, and is higher for what is
usually a better photograph. None gives points of a score, so none has an RMSE.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from fthnet_kit.edge.image import Image

GREEN = 1


def mean_gradient(view: Image) -> float:
    """Mean length of the Sobel gradient of green."""
    green = view[..., GREEN].astype(np.float32)
    return float(np.hypot(cv2.Sobel(green, cv2.CV_32F, 1, 0), cv2.Sobel(green, cv2.CV_32F, 0, 1)).mean())


def laplacian_variance(view: Image) -> float:
    """Variance of the Laplacian of green."""
    return float(cv2.Laplacian(view[..., GREEN].astype(np.float32), cv2.CV_32F).var())


def contrast(view: Image) -> float:
    """Standard deviation of green."""
    return float(view[..., GREEN].std())


SIMPLE_MEASURES: dict[str, Callable[[Image], float]] = {
    "mean gradient": mean_gradient,
    "Laplacian variance": laplacian_variance,
    "contrast": contrast,
}
