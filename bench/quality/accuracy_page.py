"""What `fthnet bench accuracy` shows: tables in the terminal; JSON, a page and a picture in a folder."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from fthnet_kit.bench.quality.accuracy import (
    QUALITIES,
    REFUSED,
    WITHOUT_SCORE,
    AccuracyReport,
    Baseline,
    ClassedSet,
    DataSet,
    Estimate,
    PrecisionAgreement,
    RatedSet,
    Run,
)
from fthnet_kit.calibration.agreement import DRAWS, Scores
from fthnet_kit.convert.precision.gate_table import model_facts
from fthnet_kit.edge.files import write_files
from fthnet_kit.edge.model.choices import MEANINGS
from fthnet_kit.edge.model.score import Thresholds
from fthnet_kit.edge.reporting.html_page import heading, html_table, inline_image, meanings, page, paragraph
from fthnet_kit.edge.reporting.json_file import json_file
from fthnet_kit.edge.reporting.plots import load_pyplot, png_of

SCHEMA, SCHEMA_VERSION = "fthnet-accuracy", 1
DEVICE_FACTS = (
    "model", "soc", "cpu_model", "architecture", "cores", "governor", "load_average", "memory_total_mb", "system",
    "kernel", "l4t", "jetpack", "power_mode",
)  # fmt: skip
DOT, RING, LINE, PALE = "#0b6e4f", "#c1121f", "#3d405b", "#b0b0b0"
MEANING = {
    "precision": MEANINGS,
    "views": "crops of a photograph that are averaged into its score; the released protocol of FTHNet averages 20",
    "PLCC, SRCC, KRCC": "Pearson, Spearman and Kendall (tau-b) correlation of score and mean opinion score (MOS)",
    "RMSE": "root mean square difference between score and mean opinion score, in points",
    "AUC": "share of pairs of a good and a bad photograph in which the good one scores higher; ties count half",
    "[95 %]": "95 % bootstrap interval over photographs; several of one patient make it too narrow",
    "ms": "milliseconds to prepare and score a photograph that is in memory, while the precisions take turns; "
    "`fthnet bench latency` is the measure of speed",
    "mean |Δ|, p99 |Δ|, max |Δ|": "how far a score moves from one precision to the other, in points, without its sign",
    "SRCC between": "Spearman correlation between the scores of both precisions; 1: the same order",
    "flips": "photographs whose verdict (good, usable, reject) is another one; down: how many of them have a lower one",
    "mean gradient, Laplacian variance, contrast": "simple measures of the same views, no model: mean Sobel gradient, "
    "variance of the Laplacian and standard deviation of green",
    "what the model has more": "the metric of the model less that of the simple measure, over the same draws of the "
    "bootstrap; an interval that holds 0 says that these photographs do not tell them apart",
    "what it changes in the metrics": "the metric of the second precision less that of the first; the bootstrap draws "
    "the same photographs for both, so the interval is that of the change itself",
}
HOW = (
    "No logistic function is fitted to the scores before PLCC and RMSE, as some papers do. A photograph in which no "
    "retina is seen has no score: it counts as 0 in correlations and RMSE and lies below all others in the AUC. "
    "Photographs that trained or chose the model make its figures too favourable."
)
FOLDS = (
    "One model scored every fold. The paper's cross-validation trains a model for each fold on the others; only with "
    "folds that the model was not trained on can the figures be compared."
)
PICTURE_MEANING = (
    "Upper panels: each dot is a photograph, one score against the label or against the other precision; dashed: both "
    "the same; dotted: the thresholds of the verdicts. Lower panels (Bland-Altman): their difference against their "
    "mean; solid line: mean difference, dashed: 1.96 standard deviations around it. A red ring: another verdict. For "
    "classes: scores by class, and the ROC curve of good against bad."
)


@dataclass(frozen=True)
class Section:
    """A table under its title."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def for_terminal(self) -> Table:
        """For rich; brackets are brackets, no markup."""
        table = Table(title=self.title, title_justify="left")
        for place, column in enumerate(self.columns):
            table.add_column(Text(column), justify="left" if place == 0 else "right", no_wrap=place == 0)
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table


