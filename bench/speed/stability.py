"""Why a figure may not be trusted: rules, each with its reason in words.

After pyperf (Victor Stinner), whose report names the cause where a benchmark may be unstable.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

MOST_SPREAD = 0.10  # standard deviation over mean
MOST_TAIL = 1.5  # p99 over p50
FEWEST = 100  # samples; p99 of fewer is their maximum
MOST_OTHERS = 0.25  # cores that other programs used
MOST_FREQUENCY_CHANGE = 0.05
HOT_C = 85.0
LEAST_DRIFT = 0.05  # share of the median
BLOCKS = 20
LEAST_LEAK = 0.01  # share of the memory at the start
LEAST_LEAK_MB = 3.0


@dataclass(frozen=True)
class Step:
    """A lasting change of latency.

    Attributes:
        at_s: when, seconds after the first sample.
        before, after: medians on both sides, ms.
    """

    at_s: float
    before: float
    after: float


def find_step(started_s: Sequence[float], total: Sequence[float]) -> Step | None:
    """The largest lasting change of the duration; None where there is none worth the name.

    The samples are cut into 20 blocks. For every boundary the median of the blocks' medians on both sides is
    compared; a change counts if it is more than 5 % and more than four times the blocks' own scatter, which is that
    of the differences of neighbouring blocks, so that a slow creep is found as well as a step.
    """
    values, times = np.asarray(total, np.float64), np.asarray(started_s, np.float64)
    if len(values) < 5 * BLOCKS:
        return None
    edges = np.linspace(0, len(values), BLOCKS + 1).astype(int)
    medians = np.array([np.median(values[first:last]) for first, last in itertools.pairwise(edges)])
    best = max(range(2, BLOCKS - 1), key=lambda cut: abs(np.median(medians[cut:]) - np.median(medians[:cut])))
    before, after = float(np.median(medians[:best])), float(np.median(medians[best:]))
    differences = np.diff(medians)
    scatter = 1.4826 * float(np.median(np.abs(differences - np.median(differences)))) / np.sqrt(2)
    if abs(after - before) <= max(LEAST_DRIFT * before, 4 * scatter):
        return None
    return Step(float(times[edges[best]]), before, after)


@dataclass(frozen=True)
class Leak:
    """Memory that grows and does not stop.

    Attributes:
        mb: growth over the time looked at.
        mb_per_hour: its rate.
    """

    mb: float
    mb_per_hour: float


def find_leak(seconds: Sequence[float], rss_mb: Sequence[float]) -> Leak | None:
    """Growth of the resident memory after the first fifth of the time; None where it is flat or settles.

    The slope is Theil and Sen's (the median of the slopes of all pairs). It is a leak if the growth is more than 1 %
    of the memory and 3 MB, and if the last third alone grows at half the rate or more: what settles is no leak.
    """
    times, values = np.asarray(seconds, np.float64), np.asarray(rss_mb, np.float64)
    keep = times >= times[0] + 0.2 * (times[-1] - times[0]) if len(times) else np.zeros(0, bool)
    times, values = times[keep], values[keep]
    if len(times) < 6:
        return None
    slope = theil_sen(times, values)
    growth = slope * float(times[-1] - times[0])
    last = len(times) * 2 // 3
    still = theil_sen(times[last:], values[last:])
    if growth <= max(LEAST_LEAK * float(values[0]), LEAST_LEAK_MB) or still < 0.5 * slope:
        return None
    return Leak(growth, slope * 3600)


def theil_sen(x: Array, y: Array) -> float:
    """Median of the slopes of all pairs of points; thinned to 300 points."""
    every = max(1, len(x) // 300)
    x, y = x[::every], y[::every]
    first, second = np.triu_indices(len(x), 1)
    apart = x[second] > x[first]
    if not apart.any():
        return 0.0
    return float(np.median((y[second] - y[first])[apart] / (x[second] - x[first])[apart]))


@dataclass(frozen=True)
class Conditions:
    """What the machine did while samples were taken.

    Attributes:
        others_cores: cores that other programs used, on average.
        governor: of the CPU's frequency; None if not reported.
        frequencies_mhz: of the CPU, over time.
        hottest_c: highest temperature; None without a sensor.
        throttling: what slowed the machine.
        clocks_locked: on a Jetson; None where it does not apply.
        battery: whether it ran on battery; None if not reported.
        clock_resolution_ms: of the clock.
        settled: whether the warm-up ended.
    """

    others_cores: float | None
    governor: str | None
    frequencies_mhz: tuple[float, ...]
    hottest_c: float | None
    throttling: tuple[str, ...]
    clocks_locked: bool | None
    battery: bool | None
    clock_resolution_ms: float
    settled: bool


def reasons(started_s: Sequence[float], total: Sequence[float], conditions: Conditions) -> list[str]:
    """Why the figures may be unstable; empty where nothing speaks against them."""
    values = np.asarray(total, np.float64)
    median, p99 = np.percentile(values, [50, 99])
    spread = values.std() / values.mean()
    found = []
    if not conditions.settled:
        found.append("the durations did not settle; measure longer")
    if len(values) < FEWEST:
        found.append(f"only {len(values)} samples: a p99 needs {FEWEST} and more; measure longer")
    if spread > MOST_SPREAD:
        found.append(
            f"the standard deviation is {100 * spread:.0f} % of the mean (more than {100 * MOST_SPREAD:.0f} %)"
        )
    if p99 > MOST_TAIL * median:
        found.append(f"p99 is {p99 / median:.1f} times the median: something interrupts now and then")
    step = find_step(started_s, total)
    if step is not None:
        found.append(
            f"the latency drifted: {step.before:.1f} ms before {step.at_s:.0f} s, {step.after:.1f} ms after; "
            "heat, power or another program"
        )
    return found + _conditions(conditions, median)


def _conditions(conditions: Conditions, median_ms: float) -> list[str]:
    found = []
    if conditions.others_cores is not None and conditions.others_cores > MOST_OTHERS:
        found.append(f"other programs kept {conditions.others_cores:.1f} cores busy; stop them")
    if conditions.governor not in (None, "performance"):
        found.append(f"the CPU governor is {conditions.governor}: the clock follows the load; set performance")
    frequencies = np.asarray(conditions.frequencies_mhz)
    if len(frequencies) and frequencies.max() > (1 + MOST_FREQUENCY_CHANGE) * frequencies.min():
        found.append(f"the CPU clock changed between {frequencies.min():.0f} and {frequencies.max():.0f} MHz")
    if conditions.clocks_locked is False:
        found.append("the clocks are not locked: sudo jetson_clocks")
    if conditions.throttling:
        found.append(f"the machine was slowed by {', '.join(conditions.throttling)}")
    if conditions.hottest_c is not None and conditions.hottest_c >= HOT_C:
        found.append(f"it was {conditions.hottest_c:.0f} °C hot: {HOT_C:.0f} °C and more slows machines down")
    if conditions.battery:
        found.append("it ran on battery, which slows machines down")
    if conditions.clock_resolution_ms > 0.01 * median_ms:
        found.append(f"the clock's step, {conditions.clock_resolution_ms:.4f} ms, is more than 1 % of the median")
    return found
