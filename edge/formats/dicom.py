"""DICOM: photographs of the eye, one frame, in the colours that the file states.

JPEG and JPEG 2000 inside are decoded as pictures of their own, so that damage is found and nothing but pydicom is
needed; all else is pydicom's, with the decoders that it finds (JPEG Lossless and JPEG-LS: gdcm or pylibjpeg).
"""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from fthnet_kit.edge.errors import MissingExtraError, PictureError
from fthnet_kit.edge.formats import jpeg
from fthnet_kit.edge.formats.headers import read_header
from fthnet_kit.edge.formats.levels import eight_bits
from fthnet_kit.edge.image import Image, check_size, to_bgr8

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

START, MARK = 128, b"DICM"
JPEG_SYNTAXES = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")  # baseline and extended
JPEG_2000_SYNTAXES = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
GRAY = ("MONOCHROME1", "MONOCHROME2")
COLOURS = (*GRAY, "RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
IN_RGB_MARKER = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"  # colours are not transformed


def is_dicom(data: bytes) -> bool:
    """Whether bytes, at least the first 132 of a file, are those of a DICOM file."""
    return data[START : START + len(MARK)] == MARK


def decode(data: bytes) -> Image:
    """BGR uint8 (H, W, 3) of the only frame of a DICOM file.

    Raises:
        PictureError: damaged, no picture, several frames, or of a kind that is not read; pydicom or a decoder is not
            installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns about values that do not concern pixels
        dataset = _dataset(data)
        _refuse_unread(dataset)
        syntax = str(dataset.file_meta.TransferSyntaxUID)
        if syntax in JPEG_SYNTAXES:
            image = _jpeg(dataset)
        elif syntax in JPEG_2000_SYNTAXES and dataset.PhotometricInterpretation not in ("YBR_FULL", "YBR_FULL_422"):
            image = _jpeg_2000(dataset)
        else:
            image = _by_pydicom(dataset)
    return 255 - image if dataset.PhotometricInterpretation == "MONOCHROME1" else image


def _dataset(data: bytes) -> Dataset:
    try:
        import pydicom
    except ImportError:
        raise PictureError(
            str(MissingExtraError("pydicom", "dicom", purpose="reading a DICOM file")), "unsupported"
        ) from None
    try:
        return pydicom.dcmread(io.BytesIO(data))
    except Exception as error:  # pydicom raises whatever it meets in a damaged file
        raise _damaged(f"one that pydicom cannot read ({_line(error)})") from error


def _damaged(found: str) -> PictureError:
    return PictureError(f"expected a whole DICOM file, found {found}; copy or export it again", kind="damaged")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _refuse_unread(dataset: Dataset) -> None:
    """Raises PictureError for what is no single picture, or would be read to wrong colours."""
    if "PixelData" not in dataset or "Rows" not in dataset:
        kind = dataset.get("Modality", "unknown")
        raise PictureError(f"expected a photograph, found a DICOM file without pixels (modality {kind})", "unsupported")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise PictureError(
            f"expected one picture, found a DICOM file with {frames} frames; export each as a file of its own",
            "unclear",
        )
    check_size(dataset.Columns, dataset.Rows)
    colours = dataset.get("PhotometricInterpretation", "none")
    if colours not in COLOURS or dataset.get("PixelRepresentation", 0) or dataset.BitsAllocated not in (8, 16):
        signed = "signed" if dataset.get("PixelRepresentation", 0) else "unsigned"
        raise PictureError(
            f"expected a DICOM picture in gray, RGB, palette or YBR of 8 or 16 bits, found {colours}, "
            f"{dataset.BitsAllocated} bits, {signed}; export it as PNG",
            "unsupported",
        )


def _frame(dataset: Dataset) -> bytes:
    """The encapsulated frame."""
    from pydicom.encaps import get_frame

    try:
        return get_frame(dataset.PixelData, 0, number_of_frames=1)
    except Exception as error:
        raise _damaged(f"one whose frame cannot be read ({_line(error)})") from error


def _jpeg(dataset: Dataset) -> Image:
    """The colours are those that the JPEG file states; if it states none, those of the dataset."""
    frame = _frame(dataset)
    named = b"JFIF\0" in frame[:64] or b"Adobe" in frame[:1024]
    if dataset.PhotometricInterpretation == "RGB" and not named:
        frame = frame[:2] + IN_RGB_MARKER + frame[2:]
    return jpeg.decode(frame)


def _jpeg_2000(dataset: Dataset) -> Image:
    frame = _frame(dataset)
    header = read_header(frame)
    if header is None:
        raise _damaged("one whose JPEG 2000 frame has no header")
    check_size(header.width, header.height)
    image = cv2.imdecode(np.frombuffer(frame, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise _damaged("one whose JPEG 2000 frame cannot be decoded")
    return to_bgr8(eight_bits(image, header.white))


def _by_pydicom(dataset: Dataset) -> Image:
    from pydicom.pixels import apply_color_lut, get_decoder, pixel_array  # type: ignore[attr-defined]

    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        found = get_decoder(syntax).is_available
    except NotImplementedError:  # a syntax that pydicom does not know
        found = False
    if not found:
        raise PictureError(
            f"expected a DICOM picture that pydicom can decode, found {syntax.name} and no decoder for it; "
            "pip install python-gdcm, or export it as PNG",
            "unsupported",
        )
    try:
        pixels: npt.NDArray[Any] = pixel_array(dataset)
        white = (1 << dataset.BitsStored) - 1
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            pixels = apply_color_lut(pixels, dataset)
            white = int(np.iinfo(pixels.dtype).max)
    except Exception as error:
        raise _damaged(f"one whose pixels cannot be read ({_line(error)})") from error
    return to_bgr8(eight_bits(pixels, white)[..., ::-1] if pixels.ndim == 3 else eight_bits(pixels, white))