def accuracy_reports(report: AccuracyReport) -> dict[str, bytes]:
    """Files by name: `accuracy.json`, `.png` and `.html`.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    png = picture(report)
    return {
        "accuracy.json": json_file(report_facts(report)),
        "accuracy.png": png,
        "accuracy.html": report_page(report, png),
    }


def write_reports(report: AccuracyReport, folder: Path) -> None:
    """`accuracy_reports` into a folder that exists; raises InputError where a file cannot be written."""
    write_files(folder, accuracy_reports(report))


def report_facts(report: AccuracyReport) -> dict[str, Any]:
    """Everything, photograph by photograph, as `accuracy.schema.json` has it; all metrics follow from it."""
    card, device = report.card, report.device.to_dict()
    return {
        "schema": SCHEMA,
        "version": SCHEMA_VERSION,
        "kit_version": version("fthnet-edge-kit"),
        "measured_at": report.measured_at,
        "model": {
            **model_facts(card),
            "thresholds": asdict(card.thresholds),
            "preprocessing": asdict(card.preprocessing),
            "precisions": sorted({run.form for run in report.runs}),
        },
        "device": {name: device[name] for name in DEVICE_FACTS},
        "method": {
            "bootstrap": {"draws": DRAWS, "seed": 0, "level": 0.95, "interval": "percentile"},
            "logistic_fit": False,
            "score_of_no_retina": {"mos": WITHOUT_SCORE, "classes": REFUSED},
        },
        "data": [data_facts(data) for data in report.data],
        "left_out": dict(report.left_out),
        "runs": [run_facts(run, report.data[run.data]) for run in report.runs],
        "agreement": [agreement_facts(found) for found in report.agreements],
        "baselines": [baseline_facts(found) for found in report.baselines],
    }


def data_facts(data: DataSet) -> dict[str, Any]:
    """Photographs and labels of a set."""
    names = [path.relative_to(data.folder).as_posix() for path in data.paths]
    facts = {"folder": str(data.folder), "images": len(names)}
    if isinstance(data, ClassedSet):
        labelled = zip(names, data.qualities, strict=True)
        return facts | {"labels": "classes", "photographs": [{"file": n, "quality": q} for n, q in labelled]}
    photographs: list[dict[str, Any]] = [
        {"file": name, "mos": mos} for name, mos in zip(names, data.mos.tolist(), strict=True)
    ]
    for photograph, fold in zip(photographs, data.folds, strict=False):
        photograph["fold"] = fold
    return facts | {"labels": "mos", "split": data.split, "photographs": photographs}


def run_facts(run: Run, data: DataSet) -> dict[str, Any]:
    """One precision at one number of views."""
    facts: dict[str, Any] = {
        "data": run.data,
        "precision": run.precision,
        "form": run.form,
        "emulated": run.emulated,
        "backend": dict(run.backend),
        "views": run.views,
        "images": len(run.scores),
        "without_score": run.without_score,
        "metrics": _estimates(run.metrics),
        "ms_per_picture": {"median": run.ms_percentile(50), "p95": run.ms_percentile(95)},
        "scores": run.scores.tolist(),
        "ms": run.ms.tolist(),
    }
    if run.folds:
        facts["folds"] = [
            {"fold": fold.name, "images": fold.images, "metrics": _estimates(fold.metrics)} for fold in run.folds
        ]
        facts["fold_means"] = {name: {"mean": m, "deviation": sd} for name, (m, sd) in run.fold_means().items()}
    if isinstance(data, ClassedSet):
        facts["classes"] = _class_scores(run, data)
    return facts


def agreement_facts(found: PrecisionAgreement) -> dict[str, Any]:
    """One precision against another."""
    return {
        "data": found.data,
        "views": found.views,
        "reference": found.reference,
        "form": found.form,
        "cost": found.cost.to_dict(),
        "verdicts": {row: dict(counts) for row, counts in found.verdicts.items()},
        "changes": _estimates(found.changes),
    }


def baseline_facts(found: Baseline) -> dict[str, Any]:
    """One simple measure beside the model."""
    return {
        "data": found.data,
        "views": found.views,
        "measure": found.name,
        "form": found.form,
        "metrics": _estimates(found.metrics),
        "gains": _estimates(found.gains),
        "values": found.values.tolist(),
    }


def _estimates(metrics: Mapping[str, Estimate]) -> dict[str, dict[str, float]]:
    return {name: asdict(estimate) for name, estimate in metrics.items()}


def _class_scores(run: Run, data: ClassedSet) -> dict[str, list[float]]:
    return {quality: data.scores_of(quality, run.scores).tolist() for quality in QUALITIES}


def head_lines(report: AccuracyReport) -> list[str]:
    """Model, machine, and what was left out."""
    card, device = report.card, report.device
    machine = ", ".join(dict.fromkeys(fact for fact in (device.model, device.cpu_model, device.power_mode) if fact))
    backends = sorted({f"{run.form}: {', '.join(run.backend.values())}" for run in report.runs})
    lines = [
        f"{card.title}, weights {card.weights_sha256[:12]}",
        f"{machine or 'machine'}: {'; '.join(backends)}",
    ]
    if any(run.emulated for run in report.runs):
        lines.append("fp16 is emulated: ONNX Runtime computes FP16 in FP32 on a CPU")
    return lines + [f"{precision} left out: {reason}" for precision, reason in report.left_out.items()]


def data_line(report: AccuracyReport, place: int) -> str:
    """What one set of photographs is."""
    data = report.data[place]
    lost = max((run.without_score for run in report.runs if run.data == place), default=0)
    if isinstance(data, ClassedSet):
        what = ", ".join(f"{data.qualities.count(quality)} {quality}" for quality in QUALITIES)
        counted = "below all others"
    else:
        folds = f", {len(data.fold_names())} folds" if data.folds else ""
        what = f"split {data.split}{folds}, MOS {data.mos.min():g} to {data.mos.max():g}"
        counted = "as 0"
    return f"{data.folder}: {len(data.paths)} photographs ({what}); {lost} without a score, counted {counted}"


def sections(report: AccuracyReport, place: int) -> Iterator[Section]:
    """The tables of one set of photographs."""
    data = report.data[place]
    runs = [run for run in report.runs if run.data == place]
    baselines = [found for found in report.baselines if found.data == place]
    yield _accuracy_section(runs, baselines)
    if baselines:
        yield _gain_section(baselines)
    agreements = [found for found in report.agreements if found.data == place]
    if agreements:
        yield from _agreement_sections(agreements)
    if isinstance(data, ClassedSet):
        yield _class_section(runs, data, report.card.thresholds)
    elif data.folds:
        yield _fold_section(runs)


def _accuracy_section(runs: Sequence[Run], baselines: Sequence[Baseline]) -> Section:
    names = tuple(runs[0].metrics)
    rows = [
        (
            run.form,
            str(run.views),
            *(_interval(run.metrics[name], _form(name)) for name in names),
            *(_number(run.ms_percentile(percentile), ".1f") for percentile in (50, 95)),
        )
        for run in runs
    ]
    rows += [
        (
            found.name,
            str(found.views),
            *(_interval(found.metrics[name], _form(name)) if name in found.metrics else "–" for name in names),
            "–",
            "–",
        )
        for found in baselines
    ]
    columns = ("precision", "views", *(f"{name} [95 %]" for name in names), "ms p50", "ms p95")
    return Section("Accuracy", columns, tuple(rows))


def _gain_section(baselines: Sequence[Baseline]) -> Section:
    names = tuple(baselines[0].gains)
    rows = tuple(
        (
            f"{found.form} less {found.name}",
            str(found.views),
            *(_interval(found.gains[name], _form(name, change=True)) for name in names),
        )
        for found in baselines
    )
    return Section(
        "What the model has more than a simple measure", ("", "views", *(f"{n} [95 %]" for n in names)), rows
    )


def _agreement_sections(agreements: Sequence[PrecisionAgreement]) -> Iterator[Section]:
    labels = [(f"{found.reference} → {found.form}", str(found.views)) for found in agreements]
    scores = [
        (
            *(f"{value:.3f}" for value in (found.cost.mean, found.cost.p99, found.cost.worst)),
            _number(found.cost.srcc, ".4f"),
            f"{found.cost.flips} of {found.cost.images} ({_lowered(found)} down)",
        )
        for found in agreements
    ]
    names = tuple(agreements[0].changes)
    changes = [
        tuple(_interval(found.changes[name], _form(name, change=True)) for name in names) for found in agreements
    ]
    columns = {
        "What the precision changes": (scores, ("mean |Δ|", "p99 |Δ|", "max |Δ|", "SRCC between", "flips")),
        "What it changes in the metrics": (changes, tuple(f"{name} [95 %]" for name in names)),
    }
    for title, (found, heads) in columns.items():
        rows = tuple((*label, *row) for label, row in zip(labels, found, strict=True))
        yield Section(title, ("precision", "views", *heads), rows)


def _lowered(found: PrecisionAgreement) -> int:
    down = found.verdicts["good"]["usable"] + found.verdicts["good"]["reject"]
    return down + found.verdicts["usable"]["reject"]


def _class_section(runs: Sequence[Run], data: ClassedSet, thresholds: Thresholds) -> Section:
    rows = []
    for run in runs:
        for quality, found in _class_scores(run, data).items():
            scores = np.array(found)
            if len(scores):
                known = scores[scores != REFUSED]
                values = " ".join(f"{score:.0f}" if score != REFUSED else "none" for score in sorted(scores))
                rows.append(
                    (
                        run.form,
                        str(run.views),
                        quality,
                        str(len(scores)),
                        _number(float(known.mean()) if len(known) else math.nan, ".1f"),
                        str(int(np.sum(scores < thresholds.usable))),
                        str(len(scores) - len(known)),
                        values if quality == "outlier" else "",
                    )
                )
    below = f"below {thresholds.usable:g}"
    columns = ("precision", "views", "class", "photographs", "mean", below, "no retina seen", "each one")
    return Section("Classes: mean score, and how many are rejected", columns, tuple(rows))


def _fold_section(runs: Sequence[Run]) -> Section:
    names = tuple(runs[0].metrics)
    rows = []
    for run in runs:
        for fold in run.folds:
            values = (_interval(fold.metrics[name], _form(name)) for name in names)
            rows.append((run.form, str(run.views), fold.name, str(fold.images), *values))
        means = (
            f"{_number(m, _form(name))} ± {_number(sd, _form(name))}" for name, (m, sd) in run.fold_means().items()
        )
        rows.append((run.form, str(run.views), "mean ± SD", str(len(run.scores)), *means))
    columns = ("precision", "views", "fold", "photographs", *(f"{name} [95 %]" for name in names))
    return Section("Folds", columns, tuple(rows))


def _interval(found: Estimate, form: str) -> str:
    value, low, high = (_number(number, form) for number in (found.value, found.low, found.high))
    return f"{value} [{low}, {high}]"


def _form(name: str, change: bool = False) -> str:
    """How a metric, or a change of it, is printed."""
    digits = (2 if name == "RMSE" else 3) + change
    return f"{'+' if change else ''}.{digits}f"


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "–"


def report_page(report: AccuracyReport, png: bytes) -> bytes:
    """A page that needs nothing beside it."""
    parts = [paragraph(line) for line in (*head_lines(report), f"Measured at {report.measured_at}")]
    for place, data in enumerate(report.data):
        parts += [heading(data.folder.name or str(data.folder)), paragraph(data_line(report, place))]
        for section in sections(report, place):
            parts += [paragraph(f"{section.title}:"), html_table(section.columns, section.rows)]
        if isinstance(data, RatedSet) and data.folds:
            parts.append(paragraph(FOLDS))
    return page(
        f"Accuracy of {report.card.title}",
        *parts,
        paragraph(HOW),
        meanings(MEANING),
        heading("Every photograph"),
        inline_image("scores against labels and against each other, with Bland-Altman panels", png),
        paragraph(PICTURE_MEANING),
    )


def picture(report: AccuracyReport) -> bytes:
    """A PNG: for each set and number of views a block, in it a column for each precision and each agreement.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    plt = load_pyplot("the picture of the accuracy")
    blocks = list(dict.fromkeys((run.data, run.views) for run in report.runs))
    columns = {block: _runs_of(report, block) for block in blocks}
    wide = max(2 * len(runs) - 1 for runs in columns.values())
    figure = plt.figure(figsize=(max(7, 3.9 * wide), 7.2 * len(blocks)), layout="constrained")
    for part, (block, runs) in zip(
        figure.subfigures(len(blocks), 1, squeeze=False)[:, 0], columns.items(), strict=True
    ):
        _draw_block(part, report, block[0], runs)
    return png_of(figure, plt)


