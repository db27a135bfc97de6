"""What `fthnet verify` shows: a table in the terminal, and JSON, PNG and HTML for a bundle's reports."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table

from fthnet_kit.calibration.precision_gate import BUDGETS
from fthnet_kit.convert.precision.gate_table import (
    GATE_COLUMNS,
    GATE_MEANING,
    HOW_JUDGED,
    gate_facts,
    gate_rows,
    model_facts,
)
from fthnet_kit.convert.precision.verify import Points, PrecisionVerification
from fthnet_kit.edge.model.card import ModelCard
from fthnet_kit.edge.model.choices import Budget
from fthnet_kit.edge.model.score import Thresholds
from fthnet_kit.edge.reporting.html_page import heading, html_table, inline_image, meanings, page, paragraph
from fthnet_kit.edge.reporting.json_file import json_file
from fthnet_kit.edge.reporting.plots import load_pyplot, png_of

FARTHEST = 10  # photographs that the page names
PICTURE_MEANING = (
    "Each dot is a photograph: its score in points against what the conversion changed. Solid line: mean difference; "
    "dashed lines: 1.96 standard deviations around it, between which 95 % of the differences lie where they are "
    "distributed normally; dotted red lines: the budget; grey band: the noise floor, wider than the panel where all of "
    "it is grey. A red ring: another verdict than in FP32."
)


def verification_table(found: PrecisionVerification) -> Table:
    """What each precision costs, for a terminal; `noise_line` belongs below it."""
    left = [place for place, column in enumerate(GATE_COLUMNS) if column != "budget"]
    table = Table()
    for place in left:
        numeric = GATE_COLUMNS[place] not in ("precision", "gate")
        table.add_column(GATE_COLUMNS[place], justify="right" if numeric else "left", no_wrap=numeric)
    for row in gate_rows(found.costs, found.shortfalls):
        table.add_row(*(row[place] for place in left))
    return table


def noise_line(found: PrecisionVerification) -> str:
    """The noise floor, in one line."""
    return (
        f"Noise floor: {found.noise_floor:.2f} points, the standard deviation of the FP32 score between random crops "
        "of one photograph"
    )


def verification_reports(found: PrecisionVerification, card: ModelCard) -> dict[str, bytes]:
    """Files for a bundle's reports, by name: JSON, a page, and a picture where there is anything to draw.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    pictures = {"verify.png": bland_altman(found, card.thresholds)} if found.scores else {}
    return {
        "verify.json": json_file(verification_facts(found, card)),
        **pictures,
        "verify.html": verification_page(found, card, list(pictures.values())),
    }


def verification_facts(found: PrecisionVerification, card: ModelCard) -> dict[str, Any]:
    """Everything that was measured, photograph by photograph, JSON-ready."""
    points = {"fp32": found.reference, **found.scores}
    return {
        "model": model_facts(card),
        "how_judged": HOW_JUDGED,
        "thresholds": asdict(card.thresholds),
        "precisions": gate_facts(found.costs, found.shortfalls),
        "noise_floor": found.noise_floor,
        "images": [
            {"file": name, "points": {form: float(scores[i]) for form, scores in points.items()}}
            for i, name in enumerate(found.images)
        ],
    }


def verification_page(found: PrecisionVerification, card: ModelCard, pictures: list[bytes]) -> bytes:
    """The page: the gate, the picture, the photographs that moved farthest."""
    title = f"Verification of {card.title}"
    if not found.scores:
        return page(title, paragraph("The bundle holds no converted graph."), paragraph(noise_line(found)))
    return page(
        title,
        html_table(GATE_COLUMNS, gate_rows(found.costs, found.shortfalls)),
        paragraph(f"{noise_line(found)}: what another framing changes when nothing is converted."),
        paragraph(HOW_JUDGED),
        meanings(GATE_MEANING),
        heading("Every photograph"),
        *(inline_image("differences from FP32 against the score, for each precision", png) for png in pictures),
        paragraph(PICTURE_MEANING),
        heading("The photographs that moved farthest"),
        html_table(("photograph", "fp32", *found.scores), farthest_rows(found)),
    )


