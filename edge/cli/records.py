"""`fthnet records`: check, export and draw what `fthnet run --records` wrote."""

from __future__ import annotations

import contextlib
import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import click

from fthnet_kit.edge.errors import InputError, MissingExtraError
from fthnet_kit.edge.outputs.records.verify import Verification, read_records, verify
from fthnet_kit.edge.reporting.plots import load_pyplot

FIRST_COLUMNS = (
    "seq",
    "captured_at",
    "file",
    "frame",
    "score",
    "raw",
    "verdict",
    "reason",
    "age_ms",
    "latency_ms",
    "dropped",
)
LAST_COLUMNS = ("algorithm_name", "algorithm_version", "algorithm_manufacturer", "algorithm_parameters")
CHAIN_COLUMNS = ("lost_before", "removed_through", "prev", "chain")
INTEGERS = {"seq", "frame", "dropped", "lost_before", "removed_through"}
ROWS_AT_ONCE = 10_000
INT64 = 1 << 63
DRAWN = 100_000  # records in a picture; of more, every second, third …
NOTES_SHOWN = 20
COLOURS = {"good": "#0b6e4f", "usable": "#e09f3e", "reject": "#c1121f"}
REASON_COLOURS = ("#8d99ae", "#3d405b", "#bc6c25", "#6a4c93", "#1982c4", "#b0b0b0")

Row = dict[str, Any]


@click.group()
def records() -> None:
    """Check, export and draw the records of a run.

    PATH is the file that `fthnet run --records` wrote, with all its closed files; or one closed file; or
    the folder that holds them.
    """


@records.command("verify")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--head", metavar="HASH", help="Also find this chain value, which an earlier check printed as the head.")
def verify_command(path: Path, head: str | None) -> None:
    """Find altered, removed, inserted and swapped lines.

    Prints one line a problem; exit code 3 if there is any. Lines that are missing at the end do not
    show in the chain alone: note the head that this prints, elsewhere, and give it as --head later.
    """
    noted = None if head is None else head.strip().lower()
    found = verify(path, noted)
    for problem in found.problems:
        click.echo(str(problem))
    for note in found.notes[:NOTES_SHOWN]:
        click.echo(f"note: {note}")
    if len(found.notes) > NOTES_SHOWN:
        click.echo(f"note: {len(found.notes) - NOTES_SHOWN} more of these")
    click.echo(summary_line(found))
    if found.head is not None:
        click.echo(f"head: {found.head}")
    troubles = [f"{len(found.problems)} problem{'s' * (len(found.problems) != 1)}"] if found.problems else []
    if noted is not None:
        if found.noted_seq is None:
            troubles.append("no record with the noted head: cut off, written anew, or removed")
        else:
            click.echo(
                f"noted head: record {found.noted_seq}, {(found.last_seq or 0) - found.noted_seq} before the last"
            )
    if troubles:
        raise InputError(f"{path}: expected a whole chain, found {' and '.join(troubles)}")


def summary_line(found: Verification) -> str:
    """Such as ``whole: 120 records (0 to 119) in 2 files, 3 lost``."""
    span = "" if found.first_seq is None else f" ({found.first_seq} to {found.last_seq})"
    lost = f", {found.lost} lost, as the records say" if found.lost else ""
    state = "broken" if found.problems else "whole"
    return f"{state}: {found.records} records{span} in {found.files} file{'s' * (found.files != 1)}{lost}"


