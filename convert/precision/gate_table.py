"""What the reports on precisions share: the table of the gate, and what it means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fthnet_kit.calibration.precision_gate import BUDGETS, Cost, budget_facts, budget_words
from fthnet_kit.edge.model.card import ModelCard
from fthnet_kit.edge.model.choices import MEANINGS

GATE_COLUMNS = ("precision", "images", "mean |Δ|", "p99 |Δ|", "max |Δ|", "SRCC", "flips", "budget", "gate")
GATE_MEANING = {
    "precision": MEANINGS,
    "images": "photographs that were scored; none of them calibrated the model",
    "mean |Δ|, p99 |Δ|, max |Δ|": "how far the score is from the FP32 score of the same photograph, in points, "
    "without its sign: the mean, what 99 of 100 photographs stay below, the largest",
    "SRCC": "Spearman correlation with the FP32 scores; 1: the photographs stand in the same order",
    "flips": "photographs whose verdict (good, usable, reject) is another than in FP32",
    "budget, gate": "the most that a conversion may cost; holds, or what does not",
}
HOW_JUDGED = (
    "Nothing was run on a GPU. int8-cpu ran in ONNX Runtime on a CPU, where it is meant to run. ONNX Runtime computes "
    "FP16 in FP32 there and would hide what FP16 costs, so fp16 and int8 were judged on a twin that rounds to FP16 "
    "after every operation, as a GPU would."
)


def model_facts(card: ModelCard) -> dict[str, str]:
    """Which model a report speaks of."""
    return {"name": card.name, "version": card.version, "weights_sha256": card.weights_sha256}


def gate_facts(costs: Mapping[str, Cost], shortfalls: Callable[[str], list[str]]) -> dict[str, Any]:
    """Cost, budget and what does not hold, by precision, JSON-ready."""
    return {
        precision: {
            "holds": not shortfalls(precision),
            "shortfalls": shortfalls(precision),
            "cost": found.to_dict(),
            "budget": budget_facts(BUDGETS[precision]),
        }
        for precision, found in costs.items()
    }


def gate_rows(costs: Mapping[str, Cost], shortfalls: Callable[[str], list[str]]) -> list[tuple[str, ...]]:
    """One row a precision, under `GATE_COLUMNS`."""
    return [
        (
            precision,
            str(found.images),
            *(f"{value:.3f}" for value in (found.mean, found.p99, found.worst)),
            f"{found.srcc:.4f}",
            str(found.flips),
            budget_words(BUDGETS[precision]),
            "; ".join(shortfalls(precision)) or "holds",
        )
        for precision, found in costs.items()
    ]
