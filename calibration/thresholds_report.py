"""What `fthnet thresholds` shows: a table in the terminal, and JSON, PNG and HTML in a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from fthnet_kit.calibration.agreement import Scores
from fthnet_kit.calibration.labelled_images import LabelledImage
from fthnet_kit.calibration.thresholds import (
    GRID,
    NO_VALUE,
    FittedCut,
    OperatingPoint,
    Proportion,
    ThresholdFit,
    operating_point,
)
from fthnet_kit.edge.files import write_files
from fthnet_kit.edge.model.card import ModelCard
from fthnet_kit.edge.reporting.html_page import html_table, inline_image, page, paragraph
from fthnet_kit.edge.reporting.plots import load_pyplot, png_of

COLUMNS = ("threshold", "points [95 %]", "sensitivity [95 %]", "specificity [95 %]", "AUC")
COLOURS = {"usable": "#c1121f", "good": "#0b6e4f"}
MEANING = (
    "usable: pictures that score below it are rejected; sensitivity is the share of photographs labelled ungradable "
    "that are, specificity the share of the others that are not. good: the same for being called good. Measured on "
    "the photographs that the thresholds were fitted to, taken as independent."
)


@dataclass(frozen=True)
class ThresholdReport:
    """A fit, and what it was made of.

    Attributes:
        fit: the thresholds.
        card: of the model, with the thresholds that it has now.
        images: the photographs.
        scores: theirs, points (N,); `NO_VALUE` where no retina was seen.
        split: ``train``, ``val`` or ``all``.
        views: averaged into one score.
    """

    fit: ThresholdFit
    card: ModelCard
    images: Sequence[LabelledImage]
    scores: Scores
    split: str
    views: int

    @property
    def mos(self) -> Scores:
        """Labels of the photographs, (N,)."""
        return np.array([image.mos for image in self.images])

    def summary(self) -> str:
        """What the thresholds were fitted to, in one line."""
        target = self.fit.target
        return (
            f"{self.card.title}: {self.fit.photographs} photographs (split {self.split}), "
            f"views {self.views}; asked sensitivity {target.sensitivity:g}; ungradable: MOS < {target.usable_mos:g}, "
            f"good: MOS >= {target.good_mos:g}; no retina seen, counted as rejected: {self.fit.without_value}"
        )

    def rows(self) -> list[tuple[str, ...]]:
        """One row a threshold, under `COLUMNS`: both fitted ones, each followed by the card's."""
        rows: list[tuple[str, ...]] = []
        for name in ("usable", "good"):
            cut: FittedCut = getattr(self.fit, name)
            label = f"{name} (raised to usable)" if cut.raised else name
            interval = f"{cut.point.threshold:.2f} [{cut.low:.2f}, {cut.high:.2f}]"
            rows.append((label, interval, *_shares(cut.point), f"{cut.auc:.3f}"))
            mos_cut, threshold = getattr(self.fit.target, f"{name}_mos"), getattr(self.card.thresholds, name)
            now = operating_point(self.scores, self.mos, mos_cut, threshold)
            rows.append((f"{name}, card now", f"{threshold:.2f}", *_shares(now), ""))
        return rows

    def table(self) -> Table:
        """`rows` for a terminal."""
        table = Table()
        for column in COLUMNS:
            table.add_column(column, justify="left" if column == "threshold" else "right")
        for row in self.rows():
            table.add_row(*row)
        return table

    def to_json(self) -> str:
        """Everything that was measured, photograph by photograph; a score is null where no retina was seen."""
        content = {
            "model": {
                "name": self.card.name,
                "version": self.card.version,
                "weights_sha256": self.card.weights_sha256,
            },
            "card_thresholds": asdict(self.card.thresholds),
            "fitted_thresholds": asdict(self.fit.thresholds),
            "split": self.split,
            "views": self.views,
            **asdict(self.fit),
            "images": [
                {"file": str(image.path), "mos": image.mos, "score": None if score == NO_VALUE else round(score, 3)}
                for image, score in zip(self.images, self.scores.tolist(), strict=True)
            ],
        }
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    def write(self, folder: Path) -> None:
        """`thresholds.json`, `thresholds.png` and `thresholds.html` into a folder that exists.

        Raises:
            MissingExtraError: matplotlib is not installed.
            InputError: a file cannot be written.
        """
        png = picture(self.fit, self.scores, self.mos)
        shown = report_page(f"Thresholds of {self.card.title}", self.summary(), self.rows(), png)
        contents = {"json": self.to_json().encode(), "png": png, "html": shown}
        write_files(folder, {f"thresholds.{suffix}": content for suffix, content in contents.items()})