def _runs_of(report: AccuracyReport, block: tuple[int, int]) -> list[Run]:
    return [run for run in report.runs if (run.data, run.views) == block]


def _draw_block(figure: Any, report: AccuracyReport, place: int, runs: Sequence[Run]) -> None:
    data, thresholds = report.data[place], report.card.thresholds
    figure.suptitle(f"{data.folder.name}, {len(data.paths)} photographs, views {runs[0].views}")
    axes = figure.subplots(2, 2 * len(runs) - 1, squeeze=False)
    for column, run in zip(axes.T, runs, strict=False):
        if isinstance(data, ClassedSet):
            _draw_classes(column, data, run, thresholds)
        else:
            scores = np.where(np.isnan(run.scores), WITHOUT_SCORE, run.scores)
            _draw_pair(column, data.mos, scores, ("MOS", run.form))
            _draw_thresholds(column[0], thresholds)
            words = (f"{name} {_number(found.value, _form(name))}" for name, found in run.metrics.items())
            column[0].set_title(", ".join(words), fontsize=9)
    for column, run in zip(axes.T[len(runs) :], runs[1:], strict=True):
        seen = np.isfinite(run.scores)
        a, b = runs[0].scores[seen], run.scores[seen]
        _draw_pair(column, a, b, (runs[0].form, run.form))
        _draw_thresholds(column[0], thresholds)
        _draw_flips(column, a, b, thresholds)
    for axis in axes.flat:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)


