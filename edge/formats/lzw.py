"""How much an LZW stream of a TIFF unpacks to, without unpacking it: a damaged one unpacks to less.

The width of each code depends only on how many came since the table was cleared, so the codes between two clearings are
read at once, and the length of each follows from the code that its table entry was made of.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

CLEAR, END, FIRST = 256, 257, 258
MOST_CODES = 4096 - FIRST + 2  # between two clearings
# A decoder is one entry behind its encoder: the width grows one code early.
WIDTHS = np.select([np.arange(MOST_CODES) < limit - FIRST for limit in (512, 1024, 2048)], [9, 10, 11], 12)
PLACES = np.concatenate([[0], np.cumsum(WIDTHS)])[:-1]  # bits


def unpacked_size(data: bytes, most: int) -> int | None:
    """Bytes that a stream unpacks to; None for one that breaks a rule of the format.

    Args:
        data: of a strip or tile.
        most: size at which a decoder stops.
    """
    padded = np.frombuffer(data + bytes(3), np.uint8).astype(np.uint32)
    at, total, bits = 0, 0, 8 * len(data)
    while at + 9 <= bits:
        codes = _codes(padded, at, bits)
        stops = np.flatnonzero((codes == CLEAR) | (codes == END))
        count = int(stops[0]) if len(stops) else len(codes)
        lengths = _lengths(codes[:count])
        if lengths is None:
            return None
        total += int(lengths.sum())
        if total > most or (not len(stops) and count == MOST_CODES):
            return None
        if not len(stops) or codes[count] == END:
            return total
        at += int(PLACES[count] + WIDTHS[count])
    return total


def _codes(padded: npt.NDArray[np.uint32], at: int, bits: int) -> npt.NDArray[np.int64]:
    """Codes from a bit on, as far as there are any, at most up to where the table has to be cleared."""
    places, widths = at + PLACES, WIDTHS
    inside = places + widths <= bits
    places, widths = places[inside], widths[inside]
    byte = places >> 3
    window = padded[byte] << 16 | padded[byte + 1] << 8 | padded[byte + 2]
    return (window.astype(np.int64) >> (24 - (places & 7) - widths)) & ((1 << widths) - 1)


def _lengths(codes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
    """How many bytes each code stands for; None if one is not in the table yet.

    The entry that code n adds is what code n - 1 stands for and one byte more.
    """
    parents = np.where(codes >= FIRST, codes - FIRST, -1)
    if np.any(parents >= np.arange(len(codes))):
        return None
    lengths = np.ones(len(codes), np.int64)
    while True:  # each turn doubles how far back a parent lies
        rest = np.flatnonzero(parents >= 0)
        if not len(rest):
            return lengths
        above = parents[rest]
        lengths[rest] += lengths[above]
        parents[rest] = parents[above]
