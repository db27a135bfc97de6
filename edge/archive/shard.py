"""One shard: a pure function of names, bundle and options that leaves one whole Parquet file, or none."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fthnet_kit.edge.archive.inputs import load_pyarrow, read_bytes
from fthnet_kit.edge.archive.run_file import ArchiveRun, ModelOptions
from fthnet_kit.edge.errors import BundleError, EngineError, InputError, PictureError
from fthnet_kit.edge.formats.read import read_image
from fthnet_kit.edge.inference.scorer import QualityScorer
from fthnet_kit.edge.model.bundle import Bundle
from fthnet_kit.edge.model.score import STAGES

TIMES = ("read_ms", *(f"{stage}_ms" for stage in STAGES))  # the only columns that a second run changes
FAILURES = ("missing", "damaged", "unsupported", "too_large", "unclear", "engine_fault")  # reasons that quarantine
Row = dict[str, Any]


@dataclass(frozen=True)
class ShardTask:
    """What a worker is sent.

    Attributes:
        folder: the archive's folder.
        run: what is pinned.
        options: what scores.
        shard: number of the shard.
        names: its pictures.
    """

    folder: Path
    run: ArchiveRun
    options: ModelOptions
    shard: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class ShardDone:
    """What a worker sends back: the shard's number, its rows, and how many of them failed."""

    shard: int
    rows: int
    failed: int


def shard_path(folder: Path, shard: int) -> Path:
    """Where a finished shard lies."""
    return folder / "shards" / f"{shard:06}.parquet"


def schema() -> Any:
    """Columns of a shard, a row a picture."""
    pyarrow = load_pyarrow("parquet")
    text, number, whole = pyarrow.string(), pyarrow.float64(), pyarrow.int64()
    columns = {
        **{"id": whole, "file": text, "score": number, "raw": number, "verdict": text, "reason": text, "error": text},
        "bytes_read": whole,
        **dict.fromkeys(TIMES, number),
        **{"bundle_sha256": text, "kit": text, "backend": text},
    }
    return pyarrow.schema(list(columns.items()))


def score_shard(task: ShardTask) -> ShardDone:
    """Score a shard's pictures and write its file; it appears whole or not at all.

    Raises:
        BundleError: the bundle is missing, altered, or another one than the run's.
        EngineError: the engine failed on most pictures that it was given: the fault is its own.
        InputError: the file cannot be written.
    """
    scorer, backend = _opened(task.options, task.run.bundle_sha256)
    facts = {"bundle_sha256": task.run.bundle_sha256, "kit": task.run.kit, "backend": backend}
    ids = task.run.ids(task.shard)
    rows = [
        {"id": place, **_row(scorer, name, task.options.bits), **facts}
        for place, name in zip(ids, task.names, strict=True)
    ]
    faults = sum(row["reason"] == "engine_fault" for row in rows)
    if faults > sum(row.get("score") is not None for row in rows):
        raise EngineError(f"shard {task.shard}: expected scores, found {faults} engine faults; nothing was written")
    _write(task.folder, task.shard, rows)
    return ShardDone(task.shard, len(rows), sum(row["reason"] in FAILURES for row in rows))


@cache
def _opened(options: ModelOptions, bundle_sha256: str) -> tuple[QualityScorer, str]:
    """The one session of this process, and what runs it."""
    if options.threads == 1:
        import cv2

        cv2.setNumThreads(1)
    found = Bundle.open(options.bundle).card_sha256
    if found != bundle_sha256:
        raise BundleError(f"bundle: expected the card of this run ({bundle_sha256[:12]}…), found {found[:12]}…")
    scorer = QualityScorer.from_bundle(
        options.bundle,
        options.precision,
        options.views,
        options.backend,
        options.threads,
        cuda_graph=options.cuda_graph,
    )
    facts = scorer.backend.describe()
    return scorer, f"{facts['library']};{facts['provider']}"


def open_scorer(options: ModelOptions, run: ArchiveRun) -> None:
    """Open the session of this process now, so that what is wrong with it is said before the work begins."""
    _opened(options, run.bundle_sha256)


def _row(scorer: QualityScorer, name: str, bits: int | None) -> Row:
    row: Row = {"file": name, "bytes_read": 0}
    started = time.perf_counter()
    try:
        data = read_bytes(name)
        row["bytes_read"] = len(data)
        image = read_image(data, bits)
        row["read_ms"] = round(1e3 * (time.perf_counter() - started), 3)
        score = scorer.score(image)
    except PictureError as error:
        return {**row, "reason": error.kind, "error": str(error)}
    result = score.to_dict()
    return {
        **row,
        **{key: result[key] for key in ("score", "raw", "verdict", "reason")},
        **{f"{stage}_ms": result["stage_ms"].get(stage) for stage in STAGES},
        "error": "expected a plausible score, the engine gave none" if score.reason == "engine_fault" else None,
    }


def _write(folder: Path, shard: int, rows: Sequence[Row]) -> None:
    """Write beside the place and rename; what killed writers of this shard left behind goes."""
    pyarrow = load_pyarrow("parquet")
    path = shard_path(folder, shard)
    table = pyarrow.Table.from_pylist([_as_text(row) for row in rows], schema=schema())
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            pyarrow.parquet.write_table(table, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o600)
        Path(temporary).replace(path)
        for left in path.parent.glob(f".{path.name}.*.tmp"):
            left.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path}: expected a file that can be written, found {error.strerror or error}") from error


def _as_text(row: Row) -> Row:
    """Names that are no text in UTF-8 (a file system allows them) with their bytes escaped."""
    return {key: _escaped(value) if isinstance(value, str) else value for key, value in row.items()}


def _escaped(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
