"""Records as a table: CSV and Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from fthnet_kit.edge.errors import InputError, MissingExtraError
from fthnet_kit.edge.outputs.records.chain import read_records
from fthnet_kit.edge.outputs.records.plot import as_time

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
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # the last four: full-width
ROWS_AT_ONCE = 10_000
INT64 = 1 << 63
Row = dict[str, Any]


def flatten(record: Mapping[str, Any]) -> Row:
    """One record as one row: numbers, words and None, in columns."""
    row: Row = {}
    for member, value in record.items():
        name = cell(member)
        if name == "stage_ms" and isinstance(value, Mapping):
            row.update({f"stage_{cell(stage)}_ms": cell(ms) for stage, ms in value.items()})
        elif isinstance(value, Mapping):
            row.update({f"{name}_{cell(inner)}": cell(each) for inner, each in value.items()})
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


def for_spreadsheet(value: Any) -> Any:
    """Text that no spreadsheet takes for a formula: an apostrophe stands before what begins like one."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value


def write_csv(path: Path, output: BinaryIO) -> int:
    """A table with a header, UTF-8; empty where there is no value. Returns the number of rows.

    Text that a spreadsheet would run as a formula gets an apostrophe before it (`for_spreadsheet`).
    """
    columns, count = columns_of(path)
    text = io.TextIOWrapper(output, encoding="utf-8", newline="")
    writer = csv.writer(text)
    writer.writerow([for_spreadsheet(name) for name in columns])
    for row in rows_of(path, count):
        writer.writerow([for_spreadsheet(row.get(name, "")) for name in columns])
    text.detach()  # writes what it holds, and leaves the file open
    return count


def write_parquet(path: Path, output: BinaryIO) -> int:
    """The same with types: integers, numbers, truth values, text, and `captured_at` as a time in UTC."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", purpose="writing Parquet") from error
    columns, count = columns_of(path)
    if columns["captured_at"] == {str} and any(as_time(row.get("captured_at")) is None for row in rows_of(path, count)):
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
