"""What the operator should do next: at most one hint, from measures that have a unit and a meaning.

`measure` describes a frame by a handful of physical numbers (docs/GUIDANCE.md explains each and its
threshold); it knows no camera and asks no network. `Guide` turns a stream of them into one hint at a
time: the first defect in the order in which defects hide each other, shown only after it has lasted,
and then long enough to be read.

Lengths are in field diameters: the longer side of the lit part of the frame. Light is in stops, factors
of two of linear light, decoded with gamma 2.2.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fthnet_kit.edge.guidance.dust import Dust
from fthnet_kit.edge.guidance.measures import LONGEST_GAP_S, UNSTEADY, Measures, measure
from fthnet_kit.edge.guidance.texts import CODES, LANGUAGES, Code, Language, texts
from fthnet_kit.edge.model.score import Score

# The limits of the hints; docs/GUIDANCE.md says what they mean and what was measured.
DARK_STOPS = -4.0  # even the field's brighter tenth is darker
BRIGHT_STOPS = -1.3  # half of the field is brighter
CLIPPED = 0.6  # share of the field whose red is lost
OFF_CENTRE = 0.035  # field diameters: a crescent of about twice this width is missing
BLURRED = 0.7  # share of the best sharpness seen lately
BLURRED_ALWAYS = 0.5  # sharpness that no focused picture has
SCORE_FALL = 15.0  # points below the best of late, with the sharpness fallen as well
SOFTENED = 0.85  # share of the best sharpness: it has fallen
UNEVEN_STOPS = 3.0  # from one edge of the field to the opposite
DUST_AREA = 0.0035  # share of the field
COVERED = 0.45  # share of the largest lit area seen lately: less is a lid, or no eye

LEAVE = 0.85  # a shown hint goes when its measure is this far below the limit: no flicker at the limit
LATE_S = 20.0  # "of late"
SPEED_S = 0.5  # over which speed is averaged
BLINK_S = 1.6  # a lid that stays shut for longer is no blink


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
class HintPatience:
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


class HighestOfLate:
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

    def __init__(self, optics: Optics | None = None, patience: HintPatience | None = None) -> None:
        self.optics = optics or Optics()
        self.patience = patience or HintPatience()
        self.measures: Measures | None = None
        self.hint: Hint | None = None
        self._sharpness, self._scores, self._area = HighestOfLate(), HighestOfLate(), HighestOfLate()
        self._steps: deque[tuple[float, float, float]] = deque()  # when, after how long, how far
        self._dust = Dust()
        self._seen_s: float | None = None  # when an eye was in view last
        self._now_s: float | None = None
        self._lasting: dict[Code, tuple[float, int]] = {}  # for each defect: since when, for how many frames

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
