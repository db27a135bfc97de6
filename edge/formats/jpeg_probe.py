"""Whether every scan of a JPEG ends exactly where its codes end.

A decoder that lost its place in a damaged scan usually runs out of codes, which libjpeg reports, or has some left,
which it reports only if they are more than the 7 bytes that it reads ahead. libjpeg counts those 7 bytes as well where
a restart marker follows. So a probe is made: the same picture, one row of units taller, with a restart marker after
the last real code of each scan, then codes of a black row, then a marker that makes libjpeg report what it counted.
A probe of a whole picture decodes without a warning; otherwise the first warning says how many bytes are left over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from fthnet_kit.edge.formats.jpeg_file import HUFFMAN, PROGRESSIVE, RESTART_INTERVAL, Jpeg, Scan, file_of, parse

MOST_UNITS = 65_535  # between restart markers
FIRST_RESTART = b"\xff\xd0"
EMPTY_COMMENT = b"\xff\xfe\x00\x02"
ZIGZAG = 64

Table = dict[int, str]  # code of each symbol, as a string of 0 and 1


@dataclass(frozen=True)
class Grid:
    """Units (MCUs) of a scan: one block of a single component, or a block set of several.

    Attributes:
        units: in the picture as it is.
        extra: added by a row of units of the whole picture.
        blocks: which component, by its place in the scan header, each block of a unit belongs to.
    """

    units: int
    extra: int
    blocks: tuple[int, ...]


def probe(jpeg: Jpeg) -> bytes | None:
    """The probe of a picture, or None where none can be made.

    It has restart markers, or a scan of too many units, or of fewer than a row adds (pictures of a few pixels).
    """
    if jpeg.interval:
        return None
    tables: dict[int, Table] = {}
    parts: list[bytes | Scan] = []
    if not any(not isinstance(part, Scan) and part[1] == HUFFMAN for part in jpeg.parts):
        tables = _tables(standard_tables())  # Motion JPEG leaves them out
    for part in jpeg.parts:
        if isinstance(part, Scan):
            grid = _grid(jpeg, part)
            extra = _black(jpeg, part, grid, tables)
            if not grid.extra <= grid.units <= MOST_UNITS or extra is None:  # one restart marker has to do
                return None
            parts += [_interval(grid.units), Scan(part.header, part.codes + FIRST_RESTART + extra)]
        elif part is jpeg.frame:
            parts.append(taller(part, jpeg))
        else:
            parts.append(part)
            if part[1] == HUFFMAN:
                tables.update(_tables(part))
    return file_of([*parts, EMPTY_COMMENT])


def interval_probe(jpeg: Jpeg, units: int, codes: bytes) -> bytes | None:
    """The probe of one restart interval of the only scan, as a picture of its own."""
    unit_width, unit_height = jpeg.unit
    across = jpeg.units[0] if units % jpeg.units[0] == 0 else units
    if across * unit_width > MOST_UNITS:
        return None
    frame = resized(jpeg.frame, across * unit_width, units // across * unit_height)
    parts = [frame if part is jpeg.frame else part for part in jpeg.parts if not _is_interval(part)]
    parts = [Scan(part.header, codes) if isinstance(part, Scan) else part for part in parts]
    return probe(Jpeg(frame, 0, parts))


def resized(frame: bytes, width: int, height: int) -> bytes:
    """The same frame header for a picture of another size."""
    return frame[:5] + struct.pack(">HH", height, width) + frame[9:]


def taller(frame: bytes, jpeg: Jpeg) -> bytes:
    """The same frame header for a picture with one more row of units."""
    return resized(frame, jpeg.size[0], (jpeg.units[1] + 1) * jpeg.unit[1])


def _is_interval(part: bytes | Scan) -> bool:
    return not isinstance(part, Scan) and part[1] == RESTART_INTERVAL


def _interval(units: int) -> bytes:
    return b"\xff\xdd\x00\x04" + struct.pack(">H", min(units, MOST_UNITS))


def _grid(jpeg: Jpeg, scan: Scan) -> Grid:
    across, down = jpeg.units
    sampling = {identifier: (h, v) for identifier, h, v in jpeg.components}
    if len(scan.components) > 1:
        blocks = [n for n, identifier in enumerate(scan.components) for _ in range(np.prod(sampling[identifier]))]
        return Grid(across * down, across, tuple(blocks))
    (width, height), (unit_width, unit_height) = jpeg.size, jpeg.unit
    h, v = sampling[scan.components[0]] if len(jpeg.components) > 1 else (1, 1)
    columns = _ceil(_ceil(width * h * 8, unit_width), 8)
    rows = _ceil(_ceil(height * v * 8, unit_height), 8)
    return Grid(columns * rows, columns * ((down + 1) * v - rows), (0,))


def _ceil(value: int, divisor: int) -> int:
    return -(-value // divisor)


def _black(jpeg: Jpeg, scan: Scan, grid: Grid, tables: dict[int, Table]) -> bytes | None:
    """Codes of the extra units of a scan; None if its Huffman tables lack what is needed."""
    first, _, bits = scan.spectrum
    try:
        if jpeg.kind == PROGRESSIVE and first > 0:
            code = _end_of_blocks(tables[0x10 | scan.tables[0] & 15], grid.extra)
        elif jpeg.kind == PROGRESSIVE and bits >> 4:
            code = "0" * len(grid.blocks) * grid.extra
        else:
            whole = jpeg.kind != PROGRESSIVE
            code = "".join(_block(scan.tables[n], tables, whole) for n in grid.blocks) * grid.extra
    except (KeyError, ValueError):
        return None
    code += "1" * (-len(code) % 8)
    return int(code, 2).to_bytes(len(code) // 8, "big").replace(b"\xff", b"\xff\x00")


def _block(which: int, tables: dict[int, Table], whole: bool) -> str:
    """One block: a difference of 0 if there is a code for it, and no other coefficient."""
    difference = min(tables[which >> 4])
    code = tables[which >> 4][difference] + "0" * difference
    if not whole:
        return code
    ac = tables[0x10 | which & 15]
    if 0 in ac:
        return code + ac[0]
    symbol = min(ac)  # no code for the end of a block: coefficients until it is full
    return code + (ac[symbol] + "0" * (symbol & 15)) * _ceil(ZIGZAG - 1, (symbol >> 4) + 1)


def _end_of_blocks(table: Table, blocks: int) -> str:
    """Codes that end at least so many blocks of a progressive scan."""
    run = max(
        symbol >> 4 for symbol in table if not symbol & 15 and symbol < 0xF0 and symbol >> 4 <= blocks.bit_length()
    )
    return (table[run << 4] + "0" * run) * _ceil(blocks, 1 << run)


def _tables(segment: bytes) -> dict[int, Table]:
    """Huffman tables of a segment, by class and number (0x10 is the first of AC)."""
    found: dict[int, Table] = {}
    at = 4
    while at + 17 <= len(segment):
        lengths = segment[at + 1 : at + 17]
        symbols = segment[at + 17 : at + 17 + sum(lengths)]
        found[segment[at]] = dict(zip(symbols, _canonical(lengths), strict=False))
        at += 17 + sum(lengths)
    return found


def _canonical(lengths: bytes) -> Iterator[str]:
    """Codes in order, from the number of codes of each length from 1 to 16."""
    code = 0
    for length, count in enumerate(lengths, start=1):
        for _ in range(count):
            yield f"{code:0{length}b}"
            code += 1
        code <<= 1


@cache
def standard_tables() -> bytes:
    """The segment of the standard's example tables, which every plain encoder writes."""
    _, encoded = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))
    pieces = [part for part in parse(encoded.tobytes()).parts if not isinstance(part, Scan) and part[1] == HUFFMAN]
    body = b"".join(piece[4:] for piece in pieces)
    return b"\xff\xc4" + struct.pack(">H", len(body) + 2) + body
