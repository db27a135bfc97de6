"""Agreement of predicted with labelled scores, in the field's terms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.floating]

DRAWS = 2000  # resamplings of a bootstrap
INTERVAL = (2.5, 97.5)  # percentiles between which 95 % of the draws lie
BLOCK = 512  # rows of a table of pairs that are held at once


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


def krcc(a: Scores, b: Scores) -> float:
    """Kendall correlation, tau-b, which allows for ties; nan where one side is constant. O(n²) in time."""
    return float(_kendall(np.asarray(a), np.asarray(b), np.ones((1, len(a)), np.float32))[0])


def _kendall(a: Scores, b: Scores, counts: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Tau-b of weighted vectors: `counts` (D, N) says how often each member is there; (D,)."""
    sums = np.zeros((3, len(counts)))  # pairs in the same order less those in the other, untied in a, untied in b
    for start in range(0, len(a), BLOCK):
        rows = slice(start, start + BLOCK)
        signs = [np.sign(v[rows, None] - v[None, :]).astype(np.float32) for v in (a, b)]
        tables = (signs[0] * signs[1], np.abs(signs[0]), np.abs(signs[1]))
        sums += [np.einsum("dn,dn->d", counts @ table.T, counts[:, rows], dtype=np.float64) for table in tables]
    both, norm = sums[0], np.sqrt(sums[1] * sums[2])
    return np.divide(both, norm, out=np.full(len(counts), np.nan), where=norm > 0)


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
    predicted: Scores,
    labelled: Scores,
    statistic: Callable[[Scores, Scores], float],
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % percentile interval of a statistic over resampled images (seeded; draws without a value are left out)."""
    return percentile_interval(bootstrap_values(predicted, labelled, statistic, draws, seed))


def percentile_interval(values: Scores) -> tuple[float, float]:
    """Where 95 % of the values of a bootstrap lie; those that are nan are left out, and of nothing it is nan."""
    if np.isnan(values).all():
        return float("nan"), float("nan")
    low, high = np.nanpercentile(values, INTERVAL)
    return float(low), float(high)


def bootstrap_values(
    predicted: Scores,
    labelled: Scores,
    statistic: Callable[[Scores, Scores], float],
    draws: int = DRAWS,
    seed: int = 0,
) -> npt.NDArray[np.float64]:
    """A statistic over resampled images, (draws,).

    One seed draws the same images from vectors of one length, so that two of them can be compared draw by draw.
    """
    a, b = np.asarray(predicted, np.float64), np.asarray(labelled, np.float64)
    rows = _resampled(len(a), draws, np.random.default_rng(seed))
    if statistic is krcc:  # pair by pair it would take minutes
        return _kendall(a, b, _counts(rows, len(a)))
    return np.array([statistic(a[chosen], b[chosen]) for chosen in rows])


def auc_values(higher: Scores, lower: Scores, draws: int = DRAWS, seed: int = 0) -> npt.NDArray[np.float64]:
    """`auc` over images resampled within each class, (draws,); seeded as `bootstrap_values` is."""
    rng = np.random.default_rng(seed)
    above, below = (_counts(_resampled(len(v), draws, rng), len(v)) for v in (higher, lower))
    difference = np.asarray(higher)[:, None] - np.asarray(lower)[None, :]
    wins = (np.sign(difference) + 1) / 2
    return np.einsum("dn,dn->d", above @ wins, below) / wins.size


def _resampled(count: int, draws: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Which of `count` images each draw takes, (draws, count)."""
    return rng.integers(0, count, size=(draws, count))


def _counts(rows: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.float32]:
    """How often each draw takes each image, (draws, count)."""
    flat = rows + count * np.arange(len(rows))[:, None]
    return np.bincount(flat.ravel(), minlength=len(rows) * count).reshape(len(rows), count).astype(np.float32)


def accuracy_metrics(predicted: Scores, labelled: Scores) -> dict[str, dict[str, float]]:
    """PLCC, SRCC and RMSE with 95 % bootstrap intervals, as the model card holds them."""
    statistics: dict[str, Callable[[Scores, Scores], float]] = {"PLCC": plcc, "SRCC": srcc, "RMSE": rmse}
    metrics = {}
    for name, statistic in statistics.items():
        value = statistic(np.asarray(predicted, np.float64), np.asarray(labelled, np.float64))
        low, high = bootstrap_interval(predicted, labelled, statistic)
        metrics[name] = {"value": round(value, 4), "low": round(low, 4), "high": round(high, 4)}
    return metrics
