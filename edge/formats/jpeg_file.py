"""JPEG files, segment by segment: what describes the pixels, and nothing else.

Whatever else a file holds (EXIF, thumbnails, colour profiles, comments, what follows the end marker) is left out, so
that no oddity of a header hides a decoder's warning about the pixels. Accepted as real cameras write it: bytes after
the end marker, zeros between segments, two start markers, a sequential scan with odd parameters.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from fthnet_kit.edge.errors import PictureError
from fthnet_kit.edge.image import check_size

START = b"\xff\xd8"
END = b"\xff\xd9"
EOI, SOS = 0xD9, 0xDA
HUFFMAN, QUANTISATION, RESTART_INTERVAL = 0xC4, 0xDB, 0xDD
JFIF, EXIF, ADOBE = 0xE0, 0xE1, 0xEE
SEQUENTIAL, PROGRESSIVE = (0xC0, 0xC1), 0xC2
FRAMES = {*range(0xC0, 0xD0)} - {HUFFMAN, 0xC8, 0xCC}
KNOWN = {*FRAMES, *range(0xE0, 0xF0), 0xFE, SOS, HUFFMAN, QUANTISATION, RESTART_INTERVAL}
END_OF_SCAN = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
NEXT_MARKER = re.compile(rb"\xff+[^\x00\xff]")
PLAIN_JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
WHOLE_SPECTRUM = b"\x00\x3f\x00"  # the only values of a sequential scan; some cameras write others


@dataclass(frozen=True)
class Scan:
    """One pass over the picture: `header` with its marker, then Huffman codes."""

    header: bytes
    codes: bytes

    @property
    def components(self) -> bytes:
        """Identifiers of the colour components in this scan."""
        return self.header[5:-3:2]

    @property
    def tables(self) -> bytes:
        """Numbers of the Huffman tables of each component: that of DC in the upper half, of AC in the lower."""
        return self.header[6:-3:2]

    @property
    def spectrum(self) -> bytes:
        """First coefficient, last coefficient, and, in halves of a byte, bits that are missing before and after."""
        return self.header[-3:]


@dataclass
class Jpeg:
    """What describes the pixels of a JPEG file; filled by `parse`.

    Attributes:
        frame: frame header with its marker; empty until it is met.
        interval: units (MCUs) between restart markers, 0 without any.
        parts: segments in order, each with its marker, and scans.
        exif: the EXIF block (a TIFF), or None.
    """

    frame: bytes = b""
    interval: int = 0
    parts: list[bytes | Scan] = field(default_factory=list)
    exif: bytes | None = None

    @property
    def kind(self) -> int:
        """Marker of the frame header: baseline or progressive."""
        return self.frame[1]

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        height, width = struct.unpack_from(">HH", self.frame, 5)
        return width, height

    @cached_property
    def components(self) -> list[tuple[int, int, int]]:
        """Identifier, horizontal and vertical sampling of each colour component."""
        return [
            (number, both >> 4, both & 15) for number, both in zip(self.frame[10::3], self.frame[11::3], strict=True)
        ]

    @property
    def scans(self) -> list[Scan]:
        """The scans, in order."""
        return [part for part in self.parts if isinstance(part, Scan)]

    @cached_property
    def unit(self) -> tuple[int, int]:
        """Width and height in pixels of a unit of all components; of a single component, one block."""
        if len(self.components) == 1:
            return 8, 8
        return 8 * max(c[1] for c in self.components), 8 * max(c[2] for c in self.components)

    @cached_property
    def units(self) -> tuple[int, int]:
        """Units across and down."""
        (width, height), (unit_width, unit_height) = self.size, self.unit
        return -(-width // unit_width), -(-height // unit_height)


def parse(data: bytes) -> Jpeg:
    """Walk the segments up to the end marker; what follows it is not looked at.

    Raises:
        PictureError: damaged, too large, or of a kind that cannot be read.
    """
    if not data.startswith(START):
        raise damaged(f"{len(data)} bytes of something else")
    jpeg = Jpeg()
    at = 0
    while data.startswith(START, at):  # some cameras write it twice
        at += 2
    while True:
        at = _marker_at(data, at)
        if data[at] == EOI:
            break
        at = _take(jpeg, data, at)
    _check_scans(jpeg)
    return jpeg


def file_of(parts: Iterable[bytes | Scan]) -> bytes:
    """A JPEG file of these parts and nothing else."""
    pieces = [piece for part in parts for piece in ((part.header, part.codes) if isinstance(part, Scan) else (part,))]
    return b"".join([START, *pieces, END])


def damaged(found: str) -> PictureError:
    """The error for a JPEG that lost a part."""
    return PictureError(f"expected a whole JPEG, found {found}; copy or take it again", kind="damaged")


def _cut_short(data: bytes) -> PictureError:
    return damaged(f"one cut short after {len(data)} bytes")


def _marker_at(data: bytes, at: int) -> int:
    """Where the code of the next marker stands, after its 0xFF.

    Raises:
        PictureError: other bytes than zeros stand before it, or there is none.
    """
    found = NEXT_MARKER.search(data, at)
    if found is None:
        raise _cut_short(data)
    if data[at : found.start()].strip(b"\0"):
        raise damaged(f"one with {found.start() - at} stray bytes between its segments")
    return found.end() - 1


def _take(jpeg: Jpeg, data: bytes, at: int) -> int:
    """Add the segment whose marker stands at `at`; where the next one begins."""
    marker = data[at]
    end = at + 1 + int.from_bytes(data[at + 1 : at + 3], "big")
    if marker not in KNOWN:
        raise damaged(f"one with an unknown segment (0x{marker:02x})")
    if end > len(data) or end < at + 3:
        raise _cut_short(data)
    segment = data[at - 1 : end]
    if marker == SOS:
        found = END_OF_SCAN.search(data, end)
        if found is None:
            raise _cut_short(data)
        jpeg.parts.append(_scan(jpeg, segment, data[end : found.start()]))
        return found.start()
    if marker in FRAMES:
        _take_frame(jpeg, segment)
    elif marker == EXIF and segment[4:10] == b"Exif\0\0" and jpeg.exif is None:
        jpeg.exif = segment[10:]
    elif marker == JFIF and segment[4:9] == b"JFIF\0":
        jpeg.parts.append(PLAIN_JFIF)
    elif marker in (HUFFMAN, QUANTISATION) or (
        marker == ADOBE and segment[4:9] == b"Adobe" and segment[15:16] <= b"\2"
    ):
        jpeg.parts.append(segment)
    elif marker == RESTART_INTERVAL:
        jpeg.parts.append(segment)
        jpeg.interval = int.from_bytes(segment[4:6], "big")
    return end


def _take_frame(jpeg: Jpeg, frame: bytes) -> None:
    if jpeg.frame or len(frame) < 13 or len(frame) != 10 + 3 * frame[9]:
        raise damaged("one whose frame header is broken")
    jpeg.frame = frame
    check_size(*jpeg.size)
    if frame[1] not in (*SEQUENTIAL, PROGRESSIVE) or frame[4] != 8 or 0 in jpeg.size or frame[9] not in (1, 3, 4):
        raise PictureError(
            "expected a baseline or progressive JPEG of 8 bits in gray, colour or CMYK, found another kind "
            f"(0x{frame[1]:02x}, {frame[4]} bits, {frame[9]} components); convert it to PNG or TIFF",
            kind="unsupported",
        )
    if any(not 0 < side <= 4 for _, *sides in jpeg.components for side in sides):
        raise damaged("one whose frame header is broken")
    jpeg.parts.append(frame)


def _scan(jpeg: Jpeg, header: bytes, codes: bytes) -> Scan:
    if not jpeg.frame or len(header) < 10 or len(header) != 8 + 2 * header[4]:
        raise damaged("one whose scan header is broken")
    if jpeg.kind in SEQUENTIAL:
        header = header[:-3] + WHOLE_SPECTRUM
    return Scan(header, codes)


def _check_scans(jpeg: Jpeg) -> None:
    """Every coefficient of every component must arrive, to its last bit.

    Raises:
        PictureError: a scan is missing.
    """
    missing = {identifier: [-1] * 64 for identifier, _, _ in jpeg.components}
    for scan in jpeg.scans:
        first, last, bits = scan.spectrum
        for identifier in scan.components:
            if identifier not in missing or last > 63 or first > last:
                raise damaged("one whose scan header is broken")
            missing[identifier][first : last + 1] = [bits & 15] * (last + 1 - first)
    if not missing or any(any(bits) for bits in missing.values()):
        raise damaged("one without all of its scans")
