"""How good a frame is by measures that can be explained, to tell apart the frames of one eye.

A network's score says whether a picture can be used; between pictures that can, its differences are often smaller
than its noise, and some defects it does not see: `preprocess` cuts to the field, so that an eye beside the axis
looks centred to it. What a photographer wants of a frame is known and can be measured (`guidance.measure`): fine
detail, the right exposure, a still eye, the whole field. Each of the four is a share of what a faultless frame has,
and their product is the frame's `rank`. It is for comparing frames of one eye, not for comparing eyes: how much
detail there is depends on the retina and the camera too.

What a defect costs follows the severities of `degradations`: `DARKEST_STOPS` too dark leave nothing, as
`BRIGHTEST_STOPS` too bright do. The exposure that is aimed at is the photographer's middle gray.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

from fthnet_kit.edge.capture.degradations import BRIGHTEST_STOPS, DARKEST_STOPS
from fthnet_kit.edge.guidance.measures import LONGEST_GAP_S, UNSTEADY, Measures
from fthnet_kit.edge.loop.result import LiveResult
from fthnet_kit.edge.outputs.best_shot.aim import MIDDLE_GRAY_STOPS

LOST_SPEED = 1.25  # field diameters a second: nothing is left; what blur shows of it, `detail` counts too


@dataclass(frozen=True)
class Appraisal:
    """A frame's merits, each as a share of what a faultless frame has.

    Attributes:
        detail: contrast of fine details (`Measures.fineness`); about 1 in focus, it may be a little more.
        exposure: 1 at middle gray, 0 where it is off by as many stops as leave nothing.
        stillness: 1 where the eye stands still during the exposure.
        field: the well lit area, of the largest circle in the frame (`Measures.well_lit`).
    """

    detail: float
    exposure: float
    stillness: float
    field: float

    @property
    def rank(self) -> float:
        """Points, about 100 for a faultless frame; only differences within one eye have a meaning."""
        return 100 * self.detail * self.exposure * self.stillness * self.field

    def to_dict(self) -> dict[str, float]:
        """JSON-ready form."""
        return {"rank": round(self.rank, 3), **{name: round(share, 4) for name, share in asdict(self).items()}}


def appraise(measures: Measures, speed: float, aim_stops: float = MIDDLE_GRAY_STOPS) -> Appraisal:
    """The merits of a frame.

    Args:
        measures: of the frame.
        speed: of the eye in the picture during its exposure, in field diameters a second.
        aim_stops: median luminance of a well exposed field, in stops below white.
    """
    off = measures.middle_stops - aim_stops
    return Appraisal(
        detail=measures.fineness,
        exposure=max(0.0, 1 - abs(off) / (DARKEST_STOPS if off < 0 else BRIGHTEST_STOPS)),
        stillness=max(0.0, 1 - speed / LOST_SPEED),
        field=measures.well_lit,
    )


class _Waiting(NamedTuple):
    result: LiveResult
    measures: Measures
    speed: float | None  # until this frame, where it is known


class Appraiser:
    """Appraises frames as they come, each when the next one tells how far the eye moved after it.

    An exposure lies between its own time stamp and that of the next frame. Where no next frame comes in time, the
    movement before it counts; where none is known at all, the eye counts as unsteady. Belongs to one thread at a time.

    Args:
        take: called with each result in order; the appraisal is None for one without a picture.
        aim_stops: see `appraise`.
    """

    def __init__(
        self, take: Callable[[LiveResult, Appraisal | None], None], aim_stops: float = MIDDLE_GRAY_STOPS
    ) -> None:
        self._take = take
        self._aim_stops = aim_stops
        self._waiting: _Waiting | None = None

    def follow(self, result: LiveResult, measures: Measures | None) -> None:
        """One result, with the measures of its picture; an unmeasured picture ranks last."""
        speed = None if measures is None else self._speed(result, measures)
        self._release(speed)
        if result.frame is None:
            self._take(result, None)
        else:
            self._waiting = _Waiting(result, measures or Measures(), speed)

    def flush(self) -> None:
        """Appraise what waits for a next frame."""
        self._release(None)

    def _speed(self, result: LiveResult, measures: Measures) -> float | None:
        """From the frame that waits to this one, in field diameters a second; None where it is unknown."""
        before = None if self._waiting is None else self._waiting.result.frame
        if before is None or result.frame is None or measures.shift is None:
            return None
        elapsed = (result.frame.captured_ns - before.captured_ns) / 1e9
        return float(np.hypot(*measures.shift)) / elapsed if 0 < elapsed <= LONGEST_GAP_S else None

    def _release(self, speed_after: float | None) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        known = [speed for speed in (speed_after, waiting.speed, UNSTEADY) if speed is not None]
        self._take(waiting.result, appraise(waiting.measures, known[0], self._aim_stops))
