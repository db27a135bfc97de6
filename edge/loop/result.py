"""What the live loop says of a frame, and of a whole run."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from fthnet_kit.edge.frame import Frame
from fthnet_kit.edge.model.score import Score

LOG = logging.getLogger("fthnet")


KEPT_SAMPLES = 10_000  # durations of each stage, for the summary


@dataclass(frozen=True)
class LiveResult:
    """One scored frame, or the statement that there is none to score.

    Attributes:
        score: value with verdict, or a reason.
        frame: what was scored; None without a picture.
        name: the file, for pictures that come from files.
        captured_at: wall-clock time of the capture, or of the statement, by the clock as it stands now.
        age_ms: age of the frame when its scoring began; None without a picture.
        latency_ms: from capture to score; None without a picture.
        captured, dropped: frames so far.
    """

    score: Score
    frame: Frame | None
    name: str | None
    captured_at: datetime
    age_ms: float | None
    latency_ms: float | None
    captured: int
    dropped: int

    def to_dict(self) -> dict[str, Any]:
        """One record, in the names that every JSON output of the kit uses."""
        return {
            "frame": self.score.frame_index,
            "file": self.name,
            "captured_at": self.captured_at.isoformat(timespec="milliseconds"),
            "age_ms": None if self.age_ms is None else round(self.age_ms, 3),
            "latency_ms": None if self.latency_ms is None else round(self.latency_ms, 3),
            "dropped": self.dropped,
            **self.score.to_dict(),
            "truth": None if self.frame is None or self.frame.truth is None else dict(self.frame.truth),
        }


class Durations:
    """The newest 10,000 numbers of a series, in memory that is taken at once and does not grow."""

    def __init__(self) -> None:
        self._ring = np.full(KEPT_SAMPLES, np.nan, np.float32)
        self._count = 0

    def append(self, value: float) -> None:
        """Add a number; the oldest makes room."""
        self._ring[self._count % KEPT_SAMPLES] = value
        self._count += 1

    def __len__(self) -> int:
        return min(self._count, KEPT_SAMPLES)

    def __iter__(self) -> Iterator[float]:
        return iter(self.to_array().tolist())

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[np.generic]:
        return self.to_array().astype(np.float64 if dtype is None else dtype)

    def to_array(self) -> npt.NDArray[np.float32]:
        """The numbers, oldest first."""
        if self._count <= KEPT_SAMPLES:
            return self._ring[: self._count].copy()
        return np.roll(self._ring, -(self._count % KEPT_SAMPLES))


@dataclass
class LiveSummary:
    """Counts and durations of a run; `samples_ms` keeps the newest 10,000 of each stage.

    `faults` counts what was raised and contained, by where it came from: `camera`, `scorer`, or a sink's class.
    """

    captured: int = 0
    dropped: int = 0
    scored: int = 0
    reconnects: int = 0
    seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    samples_ms: dict[str, Durations] = field(default_factory=dict)

    def add(self, result: LiveResult) -> None:
        """Count one result."""
        if result.score.reason is not None:
            self.reasons[result.score.reason] += 1
            return
        self.scored += 1
        durations = {**result.score.stage_ms, "frame age": result.age_ms, "capture to score": result.latency_ms}
        for stage, ms in durations.items():
            if ms is not None:
                self._add_ms(stage, ms)

    def add_overhead(self, result: LiveResult, sinks_ms: float) -> None:
        """Count what the scoring thread spent on a scored frame beside scoring it: the loop itself, and its sinks."""
        if result.score.value is not None and result.latency_ms is not None and result.age_ms is not None:
            self._add_ms("loop overhead", result.latency_ms - result.age_ms - result.score.total_ms + sinks_ms)

    def _add_ms(self, stage: str, ms: float) -> None:
        self.samples_ms.setdefault(stage, Durations()).append(ms)

    def add_fault(self, where: str, error: BaseException) -> None:
        """Count an error that was contained; the first of its kind is logged."""
        self.faults[where] += 1
        if self.faults[where] == 1:
            LOG.warning("%s: %s: %s; scoring goes on, more of them are counted", where, type(error).__name__, error)
