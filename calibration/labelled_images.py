"""Folders in FQS form: photographs beside a table of their scores.

The layout is that of the FQS data set (Gong et al. 2025)::

    FOLDER/
      scores.csv | *.csv | *.xlsx      file_name, meanOpinionScore [, qualityLevel, split, patient]
      images/ (or beside the table)    the photographs

`split` is ``train`` or ``val``; without it a seeded tenth of the groups is held out. A group column
(default ``patient``) keeps all photographs of one patient on one side.
"""

from __future__ import annotations

import csv
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fthnet_kit.edge.errors import InputError, MissingExtraError

Split = Literal["train", "val"]
SPLITS = ("train", "val")
TABLES = (".csv", ".xlsx")
NAME_COLUMN = "file_name"
SCORE_COLUMN = "meanOpinionScore"
HELD_OUT_SHARE = 0.1


@dataclass(frozen=True)
class LabelledImage:
    """One photograph and what people said of it.

    Attributes:
        path: the file.
        mos: mean opinion score, 0-100.
        split: ``train`` or ``val``.
        group: patient or other unit that must not be split; the file's name where the table has no group.
    """

    path: Path
    mos: float
    split: Split
    group: str


def read_image_set(folder: Path, group_column: str = "patient") -> list[LabelledImage]:
    """All labelled photographs of a folder in FQS form, in the table's order.

    Raises:
        InputError: no table, no photographs, a missing column or image, a score outside 0-100, a
            duplicate row, an unknown split. One line names the file and the row.
    """
    table = find_table(folder)
    images: list[LabelledImage] = []
    seen: dict[str, int] = {}
    for number, row in _rows(table):
        where = f"{table}, row {number}"
        name = row.get(NAME_COLUMN, "").strip()
        if not name:
            raise InputError(f"{where}: expected a {NAME_COLUMN}, found none")
        if name in seen:
            raise InputError(f"{where}: duplicate {NAME_COLUMN} {name!r}, already in row {seen[name]}; remove one")
        seen[name] = number
        group = row.get(group_column, "").strip() or name
        images.append(
            LabelledImage(_find_image(folder, name, where), _mos(row, where), _split(row, group, where), group)
        )
    if not images:
        raise InputError(f"{table}: expected at least one row, found none")
    return images


def read_image_sets(folders: Iterable[Path], group_column: str = "patient") -> list[LabelledImage]:
    """`read_image_set` over several folders, one after the other."""
    return [image for folder in folders for image in read_image_set(folder, group_column)]


def of_split(images: Sequence[LabelledImage], split: Split) -> list[LabelledImage]:
    """The photographs of one split.

    Raises:
        InputError: the split is empty.
    """
    chosen = [image for image in images if image.split == split]
    if not chosen:
        raise InputError(f"split {split!r}: expected at least one photograph, found none among {len(images)}")
    return chosen


def find_table(folder: Path) -> Path:
    """``scores.csv`` of a folder, or its only CSV or XLSX file.

    Raises:
        InputError: no folder, no table, or several of which none is called scores.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder in FQS form (images and a score table), found none")
    tables = sorted(path for path in folder.iterdir() if path.suffix.lower() in TABLES)
    preferred = [path for path in tables if path.stem == "scores"] or tables
    if len(preferred) != 1:
        found = ", ".join(path.name for path in tables) or "none"
        raise InputError(f"{folder}: expected one score table (scores.csv or scores.xlsx), found {found}")
    return preferred[0]


def _rows(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Row number as a spreadsheet shows it, and the row as text."""
    rows = _xlsx_rows(table) if table.suffix.lower() == ".xlsx" else _csv_rows(table)
    header = [cell.strip() for cell in next(rows, [])]
    for column in (NAME_COLUMN, SCORE_COLUMN):
        if column not in header:
            raise InputError(f"{table}: expected a column {column}, found {', '.join(header) or 'no header'}")
    for number, cells in enumerate(rows, start=2):
        if any(cell.strip() for cell in cells):
            yield number, dict(zip(header, cells, strict=False))


def _csv_rows(table: Path) -> Iterator[list[str]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            yield from csv.reader(file)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}: expected a CSV table in UTF-8, found something else ({error})") from error


def _xlsx_rows(table: Path) -> Iterator[list[str]]:
    try:
        import openpyxl
    except ImportError as error:
        raise MissingExtraError("openpyxl", "train", purpose="reading an XLSX table") from error
    try:
        book = openpyxl.load_workbook(table, read_only=True, data_only=True)
    except Exception as error:
        raise InputError(f"{table}: expected an XLSX workbook, found something else ({error})") from error
    for row in book.active.iter_rows(values_only=True):
        yield ["" if cell is None else str(cell) for cell in row]
    book.close()


def _mos(row: dict[str, str], where: str) -> float:
    text = row.get(SCORE_COLUMN, "").strip()
    try:
        mos = float(text)
    except ValueError:
        raise InputError(f"{where}: expected a number in {SCORE_COLUMN}, found {text!r}") from None
    if not 0 <= mos <= 100:
        raise InputError(f"{where}: expected {SCORE_COLUMN} between 0 and 100, found {text}")
    return mos


def _split(row: dict[str, str], group: str, where: str) -> Split:
    text = row.get("split", "").strip().lower()
    if text in SPLITS:
        return text  # type: ignore[return-value]
    if text:
        raise InputError(f"{where}: expected split 'train' or 'val', found {text!r}")
    return "val" if zlib.crc32(group.encode()) / 2**32 < HELD_OUT_SHARE else "train"


def _find_image(folder: Path, name: str, where: str) -> Path:
    for path in (folder / "images" / name, folder / name):
        if path.is_file():
            return path
    raise InputError(f"{where}: expected the image {name} in {folder / 'images'} or {folder}, found neither")
