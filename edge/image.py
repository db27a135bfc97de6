"""Still images from disk, whole or not at all."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from fthnet_kit.edge.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
NO_FRAME_HEADER = {0xC4, 0xC8, 0xCC}  # JPEG markers among C0 to CF that are not a start of frame
TIFF_NUMBERS = {3: "H", 4: "I"}  # SHORT and LONG


def read_image(path: Path) -> Image:
    """A photograph as BGR uint8 (H, W, 3).

    Raises:
        InputError: no such file, not an image, an image cut short, or one too large to score.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: expected an image, found none ({error.strerror})") from error
    if is_truncated_jpeg(data):
        raise InputError(f"{path}: expected a whole JPEG, found one cut short after {len(data)} bytes; copy it again")
    size = declared_size(data)
    if size is not None:
        try:
            check_size(*size)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    image = decode(data)
    if image is None:
        raise InputError(
            f"{path}: expected an image ({' '.join(IMAGE_SUFFIXES)}), found something that cannot be decoded"
        )
    return image


def decode(data: bytes) -> Image | None:
    """BGR uint8 (H, W, 3) of an encoded image, or None where it cannot be decoded or is too large to score.

    The size is checked before decoding: one flipped bit in a header can ask for gigabytes.
    """
    if not data:
        return None
    try:
        size = declared_size(data)
        if size is not None:
            check_size(*size)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        return None if image is None else to_bgr8(image)
    except (cv2.error, InputError):
        return None


def is_truncated_jpeg(data: bytes) -> bool:
    """Whether a JPEG lacks its end-of-image marker: decoders fill the rest with gray and report success."""
    return data[:2] == b"\xff\xd8" and b"\xff\xd9" not in data[-4096:]


def declared_size(data: bytes) -> tuple[int, int] | None:
    """Width and height that a JPEG, PNG, BMP or TIFF claims to have; None where it does not say."""
    try:
        if data[:2] == b"\xff\xd8":
            return _jpeg_size(data)
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            return struct.unpack_from(">II", data, 16)
        if data[:2] == b"BM":
            width, height = struct.unpack_from("<ii", data, 18)
            return abs(width), abs(height)
        if data[:4] in (b"II*\0", b"MM\0*"):
            return _tiff_size(data)
    except struct.error:  # cut short
        return None
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Of the start of frame, segment by segment, as a thumbnail may have one of its own."""
    at = 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 1 < len(data):
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in NO_FRAME_HEADER:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        has_length = 0xC0 <= marker <= 0xFE and not 0xD0 <= marker <= 0xD9
        at += 2 + struct.unpack_from(">H", data, at + 2)[0] if has_length else 1
    return None


def _tiff_size(data: bytes) -> tuple[int, int] | None:
    """Of the first page: tags 256 and 257."""
    order = "<" if data[:1] == b"I" else ">"
    (at,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, at)
    sides = {}
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag in (256, 257) and kind in TIFF_NUMBERS:
            (sides[tag],) = struct.unpack_from(order + TIFF_NUMBERS[kind], data, entry + 8)
    return (sides[256], sides[257]) if len(sides) == 2 else None


Image = npt.NDArray[np.uint8]  # BGR (H, W, 3) unless a docstring says RGB
MAX_SIDE = 12_000  # pixels: no fundus camera comes near it, and its square still fits a small device's memory


def to_bgr8(image: npt.NDArray[np.generic]) -> Image:
    """Any image that OpenCV can hand out, as BGR uint8 (H, W, 3).

    Accepts uint8 and uint16, in either byte order, of shape (H, W), (H, W, 1), (H, W, 3) BGR and (H, W, 4) BGRA
    (alpha is dropped). 16-bit values use the full range: 65535 becomes 255.

    Raises:
        InputError: any other type, shape or an image without pixels.
    """
    if not isinstance(image, np.ndarray) or image.dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        found = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(f"image: expected a uint8 or uint16 array, found {found}; scale and cast it first")
    image = np.asarray(image)  # of a matrix or masked array, the plain pixels
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
        InputError: a side beyond 12,000 pixels.
    """
    if max(width, height) > MAX_SIDE:
        raise InputError(f"image: expected sides of at most {MAX_SIDE} pixels, found {width}x{height}")
