"""How far a score falls with the severity of each synthetic degradation, on the best photographs of an image set."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rich.table import Table

from fthnet_kit.bench.quality.looks import LooksReport
from fthnet_kit.calibration.agreement import srcc
from fthnet_kit.calibration.labelled_images import LabelledImage
from fthnet_kit.edge.capture.degradations import DEGRADATIONS, degrade
from fthnet_kit.edge.files import write_files
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.inference.backend import Backend
from fthnet_kit.edge.model.card import ModelCard
from fthnet_kit.edge.model.preprocess import INPUT, MARGIN, Preprocessing, canonical_file
from fthnet_kit.edge.reporting.plots import load_pyplot, png_of

KIND = "fthnet-severity"
SEVERITIES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class SeverityReport:
    """Scores of degraded photographs.

    Attributes:
        severities: S rising severities, the first 0.
        images: the N photographs.
        scores: points (N, S) of each degradation; at severity 0 all share one score.
    """

    severities: tuple[float, ...]
    images: tuple[LabelledImage, ...]
    scores: dict[str, npt.NDArray[np.float64]]

    def means(self, name: str) -> npt.NDArray[np.float64]:
        """Mean score over the photographs at each severity, points (S,)."""
        return np.asarray(self.scores[name].mean(axis=0))

    def spearman(self, name: str) -> float:
        """Spearman correlation between severity and mean score: -1 where it falls throughout; nan where it is flat."""
        return srcc(np.array(self.severities), self.means(name))

    def drop(self, name: str) -> float:
        """Points that the mean loses from the first severity to the last."""
        means = self.means(name)
        return float(means[0] - means[-1])


def best_images(images: Sequence[LabelledImage], count: int) -> list[LabelledImage]:
    """The `count` photographs of the highest MOS, best first; all of them where there are fewer."""
    return sorted(images, key=lambda image: -image.mos)[:count]


def degraded_view(field: Image, name: str, severity: float, seed: int) -> Image:
    """The network's centre view of a degraded photograph.

    The degradation acts on the whole field, as it would in the camera, and on the field at 512x512, so that it
    costs little; at severity 0 the view may differ from `preprocess.prepare`'s by what resizing in one go does.

    Args:
        field: the field at 512x512, BGR, from `preprocess.canonical`.
        name, severity, seed: as `degradations.degrade` takes them.

    Returns:
        RGB uint8 (384, 384, 3).
    """
    degraded = degrade(field, name, severity, seed)
    return cv2.cvtColor(degraded[MARGIN : MARGIN + INPUT, MARGIN : MARGIN + INPUT], cv2.COLOR_BGR2RGB)


def score_severities(
    backend: Backend, field: Image, seed: int, severities: Sequence[float] = SEVERITIES
) -> npt.NDArray[np.float64]:
    """Scores of one photograph under every degradation: points (10, S), clipped to 0-100 as the runtime does.

    Args:
        backend: what scores; the gate before it is left out, so that every picture has a value.
        field: as `degraded_view` takes it.
        seed: of direction, place and noise, the same at every severity.
        severities: S rising severities, the first 0, where nothing is degraded and one score serves all.
    """
    clean = degraded_view(field, "defocus", 0.0, seed)
    views = [degraded_view(field, name, severity, seed) for name in DEGRADATIONS for severity in severities[1:]]
    scores = np.clip(backend.infer(np.stack([clean, *views])), 0, 100).astype(np.float64)
    degraded = scores[1:].reshape(len(DEGRADATIONS), len(severities) - 1)
    return np.column_stack([np.full(len(DEGRADATIONS), scores[0]), degraded])


def measure_severity(
    backend: Backend,
    preprocessing: Preprocessing,
    images: Iterable[LabelledImage],
    severities: Sequence[float] = SEVERITIES,
) -> SeverityReport:
    """Score every photograph under every degradation; the seed is a photograph's name, so that runs repeat.

    Raises:
        InputError: a photograph cannot be read.
        EngineError: the engine failed.
    """
    seen, scores = [], []
    for image in images:
        field = canonical_file(image.path, preprocessing)
        scores.append(score_severities(backend, field, zlib.crc32(image.path.name.encode()), severities))
        seen.append(image)
    by_name = np.stack(scores, axis=1)  # (10, N, S)
    return SeverityReport(tuple(severities), tuple(seen), dict(zip(DEGRADATIONS, by_name, strict=True)))


def severity_table(report: SeverityReport) -> Table:
    """Mean score at each severity, Spearman correlation (SRCC) and drop, one row a degradation; 80 columns wide."""
    table = Table()
    table.add_column("degradation", no_wrap=True)
    for column in (*(f"{severity:g}" for severity in report.severities), "SRCC", "drop"):
        table.add_column(column, justify="right", no_wrap=True)
    for name in report.scores:
        means = (f"{mean:.1f}" for mean in report.means(name))
        spearman = report.spearman(name)
        correlation = "-" if math.isnan(spearman) else f"{spearman:+.2f}"
        table.add_row(name, *means, correlation, f"{report.drop(name):.1f}")
    return table


def report_json(report: SeverityReport, card: ModelCard, looks: LooksReport | None = None) -> str:
    """Everything that was measured, photograph by photograph; a correlation is null where the mean is flat."""
    content = {
        "kind": KIND,
        "model": {"name": card.name, "version": card.version, "weights_sha256": card.weights_sha256},
        "severities": report.severities,
        "images": [{"file": str(image.path), "mos": image.mos} for image in report.images],
        "degradations": {
            name: {
                "mean": report.means(name).round(3).tolist(),
                "spearman": None if math.isnan(report.spearman(name)) else round(report.spearman(name), 4),
                "drop": round(report.drop(name), 3),
                "scores": scores.round(3).tolist(),
            }
            for name, scores in report.scores.items()
        },
        **({} if looks is None else looks.to_dict()),
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def picture(report: SeverityReport) -> bytes:
    """A PNG: score over severity for each degradation, mean and the middle 80 % of the photographs.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    plt = load_pyplot("the picture of the severities")
    figure, axes = plt.subplots(2, 5, figsize=(14, 5.6), sharex=True, sharey=True, layout="constrained")
    for axis, name in zip(axes.flat, report.scores, strict=True):
        _draw(axis, report, name)
    figure.supxlabel("severity")
    figure.supylabel("score")
    figure.suptitle(f"Score over severity, {len(report.images)} photographs: mean, 10th to 90th percentile")
    return png_of(figure, plt)


def write_report(report: SeverityReport, card: ModelCard, folder: Path, looks: LooksReport | None = None) -> None:
    """`severity.json` and `severity.png` into a folder that exists.

    Raises:
        MissingExtraError: matplotlib is not installed.
        InputError: a file cannot be written.
    """
    write_files(folder, {"severity.json": report_json(report, card, looks).encode(), "severity.png": picture(report)})


def _draw(axis: Any, report: SeverityReport, name: str) -> None:
    low, high = np.percentile(report.scores[name], [10, 90], axis=0)
    axis.fill_between(report.severities, low, high, color="#0b6e4f", alpha=0.15, linewidth=0)
    axis.plot(report.severities, report.means(name), color="#0b6e4f", linewidth=1.8, marker="o", markersize=3)
    axis.set(title=f"{name} ({-report.drop(name):+.0f})", ylim=(0, 100), xlim=(0, 1))
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
