"""What a header says of a picture before it is decoded: its size, which value is white, how it was held.

A format whose header is not read here is not decoded: one flipped bit can ask for gigabytes, and OpenCV's own limits
can be set from outside. JPEG and TIFF have modules of their own.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

PNM_HEADER = re.compile(rb"P([1-6])" + rb"(?:\s|#[^\n]*\n)+(\d+)" * 2)
PNM_WHITE = re.compile(PNM_HEADER.pattern + rb"(?:\s|#[^\n]*\n)+(\d+)")
BITMAPS = b"14"  # PNM kinds without a highest value
CODESTREAM = b"\xff\x4f\xff\x51"  # start of a JPEG 2000 codestream: SOC and SIZ
FAR = 1 << 16  # bytes within which a JPEG 2000 codestream begins


@dataclass(frozen=True)
class Header:
    """What is known before decoding.

    Attributes:
        width, height: pixels, as stored.
        white: the value of white in the decoded picture; None: the file does not say.
        significant_bits: of samples of 16 bits, as a PNG may say.
        exif: the EXIF block (a TIFF), or None.
    """

    width: int
    height: int
    white: int | None = None
    significant_bits: int | None = None
    exif: bytes | None = None


def read_header(data: bytes) -> Header | None:
    """The header of a PNG, BMP, GIF, WebP, JPEG 2000 or PNM; None for anything else, or one that is cut short."""
    for begins, read in READERS:
        if data.startswith(begins):
            try:
                return read(data)
            except (struct.error, IndexError):
                return None
    return None


def _png(data: bytes) -> Header:
    width, height, depth = struct.unpack_from(">IIB", data, 16)
    significant = exif = None
    for kind, start, length in _chunks(data, 8, ">I", before=4, after=4):
        if kind == b"sBIT" and depth == 16 and length:
            significant = max(data[start : start + min(length, 3)])
        elif kind == b"eXIf":
            exif = data[start : start + length]
    if significant is not None and not 8 <= significant <= 16:
        significant = None
    return Header(width, height, None if depth == 16 else 255, significant, exif)


def _webp(data: bytes) -> Header | None:
    """By the kind of its first chunk: lossy, lossless or extended."""
    if data[8:12] != b"WEBP":
        return None
    kind = data[12:16]
    if kind == b"VP8L":
        (packed,) = struct.unpack_from("<I", data, 21)
        return Header(1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF))
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header(width & 0x3FFF, height & 0x3FFF)
    if kind != b"VP8X" or len(data) < 30:
        return None
    exif = None
    for name, start, length in _chunks(data, 12, "<I", before=0, after=0):
        if name == b"EXIF":
            exif = data[start : start + length].removeprefix(b"Exif\0\0")
    return Header(1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little"), exif=exif)


def _chunks(data: bytes, at: int, length_as: str, before: int, after: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and length of each chunk; the length stands `before` (4) or after (0) the kind."""
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(length_as, data, at + 4 - before)
        yield data[at + before : at + before + 4], at + 8, length
        at += 8 + length + after
        at += length % 2 if not before else 0  # RIFF pads to even sizes


def _gif(data: bytes) -> Header:
    return Header(*struct.unpack_from("<HH", data, 6))


def _bmp(data: bytes) -> Header:
    (size,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if size == 12 else "<ii", data, 18)
    return Header(abs(width), abs(height))


def _jpeg_2000(data: bytes) -> Header | None:
    at = data.find(CODESTREAM, 0, FAR)
    if at < 0:
        return None
    right, bottom, left, top = struct.unpack_from(">IIII", data, at + 8)
    depth = data[at + 42]
    return Header(right - left, bottom - top, (1 << depth + 1) - 1) if depth < 16 else None  # the others are signed


def _pnm(data: bytes) -> Header | None:
    found = PNM_HEADER.match(data[:FAR])
    if found is None:
        return None
    width, height = int(found[2]), int(found[3])
    if found[1] in BITMAPS:
        return Header(width, height)
    white = PNM_WHITE.match(data[:FAR])
    return Header(width, height, int(white[4])) if white is not None and 0 < int(white[4]) < 1 << 16 else None


READERS: tuple[tuple[bytes, Callable[[bytes], Header | None]], ...] = (
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"RIFF", _webp),
    (b"GIF8", _gif),
    (b"BM", _bmp),
    (b"\0\0\0\x0cjP  \r\n\x87\n", _jpeg_2000),
    (CODESTREAM, _jpeg_2000),
    *((b"P" + kind, _pnm) for kind in (b"1", b"2", b"3", b"4", b"5", b"6")),
)
