"""What the operator should do next: at most one hint, from measures that have a unit and a meaning.

`measure` describes a frame by a handful of physical numbers (docs/GUIDANCE.md explains each and its
threshold); it knows no camera and asks no network. `Guide` turns a stream of them into one hint at a
time: the first defect in the order in which defects hide each other, shown only after it has lasted,
and then long enough to be read.

Lengths are in field diameters: the longer side of the lit part of the frame. Light is in stops, factors
of two of linear light, decoded with gamma 2.2.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from fthnet_kit.edge.image import Image, to_bgr8
from fthnet_kit.edge.model.preprocess import FIELD_LEVEL, FIELD_MIN_LEVEL
from fthnet_kit.edge.model.score import Score

Code = Literal[
    "no_eye",
    "blink",
    "too_dark",
    "too_bright",
    "move_left",
    "move_right",
    "move_up",
    "move_down",
    "hold_still",
    "out_of_focus",
    "uneven",
    "lens_dirty",
]
CODES: tuple[Code, ...] = get_args(Code)  # in the order of priority: an earlier defect spoils the later measures
Language = Literal["en", "es", "zh", "fr"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
Map = npt.NDArray[np.float32]

# The frame is measured at this height or width, whichever is shorter.
SIDE = 288
DETAIL_SIDE = 96  # of the map in which movement and dust are looked for
GAMMA = 2.2
WHITE = 250  # a channel this high is clipped
FIELD = 256  # pixels of the field's diameter where its light and sharpness are measured
CELLS = 12  # regions across the field whose light is compared
WHOLE = 242  # of 255: a cell that lies in the field
PROBE_STEP = 4  # every how many pixels it is asked whether they are lit
LEAST_FRAME = 64  # pixels: too small to measure
LEAST_FIELD = 0.25  # of the frame's shorter side: what is smaller is a reflex
WELL_LIT = 0.5  # of the field's median level: what is darker lies under a lid or beside the pupil
SMOOTH = 2.0  # pixels of `SIDE`, sigma: noise is no darkness
SURROUNDINGS = 3.0  # pixels of `DETAIL_SIDE`, sigma: coarser structure is light, finer is detail
LEAST_RESPONSE = 0.05  # of phase correlation: below, the frames have nothing in common
RIM = np.ones((9, 9), np.uint8)  # of a field of 128: its edge is not detail
EDGE = np.ones((9, 9), np.uint8)  # of `DETAIL_SIDE`

# The limits of the hints; docs/GUIDANCE.md says what they mean and what was measured.
DARK_STOPS = -4.0  # even the field's brighter tenth is darker
BRIGHT_STOPS = -1.3  # half of the field is brighter
CLIPPED = 0.6  # of the field has lost its red
OFF_CENTRE = 0.035  # field diameters: a crescent of about twice this width is missing
UNSTEADY = 0.25  # field diameters a second: a vessel's width (0.8 % of the field) in an exposure of 1/30 s
BLURRED = 0.7  # of the best sharpness seen of late
BLURRED_ALWAYS = 0.5  # sharpness that no focused picture has
SCORE_FALL = 15.0  # points below the best of late, with the sharpness fallen as well
SOFTENED = 0.85  # of the best sharpness: fallen
UNEVEN_STOPS = 3.0  # from one edge of the field to the opposite
DUST_CONTRAST = 0.08  # darker or brighter than its surroundings, whichever part of the eye lies behind
DUST_STEADY = 1.5  # between its strongest and weakest: what a part of the eye leaves behind as it passes varies more
DUST_AREA = 0.0035  # of the field
COVERED = 0.45  # of the largest lit area of late: less is a lid, or no eye

LEAVE = 0.85  # a shown hint goes when its measure is this far below the limit: no flicker at the limit
LATE_S = 20.0  # "of late"
SPEED_S = 0.5  # over which speed is averaged
LONGEST_GAP_S = 1.0  # between frames; beyond, movement is unknown
BLINK_S = 1.6  # a lid that stays shut for longer is no blink
PLACES = 9  # of the eye, over which dust is told from what moves with the eye
PLACE_STEP = 0.012  # field diameters between two places
SPREAD = 0.05  # field diameters that the places must span: a disc's radius
SAME = 0.6  # correlation of details of one place
VESSEL = 0.12  # contrast of a vessel: more than that counts no more, or dust would decide


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
            None where that cannot be told.
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
    """1 where the largest lit region is, as `preprocess.find_field` defines lit."""
    blue, green, red = cv2.split(image[PROBE_STEP // 2 :: PROBE_STEP, PROBE_STEP // 2 :: PROBE_STEP])
    peak = cv2.medianBlur(cv2.max(cv2.max(blue, green), red), 5)
    level = max(FIELD_MIN_LEVEL, FIELD_LEVEL * float(np.percentile(peak, 95)))
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


@dataclass(frozen=True)
class Optics:
    """How the camera's picture lies, which decides what "left" means to the operator.

    The default is a picture as any camera gives it, upright and not mirrored: what lies to the right in it, one
    reaches by moving the camera to the right. An indirect lens turns the picture by 180 degrees (both flips), a
    display for the patient mirrors it (`flip_x`).

    Attributes:
        flip_x, flip_y: the picture is mirrored from left to right, from top to bottom.
        axis: where the camera's axis meets the picture, right and down of its centre, in field diameters.
    """

    flip_x: bool = False
    flip_y: bool = False
    axis: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Patience:
    """Hysteresis in time.

    Attributes:
        appear_s: a defect must last this long, and `appear_frames` frames, before its hint appears.
        appear_frames: see `appear_s`.
        stay_s: a hint that appeared stays at least this long.
    """

    appear_s: float = 0.2
    appear_frames: int = 2
    stay_s: float = 0.8


@dataclass(frozen=True)
class Hint:
    """One thing to do now.

    Attributes:
        code: what it is about.
        since_s: when it appeared, on the caller's clock.
    """

    code: Code
    since_s: float

    def text(self, language: Language = "en") -> str:
        """Two to four words for large print.

        Raises:
            ValueError: not one of `LANGUAGES`.
        """
        if language not in LANGUAGES:
            raise ValueError(f"language: expected one of {', '.join(LANGUAGES)}, found {language!r}")
        return texts()[self.code][language]


@cache
def texts() -> Mapping[Code, Mapping[Language, str]]:
    """The table of texts, by code and language (`assets/guidance.json`)."""
    table: Mapping[Code, Mapping[Language, str]] = json.loads(
        (files("fthnet_kit.edge") / "assets" / "guidance.json").read_text(encoding="utf-8")
    )
    return table


class Recent:
    """The highest value of the last `LATE_S` seconds, forgotten in steps of a second."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, float]] = deque()

    def add(self, value: float, now_s: float) -> None:
        """Take a value into account."""
        second = int(now_s)
        if self._seconds and self._seconds[-1][0] == second:
            self._seconds[-1] = (second, max(value, self._seconds[-1][1]))
        else:
            self._seconds.append((second, value))

    def best(self, now_s: float) -> float | None:
        """The highest value; None without one."""
        while self._seconds and self._seconds[0][0] < now_s - LATE_S:
            self._seconds.popleft()
        return max((value for _, value in self._seconds), default=None)


