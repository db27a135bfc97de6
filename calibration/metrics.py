"""Agreement of predicted with labelled scores, in the field's terms."""

from __future__ import annotations

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


def agreement(predicted: Scores, labelled: Scores) -> Agreement:
    """All three over two equally long vectors of scores."""
    a, b = np.asarray(predicted, np.float64), np.asarray(labelled, np.float64)
    return Agreement(plcc(a, b), srcc(a, b), float(np.sqrt(np.mean((a - b) ** 2))))
