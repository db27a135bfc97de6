"""What a conversion costs, in score points, and whether that is little enough."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fthnet_kit.calibration.agreement import Scores, srcc
from fthnet_kit.edge.model.choices import FORMS, INT8_BUDGET, Budget
from fthnet_kit.edge.model.score import Thresholds

LEAST_INT8 = 0.8  # share of the weighted layers' MACs; with less, the name would promise too much
BUDGETS = {name: form.budget for name, form in FORMS.items() if form.budget} | {"int8-openvino": INT8_BUDGET}


@dataclass(frozen=True)
class Cost:
    """Differences from FP32 on photographs, in points; `flips` counts photographs whose verdict changed."""

    images: int
    mean: float
    p99: float
    worst: float
    shift: float
    srcc: float
    flips: int

    def shortfalls(self, budget: Budget) -> list[str]:
        """What of the budget does not hold, in words; empty where all holds."""
        limits = (("mean", self.mean, budget.mean), ("p99", self.p99, budget.p99), ("max", self.worst, budget.worst))
        found = [f"{name} {value:.3f} > {limit:g} points" for name, value, limit in limits if not value <= limit]
        if not self.srcc >= budget.srcc:
            found.append(f"SRCC {self.srcc:.4f} < {budget.srcc:g}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def shortfalls(precision: str, found: Cost, int8_macs: float) -> list[str]:
    """What of a precision's gate does not hold, in words; empty where all holds.

    Args:
        precision: a key of `BUDGETS`.
        found: what the conversion costs.
        int8_macs: share of the weighted layers' MACs in INT8; of no matter for ``fp16``.
    """
    words = found.shortfalls(BUDGETS[precision])
    if precision != "fp16" and not int8_macs >= LEAST_INT8:
        words.append(f"INT8 share of MACs {int8_macs:.2f} < {LEAST_INT8:g}")
    return words


def cost(reference: Scores, found: Scores, thresholds: Thresholds) -> Cost:
    """What a conversion costs.

    Args:
        reference: FP32 points, not clipped.
        found: points of the converted graph for the same photographs.
        thresholds: for verdicts.
    """
    reference, found = np.asarray(reference, np.float64), np.asarray(found, np.float64)
    difference = found - reference
    size = np.abs(np.where(np.isfinite(difference), difference, np.inf))
    verdicts = [[thresholds.verdict(float(np.clip(v, 0, 100))) for v in scores] for scores in (reference, found)]
    return Cost(
        images=len(reference),
        mean=float(size.mean()),
        p99=float(np.percentile(size, 99)) if np.isfinite(size).all() else float("inf"),
        worst=float(size.max()),
        shift=float(difference.mean()),
        srcc=srcc(reference, found),
        flips=sum(a != b for a, b in zip(*verdicts, strict=True)),
    )


def budget_facts(budget: Budget) -> dict[str, float]:
    """The limits that there are, JSON-ready."""
    return {name: limit for name, limit in vars(budget).items() if math.isfinite(limit) and limit > -1}


def budget_words(budget: Budget) -> str:
    """``mean ≤ 0.5, p99 ≤ 2, SRCC ≥ 0.998``."""
    forms = {"mean": "mean ≤", "p99": "p99 ≤", "worst": "max ≤", "srcc": "SRCC ≥"}
    return ", ".join(f"{forms[name]} {limit:g}" for name, limit in budget_facts(budget).items())
