"""EXIF orientation: how the camera was held, applied once, when a picture is read."""

from __future__ import annotations

import struct

import cv2
import numpy as np

from fthnet_kit.edge.image import Image

ORIENTATION, SHORT, MOST_ENTRIES = 274, 3, 512


def orientation(tiff: bytes | None) -> int:
    """Orientation 1 to 8 of an EXIF block (a TIFF: byte order, 42, offset of the first directory); 1 if it has none."""
    try:
        if tiff is None or tiff[:2] not in (b"II", b"MM"):
            return 1
        order = "<" if tiff[:2] == b"II" else ">"
        (at,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, at)
        for entry in range(at + 2, at + 2 + 12 * min(count, MOST_ENTRIES), 12):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, entry)
            if tag == ORIENTATION and kind == SHORT:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def upright(image: Image, how: int) -> Image:
    """The picture (H, W, …) as it was seen, from one stored in orientation `how` (1 to 8)."""
    if how in (2, 3, 4):
        return cv2.flip(image, {2: 1, 3: -1, 4: 0}[how])
    if how in (5, 7):
        image = cv2.transpose(image)
        return image if how == 5 else cv2.flip(image, -1)
    if how in (6, 8):
        return cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE if how == 6 else cv2.ROTATE_90_COUNTERCLOCKWISE)
    return np.ascontiguousarray(image)
