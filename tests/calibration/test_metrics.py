"""Agreement against SciPy-free definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fthnet_kit.calibration.agreement import (
    accuracy_metrics,
    agreement,
    auc,
    auc_values,
    bootstrap_interval,
    bootstrap_values,
    krcc,
    percentile_interval,
    plcc,
    ranks,
    srcc,
)

VECTORS = st.lists(st.integers(-50, 50), min_size=3, max_size=30).map(lambda v: np.array(v, float))


def test_known_values() -> None:
    a, b = np.array([1.0, 2, 3, 4]), np.array([1.0, 4, 9, 16])
    assert srcc(a, b) == pytest.approx(1)
    assert plcc(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert agreement(a, b).rmse == pytest.approx(np.sqrt(np.mean((a - b) ** 2)))
    assert np.isnan(plcc(a, np.ones(4)))


@given(VECTORS)
def test_ranks_share_ties(values: np.ndarray) -> None:
    expected = [np.sum(values < v) + (np.sum(values == v) + 1) / 2 for v in values]
    np.testing.assert_allclose(ranks(values), expected)


@given(VECTORS)
def test_spearman_ignores_monotone_maps(values: np.ndarray) -> None:
    other = np.arange(len(values), dtype=float)
    first, second = srcc(values, other), srcc(np.exp(values / 10), other)
    assert np.isnan(first) == np.isnan(second)
    assert np.isnan(first) or first == pytest.approx(second)


def test_auc() -> None:
    assert auc(np.array([3.0, 4]), np.array([1.0, 2])) == 1
    assert auc(np.array([1.0]), np.array([1.0])) == 0.5


def test_intervals_hold_the_value_and_are_seeded() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(0, 100, 120)
    seen = truth + rng.normal(0, 10, 120)
    low, high = bootstrap_interval(seen, truth, srcc)
    assert low < srcc(seen, truth) < high
    assert (low, high) == bootstrap_interval(seen, truth, srcc)
    for metric in accuracy_metrics(seen, truth).values():
        assert metric["low"] <= metric["value"] <= metric["high"]


def pair_by_pair(a: np.ndarray, b: np.ndarray) -> float:
    """Kendall's tau-b by its definition: (C - D) / sqrt((C + D + ties in b only) (C + D + ties in a only))."""
    concordant = discordant = only_a = only_b = 0
    for first in range(len(a)):
        for second in range(first):
            in_a, in_b = a[first] - a[second], b[first] - b[second]
            concordant += in_a * in_b > 0
            discordant += in_a * in_b < 0
            only_a += in_a == 0 and in_b != 0
            only_b += in_b == 0 and in_a != 0
    decided = concordant + discordant
    norm = np.sqrt(float((decided + only_a) * (decided + only_b)))
    return (concordant - discordant) / norm if norm else float("nan")


@given(VECTORS, st.randoms(use_true_random=False))
def test_kendall_follows_its_definition(values: np.ndarray, random) -> None:
    other = np.array([value // 3 + random.randint(-9, 9) for value in values])
    assert krcc(values, other) == pytest.approx(pair_by_pair(values, other), nan_ok=True)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 2, 3, 4], [1, 4, 9, 16], 1.0),
        ([1, 2, 3, 4], [8, 6, 4, 2], -1.0),
        ([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], 0.6),  # 8 pairs one way, 2 the other
        ([1, 1, 2], [1, 2, 3], 2 / np.sqrt(6)),
        ([1, 1, 1], [1, 2, 3], float("nan")),
    ],
)
def test_kendall_of_known_vectors(a: list[int], b: list[int], expected: float) -> None:
    assert krcc(np.array(a), np.array(b)) == pytest.approx(expected, nan_ok=True)


def test_kendall_of_more_than_one_block() -> None:
    rng = np.random.default_rng(3)
    a = np.round(rng.normal(size=1100), 1)
    b = np.round(a + rng.normal(size=1100), 1)
    signs = [np.sign(v[:, None] - v[None, :]) for v in (a, b)]
    expected = (signs[0] * signs[1]).sum() / np.sqrt(np.abs(signs[0]).sum() * np.abs(signs[1]).sum())
    assert krcc(a, b) == pytest.approx(expected, abs=1e-12)


def test_the_bootstrap_of_kendall_draws_what_the_others_draw() -> None:
    rng = np.random.default_rng(2)
    a = np.round(rng.normal(size=40), 1)
    b = np.round(a + rng.normal(size=40), 1)
    fast = bootstrap_values(a, b, krcc, draws=20, seed=5)
    slow = bootstrap_values(a, b, pair_by_pair, draws=20, seed=5)
    np.testing.assert_allclose(fast, slow)


def test_the_bootstrap_of_the_auc_resamples_within_the_classes() -> None:
    rng = np.random.default_rng(1)
    higher, lower = rng.normal(1, 1, 40), rng.normal(0, 1, 30)
    values = auc_values(higher, lower)
    low, high = percentile_interval(values)
    assert low < auc(higher, lower) < high
    assert np.mean(values) == pytest.approx(auc(higher, lower), abs=0.01)
    np.testing.assert_array_equal(values, auc_values(higher, lower))
    assert set(auc_values(np.array([2.0]), np.array([2.0]), draws=5)) == {0.5}


def test_95_percent_of_the_draws_lie_in_the_interval() -> None:
    assert percentile_interval(np.arange(1001.0)) == (25, 975)


def test_the_interval_of_nothing_is_nan() -> None:
    assert np.isnan(bootstrap_interval(np.ones(5), np.arange(5.0), plcc)).all()