def picture(fit: ThresholdFit, scores: Scores, mos: Scores) -> bytes:
    """A PNG: scores by label with the thresholds and their intervals; what each threshold reaches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    plt = load_pyplot("the picture of the thresholds")
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.6), layout="constrained")
    _draw_distributions(left, fit, scores, mos)
    _draw_curves(right, fit, scores, mos)
    for axis in (left, right):
        for name, colour in COLOURS.items():
            cut: FittedCut = getattr(fit, name)
            axis.axvspan(cut.low, cut.high, color=colour, alpha=0.12, linewidth=0)
            axis.axvline(cut.point.threshold, color=colour, linewidth=1.6)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    return png_of(figure, plt)


def report_page(title: str, summary: str, rows: Sequence[tuple[str, ...]], png: bytes) -> bytes:
    """A self-contained HTML page."""
    return page(
        title,
        paragraph(summary),
        inline_image("score distributions, sensitivity and specificity", png),
        html_table(COLUMNS, rows, "numbers"),
        paragraph(MEANING),
    )


def _shares(point: OperatingPoint) -> tuple[str, str]:
    return _share(point.sensitivity), _share(point.specificity)


def _share(share: Proportion) -> str:
    return f"{share.value:.3f} [{share.low:.3f}, {share.high:.3f}] {share.hits}/{share.total}"


def _draw_distributions(axis: Any, fit: ThresholdFit, scores: Scores, mos: Scores) -> None:
    usable, good = fit.target.usable_mos, fit.target.good_mos
    classes = {
        f"MOS below {usable:g}": (mos < usable, COLOURS["usable"]),
        f"MOS {usable:g} to {good:g}": ((mos >= usable) & (mos < good), "#e09f3e"),
        f"MOS from {good:g}": (mos >= good, COLOURS["good"]),
    }
    drawn = [np.maximum(scores[chosen], -2) for chosen, _ in classes.values()]  # without a value: left of 0
    axis.hist(
        drawn,
        bins=np.arange(-2.5, 102.5, 2.5),
        stacked=True,
        color=[colour for _, colour in classes.values()],
        label=[f"{name}: {len(values)}" for name, values in zip(classes, drawn, strict=True)],
        alpha=0.8,
    )
    axis.set(title="scores by label, thresholds with 95 % intervals", xlabel="score", ylabel="photographs")
    axis.legend(fontsize=8)


def _draw_curves(axis: Any, fit: ThresholdFit, scores: Scores, mos: Scores) -> None:
    for name, cut in (("usable", fit.target.usable_mos), ("good", fit.target.good_mos)):
        points = [operating_point(scores, mos, cut, threshold) for threshold in GRID[::25]]
        for share, style in (("sensitivity", "-"), ("specificity", "--")):
            values = [getattr(point, share).value for point in points]
            axis.plot(GRID[::25], values, style, color=COLOURS[name], linewidth=1.5, label=f"{name}: {share}")
    axis.axhline(fit.target.sensitivity, color="#b0b0b0", linewidth=1)
    axis.set(title="what each threshold reaches", xlabel="threshold, points", ylim=(0, 1.02))
    axis.legend(fontsize=8, loc="lower center")
