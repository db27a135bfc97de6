"""The rows of an archive: read from its shards, checked against its run file, listed where they were quarantined."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fthnet_kit.edge.archive.inputs import load_pyarrow
from fthnet_kit.edge.archive.run_file import ArchiveRun
from fthnet_kit.edge.archive.shard import FAILURES, schema, shard_path
from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.files import write_files

QUARANTINE_NAME = "quarantine.csv"
SHOWN = 5  # shards named in a message


@dataclass(frozen=True)
class Checked:
    """What `verify` found.

    Attributes:
        rows: rows in all shards that are there.
        quarantined: rows whose picture could not be scored.
        missing: numbers of shards that are not there.
        problems: one line each.
    """

    rows: int
    quarantined: int
    missing: Sequence[int]
    problems: Sequence[str]


def missing_shards(run: ArchiveRun, folder: Path) -> list[int]:
    """Numbers of the shards that are not finished."""
    return [shard for shard in range(run.shards) if not shard_path(folder, shard).exists()]


def read_shard(folder: Path, shard: int, columns: Sequence[str] | None = None) -> Any:
    """A shard as a pyarrow table.

    Raises:
        InputError: it cannot be read, or is no shard.
    """
    pyarrow = load_pyarrow("parquet")
    path = shard_path(folder, shard)
    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise InputError(f"{path}: expected a shard, found none that can be read; delete it and score again") from error
    if table.schema.names != schema().names:
        raise InputError(f"{path}: expected the columns of a shard, found {', '.join(table.schema.names)}")
    return table if columns is None else table.select(list(columns))


def read_rows(run: ArchiveRun, folder: Path, columns: Sequence[str] | None = None) -> Any:
    """All rows of the finished shards as one pyarrow table.

    Raises:
        InputError: no finished shard, or one that cannot be read.
    """
    pyarrow = load_pyarrow("parquet")
    missing = set(missing_shards(run, folder))
    shards = [read_shard(folder, shard, columns) for shard in range(run.shards) if shard not in missing]
    if not shards:
        raise InputError(f"{folder}: expected finished shards, found none; `fthnet archive score` makes them")
    return pyarrow.concat_tables(shards)


def verify(folder: Path) -> Checked:
    """Check that the archive has exactly one row an input, made from what the run file pins.

    Raises:
        InputError: no run file.
    """
    run = ArchiveRun.read(folder)
    missing = missing_shards(run, folder)
    names = hashlib.sha256()
    rows = quarantined = 0
    problems = []
    for shard in range(run.shards):
        if shard in missing:
            continue
        try:
            table = read_shard(folder, shard)
        except InputError as error:
            problems.append(str(error))
            continue
        rows += len(table)
        quarantined += sum(reason in FAILURES for reason in table.column("reason").to_pylist())
        problems += _problems(run, folder, shard, table)
        for name in table.column("file").to_pylist():
            names.update(str(name).encode() + b"\0")
    stray = {path.name for path in (folder / "shards").glob("*.parquet")}
    stray -= {shard_path(folder, shard).name for shard in range(run.shards)}
    problems += [f"shards/{name}: expected shards of this run, found another file" for name in sorted(stray)]
    if not missing and not problems and names.hexdigest() != run.inputs_sha256:
        problems.append("rows: expected the names of the pinned inputs, found others")
    return Checked(rows, quarantined, missing, problems)


def _problems(run: ArchiveRun, folder: Path, shard: int, table: Any) -> Iterator[str]:
    path = shard_path(folder, shard)
    ids = run.ids(shard)
    if table.column("id").to_pylist() != list(ids):
        yield f"{path}: expected one row each for inputs {ids.start} to {ids.stop - 1}, found others"
    for column, pinned in (("bundle_sha256", run.bundle_sha256), ("kit", run.kit)):
        others = set(table.column(column).to_pylist()) - {pinned}
        if others:
            yield f"{path}: expected {column} {pinned}, found {', '.join(map(str, sorted(map(str, others))))}"
    for score, reason in zip(table.column("score").to_pylist(), table.column("reason").to_pylist(), strict=True):
        if (score is None) == (reason is None):
            yield f"{path}: expected a score or a reason in each row, found both or neither"
            return


def write_quarantine(run: ArchiveRun, folder: Path) -> int:
    """Write `quarantine.csv`: name, reason and message of every picture that could not be scored. Returns their number.

    Raises:
        InputError: a shard cannot be read, or the list cannot be written.
    """
    missing = set(missing_shards(run, folder))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("file", "reason", "error"))
    count = 0
    for shard in range(run.shards):
        if shard in missing:
            continue
        for row in read_shard(folder, shard, ("file", "reason", "error")).to_pylist():
            if row["reason"] in FAILURES:
                count += 1
                writer.writerow((row["file"], row["reason"], row["error"]))
    write_files(folder, {QUARANTINE_NAME: text.getvalue().encode()})
    return count
