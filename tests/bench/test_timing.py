"""Samples, warm-up and figures."""

from __future__ import annotations

import gc
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fthnet_kit.bench.speed.timing import Limit, clock_resolution_ms, sample, summary, surely_p90, warm_up


def noisy(rng: np.random.Generator, n: int, level: float = 50.0) -> np.ndarray:
    return level + rng.gamma(2.0, 0.5, n)


def test_figures_are_numpys() -> None:
    values = np.random.default_rng(0).gamma(3.0, 2.0, 1000)
    found = summary(values)
    for p in (50, 90, 95, 99):
        assert found[f"p{p}"] == np.percentile(values, p)
    assert found["std"] == pytest.approx(np.std(values, ddof=1))
    assert (found["n"], found["min"], found["max"]) == (1000, values.min(), values.max())
    assert found["jitter"] == pytest.approx(np.mean(np.abs(np.diff(values))))


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=60))
def test_figures_are_ordered(values: list[float]) -> None:
    found = summary(values)
    order = [found[name] for name in ("min", "p50", "p90", "p95", "p99", "max")]
    assert all(a <= b * (1 + 1e-12) for a, b in itertools.pairwise(order))
    assert found["jitter"] >= 0


def test_the_sure_p90_needs_64_samples_as_mlperf_does() -> None:
    assert surely_p90(np.arange(63.0)) is None
    assert surely_p90(np.arange(64.0)) == 63
    assert "surely_p90" not in summary([1.0] * 63)
    assert summary(range(1000))["surely_p90"] == 922  # 78 of 1000 beyond it, where a hundred are expected


def test_the_true_percentile_is_above_the_sure_p90_in_one_run_of_a_hundred_at_most() -> None:
    runs = np.random.default_rng(3).exponential(size=(5000, 100))
    true = -np.log(0.1)
    too_low = np.mean([surely_p90(run) < true for run in runs])  # type: ignore[operator]
    assert 0 < too_low < 0.01


def test_no_warm_up_where_there_is_none() -> None:
    assert warm_up(noisy(np.random.default_rng(1), 400).tolist()) in range(5)


@pytest.mark.parametrize("slow", [30, 120])
def test_a_warm_up_is_found(slow: int) -> None:
    rng = np.random.default_rng(2)
    values = np.concatenate([noisy(rng, slow, 90.0), noisy(rng, 400)])
    found = warm_up(values.tolist())
    assert found is not None
    assert slow - 15 <= found <= slow + 5


def test_what_never_settles_says_so() -> None:
    assert warm_up(np.linspace(100, 50, 400).tolist()) is None


@pytest.mark.parametrize("n", [0, 1, 39])
def test_too_few_samples_have_no_warm_up_to_find(n: int) -> None:
    assert warm_up([1.0] * n) == 0


def test_sampling_counts_times_and_keeps_the_garbage_collector_off() -> None:
    collecting = []

    def run() -> dict[str, float]:
        collecting.append(gc.isenabled())
        return {"a": 1.0, "b": 2.0}

    samples = sample(run, Limit(runs=7))
    assert samples.stages["a"] == [1.0] * 7
    assert len(samples.total) == len(samples.started_s) == 7
    assert samples.started_s == sorted(samples.started_s)
    assert not any(collecting)
    assert gc.isenabled()
    assert len(samples.after(3).total) == 4


@given(st.integers(0, 50), st.floats(0, 10), st.integers(0, 100), st.floats(0, 20))
def test_a_limit_holds_for_both(runs: int, seconds: float, taken: int, elapsed: float) -> None:
    assert Limit(runs, seconds).reached(taken, elapsed) == (taken >= runs and elapsed >= seconds)


def test_the_clock_has_a_resolution() -> None:
    assert 0 < clock_resolution_ms() < 10
