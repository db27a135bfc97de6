"""Durations: how they are taken, when the warm-up is over, and the figures that sum them up.

All times come from `time.perf_counter`, a monotonic clock. Percentiles are `numpy.percentile`'s (linear). Garbage
collection is switched off while samples are taken, as `timeit` does; the live loop is measured with it on.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fthnet_kit.edge.errors import InputError

WINDOW = 20  # samples whose median is compared with the settled half
MOST_WARM_UP = 0.5  # share of the samples; what has not settled by then never did
PERCENTILES = (50, 90, 95, 99)
BEYOND = 0.1  # share of the samples that lie beyond the 90th percentile
DOUBT = 0.01  # that `surely_p90` is too low
MOST_SKIPPED = 1000


@dataclass(frozen=True)
class Limit:
    """When to stop: after so many samples, or seconds, whichever is given; both: the later of the two."""

    runs: int = 0
    seconds: float = 0.0

    def reached(self, taken: int, elapsed_s: float) -> bool:
        """Whether enough was measured."""
        return taken >= self.runs and elapsed_s >= self.seconds


@dataclass
class Samples:
    """Durations of the stages of one thing done again and again.

    Attributes:
        stages: milliseconds, by stage; every stage has one value a run, `total` among them.
        started_s: when each run began, seconds after the first.
        skipped: runs that did not count.
    """

    stages: dict[str, list[float]] = field(default_factory=dict)
    started_s: list[float] = field(default_factory=list)
    skipped: int = 0

    def add(self, started_s: float, stages: Mapping[str, float]) -> None:
        """One run."""
        self.started_s.append(started_s)
        for stage, ms in stages.items():
            self.stages.setdefault(stage, []).append(ms)

    @property
    def total(self) -> npt.NDArray[np.float64]:
        """Milliseconds of each run."""
        return np.array(self.stages["total"])

    def after(self, first: int) -> Samples:
        """Without the first runs."""
        return Samples({stage: ms[first:] for stage, ms in self.stages.items()}, self.started_s[first:], self.skipped)


def sample(run: Callable[[], Mapping[str, float] | None], limit: Limit) -> Samples:
    """Time a function that returns the stages of each call, until the limit is reached.

    Args:
        run: does the thing once and returns its stages in ms, without `total`; None: does not count.
        limit: how long.

    Raises:
        InputError: a thousand calls in a row did not count.
    """
    samples, idle = Samples(), 0
    with no_garbage_collection():
        began = time.perf_counter()
        while not limit.reached(len(samples.started_s), time.perf_counter() - began):
            started = time.perf_counter()
            stages = run()
            ended = time.perf_counter()
            if stages is None:
                idle += 1
                samples.skipped += 1
                if idle == MOST_SKIPPED:
                    raise InputError(f"expected pictures that get a score, found {MOST_SKIPPED} in a row without one")
                continue
            idle = 0
            samples.add(started - began, {**stages, "total": 1e3 * (ended - started)})
    return samples


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collect now, then not again until the end."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def warm_up(total: Sequence[float]) -> int | None:
    """How many of the first samples are warm-up; None where the durations never settle.

    The second half of the samples is taken as settled. The warm-up ends with the first window of 20 samples whose
    median lies between the settled quartiles, widened by 2 % of the median; a window that starts in the second half
    is too late.
    """
    values = np.asarray(total, np.float64)
    if len(values) < 2 * WINDOW:
        return 0
    settled = values[len(values) // 2 :]
    low, middle, high = np.percentile(settled, [25, 50, 75])
    low, high = low - 0.02 * middle, high + 0.02 * middle
    for first in range(int(len(values) * MOST_WARM_UP) + 1):
        if low <= np.median(values[first : first + WINDOW]) <= high:
            return first
    return None


def surely_p90(values: npt.NDArray[np.float64]) -> float | None:
    """The 90th percentile is at most this, with 99 % confidence, whatever the distribution; None below 64 samples.

    MLPerf's early stopping: take the largest t such that the chance is at most 1 % that only t or fewer of n samples
    lie beyond the true percentile; the answer is the t-th largest sample. It holds for independent samples.
    """
    n = len(values)
    counts = np.arange(n + 1)
    ways = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in counts]
    chances = np.exp(ways + counts * math.log(BEYOND) + (n - counts) * math.log(1 - BEYOND))
    beyond = int(np.searchsorted(np.cumsum(chances), DOUBT, side="right")) - 1
    return float(np.sort(values)[n - beyond]) if beyond >= 1 else None


def summary(values: Sequence[float] | npt.NDArray[np.float64]) -> dict[str, float]:
    """Figures of one stage, in ms: n, min, mean, p50, p90, p95, p99, max, std, jitter; `surely_p90` if there is one.

    `jitter` is the mean absolute difference of neighbours, as RFC 3550 defines interarrival jitter without smoothing.
    """
    values = np.asarray(values, np.float64)
    steps = np.abs(np.diff(values))
    most = surely_p90(values)
    return {
        "n": len(values),
        "min": float(values.min()),
        "mean": float(values.mean()),
        **{f"p{p}": float(np.percentile(values, p)) for p in PERCENTILES},
        "max": float(values.max()),
        "std": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        "jitter": float(steps.mean()) if len(steps) else 0.0,
        **({} if most is None else {"surely_p90": most}),
    }


def clock_resolution_ms() -> float:
    """The smallest step that the clock is seen to make, in ms."""
    steps = []
    for _ in range(100):
        first = later = time.perf_counter()
        while later == first:
            later = time.perf_counter()
        steps.append(later - first)
    return 1e3 * min(steps)