def _draw_pair(column: Any, a: Scores, b: Scores, names: tuple[str, str]) -> None:
    """Scatter above, Bland-Altman below."""
    upper, lower = column
    upper.plot((0, 100), (0, 100), "--", color=PALE, linewidth=1)
    upper.plot(a, b, "o", markersize=3, alpha=0.6, color=DOT)
    upper.set(xlim=(0, 100), ylim=(0, 100), xlabel=f"{names[0]}, points", ylabel=f"{names[1]}, points")
    difference = b - a
    lower.plot((a + b) / 2, difference, "o", markersize=3, alpha=0.6, color=DOT)
    mean = spread = 0.0
    if len(difference) > 1:
        mean, spread = float(difference.mean()), 1.96 * float(difference.std(ddof=1))
        for line, style in ((mean, "-"), (mean - spread, "--"), (mean + spread, "--")):
            lower.axhline(line, color=LINE, linewidth=1.2, linestyle=style)
        lower.set_title(f"mean {mean:+.2f}, ± 1.96 SD {mean - spread:+.2f} to {mean + spread:+.2f}", fontsize=9)
    reach = 1.15 * max([*np.abs(difference), abs(mean) + spread], default=0.0) or 1.0
    lower.set(ylim=(-reach, reach))
    lower.set(xlabel="mean of both, points", ylabel=f"{names[1]} less {names[0]}, points", xlim=(0, 100))