class Dust:
    """Tells what stays in its place in the picture while the eye moves: a blemish of the lens or the sensor."""

    def __init__(self) -> None:
        self._maps: deque[tuple[tuple[float, float], Map, Image]] = deque(maxlen=PLACES)
        self._place = (0.0, 0.0)
        self.share = 0.0

    def add(self, measures: Measures, *, clear: bool) -> None:
        """Follow the movement and, where the frame has no other defect, take it into account if the place is new.

        `share` is then the part of the field that differs from its surroundings in all places but one at most.
        """
        if measures.detail is None or measures.inside is None:
            return
        if self._maps and self._maps[0][1].shape != measures.detail.shape:
            self._maps.clear()
        if measures.shift is not None:
            self._place = (self._place[0] + measures.shift[0], self._place[1] + measures.shift[1])
        if not clear:
            return
        if any(self._is_known(place, detail, measures.detail) for place, detail, _ in self._maps):
            return
        self._maps.append((self._place, measures.detail, measures.inside))
        spread = max(np.ptp([place[axis] for place, _, _ in self._maps]) for axis in (0, 1))
        if len(self._maps) < PLACES or spread < SPREAD:
            return
        inside = np.logical_and.reduce([inside for _, _, inside in self._maps])
        details = np.stack([detail[inside] for _, detail, _ in self._maps])
        details.sort(axis=0)
        low, high = details[1], details[-2]  # in all places but one or two
        dark = (high < -DUST_CONTRAST) & (low > DUST_STEADY * high)
        bright = (low > DUST_CONTRAST) & (high < DUST_STEADY * low)
        stays = dark | bright
        self.share = float(np.mean(stays)) if stays.size else 0.0

    def _is_known(self, place: tuple[float, float], kept: Map, detail: Map) -> bool:
        """Whether the eye is where it was: no step away by the tracked movement, or the same vessels in sight."""
        if np.hypot(self._place[0] - place[0], self._place[1] - place[1]) < PLACE_STEP:
            return True
        one, other = np.clip(kept, -VESSEL, VESSEL), np.clip(detail, -VESSEL, VESSEL)
        return bool(np.vdot(one, other) > SAME * np.sqrt(np.vdot(one, one) * np.vdot(other, other)))


