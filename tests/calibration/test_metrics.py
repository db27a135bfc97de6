"""Agreement against SciPy-free definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fthnet_kit.calibration.metrics import accuracy_metrics, agreement, auc, bootstrap_interval, plcc, ranks, srcc

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
