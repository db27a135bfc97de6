"""Every picture file, one way in: whole, upright, and not too large to score."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from fthnet_kit.edge.errors import PictureError
from fthnet_kit.edge.formats import jpeg
from fthnet_kit.edge.image import Image, check_size, to_bgr8

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".dib", ".webp", ".jp2"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
UNREAD_SUFFIXES = (".heic", ".heif", ".avif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw", ".dcm", ".gif", ".svg")
TIFF_NUMBERS = {3: "H", 4: "I"}  # SHORT and LONG


def read_image(source: Path | bytes) -> Image:
    """A photograph as BGR uint8 (H, W, 3), upright, from a file or from its bytes.

    Sizes are checked before decoding: one flipped bit in a header can ask for gigabytes.

    Raises:
        PictureError: no such file, a picture that lost a part, something that cannot be decoded, or one too large.
    """
    if isinstance(source, bytes):
        return _decoded(source)
    try:
        return _decoded(Path(source).read_bytes())
    except OSError as error:
        message = f"{source}: expected an image, found none ({error.strerror})"
        raise PictureError(message, kind="missing") from error
    except PictureError as error:
        raise PictureError(f"{source}: {error}", kind=error.kind) from None


def _decoded(data: bytes) -> Image:
    if data.startswith(b"\xff\xd8"):
        return jpeg.decode(data)
    size = declared_size(data)
    if size is not None:
        check_size(*size)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    except cv2.error:
        image = None
    if image is None:
        found = "something that cannot be decoded"
        raise PictureError(f"expected an image ({' '.join(IMAGE_SUFFIXES)}), found {found}", kind="unsupported")
    if image.ndim == 3 and image.shape[2] == 4:
        image = _on_black(image)
    return to_bgr8(image)


def _on_black(image: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.integer[Any]]:
    """BGR (H, W, 3) of BGRA (H, W, 4) of 8 or 16 bits: what is transparent becomes black."""
    full = np.iinfo(image.dtype).max
    opaque = image[:, :, :3].astype(np.uint32) * image[:, :, 3:]
    return ((opaque + full // 2) // full).astype(image.dtype)


def declared_size(data: bytes) -> tuple[int, int] | None:
    """Width and height that a PNG, BMP, GIF, WebP or TIFF claims to have; None where it does not say."""
    with contextlib.suppress(struct.error):  # cut short
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            return struct.unpack_from(">II", data, 16)
        if data[:4] == b"GIF8":
            return struct.unpack_from("<HH", data, 6)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp_size(data)
        if data[:2] == b"BM":
            width, height = struct.unpack_from("<ii", data, 18)
            return abs(width), abs(height)
        if data[:4] in (b"II*\0", b"MM\0*"):
            return _tiff_size(data)
    return None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """By the kind of its first chunk: lossy, lossless or extended."""
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        (packed,) = struct.unpack_from("<I", data, 21)
        return 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
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
