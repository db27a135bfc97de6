"""A picture in memory: BGR uint8, whatever it was made from."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fthnet_kit.edge.errors import InputError, PictureError

Image = npt.NDArray[np.uint8]  # BGR (H, W, 3) unless a docstring says RGB
MAX_SIDE = 12_000  # pixels: no fundus camera comes near it, and its square still fits a small device's memory


def to_bgr8(image: npt.NDArray[np.generic] | None) -> Image:
    """Any image that OpenCV can hand out, as BGR uint8 (H, W, 3).

    Accepts uint8 and uint16, in either byte order, of shape (H, W), (H, W, 1), (H, W, 3) BGR and (H, W, 4) BGRA
    (the fourth channel is dropped: many cameras leave it unset). 16-bit values use the full range: 65535 becomes 255.

    Raises:
        InputError: None, any other type or shape, or an image without pixels.
    """
    if image is None:
        raise InputError("image: expected a picture, found None: cv2.imread gives it where it reads no file")
    if not isinstance(image, np.ndarray) or image.dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        found = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(f"image: expected a uint8 or uint16 array, found {found}; scale and cast it first")
    image = np.asarray(image)  # a matrix or masked array gives its plain pixels
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)) or 0 in image.shape:
        raise InputError(f"image: expected shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), found {image.shape}")
    if image.dtype.itemsize == 2:
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if image.ndim == 2 or image.shape[2] == 1:
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(image[:, :, :3])


def check_size(width: int, height: int) -> None:
    """Refuse a picture that would take gigabytes to prepare.

    Raises:
        PictureError: a side beyond 12,000 pixels.
    """
    if max(width, height) > MAX_SIDE:
        found = f"{width}x{height}"
        raise PictureError(f"image: expected sides of at most {MAX_SIDE} pixels, found {found}", kind="too_large")
