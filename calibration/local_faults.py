"""What hides a part of the retina, and what that costs: shadows, lids, lashes, dust, reflexes, dark halves.

A fault of the whole picture lowers a score by its severity. One that hides a part lowers it by the share of the
field that is hidden, where the region of the macula and the optic disc count more, however sharp the rest is.
The same rule prices highlights that a look clips and shadows that it loses.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from fthnet_kit.edge.capture.degradations import Rng
from fthnet_kit.edge.image import Image

Map = npt.NDArray[np.float32]  # (CELLS, CELLS) over a square picture
Fault = tuple[Map, tuple[float, float, float]]  # how much is covered, 0 to 1, and by which colour (BGR)

CELLS = 96
STEEPNESS = 1.9  # a score keeps (1 - share) ** STEEPNESS: 0.51 at 30 % hidden, 0.27 at 50 %, 0.07 at 75 %
LIT = 12  # gray levels of the brightest channel from which a cell belongs to the field
MIDDLE_WEIGHT, MIDDLE_WIDTH = 2.0, 0.30  # the macula or the disc is near the middle of most photographs
DISC_WEIGHT, DISC_WIDTH = 2.0, 0.14
RIM, RIM_WORTH = 0.8, 0.5  # of the half side: what lies beyond counts so much of its area
THIN, THICK = 0.5, 0.9  # cover of a shadow from which it hides anything, and all: in half the level vessels show
CLIPPED, LOST = 252, 6  # levels of green at which nothing can be seen any more

AXIS = np.linspace(-1, 1, CELLS, dtype=np.float32)
Y, X = np.meshgrid(AXIS, AXIS, indexing="ij")
MIDDLE_WORTH = MIDDLE_WEIGHT * np.exp(-(X**2 + Y**2) / (2 * MIDDLE_WIDTH**2))
AREA = np.where(X**2 + Y**2 < RIM**2, 1, RIM_WORTH).astype(np.float32)
INNER = X**2 + Y**2 < 0.7  # where a disc is looked for


def brightest_channel(picture: Image) -> Image:
    """Largest of the three channels, uint8 (H, W); ten times as fast as a maximum over the last axis."""
    return np.maximum(np.maximum(picture[..., 0], picture[..., 1]), picture[..., 2])


def importance(picture: Image) -> Map:
    """What each cell of a picture's field is worth; sums to 1, or is 0 throughout where nothing is lit.

    The optic disc is taken to be at `disc_cell`.
    """
    small, field = _cells(picture)
    row, column = _brightest(small, field)
    worth = field * (
        1 + MIDDLE_WORTH + DISC_WEIGHT * np.exp(-((X - AXIS[column]) ** 2 + (Y - AXIS[row]) ** 2) / (2 * DISC_WIDTH**2))
    )
    total = float(worth.sum())
    return (worth / total if total > 0 else worth).astype(np.float32)


def disc_cell(picture: Image) -> tuple[int, int]:
    """Row and column of the cell where green, smoothed, stands out most from its surroundings: the optic disc."""
    return _brightest(*_cells(picture))


def lit_cells(picture: Image) -> Map:
    """1 where a cell belongs to the field, 0 where it is dark."""
    return _cells(picture)[1]


def _cells(picture: Image) -> tuple[Image, Map]:
    small = cv2.resize(picture, (CELLS, CELLS), interpolation=cv2.INTER_AREA)
    return small, (brightest_channel(small) > LIT).astype(np.float32)


def _brightest(small: Image, field: Map) -> tuple[int, int]:
    green = small[..., 1].astype(np.float32) * field
    excess = cv2.GaussianBlur(green, (0, 0), 4) - cv2.GaussianBlur(green, (0, 0), 16)
    row, column = np.unravel_index(int(np.argmax(excess * INNER)), excess.shape)
    return int(row), int(column)


def hidden_share(hidden: Map, worth: Map) -> float:
    """Share of the field that is hidden: by area, of which the rim counts half, or by worth where that is more."""
    field = worth > 0
    if not field.any():
        return 0.0
    by_area = (hidden * AREA)[field].sum() / AREA[field].sum()
    return float(np.clip(max(by_area, (hidden * worth).sum()), 0, 1))


def kept(share: float) -> float:
    """Share of its score that a photograph keeps when a share of its field is hidden."""
    return float((1 - share) ** STEEPNESS)


def lost_levels(picture: Image) -> Map:
    """Where a picture shows nothing any more: share of each cell whose green is clipped or black."""
    green = picture[::2, ::2, 1]
    lost = ((green >= CLIPPED) | (green <= LOST)).astype(np.float32)
    return cv2.resize(lost, (CELLS, CELLS), interpolation=cv2.INTER_AREA)


def local_fault(picture: Image, rng: Rng) -> tuple[Image, Map]:
    """A picture with one local fault, and how much of each cell it hides.

    Args:
        picture: BGR uint8, square; not changed.
        rng: which fault, where, how large.
    """
    kinds, odds = zip(*FAULTS.items(), strict=True)
    kind = kinds[int(rng.choice(len(kinds), p=np.array(odds) / sum(odds)))]
    cover, colour = kind(rng)
    size = picture.shape[1::-1]
    full = cv2.resize(cover, size, interpolation=cv2.INTER_LINEAR)
    weight = cv2.merge([np.clip(full * 255, 0, 255).astype(np.uint8)] * 3)
    light = np.empty_like(picture)
    light[:] = np.array(colour, np.uint8)
    kept_part = cv2.multiply(picture, cv2.bitwise_not(weight), scale=1 / 255)
    hidden = (cover - THIN) / (THICK - THIN) if kind in SHADES else cover * 1.15
    return cv2.add(kept_part, cv2.multiply(light, weight, scale=1 / 255)), np.clip(hidden, 0, 1)


def _step(distance: npt.NDArray[np.floating], width: float) -> Map:
    """0 to 1 as a signed distance goes from -width to width, smoothly."""
    ramp = np.clip(distance / (2 * width) + 0.5, 0, 1)
    return (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)


def _side(rng: Rng, angle: float, width: float) -> Map:
    """Everything beyond a line at a random depth."""
    depth = rng.uniform(-0.6, 0.9)
    return _step(X * np.cos(angle) + Y * np.sin(angle) - depth, width)


def _blob(rng: Rng, radius: float, width: float) -> Map:
    """An ellipse somewhere in the field."""
    place = rng.normal(0, 0.4, 2)
    stretch = rng.uniform(0.6, 1.0)
    angle = rng.uniform(0, np.pi)
    u = (X - place[0]) * np.cos(angle) + (Y - place[1]) * np.sin(angle)
    v = (Y - place[1]) * np.cos(angle) - (X - place[0]) * np.sin(angle)
    return _step(radius - np.hypot(u, v / stretch), width)


def shadow(rng: Rng) -> Fault:
    """A dark cloud, the shadow of an opacity or of the iris."""
    radius = rng.uniform(0.15, 0.8)
    return _blob(rng, radius, rng.uniform(0.1, 0.5) * radius) * np.float32(rng.uniform(0.4, 1.0)), (2.0, 3.0, 6.0)


def half_dark(rng: Rng) -> Fault:
    """The light misses one side, with an edge that is soft or hard."""
    cover = _side(rng, rng.uniform(0, 2 * np.pi), rng.uniform(0.01, 0.45)) * np.float32(rng.uniform(0.8, 1.0))
    return cover, (0.0, 0.0, float(rng.uniform(0, 6)))


def lid(rng: Rng) -> Fault:
    """A lid from above or below, often with lashes before it."""
    angle = float(rng.choice([-1, 1])) * np.pi / 2 + rng.uniform(-0.5, 0.5)
    cover = _side(rng, angle, rng.uniform(0.02, 0.2))
    if rng.random() < 0.6:
        cover = np.maximum(cover, _lashes(rng, angle))
    shade = rng.uniform(0, 1.4)
    return cover, (40 * shade, 60 * shade, 95 * shade) if rng.random() < 0.5 else (10 * shade, 12 * shade, 20 * shade)


def lashes(rng: Rng) -> Fault:
    """Lashes alone, dark and out of focus."""
    angle = float(rng.choice([-1, 1])) * np.pi / 2 + rng.uniform(-0.5, 0.5)
    return _lashes(rng, angle), (6.0, 8.0, 12.0)


def _lashes(rng: Rng, angle: float) -> Map:
    canvas = np.zeros((CELLS, CELLS), np.float32)
    half = CELLS / 2
    for _ in range(int(rng.integers(4, 22))):
        along, reach = rng.uniform(-1, 1), rng.uniform(0.2, 1.1)
        root = half + 1.1 * half * np.array(
            [np.cos(angle) - along * np.sin(angle), np.sin(angle) + along * np.cos(angle)]
        )
        lean = angle + np.pi + rng.uniform(-0.5, 0.5)
        tip = root + reach * half * np.array([np.cos(lean), np.sin(lean)])
        ends = [(int(x), int(y)) for x, y in (root, tip)]
        cv2.line(canvas, ends[0], ends[1], float(rng.uniform(0.6, 1.0)), int(rng.integers(1, 4)), cv2.LINE_AA)
    return cv2.GaussianBlur(canvas, (0, 0), float(rng.uniform(0.6, 1.6)))


def dust(rng: Rng) -> Fault:
    """Specks on the lens: soft dark or pale discs, many and small."""
    canvas = np.zeros((CELLS, CELLS), np.float32)
    for _ in range(int(rng.integers(2, 25))):
        place = tuple(int(v) for v in rng.integers(0, CELLS, 2))
        cv2.circle(canvas, place, int(rng.integers(1, 6)), float(rng.uniform(0.4, 0.95)), -1, cv2.LINE_AA)
    pale = float(rng.uniform(110, 200)) if rng.random() < 0.4 else float(rng.uniform(5, 40))
    return cv2.GaussianBlur(canvas, (0, 0), float(rng.uniform(0.6, 2.0))), (0.8 * pale, 0.9 * pale, pale)


def reflex(rng: Rng) -> Fault:
    """A bright spot or ring in the middle, light over one side, or a crescent at the rim."""
    bright = rng.uniform(0.75, 1.0)
    colour = (225 * bright, 240 * bright, 250 * bright)
    kind = rng.random()
    if kind >= 0.65:
        return _crescent(rng), tuple(rng.uniform((110, 190, 190), 255))
    if kind < 0.3:
        return _blob(rng, rng.uniform(0.08, 0.45), rng.uniform(0.03, 0.15)), colour
    radius = np.hypot(X - rng.normal(0, 0.2), Y - rng.normal(0, 0.2))
    if kind < 0.5:
        inner = rng.uniform(0.1, 0.6)
        return _step(rng.uniform(0.05, 0.2) - np.abs(radius - inner), 0.05), colour
    return _side(rng, rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.4)) * np.float32(rng.uniform(0.6, 1.0)), colour


def _crescent(rng: Rng) -> Map:
    """Light that leaks in at the rim, widest to one side: bright, but only its share of the field is lost."""
    angle, shift = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.4)
    radius = np.hypot(X + shift * np.cos(angle), Y + shift * np.sin(angle))
    return _step(radius - rng.uniform(0.95, 1.4), rng.uniform(0.03, 0.2))


FAULTS: dict[Callable[[Rng], Fault], float] = {
    shadow: 3.0,
    half_dark: 3.0,
    lid: 2.0,
    lashes: 0.7,
    dust: 1.0,
    reflex: 2.5,
}
SHADES = (shadow, half_dark)  # take light away, and nothing else until it is too dark
