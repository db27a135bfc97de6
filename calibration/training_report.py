"""The page at the end of a training run: curves, and predicted against labelled scores."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from fthnet_kit.edge.reporting.html_page import box, bullets, page, section
from fthnet_kit.edge.reporting.plots import load_pyplot, png_of

if TYPE_CHECKING:
    from fthnet_kit.calibration.agreement import Scores
    from fthnet_kit.calibration.trainer import Recipe, Validation


def curves_and_scatter(history: Sequence[Validation], predicted: Scores, labelled: Scores) -> bytes:
    """A PNG: loss and agreement over time, and a scatter of the validation photographs."""
    plt = load_pyplot("the training report")
    minutes = [validation.minutes for validation in history]
    correlations = [v for validation in history for v in (validation.agreement.srcc, validation.agreement.plcc)]
    lowest = min([0.5, *(v - 0.05 for v in correlations if not np.isnan(v))])
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    axes[0].plot(minutes, [validation.loss for validation in history], color="#3d405b", marker=".")
    axes[0].set(title="training loss", xlabel="minutes")
    for name, colour in (("srcc", "#0b6e4f"), ("plcc", "#c1121f")):
        values = [getattr(validation.agreement, name) for validation in history]
        axes[1].plot(minutes, values, color=colour, marker=".", label=name.upper())
    axes[1].set(title="validation, centre view", xlabel="minutes", ylim=(lowest, 1))
    axes[1].legend()
    axes[2].plot([0, 100], [0, 100], color="#b0b0b0", linewidth=1)
    axes[2].scatter(labelled, predicted, s=14, alpha=0.6, color="#0b6e4f")
    axes[2].set(title=f"{len(np.asarray(labelled))} validation photographs", xlabel="labelled MOS", ylabel="score")
    for axis in axes:
        axis.grid(alpha=0.25)
    return png_of(figure, plt)


def report_page(
    title: str,
    facts: Sequence[str],
    warnings: Sequence[str],
    picture: bytes,
    accuracy: Sequence[Mapping[str, Any]],
    recipe: Recipe,
) -> bytes:
    """A self-contained HTML page.

    Args:
        title: what was trained.
        facts: sentences under it.
        warnings: what is wrong with the result; none: said so.
        picture: of `curves_and_scatter`.
        accuracy: the card's entries.
        recipe: the run's.
    """
    rows = "".join(
        f"<tr><td>{html.escape(entry['data'])}</td><td>{entry['images']}</td><td>{entry['views']}</td><td>{name}</td>"
        f"<td>{m['value']:.3f}</td><td>{m['low']:.3f} to {m['high']:.3f}</td></tr>"
        for entry in accuracy
        for name, m in entry["metrics"].items()
    )
    head = "".join(f"<th>{name}</th>" for name in ("data", "images", "views", "metric", "value", "95 % interval"))
    image = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    return page(
        title,
        box("To look at" if warnings else "Nothing to object to", warnings),
        bullets(facts),
        f'<div><img alt="training curves and scatter" style="max-width:100%" src="{image}"></div>',
        section("Accuracy", f'<div><table class="wide"><tr>{head}</tr>{rows}</table></div>'),
        section("Recipe", f"<div><pre>{html.escape(json.dumps(asdict(recipe), indent=2))}</pre></div>"),
    )
