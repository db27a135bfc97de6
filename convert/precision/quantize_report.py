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
from fthnet_kit.convert.network.config import FTHNetConfig
from fthnet_kit.convert.precision.gate_table import (
    GATE_COLUMNS,
    GATE_MEANING,
    HOW_JUDGED,
    gate_facts,
    gate_rows,
    heading,
    html_file,
    html_table,
    inline_image,
    json_file,
    meanings,
    model_facts,
    paragraph,
)
from fthnet_kit.convert.precision.quantize import PROBES, WORTHWHILE, Outcome, Sensitivity
from fthnet_kit.edge.model.card import ModelCard
from fthnet_kit.edge.reporting.plots import load_pyplot, png_of

State = Literal["int8", "returned", "too small"]
COLOURS: dict[State, str] = {"int8": "#0b6e4f", "returned": "#c1121f", "too small": "#8d99ae"}
KINDS = ("downsample", "qkv", "proj", "fc1", "fc2", "conv1x1", "weight_conv")  # in the order of the network
TICKS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)  # of logarithmic axes
LAYER_COLUMNS = (
    *("layer", "why", "MACs", "alone, mean", "alone, max", "α", "range by", "low", "high"),
    *("output error", "channel spread"),
)
LAYER_MEANING = {
    "layer": "its name in the checkpoint, in the order of the network",
    "why": "int8: it runs in INT8. returned: with all layers in INT8 together the budget did not hold, so the "
    f"costliest layer whose loss leaves {100 * LEAST_INT8:g} % of the MACs in INT8 went back to floating point, then "
    f"the next. too small: below {100 * WORTHWHILE:g} % of the MACs INT8 gains nothing, so the layer was neither "
    "measured nor converted",
    "MACs": "its share of the multiply-accumulates of all weighted layers",
    "alone, mean and max": "how far the score moves, in points, when this layer alone runs in INT8, over "
    f"{PROBES} calibration photographs; an empty cell: not measured",
    "α": "how far SmoothQuant moves the outliers of the layer's input into its weights; empty: no smoothing, or "
    "nothing before the layer that could take it up",
    "range by": "the method whose range left the smallest output error; all that were tried are in quantization.json",
    "low, high": "the range of the layer's input, after smoothing, that INT8 covers; what lies outside is clipped",
    "output error": "energy of the layer's error in INT8 against the energy of its output, on the calibration sample",
    "channel spread": "largest divided by smallest factor of the smoothing: a large one tells of channels far stronger "
    "than others, which one range cannot serve; it stands for the outliers themselves, which are not kept",
}
PICTURE_MEANING = (
    "Each row is a layer. Left: bars are the mean, dots the largest cost alone. Middle: the range that INT8 covers. "
    "Right: what smoothing divides the input's channels by; the line spans all channels, the bar the middle 90 %, the "
    "dot is the median; no line: no smoothing."
)


@dataclass(frozen=True)
class LayerRow:
    """One layer of a report.

    Attributes:
        layer: its name.
        state: what became of it; `why` in words.
        macs: share of the weighted layers' MACs.
        calibration: what was chosen for it.
        sensitivity: what it costs alone; None where it was too small to be measured.
    """

    layer: str
    state: State
    why: str
    macs: float
    calibration: LayerCalibration
    sensitivity: Sensitivity | None

    @property
    def channel_spread(self) -> float | None:
        """Largest divided by smallest smoothing factor; None without smoothing."""
        fit = self.calibration.fit
        return None if fit.alpha is None else float(fit.smoothing.max()) / float(fit.smoothing.min())

    def facts(self) -> dict[str, Any]:
        """JSON-ready."""
        fit, alone = self.calibration.fit, self.sensitivity
        return {
            "layer": self.layer,
            "int8": self.state == "int8",
            "why": self.why,
            "mac_share": self.macs,
            "alone_mean": alone and alone.mean,
            "alone_worst": alone and alone.worst,
            "alpha": fit.alpha,
            "method": fit.method,
            "low": fit.low,
            "high": fit.high,
            "output_error": fit.error,
            "channel_spread": self.channel_spread,
            "tried": dict(sorted(fit.tried.items())),
        }

    def cells(self) -> tuple[str, ...]:
        """Under `LAYER_COLUMNS`."""
        fit, alone, spread = self.calibration.fit, self.sensitivity, self.channel_spread
        return (
            self.layer,
            self.why,
            f"{100 * self.macs:.2f} %",
            f"{alone.mean:.3f}" if alone else "",
            f"{alone.worst:.3f}" if alone else "",
            "" if fit.alpha is None else f"{fit.alpha:g}",
            fit.method,
            f"{fit.low:.3g}",
            f"{fit.high:.3g}",
            f"{100 * fit.error:.2g} %",
            "" if spread is None else f"{spread:.1f}",
        )


