"""How a score followed a simulated session: correlation with the simulator's truth, and a picture."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from fthnet_kit.calibration.agreement import srcc
from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.outputs.records.chain import read_records
from fthnet_kit.edge.reporting.plots import load_pyplot

FACTORS = ("severity", "defocus", "exposure", "motion", "occlusion")


@dataclass(frozen=True)
class SessionReport:
    """Spearman correlation between score and each true factor, over scored frames with the eye in view."""

    frames: int
    spearman: dict[str, float]


def read_session(path: Path) -> list[dict[str, Any]]:
    """Records of `fthnet run --source sim: --records FILE` that carry a truth, of all files of their chain.

    Args:
        path: what `fthnet records` takes: the live file, one closed file, or their folder.

    Raises:
        InputError: no file, none that can be read, no records, or none of the simulated camera.
    """
    try:
        records = list(read_records(path))
    except OSError as error:
        found = f"{error.filename or path}: expected a file that can be read, found {error.strerror}"
        raise InputError(f"{found}; who may read it?") from error
    if not records:
        raise InputError(f"{path}: expected records of `fthnet run`, found none; name its --records FILE")
    known = [record for record in records if record.get("truth") is not None]
    if not known:
        raise InputError(
            f"{path}: expected records of the simulated camera, found {len(records)} of another one; "
            "run it with --source sim:"
        )
    return known


def analyse(records: list[dict[str, Any]]) -> SessionReport:
    """Correlations; exposure counts by how far it is off, whichever way."""
    seen = [r for r in records if r["score"] is not None and r["truth"]["eye_in_view"]]
    scores = np.array([r["score"] for r in seen])
    truth = {factor: np.abs([r["truth"][factor] for r in seen]) for factor in FACTORS}
    return SessionReport(len(seen), {factor: srcc(scores, values) for factor, values in truth.items()})


def plot(records: list[dict[str, Any]], report: SessionReport, path: Path) -> None:
    """Score and truth over time, as PNG or SVG."""
    plt = load_pyplot("plotting")
    start = datetime.fromisoformat(records[0]["captured_at"])
    seconds = [(datetime.fromisoformat(r["captured_at"]) - start).total_seconds() for r in records]
    scores = [np.nan if r["score"] is None else r["score"] for r in records]
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(9, 4.8), sharex=True, height_ratios=(3, 2), layout="constrained"
    )
    above.plot(seconds, scores, color="#0b6e4f", linewidth=1.8)
    above.set(
        ylabel="score",
        ylim=(0, 100),
        title=f"A simulated handheld session: score and what was done to the picture ({report.frames} frames)",
    )
    for when, record in zip(seconds, records, strict=True):
        if record["score"] is None:
            above.axvline(when, color="#b0b0b0", linewidth=3, alpha=0.4)
    for factor, colour in (("defocus", "#c1121f"), ("exposure", "#e09f3e"), ("occlusion", "#3d405b")):
        values = [abs(r["truth"][factor]) for r in records]
        below.plot(
            seconds, values, color=colour, linewidth=1.4, label=f"{factor} (Spearman {report.spearman[factor]:+.2f})"
        )
    below.set(xlabel="seconds", ylabel="true severity", ylim=(0, 1.05))
    below.legend(loc="upper right", fontsize=8, ncols=3)
    for axis in (above, below):
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