@records.command("export")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="FILE.csv or FILE.parquet.")
def export_command(path: Path, output: Path) -> None:
    """Write the records as one flat table, a row a record.

    What a record holds inside others becomes a column of its own, such as stage_infer_ms or
    truth_defocus. Parquet needs the extra `parquet`.
    """
    writers: dict[str, Callable[[Path, Path], int]] = {".csv": write_csv, ".parquet": write_parquet}
    if output.suffix.lower() not in writers:
        raise InputError(f"{output}: expected a name ending in .csv or .parquet, found {output.suffix or 'no ending'}")
    temporary = output.with_name(f".{output.name}.tmp")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        rows = writers[output.suffix.lower()](path, temporary)
        temporary.replace(output)
    except OSError as error:
        raise InputError(f"{output}: expected a place to write, found {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    click.echo(f"{rows} records: {output}")


def flatten(record: Mapping[str, Any]) -> Row:
    """One record as one row: numbers, words and None, in columns."""
    row: Row = {}
    for name, value in record.items():
        if name == "stage_ms" and isinstance(value, Mapping):
            row.update({f"stage_{stage}_ms": cell(ms) for stage, ms in value.items()})
        elif isinstance(value, Mapping):
            row.update({f"{name}_{inner}": cell(member) for inner, member in value.items()})
        elif name not in ("truth", "algorithm"):
            row[name] = cell(value)
    return row


def cell(value: Any) -> Any:
    """A value as a table takes it: what is deeper, or no text in UTF-8, as JSON or escaped."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, (list, dict)) or (isinstance(value, int) and not -INT64 <= value < INT64):
        return json.dumps(value)
    return value


def rows_of(path: Path, through: int | None = None) -> Iterator[Row]:
    """Rows of a chain, as they were written; not more than `through`."""
    return map(flatten, islice(read_records(path), through))


def columns_of(path: Path) -> tuple[dict[str, set[type]], int]:
    """All columns in their order, with the types of what they hold, and the number of rows."""
    kinds: dict[str, set[type]] = {}
    count = 0
    for row in rows_of(path):
        count += 1
        for name, value in row.items():
            kinds.setdefault(name, set()).add(type(value))
    if not count:
        raise InputError(f"{path}: expected records of `fthnet run`, found none")
    known = {*FIRST_COLUMNS, *LAST_COLUMNS, *CHAIN_COLUMNS}
    inner = sorted(kinds.keys() - known)
    names = [*FIRST_COLUMNS, *inner, *(name for name in (*LAST_COLUMNS, *CHAIN_COLUMNS) if name in kinds)]
    return {name: kinds.get(name, set()) - {type(None)} for name in names}, count


def write_csv(path: Path, output: Path) -> int:
    """A table with a header, UTF-8; empty where there is no value. Returns the number of rows."""
    columns, count = columns_of(path)
    with output.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(columns), restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows_of(path, count))
    return count


def write_parquet(path: Path, output: Path) -> int:
    """The same with types: integers, numbers, truth values, text, and `captured_at` as a time in UTC."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", purpose="writing Parquet") from error
    columns, count = columns_of(path)
    if columns["captured_at"] == {str} and any(as_time(row["captured_at"]) is None for row in rows_of(path, count)):
        columns["captured_at"].add(int)  # not all are times: text
    types = {name: arrow_type(pyarrow, name, kinds) for name, kinds in columns.items()}
    schema = pyarrow.schema(list(types.items()))
    rows = rows_of(path, count)
    with pyarrow.parquet.ParquetWriter(output, schema, compression="zstd") as writer:
        while batch := list(islice(rows, ROWS_AT_ONCE)):
            values = {
                name: pyarrow.array([as_type(row.get(name), kind, pyarrow) for row in batch], kind)
                for name, kind in types.items()
            }
            writer.write_table(pyarrow.table(values, schema=schema))
    return count


def arrow_type(pyarrow: Any, name: str, kinds: set[type]) -> Any:
    """The narrowest type that holds all values of a column."""
    if name == "captured_at" and kinds == {str}:
        return pyarrow.timestamp("us", tz="UTC")
    if name in INTEGERS and kinds <= {int}:
        return pyarrow.int64()
    if kinds == {bool}:
        return pyarrow.bool_()
    if kinds and kinds <= {int, float}:
        return pyarrow.float64()
    if not kinds and (name.endswith("_ms") or name in ("score", "raw")):
        return pyarrow.float64()
    return pyarrow.string()


