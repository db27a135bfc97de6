"""Folders in FQS form: photographs beside a table of their scores.

The layout is that of the FQS data set (Gong et al. 2025)::

    FOLDER/
      scores.csv | *.csv | *.xlsx      file_name, meanOpinionScore [, qualityLevel, split, patient]
      images/ (or beside the table)    the photographs

Names of columns are found whatever their case, spaces and underscores. `split` is ``train`` or ``val``; without it a
seeded tenth of the groups is held out. A group column (default: ``patient`` or ``patient_id``, if there is one) keeps
all photographs of one patient on one side, however the patient's id is written.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fthnet_kit.calibration.label_table import TABLES, LabelTable, read_table
from fthnet_kit.edge.errors import InputError

Split = Literal["train", "val"]
SPLITS = ("train", "val")
NAME_COLUMN = "file_name"
SCORE_COLUMN = "meanOpinionScore"
SPLIT_COLUMN = "split"
PATIENT_COLUMNS = (
    "patient",
    "patient_id",
    "patient_no",
    "patient_number",
    "patient_code",
    "subject",
    "subject_id",
    "pid",
)
HELD_OUT_SHARE = 0.1
OTHER_SCALE = 5.0  # no label above it: shares, stars or grades, not scores of 0-100
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
ID_PARTS = re.compile(r"\d+|[^\W\d_]+|[^\w\s./-]")  # parts of a patient's id; what separates them does not count


@dataclass(frozen=True)
class LabelledImage:
    """One photograph and what people said of it.

    Attributes:
        path: the file.
        mos: mean opinion score, 0-100.
        split: ``train`` or ``val``.
        group: patient or other unit that must not be split, as it is written first; the file's name where the table has
            no group.
        fold: of a cross-validation; empty where none was asked for.
    """

    path: Path
    mos: float
    split: Split
    group: str
    fold: str = ""


def read_image_set(
    folder: Path, group_column: str | None = None, fold_column: str | None = None
) -> list[LabelledImage]:
    """All labelled photographs of a folder in FQS form, in the table's order.

    Args:
        folder: with a table and photographs.
        group_column: the column with the patient; default: one of `PATIENT_COLUMNS`, if the table has it.
        fold_column: the column with the fold of a cross-validation.

    Raises:
        InputError: no table, no photographs, a missing column, cell or image, labels that are not scores of 0-100, a
            photograph named twice, an unknown split, a patient in both splits. One line names the file and the row.
    """
    table = read_table(find_table(folder), (NAME_COLUMN, SCORE_COLUMN))
    names, scores = table.require(NAME_COLUMN), table.require(SCORE_COLUMN)
    folds = table.require(fold_column, as_written=True) if fold_column else None
    units = table.require(group_column, as_written=True) if group_column else table.find(*PATIENT_COLUMNS)
    paths = _paths(table, names, folder)
    groups = _groups(table, units, names)
    splits = _splits(table, groups)
    images = [
        LabelledImage(path, _mos(table, row, scores), split, group, "" if folds is None else _filled(table, row, folds))
        for row, path, split, group in zip(table.rows, paths, splits, groups, strict=True)
    ]
    if not images:
        raise InputError(f"{table.path}: expected at least one row, found none")
    highest = max(image.mos for image in images)
    if highest <= OTHER_SCALE:
        raise InputError(
            f"{table.path}: expected {SCORE_COLUMN} on a scale of 0 to 100, found none above {highest:g}; bring labels "
            "of another scale (0-1, 1-5, grades) to 0-100, 100 the best"
        )
    return images


def read_image_sets(folders: Iterable[Path], group_column: str | None = None) -> list[LabelledImage]:
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
        raise InputError(f"{folder}: expected a folder in FQS form (images and a score table), found no such folder")
    tables = sorted(path for path in folder.iterdir() if path.suffix.lower() in TABLES and path.name[0] not in ".~")
    preferred = [path for path in tables if path.stem.lower() == "scores"] or tables
    if len(preferred) != 1:
        found = ", ".join(path.name for path in tables) or "none"
        raise InputError(f"{folder}: expected one score table (scores.csv or scores.xlsx), found {found}")
    return preferred[0]


Row = tuple[int, list[str]]  # number, and cells


def _filled(table: LabelTable, row: Row, column: int) -> str:
    number, cells = row
    if not cells[column]:
        raise InputError(f"{table.where(number)}: expected a {table.header[column]}, found none; fill it in")
    return cells[column]


def _paths(table: LabelTable, names: int, folder: Path) -> list[Path]:
    """The photograph of each row."""
    seen: dict[Path, int] = {}
    paths = []
    for row in table.rows:
        name, where = _filled(table, row, names), table.where(row[0])
        path = _find_image(folder, name, where)
        first = seen.setdefault(path.resolve(), row[0])
        if first != row[0]:
            raise InputError(f"{where}: duplicate {NAME_COLUMN} {name!r}, already in row {first}; remove one")
        paths.append(path)
    return paths


def _groups(table: LabelTable, column: int | None, names: int) -> list[str]:
    """The patient of each row, as it is written first; without a column, each photograph by itself."""
    if column is None:
        return [cells[names] for _, cells in table.rows]
    written: dict[str, str] = {}
    ids = [_filled(table, row, column) for row in table.rows]
    return [written.setdefault(_same_id(text), text) for text in ids]


def _same_id(text: str) -> str:
    """Equal for ids that differ only in case, separators, leading zeros or as a whole number's decimals do."""
    text = unicodedata.normalize("NFKC", text).casefold()
    parts = ID_PARTS.findall(re.sub(r"^(\d+)\.0+$", r"\1", text))
    return " ".join(part.lstrip("0") or "0" if part[0].isdigit() else part for part in parts) or text


def _splits(table: LabelTable, groups: Sequence[str]) -> list[Split]:
    """The split of each row: as the table says in every row, or a seeded share of the groups."""
    column = table.find(SPLIT_COLUMN)
    if column is None or not any(cells[column] for _, cells in table.rows):
        return ["val" if zlib.crc32(group.encode()) / 2**32 < HELD_OUT_SHARE else "train" for group in groups]
    splits: list[Split] = []
    first: dict[str, tuple[int, Split]] = {}
    for row, group in zip(table.rows, groups, strict=True):
        number, text = row[0], _filled(table, row, column).lower()
        if text not in SPLITS:
            raise InputError(f"{table.where(number)}: expected split 'train' or 'val', found {text!r}")
        split: Split = "train" if text == "train" else "val"
        other, there = first.setdefault(group, (number, split))
        if there != split:
            raise InputError(
                f"{table.where(number)}: expected {group!r} in one split, found {split!r} here and {there!r} in row "
                f"{other}; put all photographs of a patient into the same split"
            )
        splits.append(split)
    return splits


def _mos(table: LabelTable, row: Row, column: int) -> float:
    number, cells = row
    text = cells[column]
    if not NUMBER.fullmatch(text):
        raise InputError(f"{table.where(number)}: expected a number from 0 to 100 in {SCORE_COLUMN}, found {text!r}")
    if not 0 <= float(text) <= 100:
        raise InputError(f"{table.where(number)}: expected {SCORE_COLUMN} between 0 and 100, found {text}")
    return float(text)


def _find_image(folder: Path, name: str, where: str) -> Path:
    for path in (folder / "images" / name, folder / name):
        if path.is_file():
            return path
    raise InputError(f"{where}: expected the image {name} in {folder / 'images'} or {folder}, found neither")