def _draw_thresholds(axis: Any, thresholds: Thresholds) -> None:
    for threshold in (thresholds.usable, thresholds.good):
        axis.axhline(threshold, color=LINE, linewidth=1, linestyle=":")


def _draw_flips(column: Any, a: Scores, b: Scores, thresholds: Thresholds) -> None:
    pairs = zip(a.tolist(), b.tolist(), strict=True)
    flips = np.array([thresholds.verdict(x) != thresholds.verdict(y) for x, y in pairs], bool)
    a, b = a[flips], b[flips]
    for axis, x, y in ((column[0], a, b), (column[1], (a + b) / 2, b - a)):
        axis.plot(x, y, "o", markersize=9, markerfacecolor="none", color=RING)
    column[0].set_title(f"{int(flips.sum())} of {len(flips)} verdicts flip", fontsize=9)


def _draw_classes(column: Any, data: ClassedSet, run: Run, thresholds: Thresholds) -> None:
    """Scores by class above, ROC of good against bad below."""
    upper, lower = column
    for place, quality in enumerate(QUALITIES):
        scores = data.scores_of(quality, run.scores)
        beside = np.linspace(-0.25, 0.25, len(scores)) if len(scores) > 1 else np.zeros(len(scores))
        upper.plot(place + beside, np.sort(scores), "o", markersize=4, alpha=0.6, color=DOT)
    upper.set(xticks=range(len(QUALITIES)), xticklabels=QUALITIES, ylim=(-3, 100), ylabel=f"{run.form}, points")
    _draw_thresholds(upper, thresholds)
    good, bad = data.scores_of("good", run.scores), data.scores_of("bad", run.scores)
    cuts = np.concatenate([[np.inf], np.unique(np.concatenate([good, bad]))[::-1]])
    lower.plot([np.mean(bad >= cut) for cut in cuts], [np.mean(good >= cut) for cut in cuts], color=DOT, linewidth=1.6)
    lower.plot((0, 1), (0, 1), "--", color=PALE, linewidth=1)
    lower.set(xlabel="share of bad from the cut up", ylabel="share of good from the cut up")
    lower.set_title(f"AUC {_interval(run.metrics['AUC'], _form('AUC'))}", fontsize=9)
