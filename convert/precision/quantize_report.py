"""What `fthnet quantize` leaves in a bundle's reports: what each precision costs, and what became of every layer."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fthnet_kit.calibration.int8_fit import LayerCalibration
from fthnet_kit.calibration.int8_photographs import Photograph
from fthnet_kit.calibration.precision_gate import LEAST_INT8
from fthnet_kit.convert.precision.gate_table import (
    GATE_COLUMNS,
    GATE_MEANING,
    HOW_JUDGED,
    gate_facts,
    gate_rows,
    model_facts,
)
from fthnet_kit.convert.precision.quantize import PROBES, WORTHWHILE, Outcome, Sensitivity
from fthnet_kit.edge.model.card import ModelCard
from fthnet_kit.edge.reporting.html_page import heading, html_table, inline_image, meanings, page, paragraph
from fthnet_kit.edge.reporting.json_file import json_file
from fthnet_kit.edge.reporting.plots import load_pyplot, png_of

State = Literal["int8", "floating point", "too small"]
COLOURS: dict[State, str] = {"int8": "#0b6e4f", "floating point": "#c1121f", "too small": "#8d99ae"}
LAYER_COLUMNS = (
    "layer",
    "runs in",
    "MACs",
    "alone, mean",
    "alone, max",
    "low",
    "high",
    "output error",
    "channel spread",
)
LAYER_MEANING = {
    "layer": "its name in the checkpoint, in the order of the network",
    "runs in": "int8; or floating point: all layers in INT8 together cost more than the budget, so the costliest were "
    f"kept out while {100 * LEAST_INT8:g} % of the MACs remained; or too small: below {100 * WORTHWHILE:g} % of the "
    "MACs INT8 gains nothing, so the layer was neither measured nor converted",
    "MACs": "its share of the multiply-accumulates of all weighted layers",
    "alone, mean and max": "how far the score moves, in points, when this layer alone runs in INT8, over "
    f"{PROBES} calibration photographs; an empty cell: not measured",
    "low, high": "the range of the layer's input, after smoothing, that INT8 covers",
    "output error": "energy of the layer's error in INT8 against the energy of its output, on the calibration sample",
    "channel spread": "largest divided by smallest factor of SmoothQuant: a large one means channels far stronger "
    "than others, which one range cannot serve; empty: nothing before the layer could take a smoothing up",
}
PICTURE_MEANING = "Each row is a layer: the bar is the mean, the dot the largest cost alone."


@dataclass(frozen=True)
class LayerRow:
    """One layer of a report.

    Attributes:
        layer: its name.
        state: what became of it.
        macs: share of the weighted layers' MACs.
        calibration: what was chosen for it.
        sensitivity: what it costs alone; None where it was not measured.
    """

    layer: str
    state: State
    macs: float
    calibration: LayerCalibration
    sensitivity: Sensitivity | None

    @property
    def channel_spread(self) -> float | None:
        """Largest divided by smallest smoothing factor; None without smoothing."""
        smoothing = self.calibration.smoothing
        return None if smoothing is None else float(smoothing.max()) / float(smoothing.min())

    def facts(self) -> dict[str, Any]:
        """JSON-ready."""
        alone = self.sensitivity
        return {
            "layer": self.layer,
            "int8": self.state == "int8",
            "state": self.state,
            "mac_share": self.macs,
            "alone_mean": alone and alone.mean,
            "alone_worst": alone and alone.worst,
            "low": self.calibration.low,
            "high": self.calibration.high,
            "output_error": self.calibration.error,
            "channel_spread": self.channel_spread,
        }

    def cells(self) -> tuple[str, ...]:
        """Under `LAYER_COLUMNS`."""
        alone, spread = self.sensitivity, self.channel_spread
        return (
            self.layer,
            self.state,
            f"{100 * self.macs:.2f} %",
            f"{alone.mean:.3f}" if alone else "",
            f"{alone.worst:.3f}" if alone else "",
            f"{self.calibration.low:.3g}",
            f"{self.calibration.high:.3g}",
            f"{100 * self.calibration.error:.2g} %",
            "" if spread is None else f"{spread:.1f}",
        )


def quantization_reports(outcome: Outcome, card: ModelCard) -> dict[str, bytes]:
    """Files for a bundle's reports, by name: JSON and a page.

    They name the calibration photographs but do not show them: a bundle travels further than patients' pictures may.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    rows = layer_rows(outcome)
    return {
        "quantization.json": json_file(quantization_facts(outcome, card, rows)),
        "quantization.html": quantization_page(outcome, card, rows),
    }


