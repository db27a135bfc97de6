"""What was kept of one eye, and when it is taken."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.loop.result import LiveResult
from fthnet_kit.edge.model.score import Thresholds
from fthnet_kit.edge.outputs.best_shot.dicom_context import DicomContext
from fthnet_kit.edge.outputs.best_shot.rank import Appraisal


@dataclass(frozen=True)
class BestShotOptions:
    """When a shot is taken.

    Attributes:
        usable, good: scores, as the model card's thresholds.
        gone_s: without a retina for this long the eye has left.
        stable_s: length of a stable stretch.
        band: how far, in points, a stretch's ranks may lie below its best; in the simulator they differ by
            about 20 within half a second around the best moment, and a narrow band misses that moment.
        patience_s: nothing better for this long, at a good score: take it.
        margin: how much better, in points, a later stretch must be to replace the shot.
    """

    usable: float = 40.0
    good: float = 60.0
    gone_s: float = 1.0
    stable_s: float = 0.5
    band: float = 40.0
    patience_s: float = 1.0
    margin: float = 1.0

    def __post_init__(self) -> None:
        numbers = asdict(self)
        if not all(math.isfinite(number) and number >= 0 for number in numbers.values()) or self.usable > self.good:
            raise InputError(f"best shot: expected finite numbers >= 0 and usable <= good, found {numbers}")

    @classmethod
    def of(cls, thresholds: Thresholds) -> BestShotOptions:
        """The defaults with a model card's thresholds."""
        return cls(usable=thresholds.usable, good=thresholds.good)


class Sample(NamedTuple):
    """One frame of a stretch."""

    frame: int | None
    at_s: float  # monotonic
    score: float
    rank: float


@dataclass(frozen=True)
class Shot:
    """What was kept of one eye.

    Attributes:
        eye: number of the eye.
        take: 1, and one more after each `retake`.
        revision: 1 when it was taken, higher when a better stretch replaced it.
        folder: of its files.
        result: the kept frame with its own score.
        stretch: all scores and ranks of its stretch so far.
        appraisal: what the kept frame was chosen for; None where frames are ranked by score alone.
        accepted: by the operator.
        context: what DICOM asks for, as it was set when the shot was taken.
    """

    eye: int
    take: int
    revision: int
    folder: Path
    result: LiveResult
    stretch: tuple[Sample, ...]
    appraisal: Appraisal | None = None
    accepted: bool = False
    context: DicomContext | None = field(default=None, repr=False)

    @property
    def id(self) -> str:
        """Names this very shot, so that a decision about it cannot hit the one that replaced it."""
        return f"{self.eye}-{self.take}-{self.revision}"

    @property
    def value(self) -> float:
        """The kept frame's own score."""
        assert self.result.score.value is not None
        return self.result.score.value

    @property
    def rank(self) -> float:
        """What the kept frame was chosen by, in points."""
        return self.value if self.appraisal is None else self.appraisal.rank
