"""Every picture file, one way in: whole, upright, and not too large to score."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from fthnet_kit.edge.errors import PictureError
from fthnet_kit.edge.formats import dicom, jpeg, tiff
from fthnet_kit.edge.formats.alpha import on_black
from fthnet_kit.edge.formats.exif import orientation, upright
from fthnet_kit.edge.formats.headers import Header, read_header
from fthnet_kit.edge.formats.levels import assume_bits, significant_white
from fthnet_kit.edge.formats.zeroed import has_hole
from fthnet_kit.edge.image import Image, check_size, to_bgr8

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".dib", ".webp", ".jp2", ".j2k"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".dcm", ".dicom"),
)
UNREAD_SUFFIXES = (".heic", ".heif", ".avif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw", ".gif", ".svg")

UNPACKED = (b"BM", b"P5", b"P6")  # BMP, PGM, PPM


def read_image(source: Path | bytes, bits: int | None = None) -> Image:
    """A photograph as BGR uint8 (H, W, 3), upright, from a file or from its bytes.

    Args:
        source: a file, or what is in it.
        bits: how many a sample of a 16-bit picture uses, if the file does not say it (`levels.assume_bits`).

    Sizes are checked before decoding: one flipped bit in a header can ask for gigabytes.

    Raises:
        PictureError: no such file, a picture that lost a part, something that cannot be decoded or be read in two ways,
            or one too large.
    """
    if bits is not None:
        with assume_bits(bits):
            return read_image(source)
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
    if data.startswith(tiff.BEGINNINGS):
        return tiff.decode(data)
    if dicom.is_dicom(data):
        return dicom.decode(data)
    header = read_header(data)
    if header is not None:
        check_size(header.width, header.height)
        return _by_opencv(data, header)
    found = "something that cannot be decoded"
    raise PictureError(f"expected an image ({' '.join(IMAGE_SUFFIXES)}), found {found}", kind="unsupported")


def _by_opencv(data: bytes, header: Header) -> Image:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        image = None
    if image is None:
        raise PictureError("expected a whole image, found one that cannot be decoded; copy it again", kind="damaged")
    if data.startswith(UNPACKED) and _has_hole(image, upwards=data.startswith(b"BM")):
        raise PictureError("expected a whole image, found one of which a part is zeros; copy it again", kind="damaged")
    white = header.white
    if header.significant_bits is not None and image.dtype == np.uint16:
        white = significant_white(image[..., :3], header.significant_bits)
    return upright(to_bgr8(on_black(image, white)), orientation(header.exif))


def _has_hole(image: npt.NDArray[np.generic], *, upwards: bool) -> bool:
    """Whether a stretch of the file became zeros; `upwards`: its first row is the lowest one."""
    rows = np.ascontiguousarray(image[::-1] if upwards else image).reshape(len(image), -1).view(np.uint8)
    return has_hole(rows.reshape(-1), rows.shape[1])
