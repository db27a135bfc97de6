"""Drift, leaks, and the reasons why figures may be unstable."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fthnet_kit.bench.speed.stability import Conditions, find_leak, find_step, reasons, theil_sen

QUIET = Conditions(
    others_cores=0.05,
    governor="performance",
    frequencies_mhz=(1500.0, 1510.0),
    hottest_c=60.0,
    throttling=(),
    clocks_locked=True,
    battery=False,
    clock_resolution_ms=0.0001,
    settled=True,
)


def latency(rng: np.random.Generator, n: int, level: float = 50.0) -> np.ndarray:
    return level + rng.gamma(2.0, 0.5, n)


def times(n: int) -> list[float]:
    return (np.arange(n) * 0.05).tolist()


def test_a_quiet_run_gives_no_reason() -> None:
    assert reasons(times(600), latency(np.random.default_rng(0), 600).tolist(), QUIET) == []


@pytest.mark.parametrize("seed", range(20))
def test_steady_latency_has_no_step(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = latency(rng, 600)
    values[rng.integers(0, 600, 6)] *= 3  # interrupts now and then are no drift
    assert find_step(times(600), values.tolist()) is None


@pytest.mark.parametrize("share", [0.15, 0.4, 0.5, 0.8])
@pytest.mark.parametrize("step", [5.0, -5.0])
def test_a_planted_step_of_5_ms_is_found_where_it_is(share: float, step: float) -> None:
    rng = np.random.default_rng(3)
    values = latency(rng, 1000)
    values[int(1000 * share) :] += step
    found = find_step(times(1000), values.tolist())
    assert found is not None
    assert found.at_s == pytest.approx(50 * share, abs=3)
    assert found.after - found.before == pytest.approx(step, abs=1)
    assert any("drifted" in reason for reason in reasons(times(1000), values.tolist(), QUIET))


def test_a_slow_creep_is_drift() -> None:
    values = latency(np.random.default_rng(4), 1000) + np.linspace(0, 15, 1000)
    assert find_step(times(1000), values.tolist()) is not None


def test_a_leak_of_1_mb_in_100_frames_is_found() -> None:
    rng = np.random.default_rng(5)
    seconds = np.arange(120.0)
    rss = 300 + 0.2 * seconds + rng.normal(0, 0.5, 120)  # 20 frames a second
    found = find_leak(seconds.tolist(), rss.tolist())
    assert found is not None
    assert found.mb_per_hour == pytest.approx(720, rel=0.1)


@pytest.mark.parametrize("seed", range(10))
def test_flat_memory_is_no_leak(seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert find_leak(list(range(120)), (300 + rng.normal(0, 1, 120)).tolist()) is None


def test_memory_that_grows_and_settles_is_no_leak() -> None:
    seconds = np.arange(200.0)
    assert find_leak(seconds.tolist(), (300 + 30 * (1 - np.exp(-seconds / 30))).tolist()) is None


@pytest.mark.parametrize("n", [0, 1, 5])
def test_too_few_readings_tell_nothing(n: int) -> None:
    assert find_leak([float(i) for i in range(n)], [300.0] * n) is None


def test_theil_sen_ignores_outliers() -> None:
    x = np.arange(100.0)
    y = 2 * x
    y[::10] += 1000
    assert theil_sen(x, y) == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"others_cores": 0.9}, "other programs kept 0.9 cores busy"),
        ({"governor": "schedutil"}, "governor is schedutil"),
        ({"frequencies_mhz": (800.0, 1500.0)}, "clock changed between 800 and 1500 MHz"),
        ({"hottest_c": 91.0}, "91 °C hot"),
        ({"throttling": ("cpu-throttle-alert",)}, "slowed by cpu-throttle-alert"),
        ({"clocks_locked": False}, "jetson_clocks"),
        ({"battery": True}, "battery"),
        ({"clock_resolution_ms": 5.0}, "clock's step"),
        ({"settled": False}, "did not settle"),
    ],
)
def test_every_condition_gives_its_reason(change: dict[str, object], word: str) -> None:
    values = latency(np.random.default_rng(0), 600).tolist()
    (reason,) = reasons(times(600), values, replace(QUIET, **change))  # type: ignore[arg-type]
    assert word in reason


def test_few_samples_spread_and_tails_are_told() -> None:
    rng = np.random.default_rng(6)
    assert any("only 20 samples" in reason for reason in reasons(times(20), [50.0] * 20, QUIET))
    wide = rng.normal(50, 10, 500).tolist()
    assert any("standard deviation" in reason for reason in reasons(times(500), wide, QUIET))
    tail = latency(rng, 500)
    tail[::50] = 200
    assert any("p99 is" in reason for reason in reasons(times(500), tail.tolist(), QUIET))


def test_what_is_not_known_is_no_reason() -> None:
    unknown = Conditions(None, None, (), None, (), None, None, 0.0001, settled=True)
    assert reasons(times(600), latency(np.random.default_rng(0), 600).tolist(), unknown) == []