class Guide:
    """Turns frames into hints. Belongs to one thread and one camera.

    Example::

        guide = Guide()
        hint = guide.update(frame.image, score, frame.captured_ns / 1e9)
        print(hint.text("es") if hint else "")

    Args:
        optics: how the picture lies.
        patience: how long a defect must last, and its hint stay.
    """

    def __init__(self, optics: Optics | None = None, patience: Patience | None = None) -> None:
        self.optics = optics or Optics()
        self.patience = patience or Patience()
        self.measures: Measures | None = None
        self.hint: Hint | None = None
        self._sharpness, self._scores, self._area = Recent(), Recent(), Recent()
        self._steps: deque[tuple[float, float, float]] = deque()  # when, after how long, how far
        self._dust = Dust()
        self._seen_s: float | None = None  # when an eye was in view last
        self._now_s: float | None = None
        self._lasting: dict[Code, tuple[float, int]] = {}  # of each defect: since when, for how many frames

    def update(self, image: npt.NDArray[np.generic], score: Score, now_s: float) -> Hint | None:
        """The hint after this frame, None where there is nothing to say.

        Args:
            image: the camera's frame, BGR uint8 (H, W, 3), as it was scored.
            score: what the scorer said about it. A picture that it calls good needs no advice on focus; light, place
                and movement are not left to the network, which forgives more of them than an operator should.
            now_s: when the frame was captured, in seconds of any clock that does not go back.
        """
        elapsed = None if self._now_s is None else now_s - self._now_s
        previous = self.measures if elapsed is not None and 0 < elapsed <= LONGEST_GAP_S else None
        self.measures = measure(image, previous)
        return self.advise(self.measures, score, now_s)

    def advise(self, measures: Measures, score: Score, now_s: float) -> Hint | None:
        """`update` for a frame that is measured already."""
        excess = self._excess(measures, score, now_s)
        self._now_s = now_s
        shown = None if self.hint is None else self.hint.code
        there = [code for code in CODES if excess.get(code, 0.0) >= (LEAVE if code == shown else 1.0)]
        self._lasting = {
            code: (self._lasting[code][0], self._lasting[code][1] + 1) if code in self._lasting else (now_s, 1)
            for code in there
        }
        if self.hint is not None and now_s - self.hint.since_s < self.patience.stay_s:
            return self.hint
        ripe = next((code for code in there if code == shown or self._is_ripe(code, now_s)), None)
        if ripe != shown:
            self.hint = None if ripe is None else Hint(ripe, now_s)
        return self.hint

    def _is_ripe(self, code: Code, now_s: float) -> bool:
        since_s, frames = self._lasting[code]
        return frames >= self.patience.appear_frames and now_s - since_s >= self.patience.appear_s

    def _excess(self, measures: Measures, score: Score, now_s: float) -> dict[Code, float]:
        """Each defect's measure over its limit; what an earlier defect makes unmeasurable is left out."""
        missing = self._missing(measures, score, now_s)
        if missing:
            self._steps.clear()
            return missing
        speed = self._speed(measures, now_s)
        others: dict[Code, float] = {
            "too_dark": measures.bright_stops / DARK_STOPS,
            "too_bright": max(
                measures.clipped / CLIPPED, BRIGHT_STOPS / min(measures.middle_stops, 0.25 * BRIGHT_STOPS)
            ),
            **self._where_to(measures),
            "hold_still": speed / UNSTEADY,
            "out_of_focus": self._blur(measures, score, now_s, steady=speed < UNSTEADY),
            "uneven": measures.tilt_stops / UNEVEN_STOPS,
        }
        self._dust.add(measures, clear=max(others.values()) < 1)
        if score.verdict == "good":
            others["out_of_focus"] = 0.0
        return {**others, "lens_dirty": self._dust.share / DUST_AREA}

    def _missing(self, measures: Measures, score: Score, now_s: float) -> dict[Code, float]:
        """A lid over the eye, or no eye at all; nothing where an eye is in view."""
        largest = self._area.best(now_s)
        covered = measures.lit == 0 or (largest is not None and measures.lit < COVERED * largest)
        if not covered and score.reason != "no_retina":
            self._area.add(measures.lit, now_s)
            self._seen_s = now_s
            return {}
        blink = self._seen_s is not None and now_s - self._seen_s <= BLINK_S
        return {"blink": 1.0} if blink else {"no_eye": 1.0}

    def _speed(self, measures: Measures, now_s: float) -> float:
        """Field diameters a second, over the last `SPEED_S`; 0 where it is unknown."""
        if measures.shift is None or self._now_s is None or now_s <= self._now_s:
            self._steps.clear()
            return 0.0
        self._steps.append((now_s, now_s - self._now_s, float(np.hypot(*measures.shift))))
        while self._steps[0][0] < now_s - SPEED_S:
            self._steps.popleft()
        return sum(far for _, _, far in self._steps) / sum(seconds for _, seconds, _ in self._steps)

    def _blur(self, measures: Measures, score: Score, now_s: float, *, steady: bool) -> float:
        """How far the sharpness lies below what this eye and camera have shown, or below what any shows."""
        if steady:
            self._sharpness.add(measures.sharpness, now_s)
        if score.value is not None:
            self._scores.add(score.value, now_s)
        sharpness = max(measures.sharpness, 1e-3)
        best = self._sharpness.best(now_s) or sharpness
        blur = max(BLURRED * best, BLURRED_ALWAYS) / sharpness
        best_score = self._scores.best(now_s)
        if score.value is None or best_score is None:
            return blur
        fallen = min(SOFTENED * best / sharpness, (best_score - score.value) / SCORE_FALL)
        return max(blur, fallen)

    def _where_to(self, measures: Measures) -> dict[Code, float]:
        """The direction in which the camera must move: to where the light is, away from the dark crescent."""
        x = measures.offset[0] - self.optics.axis[0]
        y = measures.offset[1] - self.optics.axis[1]
        x, y = -x if self.optics.flip_x else x, -y if self.optics.flip_y else y
        if abs(x) >= abs(y):
            return {"move_right" if x > 0 else "move_left": abs(x) / OFF_CENTRE}
        return {"move_down" if y > 0 else "move_up": abs(y) / OFF_CENTRE}
