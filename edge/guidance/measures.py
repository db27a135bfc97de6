"""Cheap, explained measures of a frame."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from fthnet_kit.edge.image import Image, to_bgr8
from fthnet_kit.edge.model.field import FIELD_LEVEL, FIELD_MIN_LEVEL

Map = npt.NDArray[np.float32]
# The frame is measured at this height or width, whichever is shorter.
SIDE = 288
DETAIL_SIDE = 96  # side of the map in which movement and dust are looked for
GAMMA = 2.2
WHITE = 250  # a channel this high is clipped
FIELD = 256  # pixels of the field's diameter where its light and sharpness are measured
CELLS = 12  # regions across the field whose light is compared
WHOLE = 242  # level, of 255, from which a cell lies in the field
PROBE_STEP = 4  # every how many pixels it is asked whether they are lit
LEAST_FRAME = 64  # pixels: too small to measure
LEAST_FIELD = 0.25  # share of the frame's shorter side: what is smaller is a reflex
WELL_LIT = 0.5  # share of the field's median level: what is darker lies under a lid or beside the pupil
SMOOTH = 2.0  # pixels of `SIDE`, sigma: noise is no darkness
SURROUNDINGS = 3.0  # pixels of `DETAIL_SIDE`, sigma: coarser structure is light, finer is detail
LEAST_RESPONSE = 0.05  # response of phase correlation; below it the frames have nothing in common
RIM = np.ones((9, 9), np.uint8)  # rim of a field of 128: its edge is not detail
EDGE = np.ones((9, 9), np.uint8)  # rim of a field of `DETAIL_SIDE`
UNSTEADY = 0.25  # field diameters a second: a vessel's width (0.8 % of the field) in an exposure of 1/30 s
LONGEST_GAP_S = 1.0  # between frames; beyond, movement is unknown


@dataclass(frozen=True)
class Measures:
    """One frame in numbers. Unknown where nothing is lit: the lit share is then 0 and the rest neutral.

    Attributes:
        lit: share of the frame that is lit.
        well_lit: area that is at least half as bright as the field's median, as a share of the largest circle in the
            frame: what a lid, a crescent beside the pupil and their soft edges leave.
        offset: where the lit part's centroid lies, from the frame's centre, right and down, in field diameters.
        bright_stops: the field's brighter tenth (luminance), in stops below white.
        middle_stops: the field's median luminance, in stops below white.
        clipped: share of the field whose red is at the sensor's end.
        tilt_stops: of the light from one edge of the field to the opposite; vignetting, the same all round, is none.
        sharpness: contrast of green details of 1/64 of the field, as a share of that of details twice as
            large: blur takes the finer first, whatever the contrast of this retina.
        fineness: the same of green details of 1/128 and 1/64 of the field, over those of 1/32: tells blur apart that
            `sharpness` hardly sees, but also sees noise where little else is left.
        shift: how far the picture has moved since the previous frame, right and down, in field diameters;
            None if that cannot be measured.
        detail: green of the whole frame against its surroundings, float32 (about 96 rows): relative, 0 where dark.
        inside: where in `detail` the field is, away from its edge.
    """

    lit: float = 0.0
    well_lit: float = 0.0
    offset: tuple[float, float] = (0.0, 0.0)
    bright_stops: float = -18.0
    middle_stops: float = -18.0
    clipped: float = 0.0
    tilt_stops: float = 0.0
    sharpness: float = 0.0
    fineness: float = 0.0
    shift: tuple[float, float] | None = None
    detail: Map | None = field(default=None, repr=False, compare=False)
    inside: Image | None = field(default=None, repr=False, compare=False)


def measure(image: npt.NDArray[np.generic], previous: Measures | None = None) -> Measures:
    """What can be said about a frame without a network, in about 3 ms at 1080p.

    Args:
        image: the camera's frame, BGR uint8 (H, W, 3), or what `preprocess.to_bgr8` accepts; not cut to the field,
            whose place in the frame says where to move.
        previous: measures of the frame before, for the movement.
    """
    small = _reduced(to_bgr8(image))
    height, width = small.shape[:2]
    if min(height, width) < LEAST_FRAME:
        return Measures()
    lit = _lit(small)
    x, y, w, h = cv2.boundingRect(lit)
    diameter = max(w, h)
    if diameter < LEAST_FIELD * min(height, width):
        return Measures()
    area = cv2.moments(lit[y : y + h, x : x + w], binaryImage=True)
    offset = (
        (x + area["m10"] / area["m00"] - (width - 1) / 2) / diameter,
        (y + area["m01"] / area["m00"] - (height - 1) / 2) / diameter,
    )
    detail, inside = _detail(small, lit)
    to_field = (FIELD * w // diameter, FIELD * h // diameter)
    box = cv2.resize(small[y : y + h, x : x + w], to_field, interpolation=cv2.INTER_LINEAR)
    mask = cv2.resize(lit[y : y + h, x : x + w], to_field, interpolation=cv2.INTER_NEAREST)
    light = cv2.cvtColor(box, cv2.COLOR_BGR2GRAY)
    levels = np.cumsum(cv2.calcHist([light], [0], mask, [256], [0, 256]))
    sharpness, fineness = _sharpness(box[:, :, 1], mask)
    return Measures(
        lit=area["m00"] / lit.size,
        well_lit=_well_lit(small, lit),
        offset=offset,
        bright_stops=_stops(float(np.searchsorted(levels, 0.9 * levels[-1]))),
        middle_stops=_stops(float(np.searchsorted(levels, 0.5 * levels[-1]))),
        clipped=_share(cv2.inRange(box[:, :, 2], WHITE, 255), mask),
        tilt_stops=_tilt(light, mask),
        sharpness=sharpness,
        fineness=fineness,
        shift=_shift(previous, detail, diameter * DETAIL_SIDE / min(height, width)),
        detail=detail,
        inside=inside,
    )


def _reduced(image: Image) -> Image:
    """The frame with its shorter side at `SIDE` pixels, or as it is where it is smaller."""
    while min(image.shape[:2]) >= 2 * SIDE:
        image = cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)
    scale = SIDE / min(image.shape[:2])
    if scale >= 1:
        return image
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)


def _lit(image: Image) -> Image:
    """1 where the largest lit region is, as `field.find_field` defines lit."""
    blue, green, red = cv2.split(image[PROBE_STEP // 2 :: PROBE_STEP, PROBE_STEP // 2 :: PROBE_STEP])
    peak = cv2.medianBlur(cv2.max(cv2.max(blue, green), red), 5)
    level = max(FIELD_MIN_LEVEL, FIELD_LEVEL / 100 * float(np.percentile(peak, 95)))
    count, labels, stats, _ = cv2.connectedComponentsWithStats((peak > level).astype(np.uint8), connectivity=8)
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA])) if count > 1 else -1
    return cv2.resize((labels == largest).astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST)


def _share(here: Image, mask: Image) -> float:
    """The part of the field (`mask`, 0 or 1) in which `here` is not 0."""
    return cv2.countNonZero(cv2.bitwise_and(here, here, mask=mask)) / max(1, cv2.countNonZero(mask))


def _stops(level: float) -> float:
    return GAMMA * float(np.log2((level + 0.5) / 255.5))


def _tilt(light: Image, mask: Image) -> float:
    """Stops from the brightest edge to the opposite one: the plane that fits the cells which lie in the field."""
    size = (max(1, CELLS * light.shape[1] // FIELD), max(1, CELLS * light.shape[0] // FIELD))
    rows, columns = np.nonzero(cv2.resize(mask * np.uint8(255), size, interpolation=cv2.INTER_AREA) > WHOLE)
    if rows.size < CELLS or np.ptp(rows) < 2 or np.ptp(columns) < 2:
        return 0.0
    cells = cv2.resize(light, size, interpolation=cv2.INTER_AREA)[rows, columns]
    stops = GAMMA * np.log2(cells + np.float32(1))
    plane = np.column_stack([columns, rows, np.ones(rows.size)])
    (across, down, _), *_ = np.linalg.lstsq(plane, stops, rcond=None)
    return float(np.hypot(across, down)) * CELLS


def _sharpness(green: Image, mask: Image) -> tuple[float, float]:
    """Contrast of details over that of coarser ones, from three levels of a Laplacian pyramid: sharpness, fineness."""
    green = np.ascontiguousarray(green)
    finer = cv2.pyrDown(green)  # field 128: what is below a 128th is mostly noise
    middle = cv2.pyrDown(finer)
    coarse = cv2.pyrDown(middle)
    inner = cv2.erode(cv2.resize(mask, finer.shape[1::-1], interpolation=cv2.INTER_NEAREST), RIM, borderValue=0)
    finest = _energy(green, finer, cv2.resize(inner, green.shape[1::-1], interpolation=cv2.INTER_NEAREST))
    fine = _energy(finer, middle, inner)
    inner = cv2.resize(inner, middle.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    coarser = _energy(middle, coarse, inner)
    if coarser <= 0:
        return 0.0, 0.0
    return float(np.sqrt(fine / coarser)), float(np.sqrt((finest + fine) / (2 * coarser)))


def _well_lit(image: Image, lit: Image) -> float:
    """Area of the lit region that is not much darker than most of it, over the area of the frame's largest circle."""
    light = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), (0, 0), SMOOTH)
    levels = np.cumsum(cv2.calcHist([light], [0], lit, [256], [0, 256]))
    median = float(np.searchsorted(levels, 0.5 * levels[-1]))
    bright = cv2.bitwise_and(cv2.inRange(light, WELL_LIT * median + 1, 255), lit)
    return cv2.countNonZero(bright) / (np.pi / 4 * min(lit.shape) ** 2)