def layer_rows(outcome: Outcome) -> list[LayerRow]:
    """Every layer that might run in INT8, in the order of the network."""
    alone = {entry.layer: entry for entry in outcome.sensitivities}
    return [
        LayerRow(
            layer,
            "int8" if layer in outcome.int8_layers else "floating point" if layer in alone else "too small",
            share,
            outcome.layers[layer],
            alone.get(layer),
        )
        for layer, share in outcome.macs.items()
    ]


def quantization_facts(outcome: Outcome, card: ModelCard, rows: Sequence[LayerRow]) -> dict[str, Any]:
    """Everything that was chosen and measured, JSON-ready."""
    points = {"fp32": outcome.reference, **outcome.scores}
    return {
        "model": model_facts(card),
        "how_judged": HOW_JUDGED,
        "precisions": gate_facts(outcome.costs, outcome.shortfalls),
        "int8_mac_share": outcome.int8_macs,
        "least_int8_mac_share": LEAST_INT8,
        "layers": [row.facts() for row in rows],
        "calibration": [_photograph_facts(photograph) for photograph in outcome.calibration],
        "held_out": [
            {**_photograph_facts(photograph), "points": {form: float(found[i]) for form, found in points.items()}}
            for i, photograph in enumerate(outcome.held_out)
        ],
    }


def _photograph_facts(photograph: Photograph) -> dict[str, Any]:
    return {"file": photograph.path.name, "label": photograph.label, "sha256": photograph.sha256}


def quantization_page(outcome: Outcome, card: ModelCard, rows: Sequence[LayerRow]) -> bytes:
    """The page: the gate, every layer as a picture and as a table, the photographs' names."""
    names = "".join(f"<li>{html.escape(photograph.path.name)}</li>" for photograph in outcome.calibration)
    return page(
        f"Quantisation of {card.title}",
        paragraph(summary(outcome, rows)),
        html_table(GATE_COLUMNS, gate_rows(outcome.costs, outcome.shortfalls)),
        paragraph(HOW_JUDGED),
        meanings(GATE_MEANING),
        heading("What INT8 costs, layer by layer"),
        inline_image("what each layer costs", layer_picture(rows)),
        paragraph(PICTURE_MEANING),
        html_table(LAYER_COLUMNS, [row.cells() for row in rows], "layers"),
        meanings(LAYER_MEANING),
        heading(f"The {len(outcome.calibration)} photographs that calibrated it"),
        f"<details><summary>Their files</summary><ol>{names}</ol></details>",
    )


def summary(outcome: Outcome, rows: Sequence[LayerRow]) -> str:
    """What runs in INT8, and how that was found."""
    count = {state: sum(row.state == state for row in rows) for state in COLOURS}
    return (
        f"{count['int8']} of {len(rows)} layers run in INT8: {100 * outcome.int8_macs:.1f} % of the weighted layers' "
        f"MACs (at least {100 * LEAST_INT8:g} % wanted). Kept in floating point: {count['floating point']}; too small: "
        f"{count['too small']}. Calibrated on {len(outcome.calibration)} photographs, judged on "
        f"{len(outcome.held_out)} others."
    )


def layer_picture(rows: Sequence[LayerRow]) -> bytes:
    """A PNG, one line a layer: its cost alone, coloured by what became of the layer.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    plt = load_pyplot("the picture of the layers")
    figure, axis = plt.subplots(figsize=(9, 1.6 + 0.2 * len(rows)), layout="constrained")
    for place, row in enumerate(rows):
        alone = row.sensitivity
        if alone is None or not np.isfinite(alone.worst):
            words = " not finite" if alone else f" {row.state}"
            axis.text(0, place, words, va="center", fontsize=7, color=COLOURS[row.state])
            continue
        axis.barh(place, alone.mean, 0.7, color=COLOURS[row.state])
        axis.plot(alone.worst, place, ".", markersize=4, color=COLOURS[row.state])
    axis.set(title="cost alone in INT8", xlabel="points")
    axis.set_xlim(left=0)
    axis.set_yticks(range(len(rows)), [row.layer.removeprefix("bbone.") for row in rows], fontsize=8)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.grid(axis="x", alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    return png_of(figure, plt)
