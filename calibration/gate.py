"""What a conversion costs, in score points, and whether that is little enough."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fthnet_kit.calibration.metrics import Scores, srcc
from fthnet_kit.edge.model_card import Thresholds


@dataclass(frozen=True)
class Budget:
    """Most that a conversion may cost against FP32: points, mean, 99th percentile and largest; least SRCC."""

    mean: float
    p99: float = float("inf")
    worst: float = float("inf")
    srcc: float = -1.0

    def tightened(self, share: float) -> Budget:
        """A share of the budget, for choices made on photographs other than those that judge."""
        return Budget(self.mean * share, self.p99 * share, self.worst * share, self.srcc)


FP16_BUDGET = Budget(mean=0.1, worst=0.5)
INT8_BUDGET = Budget(mean=0.5, p99=2.0, srcc=0.998)
BUDGETS = {"fp16": FP16_BUDGET, "int8": INT8_BUDGET, "int8-cpu": INT8_BUDGET}


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
