"""Still images from disk, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.preprocess import Image, to_bgr8

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")


def read_image(path: Path) -> Image:
    """A photograph as BGR uint8 (H, W, 3).

    Raises:
        InputError: no such file, not an image, or an image cut short.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: expected an image, found none ({error.strerror})") from error
    if is_truncated_jpeg(data):
        raise InputError(f"{path}: expected a whole JPEG, found one cut short after {len(data)} bytes; copy it again")
    image = decode(data)
    if image is None:
        raise InputError(
            f"{path}: expected an image ({' '.join(IMAGE_SUFFIXES)}), found something that cannot be decoded"
        )
    return image


def decode(data: bytes) -> Image | None:
    """BGR uint8 (H, W, 3) of an encoded image, or None where it cannot be decoded."""
    if not data:
        return None
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        return None if image is None else to_bgr8(image)
    except (cv2.error, InputError):
        return None


def is_truncated_jpeg(data: bytes) -> bool:
    """Whether a JPEG lacks its end-of-image marker: decoders fill the rest with gray and report success."""
    return data[:2] == b"\xff\xd8" and b"\xff\xd9" not in data[-4096:]