def as_type(value: Any, kind: Any, pyarrow: Any) -> Any:
    """A value as its column's type takes it."""
    if value is None:
        return None
    if pyarrow.types.is_timestamp(kind):
        return as_time(value)
    if pyarrow.types.is_string(kind):
        return value if isinstance(value, str) else json.dumps(value)
    return float(value) if pyarrow.types.is_floating(kind) else value


def as_time(text: Any) -> datetime | None:
    """A record's time, or None for what is none."""
    try:
        time = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return time if time.tzinfo is not None else None


@records.command("plot")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="A PNG or SVG file.")
def plot_command(path: Path, output: Path) -> None:
    """Draw score, verdict, gaps with their reasons, and latency over time."""
    drawn, count = draw(path, output)
    thinned = f" (every {count // drawn}th of {count})" if drawn and count // drawn > 1 else ""
    click.echo(f"{drawn} records{thinned}: {output}")


def draw(path: Path, output: Path) -> tuple[int, int]:
    """Draw a chain; returns how many records are drawn, and how many there are.

    Raises:
        InputError: there is none, or the picture cannot be written.
        MissingExtraError: without matplotlib.
    """
    plt = load_pyplot("plotting")
    count = sum(as_time(record.get("captured_at")) is not None for record in read_records(path))
    if not count:
        raise InputError(f"{path}: expected records of `fthnet run`, found none")
    stride = math.ceil(count / DRAWN)
    timed = (record for record in read_records(path) if as_time(record.get("captured_at")) is not None)
    shown = [*islice(timed, 0, count, stride)]
    times = [datetime.fromisoformat(record["captured_at"]) for record in shown]
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(10, 5.2), sharex=True, height_ratios=(3, 2), layout="constrained"
    )
    _draw_gaps(above, times, shown)
    for verdict, colour in (*COLOURS.items(), (None, "#6c757d")):
        chosen = [index for index, record in enumerate(shown) if record.get("verdict") == verdict]
        points = [(times[index], _number(shown[index].get("score"))) for index in chosen]
        points = [(when, value) for when, value in points if value is not None]
        if points:
            label = f"{verdict or 'no verdict'} ({len(points)})"
            above.plot(*zip(*points, strict=True), ".", color=colour, markersize=3, label=label)
    above.set(ylabel="score", ylim=(0, 100))
    above.set_title(f"Records {shown[0]['seq']} to {shown[-1]['seq']}", loc="left")
    for name, colour, label in (
        ("latency_ms", "#3d405b", "capture to score"),
        ("age_ms", "#8d99ae", "age when scoring began"),
    ):
        values = [math.nan if (value := _number(record.get(name))) is None else value for record in shown]
        below.plot(times, values, ".", color=colour, markersize=2, label=label)
    below.set(xlabel="time (UTC)", ylabel="milliseconds")
    below.set_ylim(bottom=0)
    for axis in (above, below):
        if handles := axis.get_legend_handles_labels()[0]:
            axis.legend(
                loc="lower right",
                bbox_to_anchor=(1, 1),
                fontsize=8,
                ncols=len(handles),
                frameon=False,
                markerscale=3,
                borderaxespad=0.1,
            )
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, dpi=110)
    except (OSError, ValueError) as error:
        raise InputError(f"{output}: expected a PNG or SVG file that can be written, found {error}") from error
    finally:
        plt.close(figure)
    return len(shown), count


def _draw_gaps(axis: Any, times: list[datetime], shown: list[dict[str, Any]]) -> None:
    """A band for each stretch without a score, in the colour of its reason."""
    colours: dict[str, str] = {}
    for reason, group in groupby(range(len(shown)), key=lambda index: shown[index].get("reason")):
        stretch = list(group)
        if not isinstance(reason, str):
            continue
        new = reason not in colours
        colour = colours.setdefault(reason, REASON_COLOURS[len(colours) % len(REASON_COLOURS)])
        begin, end = times[stretch[0]], times[min(stretch[-1] + 1, len(times) - 1)]
        axis.axvspan(min(begin, end), max(begin, end), color=colour, alpha=0.35, label=reason if new else None)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
