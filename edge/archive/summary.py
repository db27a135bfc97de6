"""What an archive's scores look like: histogram, worst and best, reasons, and folders."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from statistics import median
from typing import Any

from fthnet_kit.edge.archive.run_file import ArchiveRun
from fthnet_kit.edge.archive.shard import FAILURES
from fthnet_kit.edge.archive.table import missing_shards, read_rows
from fthnet_kit.edge.reporting.html_page import bars, box, cards, code, html_table, page, section, soft

BIN = 5  # points a bar
EXTREMES = 20
FOLDERS = 100  # listed at most, those with most pictures first
Named = tuple[str, float]


@dataclass(frozen=True)
class FolderSummary:
    """One folder of pictures."""

    folder: str
    pictures: int
    scored: int
    median: float | None
    rejected: int
    quarantined: int


@dataclass(frozen=True)
class Summary:
    """An archive in figures.

    Attributes:
        inputs: pictures of the run.
        rows: pictures that are done.
        verdicts, reasons: how many of each.
        histogram: pictures a bar of `BIN` points from 0 on; the last bar holds 100, too.
        median: score that half of the scored pictures do not reach.
        worst, best: names and scores.
        folders: those with most pictures.
        milliseconds: of reading and scoring, median a picture.
    """

    inputs: int
    rows: int
    verdicts: dict[str, int]
    reasons: dict[str, int]
    histogram: list[int]
    median: float | None
    worst: list[Named]
    best: list[Named]
    folders: list[FolderSummary]
    milliseconds: dict[str, float]

    def to_json(self) -> bytes:
        """As a file."""
        return (json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n").encode()


def summarise(folder: Path) -> Summary:
    """Figures of the shards that are finished.

    Raises:
        InputError: no run file, or no finished shard.
    """
    run = ArchiveRun.read(folder)
    columns = ("file", "score", "verdict", "reason", "read_ms", "preprocess_ms", "gate_ms", "infer_ms")
    table = read_rows(run, folder, columns)
    values: dict[str, list[Any]] = {name: table.column(name).to_pylist() for name in columns}
    pairs = zip(values["file"], values["score"], strict=True)
    scored = sorted(((name, score) for name, score in pairs if score is not None), key=lambda pair: (pair[1], pair[0]))
    counts = Counter(min(int(score) // BIN, 100 // BIN - 1) for _, score in scored)
    return Summary(
        inputs=run.inputs,
        rows=len(table),
        verdicts={name: values["verdict"].count(name) for name in ("good", "usable", "reject")},
        reasons=dict(Counter(reason for reason in values["reason"] if reason is not None).most_common()),
        histogram=[counts[bar] for bar in range(100 // BIN)],
        median=median(score for _, score in scored) if scored else None,
        worst=scored[:EXTREMES],
        best=scored[::-1][:EXTREMES],
        folders=_folders(values),
        milliseconds={name.removesuffix("_ms"): _median(values[name]) for name in columns[4:]},
    )


def _median(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return round(median(known), 3) if known else 0.0


def _folders(values: dict[str, list[Any]]) -> list[FolderSummary]:
    rows: dict[str, list[tuple[float | None, str | None, str | None]]] = {}
    for name, *rest in zip(*(values[key] for key in ("file", "score", "verdict", "reason")), strict=True):
        rows.setdefault(str(PurePosixPath(name).parent), []).append((rest[0], rest[1], rest[2]))
    found = []
    for folder, members in rows.items():
        scores = [score for score, _, _ in members if score is not None]
        found.append(
            FolderSummary(
                folder,
                len(members),
                len(scores),
                median(scores) if scores else None,
                sum(verdict == "reject" for _, verdict, _ in members),
                sum(reason in FAILURES for _, _, reason in members),
            )
        )
    return sorted(found, key=lambda each: (-each.pictures, each.folder))[:FOLDERS]


def summary_page(folder: Path, summary: Summary) -> bytes:
    """The figures as one HTML file that loads nothing."""
    run = ArchiveRun.read(folder)
    missing = len(missing_shards(run, folder))
    state = f"{missing} of {run.shards} shards are not finished" if missing else "All pictures are done"
    labels = {f"{BIN * bar} to {BIN * (bar + 1)}": float(count) for bar, count in enumerate(summary.histogram)}
    quarantined = sum(count for reason, count in summary.reasons.items() if reason in FAILURES)
    return page(
        f"Archive {folder.name}",
        cards(
            {
                "pictures done": f"{summary.rows:,}",
                "median score": "-" if summary.median is None else f"{summary.median:.1f}",
                **{name: f"{count:,}" for name, count in summary.verdicts.items()},
                "quarantined": f"{quarantined:,}",
            }
        ),
        box(state, [f"{missing} shards: the same command goes on"] if missing else []),
        section("Scores", bars(labels, _count)),
        section("Without a score", bars({name: float(count) for name, count in summary.reasons.items()}, _count)),
        section("Worst", html_table(("picture", "score"), _extremes(summary.worst), "numbers")),
        section("Best", html_table(("picture", "score"), _extremes(summary.best), "numbers")),
        section("Folders", html_table(FOLDER_COLUMNS, map(folder_cells, summary.folders), "numbers")),
        section(
            "Made from",
            code(f"{run.bundle}, card {run.bundle_sha256}"),
            soft(f"kit {run.kit}, precision {run.precision}, backend {run.backend}, {run.views} views"),
            soft(", ".join(f"{name} {ms:.1f} ms" for name, ms in summary.milliseconds.items()) + " a picture (median)"),
        ),
    )


FOLDER_COLUMNS = ("folder", "pictures", "scored", "median", "reject", "quarantined")


def folder_cells(each: FolderSummary) -> tuple[str, ...]:
    """A row of a table under `FOLDER_COLUMNS`."""
    middle = "-" if each.median is None else f"{each.median:.1f}"
    return each.folder, f"{each.pictures:,}", f"{each.scored:,}", middle, f"{each.rejected:,}", f"{each.quarantined:,}"


def _extremes(named: Iterable[Named]) -> Iterable[tuple[str, str]]:
    return ((name, f"{score:.1f}") for name, score in named)


def _count(value: float) -> str:
    return f"{value:,.0f}"