def _energy(level: Image, below: Image, mask: Image) -> float:
    """Mean square of what `level` shows beyond the coarser `below`."""
    difference = cv2.subtract(level, cv2.pyrUp(below, dstsize=level.shape[1::-1]), dtype=cv2.CV_32F)
    return float(cv2.mean(cv2.multiply(difference, difference), mask)[0])


def _detail(image: Image, lit: Image) -> tuple[Map, Image]:
    """Green against its surroundings in the frame, and where it is field away from the edge."""
    scale = DETAIL_SIDE / min(lit.shape)
    size = (round(lit.shape[1] * scale), round(lit.shape[0] * scale))
    green = cv2.resize(np.ascontiguousarray(image[:, :, 1]), size, interpolation=cv2.INTER_AREA).astype(np.float32)
    mask = cv2.resize(lit, size, interpolation=cv2.INTER_NEAREST)
    weight = mask.astype(np.float32)
    around = cv2.GaussianBlur(green * weight, (0, 0), SURROUNDINGS)
    around /= cv2.max(
        cv2.GaussianBlur(weight, (0, 0), SURROUNDINGS), 0.1
    )  # the dark beyond the edge is no surroundings
    inside = cv2.erode(mask, EDGE, borderValue=0)
    return (green - around) / (around + 4) * inside, inside


def _shift(previous: Measures | None, detail: Map, diameter: float) -> tuple[float, float] | None:
    """Movement between two maps by phase correlation, None where they have nothing in common."""
    if previous is None or previous.detail is None or previous.detail.shape != detail.shape:
        return None
    (x, y), response = cv2.phaseCorrelate(previous.detail, detail)
    return (x / diameter, y / diameter) if response >= LEAST_RESPONSE else None
