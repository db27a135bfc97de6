"""The page at the end of a training run: curves, and predicted against labelled scores."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from fthnet_kit.edge.reporting.plots import load_pyplot, png_of

if TYPE_CHECKING:
    from fthnet_kit.calibration.agreement import Scores
    from fthnet_kit.calibration.trainer import Recipe, Validation


def curves_and_scatter(history: Sequence[Validation], predicted: Scores, labelled: Scores) -> bytes:
    """A PNG: loss and agreement over time, and a scatter of the validation photographs."""
    plt = load_pyplot("the training report")
    minutes = [validation.minutes for validation in history]
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    axes[0].plot(minutes, [validation.loss for validation in history], color="#3d405b")
    axes[0].set(title="training loss", xlabel="minutes")
    for name, colour in (("srcc", "#0b6e4f"), ("plcc", "#c1121f")):
        values = [getattr(validation.agreement, name) for validation in history]
        axes[1].plot(minutes, values, color=colour, label=name.upper())
    axes[1].set(title="validation, centre view", xlabel="minutes", ylim=(0.5, 1))
    axes[1].legend()
    axes[2].plot([0, 100], [0, 100], color="#b0b0b0", linewidth=1)
    axes[2].scatter(labelled, predicted, s=14, alpha=0.6, color="#0b6e4f")
    axes[2].set(title=f"{len(np.asarray(labelled))} validation photographs", xlabel="labelled MOS", ylabel="score")
    for axis in axes:
        axis.grid(alpha=0.25)
    return png_of(figure, plt)


def report_page(title: str, picture: bytes, accuracy: Sequence[Mapping[str, Any]], recipe: Recipe) -> str:
    """A self-contained HTML page."""
    rows = "".join(
        f"<tr><td>{html.escape(entry['data'])}</td><td>{entry['views']}</td><td>{name}</td><td>{m['value']:.3f}</td>"
        f"<td>{m['low']:.3f} to {m['high']:.3f}</td></tr>"
        for entry in accuracy
        for name, m in entry["metrics"].items()
    )
    image = base64.b64encode(picture).decode()
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>
<style>body{{font:16px/1.5 system-ui;margin:2rem auto;max-width:72rem;padding:0 1rem}}img{{max-width:100%}}
td,th{{padding:.2rem .8rem;text-align:left;border-bottom:1px solid #ddd}}</style>
<h1>{html.escape(title)}</h1>
<img alt="training curves and scatter" src="data:image/png;base64,{image}">
<table><tr><th>data</th><th>views</th><th>metric</th><th>value</th><th>95 % interval</th></tr>{rows}</table>
<h2>Recipe</h2><pre>{html.escape(json.dumps(asdict(recipe), indent=2))}</pre>
</html>
"""