def quantization_reports(outcome: Outcome, card: ModelCard) -> dict[str, bytes]:
    """Files for a bundle's reports, by name: JSON and a page.

    They name the calibration photographs but do not show them: a bundle travels further than patients' pictures may.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    rows = layer_rows(outcome, FTHNetConfig(**card.architecture))
    return {
        "quantization.json": json_file(quantization_facts(outcome, card, rows)),
        "quantization.html": quantization_page(outcome, card, rows),
    }


def layer_rows(outcome: Outcome, config: FTHNetConfig) -> list[LayerRow]:
    """Every layer that might run in INT8, in the order of the network."""
    alone = {entry.layer: entry for entry in outcome.sensitivities}
    first = outcome.sensitivities[0]
    share = first.macs / layer_macs(first.layer, outcome.layers[first.layer], config)  # of one multiply-accumulate
    rows = []
    for layer in sorted(outcome.layers, key=network_order):
        calibration = outcome.layers[layer]
        macs = share * layer_macs(layer, calibration, config)
        rows.append(LayerRow(layer, *_fate(outcome, alone, layer, macs), macs, calibration, alone.get(layer)))
    return rows


def _fate(outcome: Outcome, alone: dict[str, Sensitivity], layer: str, macs: float) -> tuple[State, str]:
    if layer in outcome.int8_layers:
        return "int8", "int8"
    if layer not in alone:
        return "too small", f"too small: {100 * macs:.2f} % of the MACs"
    which = "the costliest" if outcome.returned[0] == layer else "the costliest left"
    return "returned", f"returned: {which}, {alone[layer].mean:.2f} points alone"


def network_order(layer: str) -> tuple[int, list[int], int]:
    """What sorts layers in the order in which the network computes them."""
    words = layer.split(".")
    numbers = [int(word) for word in words if word.isdecimal()]
    kind = next((index for index, name in enumerate(KINDS) if name in words), len(KINDS))
    return (0, numbers, kind) if words[0] == "bbone" else (1, numbers[:1], kind)


def layer_macs(layer: str, calibration: LayerCalibration, config: FTHNetConfig) -> int:
    """Multiply-accumulates of a layer for one image: a row for each token of its stage's grid."""
    words = layer.split(".")
    side = config.grid(int(words[2])) if words[0] == "bbone" else config.window_size
    return side**2 * len(calibration.fit.smoothing) * len(calibration.weight_scale)


def quantization_facts(outcome: Outcome, card: ModelCard, rows: Sequence[LayerRow]) -> dict[str, Any]:
    """Everything that was chosen and measured, JSON-ready."""
    points = {"fp32": outcome.reference, **outcome.scores}
    return {
        "model": model_facts(card),
        "how_judged": HOW_JUDGED,
        "precisions": gate_facts(outcome.costs, outcome.shortfalls),
        "int8_mac_share": outcome.int8_macs,
        "least_int8_mac_share": LEAST_INT8,
        "returned": outcome.returned,
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
    return html_file(
        f"Quantisation of {card.name} {card.version}",
        paragraph(summary(outcome, rows)),
        html_table(GATE_COLUMNS, gate_rows(outcome.costs, outcome.shortfalls)),
        paragraph(HOW_JUDGED),
        meanings(GATE_MEANING),
        heading("What INT8 costs, layer by layer"),
        inline_image("cost, range and smoothing of each layer", layer_picture(rows)),
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
        f"MACs (at least {100 * LEAST_INT8:g} % wanted). Returned to floating point: {count['returned']}; too small: "
        f"{count['too small']}. Calibrated on {len(outcome.calibration)} photographs, judged on "
        f"{len(outcome.held_out)} others."
    )


def layer_picture(rows: Sequence[LayerRow]) -> bytes:
    """A PNG, one line a layer: cost alone, range, smoothing; coloured by what became of the layer.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    plt = load_pyplot("the picture of the layers")
    size = (12, 1.6 + 0.2 * len(rows))
    figure, axes = plt.subplots(1, 3, figsize=size, sharey=True, layout="constrained", width_ratios=(1.2, 1, 1))
    for axis, draw in zip(axes, (_draw_costs, _draw_ranges, _draw_smoothing), strict=True):
        draw(axis, rows)
        axis.grid(axis="x", alpha=0.25)
        axis.grid(axis="y", alpha=0.12)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_axisbelow(True)
    axes[0].set_yticks(range(len(rows)), [row.layer.removeprefix("bbone.") for row in rows], fontsize=8)
    axes[0].set_ylim(len(rows) - 0.4, -0.6)
    present = {row.state for row in rows}
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for state, colour in COLOURS.items() if state in present]
    figure.legend(handles, [state for state in COLOURS if state in present], loc="outside upper center", ncols=3)
    return png_of(figure, plt)


def _draw_costs(axis: Any, rows: Sequence[LayerRow]) -> None:
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


def _draw_ranges(axis: Any, rows: Sequence[LayerRow]) -> None:
    axis.set_xscale("symlog", linthresh=1)
    for place, row in enumerate(rows):
        fit = row.calibration.fit
        axis.barh(place, fit.high - fit.low, 0.55, left=fit.low, color=COLOURS[row.state])
    axis.use_sticky_edges = False  # the widest bar ends before the edge
    axis.axvline(0, color="#3d405b", linewidth=0.8)
    _label_ticks(axis, [-tick for tick in TICKS if tick >= 1] + [0] + [tick for tick in TICKS if tick >= 1])
    axis.set(title="range of the input", xlabel="value after smoothing (linear inside ±1)")


def _draw_smoothing(axis: Any, rows: Sequence[LayerRow]) -> None:
    axis.set_xscale("log")
    for place, row in enumerate(rows):
        if row.calibration.fit.alpha is None:
            continue
        least, low, middle, high, most = np.quantile(row.calibration.fit.smoothing, (0, 0.05, 0.5, 0.95, 1))
        axis.hlines(place, least, most, color=COLOURS[row.state], linewidth=1)
        axis.hlines(place, low, high, color=COLOURS[row.state], linewidth=4)
        axis.plot(middle, place, "o", markersize=3.5, color="white", markeredgecolor=COLOURS[row.state])
    axis.axvline(1, color="#3d405b", linewidth=0.8)
    _label_ticks(axis, TICKS)
    axis.set(title="smoothing of the channels", xlabel="what a channel is divided by")


def _label_ticks(axis: Any, ticks: Sequence[float]) -> None:
    """Plain numbers at those ticks that the axis shows."""
    low, high = axis.get_xlim()
    axis.minorticks_off()
    axis.set_xticks([tick for tick in ticks if low <= tick <= high])
    axis.xaxis.set_major_formatter("{x:g}")
