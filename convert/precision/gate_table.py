"""What the reports on precisions share: JSON, an HTML page that needs nothing beside it, the table of the gate."""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from fthnet_kit.calibration.precision_gate import BUDGETS, Cost, budget_facts, budget_words
from fthnet_kit.edge.model.card import ModelCard

GATE_COLUMNS = ("precision", "images", "mean |Δ|", "p99 |Δ|", "max |Δ|", "SRCC", "flips", "budget", "gate")
GATE_MEANING = {
    "precision": "fp16: half precision with FP32 islands, for GPUs; int8: INT8 layers and FP16 around them, for "
    "TensorRT; int8-cpu: the same layers in INT8 and FP32 around them, for ONNX Runtime's CPU kernels",
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
STYLE = """body{font:16px/1.5 system-ui;margin:2rem auto;max-width:76rem;padding:0 1rem}img{max-width:100%}
div{overflow-x:auto}table{border-collapse:collapse}tr{border-bottom:1px solid #ddd}
td,th{padding:.2rem .6rem;text-align:left}summary{cursor:pointer}
.layers{font-size:13px;line-height:1.3}.layers td{white-space:nowrap;padding:.2rem .4rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1.5rem}dt{font-weight:600}dd{margin:0}"""


def json_file(content: Mapping[str, Any]) -> bytes:
    """A JSON file, six significant digits; null where a number is not finite."""
    text = json.dumps(_tidy(content), indent=2, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode(errors="backslashreplace")  # file names may hold bytes that are no UTF-8


def _tidy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _tidy(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_tidy(entry) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


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


def html_file(title: str, *parts: str) -> bytes:
    """A page under its title; `parts` are HTML."""
    name, body = html.escape(title), "\n".join(parts)
    page = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{name}</title>
<style>{STYLE}</style>
<h1>{name}</h1>
{body}
</html>
"""
    return page.encode(errors="backslashreplace")


def heading(text: str) -> str:
    """A heading below the title."""
    return f"<h2>{html.escape(text)}</h2>"


def paragraph(text: str) -> str:
    """Plain words."""
    return f"<p>{html.escape(text)}</p>"


def meanings(words: Mapping[str, str]) -> str:
    """What names mean, as a list."""
    return "<dl>" + "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in words.items()) + "</dl>"


def inline_image(alt: str, content: bytes, kind: str = "png") -> str:
    """A picture inside the page; `kind` is ``png`` or ``jpeg``."""
    return f'<img alt="{html.escape(alt)}" src="data:image/{kind};base64,{base64.b64encode(content).decode()}">'
