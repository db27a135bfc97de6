"""Where the illuminated retinal field lies in a frame, without the banners, pages and viewer frames around it.

The search runs on a thumbnail (every n-th pixel, longest side below 256) with integers only, so that another
implementation finds the same box to the pixel (docs/CONTRACT.md specifies it step by step):

1. The field is the largest connected region that is brighter than the border.
2. Artificial areas that touch it are blackened, outermost first, until none is left. A *bar* lies behind a
   straight edge that runs across the whole region, and most of its pixels have the colour of their row or column
   (so text and gradients do not matter). A *page* is an area of one colour with a sharp edge that fills a corner
   of the region's bounding box, where a round field never reaches.
3. Two fields, or none after something was blackened, are refused: no box would be right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from fthnet_kit.edge.errors import AmbiguousFieldError
from fthnet_kit.edge.image import Image

FIELD_PROBE = 128  # pixels: the thumbnail's longest side lies between this and twice this
FIELD_MIN_LEVEL = 8  # gray levels: a pixel this dark is never field; black borders of real cameras stay below
FIELD_LEVEL = 12  # percent of the bright level (95th percentile): the field's edge
FIELD_MIN_SIDE = 4  # times a field's longer side is at least the frame's shorter side: smaller is a reflex
ROUNDS = 12  # areas removed at most, one after the other

LEAST_REGION = 40  # pixels of the thumbnail: in smaller regions every slope is an edge
EDGE_STEP = 10  # gray levels over two pixels, in any channel: a step of brightness or colour
EDGE_SHARE = 90  # percent of a row or column of pixels that steps: a straight edge
BAR_MAX = 50  # percent of the region that a bar covers at most
BAR_PLAIN = 40  # percent of a bar's lit pixels that have the colour of their row or column: the rest is text
BAR_SAME = 4  # gray levels in each channel within which they have it
SAME = 10  # gray levels in each channel within which two pixels have the same colour
FLAT = 8  # gray levels, range of 3x3 pixels in each channel: a flat area
PAGE_CORNER = 2  # pixels: a page reaches this far into a corner of the bounding box
PAGE_MIN = 250  # times a page's area is at least that of the bounding box
PAGE_SAME = 95  # percent of a page's pixels that have its median colour
PAGE_EDGE = 16  # gray levels, range of 3x3 pixels: half of the pixels around a page reach it
TWIN_SIDE = 60  # percent of the larger field's side, of its own longer side: a second field
LONG = 150  # percent of the shorter side: two fields that touch are at least this long
FILLED = 70  # percent of the bounding box: two circles side by side fill 78, what shadows leave of one field less
WIDE = 75  # percent of the shorter side, in both halves
NOTCH = 12  # percent of the shorter side, from either side, in the middle third: where two round fields touch
NEIGHBOURS = np.ones((3, 3), np.uint8)

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Box:
    """A rectangle of a frame in pixels; it may reach beyond the frame, where pixels count as black."""

    x: int
    y: int
    width: int
    height: int


class _Region(NamedTuple):
    """A connected lit region of the thumbnail and its bounding box, in thumbnail pixels."""

    area: int
    top: int
    left: int
    rows: int
    columns: int
    label: int

    @property
    def side(self) -> int:
        return max(self.rows, self.columns)

    def window(self) -> tuple[slice, slice]:
        return slice(self.top, self.top + self.rows), slice(self.left, self.left + self.columns)


@dataclass(frozen=True)
class _Lit:
    """The lit regions of a thumbnail, largest first, and the level above which a pixel is lit."""

    level: int
    labels: npt.NDArray[np.int32]
    regions: list[_Region]

    def has(self, least: int) -> bool:
        """Whether the largest region is at least so wide or high."""
        return bool(self.regions) and self.regions[0].side >= least


def find_field(image: Image) -> Box:
    """Bounding square of the illuminated retinal field, without the artificial areas around it.

    Its side is a multiple of 8 (from 2048 pixels on: of 32). If the field cannot be separated from the border (a
    black frame, a lone reflex), it is the square around the whole frame.

    Args:
        image: BGR uint8 (H, W, 3).

    Raises:
        AmbiguousFieldError: two fields, or no field beside the pages and bars that were recognised.
    """
    height, width = image.shape[:2]
    step = max(1, max(height, width) // FIELD_PROBE)
    probe = image[min(step, height) // 2 :: step, min(step, width) // 2 :: step].copy()
    lit = _lit(probe)
    rounds = 0
    least = -(-min(height, width) // (FIELD_MIN_SIDE * step))
    while lit.has(least) and rounds < ROUNDS and _blacken_artificial(probe, lit.regions[0], lit.level):
        lit = _lit(probe)
        rounds += 1
    if lit.has(least):
        _refuse_two_fields(lit)
        field = lit.regions[0]
        x, y = field.left * step, field.top * step
        return _square(x, y, min(field.columns * step, width - x), min(field.rows * step, height - y))
    if lit.regions and rounds:
        raise AmbiguousFieldError(
            "image: expected a retinal field, found only flat areas and what is too small for one"
        )
    return _square(0, 0, width, height)


def grid(side: int) -> int:
    """What a side must be a multiple of for a centre view on whole pixels, even after two halvings."""
    return 8 if side < 2048 else 32


def _square(x: int, y: int, width: int, height: int) -> Box:
    """The square around a rectangle, its side rounded up to the grid."""
    side = max(width, height)
    side += -side % grid(side)
    return Box(x + (width - side) // 2, y + (height - side) // 2, side, side)


def _lit(probe: Image) -> _Lit:
    peak = _peak(probe)
    if min(peak.shape) >= 5:
        peak = cv2.medianBlur(peak, 5)
    counts = np.bincount(peak.ravel(), minlength=256)
    bright = int(np.searchsorted(np.cumsum(counts) * 100, peak.size * 95))
    level = max(FIELD_MIN_LEVEL, FIELD_LEVEL * bright // 100)
    _, labels, stats, _ = cv2.connectedComponentsWithStats((peak > level).astype(np.uint8), connectivity=8)
    found = [_Region(int(a), int(y), int(x), int(h), int(w), k) for k, (x, y, w, h, a) in enumerate(stats[1:], 1)]
    return _Lit(level, labels, sorted(found, key=lambda region: (-region.area, region.top, region.left)))


def _peak(image: Image) -> Image:
    """The brightest channel of every pixel."""
    blue, green, red = cv2.split(image)
    return cv2.max(cv2.max(blue, green), red)


def _blacken_artificial(probe: Image, region: _Region, level: int) -> bool:
    """Set one bar, or all pages, to black in the thumbnail. Returns whether there was one."""
    if min(region.rows, region.columns) < LEAST_REGION:
        return False
    window = probe[region.window()]
    return _blacken_bar(window, level) or _blacken_pages(window, level)


def _blacken_bar(window: Image, level: int) -> bool:
    for turned in (window, window.transpose(1, 0, 2)):
        edges = _straight_edges(turned)
        if not edges.any():
            continue
        for outside, seen in ((turned, edges), (turned[::-1], edges[::-1])):
            first = int(np.argmax(seen))
            depth = first + int(np.argmin(np.append(seen[first:], False)))  # the edge is as wide as it steps
            if 100 * depth <= BAR_MAX * len(outside) and _is_plain(outside[: first + 1], level):
                outside[:depth] = 0
                return True
    return False


def _straight_edges(image: Image) -> Mask:
    """For each row but the last two, whether nearly all its pixels step to those two rows below."""
    if image.shape[0] < 4:
        return np.zeros(0, bool)
    steps = _peak(cv2.absdiff(np.ascontiguousarray(image[2:]), np.ascontiguousarray(image[:-2])))
    return 100 * np.count_nonzero(steps >= EDGE_STEP, axis=1) >= EDGE_SHARE * image.shape[1]


def _is_plain(bar: Image, level: int) -> bool:
    """Whether many lit pixels have the median colour of their row, or of their column."""
    lit = bar.max(axis=2) > level
    for axis in (1, 0) if len(bar) >= 3 else (1,):
        medians = np.sort(bar, axis=axis).take([bar.shape[axis] // 2], axis=axis)
        same = lit & (np.abs(bar.astype(np.int16) - medians).max(axis=2) <= BAR_SAME)
        if 100 * np.count_nonzero(same) >= BAR_PLAIN * np.count_nonzero(lit):
            return True
    return False


def _blacken_pages(window: Image, level: int) -> bool:
    peak = _peak(window)
    ends = slice(None, PAGE_CORNER), slice(-PAGE_CORNER, None)
    corners = [(rows, columns) for rows in ends for columns in ends]
    if not any((peak[corner] > level).any() for corner in corners):
        return False
    relief = _peak(cv2.subtract(cv2.dilate(window, NEIGHBOURS), cv2.erode(window, NEIGHBOURS)))
    flat = ((relief <= FLAT) & (peak > level)).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(flat, connectivity=4)
    seen = {int(label) for corner in corners for label in labels[corner].flat} - {0}
    large = [label for label in seen if PAGE_MIN * stats[label][cv2.CC_STAT_AREA] >= peak.size]
    found = [_page_of(window, labels == label, relief) for label in large]
    pages = [page for page in found if page is not None]
    for page in pages:
        window[page] = 0
    return bool(pages)


def _page_of(window: Image, area: Mask, relief: Image) -> Mask | None:
    """A flat area with its rim, if it has one colour and ends sharply (a retina shades off), otherwise None."""
    inside = np.sort(window[area], axis=0)
    same = np.abs(window.astype(np.int16) - inside[len(inside) // 2]).max(axis=2) <= SAME  # as the median colour
    whole = cv2.morphologyEx(area.astype(np.uint8), cv2.MORPH_CLOSE, NEIGHBOURS)  # noise leaves holes
    grown = cv2.dilate(whole, NEIGHBOURS) > 0
    around = relief[grown & (whole == 0)]
    one_colour = 100 * np.count_nonzero(area & same) >= PAGE_SAME * len(inside)
    sharp = 2 * np.count_nonzero(around >= PAGE_EDGE) >= around.size
    return area | (grown & same) if one_colour and sharp else None


def _refuse_two_fields(lit: _Lit) -> None:
    field = lit.regions[0]
    if any(_is_twin(other, field) for other in lit.regions[1:]) or _is_pair(lit.labels, field):
        raise AmbiguousFieldError("image: expected one retinal field, found two; cut the picture to one eye")


def _is_twin(other: _Region, field: _Region) -> bool:
    """Whether another region is a field of its own: about as large, about as wide as high, and beside the first."""
    beside = (
        other.left >= field.left + field.columns
        or field.left >= other.left + other.columns
        or other.top >= field.top + field.rows
        or field.top >= other.top + other.rows
    )
    compact = 100 * min(other.rows, other.columns) >= TWIN_SIDE * other.side
    filled = 2 * other.area >= other.rows * other.columns
    return beside and compact and filled and 100 * other.side >= TWIN_SIDE * field.side


def _is_pair(labels: npt.NDArray[np.int32], region: _Region) -> bool:
    """Whether a long region is wide in both halves and narrows from both sides in its middle third."""
    own = labels[region.window()] == region.label
    own = own.T if region.columns > region.rows else own
    length, width = own.shape
    if 100 * length < LONG * width or 100 * region.area < FILLED * length * width:
        return False
    before, after = np.argmax(own, axis=1), np.argmax(own[:, ::-1], axis=1)  # pixels that are dark at either end
    extent = width - before - after
    wide = 100 * min(int(extent[: length // 2].max()), int(extent[length // 2 :].max())) >= WIDE * width
    middle = slice(length // 3, length - length // 3)
    return wide and bool((100 * np.minimum(before, after)[middle] >= NOTCH * width).any())
