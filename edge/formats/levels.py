"""Levels: which value is white, where a file holds fewer bits than its samples could.

A camera of 10, 12 or 14 bits often stores its values in 16; read as 16 bits they are a nearly black picture. What the
file says counts; then what the user says (`assume_bits`); a picture without either is refused, if its values
could be of fewer bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from fthnet_kit.edge.errors import PictureError
from fthnet_kit.edge.image import Image

WHITE_8, WHITE_16 = 255, 65_535
_assumed: int | None = None  # bits


@contextmanager
def assume_bits(bits: int | None) -> Iterator[None]:
    """Within it, 16-bit pictures whose file does not say how many bits they use have so many, in all threads."""
    global _assumed  # noqa: PLW0603
    before, _assumed = _assumed, bits
    try:
        yield
    finally:
        _assumed = before


def assumed_bits() -> int | None:
    """What `assume_bits` says now."""
    return _assumed


def eight_bits(image: npt.NDArray[np.generic], white: int | None = None) -> Image:
    """The picture in 8 bits: `white` becomes 255.

    Args:
        image: uint8 or uint16, any shape.
        white: the value of white as the file says it; None: it does not say.

    Raises:
        PictureError: another type, values beyond white, or values that could be of fewer bits.
    """
    if image.dtype not in (np.uint8, np.uint16):
        raise PictureError(
            f"expected samples of 8 or 16 bits, found {image.dtype}; convert it to 8 or 16 bits a colour", "unsupported"
        )
    if white is None:
        white = WHITE_8 if image.dtype == np.uint8 else _white_of(image)
    highest = int(image.max(initial=0))
    if highest > white:
        raise PictureError(
            f"expected values up to {white}, found {highest}; say with --bits how many bits the values use", "unclear"
        )
    if white == WHITE_8 and image.dtype == np.uint8:
        return image.astype(np.uint8, copy=False)
    table = (np.arange(white + 1, dtype=np.uint32) * WHITE_8 + white // 2) // white
    return table.astype(np.uint8)[image]


def significant_white(image: npt.NDArray[np.generic], bits: int) -> int:
    """White of a 16-bit picture of which the file says that `bits` bits count.

    By the standard such values are scaled to the whole range, so that the lowest bits repeat the highest; writers that
    leave them as they are have other values there, and none above what the bits hold.
    """
    as_they_are = int(image.max(initial=0)) < 1 << bits and bool(np.any(image & ((1 << (16 - bits)) - 1)))  # type: ignore[operator]
    return (1 << bits) - 1 if as_they_are else WHITE_16


def _white_of(image: npt.NDArray[np.generic]) -> int:
    """White of a 16-bit picture whose file does not say it."""
    if _assumed is not None:
        return (1 << _assumed) - 1
    highest = int(image.max(initial=0))
    if highest > WHITE_16 // 2 or highest == 0 or np.array_equal(image >> 8, image & 0xFF):  # type: ignore[operator]
        return WHITE_16
    bits = max(8, highest.bit_length())
    raise PictureError(
        f"expected values of 16 bits, found none above {highest}, as of {bits} bits in a file that does not say so; "
        f"give --bits {bits}, or --bits 16 for a dark picture",
        "unclear",
    )
