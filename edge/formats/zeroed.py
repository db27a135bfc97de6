"""Pictures without packing in which a stretch of the file became zeros: a lost sector, a page that was never written.

No checksum guards such files, and no decoder stumbles. What betrays the hole is its shape: a run of zero bytes along
the rows that begins below lit pixels and ends above lit ones, one of them in the middle of a row. The black around a
field is never so: beside its edge it has black above or below. A black rectangle that is drawn into a picture is
several runs, each of them beside another. Black rows between a field and a line of text begin and end with rows, so a
hole of whole rows is recognised only if it is whole strips of the file.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

RUN = re.compile(rb"\0{192,}")  # shorter ones occur
LIT = 12  # value of a byte; borders of real cameras stay below
LIT_BYTES = 96  # that lie above the beginning of a hole, and below its end
NEAR = 48  # bytes that lie right there, within a row, at one end at least
LIT_SHARE = 0.5  # share of the bytes beside it, or of a row: blue is dark in many photographs
LEAST_ROWS = 8  # rows of a strip: black rows begin and end with strips of fewer rows by chance


def has_hole(data: npt.NDArray[np.uint8], width: int) -> bool:
    """Whether a run of zeros begins below and ends above lit pixels, at one end in the middle of a row.

    Args:
        data: bytes of the pixels, row by row.
        width: bytes of a row.
    """
    for run in RUN.finditer(data.data):
        first, end = run.span()
        above = data[max(first - width, 0) : max(min(end - width, first), 0)]
        below = data[max(first + width, end) : end + width]
        begins = first % width != 0 and _lit(above[:NEAR])
        ends = end % width != 0 and _lit(below[-NEAR:])
        if (begins or ends) and min(np.count_nonzero(above >= LIT), np.count_nonzero(below >= LIT)) >= LIT_BYTES:
            return True
    return False


def has_empty_strip(data: npt.NDArray[np.uint8], width: int, rows: int) -> bool:
    """Whether strips of so many rows are zero, and the rows above and below them lit."""
    if rows < LEAST_ROWS:
        return False
    whole = data[: len(data) // (rows * width) * rows * width].reshape(-1, rows * width)
    empty: npt.NDArray[np.bool_] = np.equal(whole.max(axis=1), 0)
    for strip in np.flatnonzero(empty[1:] & ~empty[:-1]) + 1:
        after = strip + int(np.argmin(np.append(empty[strip:], False)))
        if _lit(whole[strip - 1, -width:]) and _lit(data[after * rows * width :][:width]):
            return True
    return False


def _lit(part: npt.NDArray[np.uint8]) -> bool:
    return part.size > 0 and bool(np.count_nonzero(part >= LIT) >= LIT_SHARE * part.size)