def farthest_rows(found: PrecisionVerification) -> list[tuple[str, ...]]:
    """Photographs with the largest difference in any precision, the largest first: name and points."""
    differences = np.abs(np.stack(list(found.scores.values())) - found.reference).max(axis=0)
    order = np.argsort(-np.nan_to_num(differences, nan=np.inf), kind="stable")[:FARTHEST]
    columns = [found.reference, *found.scores.values()]
    return [(found.images[index], *(f"{column[index]:.2f}" for column in columns)) for index in order]


def bland_altman(found: PrecisionVerification, thresholds: Thresholds) -> bytes:
    """A PNG: for each precision, the difference from FP32 against the mean of the two, in points.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    plt = load_pyplot("the picture of the verification")
    count = len(found.scores)
    figure, axes = plt.subplots(1, count, figsize=(max(6, 4.2 * count), 4.8), layout="constrained", squeeze=False)
    for axis, (precision, scores) in zip(axes[0], found.scores.items(), strict=True):
        _draw_differences(axis, found.reference, scores, thresholds)
        _draw_limits(axis, BUDGETS[precision], scores - found.reference, found.noise_floor)
        axis.set(xlabel="mean of both, points", title=_title(precision, scores - found.reference))
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("difference from FP32, points")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3 * min(count, 2))
    return png_of(figure, plt)


def _title(precision: str, difference: Points) -> str:
    lost = int((~np.isfinite(difference)).sum())
    return f"{precision}: {lost} not finite" if lost else precision


def _draw_differences(axis: Any, reference: Points, scores: Points, thresholds: Thresholds) -> None:
    finite = np.isfinite(scores - reference)
    middle, difference = ((reference + scores) / 2)[finite], (scores - reference)[finite]
    flips = (_verdicts(reference, thresholds) != _verdicts(scores, thresholds))[finite]
    axis.plot(middle, difference, "o", markersize=3, alpha=0.6, color="#0b6e4f", label="photograph")
    ring = {"markersize": 9, "markerfacecolor": "none", "color": "#c1121f"}
    axis.plot(middle[flips], difference[flips], "o", **ring, label="other verdict")
    if len(difference) > 1:
        mean, spread = float(np.mean(difference)), 1.96 * float(np.std(difference, ddof=1))
        axis.axhline(mean, color="#3d405b", linewidth=1.2, label="mean")
        for line, label in ((mean - spread, "mean ± 1.96 SD"), (mean + spread, None)):
            axis.axhline(line, color="#3d405b", linewidth=1, linestyle="--", label=label)


def _verdicts(scores: Points, thresholds: Thresholds) -> npt.NDArray[np.str_]:
    return np.array([thresholds.verdict(float(np.clip(score, 0, 100))) for score in scores])


def _draw_limits(axis: Any, budget: Budget, difference: Points, noise_floor: float) -> None:
    """Budget, noise floor, and an axis that shows budget and differences whole; the band may be cut off."""
    limits = {name: limit for name, limit in (("p99", budget.p99), ("max", budget.worst)) if np.isfinite(limit)}
    for name, limit in limits.items():
        for line, label in ((limit, "budget"), (-limit, None)):
            axis.axhline(line, color="#c1121f", linewidth=1, linestyle=":", label=label)
        axis.annotate(
            f"{name} ≤ {limit:g}", (1, limit), (-2, 2), ("axes fraction", "data"), "offset points", ha="right"
        )
    axis.axhspan(-noise_floor, noise_floor, color="#b0b0b0", alpha=0.3, linewidth=0, label="noise floor")
    reach = 1.15 * max([*limits.values(), *np.abs(difference[np.isfinite(difference)])], default=1.0)
    axis.set_ylim(-reach, reach)
