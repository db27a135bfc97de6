"""Agreement of predicted with labelled scores, in the field's terms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Agreement:
    """PLCC (Pearson) and SRCC (Spearman) correlation, RMSE in score points."""

    plcc: float
    srcc: float
    rmse: float


def ranks(values: Scores) -> Scores:
    """Ranks from 1, ties share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def plcc(a: Scores, b: Scores) -> float:
    """Pearson correlation; nan where one side is constant."""
    a, b = a - np.mean(a), b - np.mean(b)
    norm = float(np.sqrt(np.sum(a * a) * np.sum(b * b)))
    return float(np.sum(a * b)) / norm if norm > 0 else float("nan")


def srcc(a: Scores, b: Scores) -> float:
    """Spearman correlation; nan where one side is constant."""
    return plcc(ranks(np.asarray(a)), ranks(np.asarray(b)))


def rmse(a: Scores, b: Scores) -> float:
    """Root mean square difference, in points."""
    return float(np.sqrt(np.mean((a - b) ** 2)))


def agreement(predicted: Scores, labelled: Scores) -> Agreement:
    """All three over two equally long vectors of scores."""
    a, b = np.asarray(predicted, np.float64), np.asarray(labelled, np.float64)
    return Agreement(plcc(a, b), srcc(a, b), rmse(a, b))


def auc(higher: Scores, lower: Scores) -> float:
    """Share of pairs in which a member of `higher` scores above one of `lower`; ties count half."""
    difference = np.asarray(higher)[:, None] - np.asarray(lower)[None, :]
    return float(np.mean(difference > 0) + 0.5 * np.mean(difference == 0))


def bootstrap_interval(
    predicted: Scores, labelled: Scores, statistic: Callable[[Scores, Scores], float], draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of a statistic over resampled images (seeded; draws without a value are left out)."""
    rng = np.random.default_rng(seed)
    a, b = np.asarray(predicted, np.float64), np.asarray(labelled, np.float64)
    values = [statistic(a[rows], b[rows]) for rows in rng.integers(0, len(a), size=(draws, len(a)))]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def accuracy_metrics(predicted: Scores, labelled: Scores) -> dict[str, dict[str, float]]:
    """PLCC, SRCC and RMSE with 95 % bootstrap intervals, as the model card holds them."""
    statistics: dict[str, Callable[[Scores, Scores], float]] = {"PLCC": plcc, "SRCC": srcc, "RMSE": rmse}
    metrics = {}
    for name, statistic in statistics.items():
        value = statistic(np.asarray(predicted, np.float64), np.asarray(labelled, np.float64))
        low, high = bootstrap_interval(predicted, labelled, statistic)
        metrics[name] = {"value": round(value, 4), "low": round(low, 4), "high": round(high, 4)}
    return metrics
