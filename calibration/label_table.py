"""A table of labels, CSV or XLSX: read as it stands, or refused with the row named.

Nothing is guessed: a row with more or fewer cells than the header, a quote that is not closed, a formula without a
value and a second sheet with the same columns are errors, since each of them can lose rows or move cells to another
column.
"""

from __future__ import annotations

import csv
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fthnet_kit.edge.errors import InputError, MissingExtraError, found_instead

TABLES = (".csv", ".xlsx")
MOST_ROWS = 200_000
MOST_COLUMNS = 1_000
MOST_UNPACKED = 32 << 20  # bytes of an XLSX file without its compression
MOST_TAGS = 1_000_000  # XML tags in an XLSX file, 60,000 rows of four columns: they cost time and memory
FORMULA = re.compile(rb"<(\w+:)?f[\s/>]")
QUOTED_FORMAT = re.compile(r'"[^"]*"|\\.')  # what a number format shows as it is

Rows = Iterator[list[str]]


@dataclass(frozen=True)
class LabelTable:
    """A table as text.

    Attributes:
        path: the file.
        header: names of the columns, stripped.
        rows: number of each row as a spreadsheet shows it, and its cells, stripped, one a column; without empty rows.
    """

    path: Path
    header: list[str]
    rows: list[tuple[int, list[str]]]

    def find(self, *names: str) -> int | None:
        """Where a column stands, by any of its names; case, spaces and punctuation do not count.

        Raises:
            InputError: two columns have such a name.
        """
        wanted = {_folded(name) for name in names}
        found = [index for index, name in enumerate(self.header) if _folded(name) in wanted]
        if len(found) > 1:
            both = ", ".join(self.header[index] for index in found)
            raise InputError(f"{self.path}: expected one column {names[0]}, found {both}; rename or remove the others")
        return found[0] if found else None

    def require(self, name: str, *, as_written: bool = False) -> int:
        """Where a column stands.

        Args:
            name: of the column.
            as_written: a column of exactly this name comes before others that mean the same.

        Raises:
            InputError: there is none, or several.
        """
        exact = as_written and self.header.count(name) == 1
        index = self.header.index(name) if exact else self.find(name)
        if index is None:
            found = ", ".join(self.header) or "no header"
            raise InputError(f"{self.path}: expected a column {name}, found {found} (a CSV table is cut at commas)")
        return index

    def where(self, number: int) -> str:
        """A row, for a message."""
        return f"{self.path}, row {number}"


def read_table(path: Path, wanted: Sequence[str]) -> LabelTable:
    """A table of which the first row names the columns.

    Args:
        path: a CSV (UTF-8, commas) or XLSX file.
        wanted: columns that tell which sheet of several holds the table.

    Raises:
        InputError: no such file, another format, or a row that can be read in two ways.
        MissingExtraError: an XLSX file, and openpyxl is not installed.
    """
    rows = _xlsx_rows(path, wanted) if path.suffix.lower() == ".xlsx" else _csv_rows(path)
    header = _without_empty_end(next(rows, []))
    if len(header) > MOST_COLUMNS:
        raise InputError(f"{path}: expected at most {MOST_COLUMNS} columns, found {len(header)}; remove the others")
    kept: list[tuple[int, list[str]]] = []
    for number, row in enumerate(rows, start=2):
        if number > MOST_ROWS:
            raise InputError(
                f"{path}: expected at most {MOST_ROWS} rows, found more; cut the table into several folders"
            )
        cells = _without_empty_end(row)
        if len(cells) > len(header):
            raise InputError(
                f"{path}, row {number}: expected {len(header)} cells, as in the header, found {len(cells)}; quote a "
                "cell that holds a comma, or name the column"
            )
        if cells:
            kept.append((number, cells + [""] * (len(header) - len(cells))))
    return LabelTable(path, header, kept)


def _without_empty_end(cells: Sequence[str]) -> list[str]:
    """The cells, stripped, up to the last that is not empty."""
    stripped = [cell.strip() for cell in cells]
    while stripped and not stripped[-1]:
        stripped.pop()
    return stripped


def _folded(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _csv_rows(path: Path) -> Rows:
    """Cells of each line; the first line says how many there have to be."""
    line, width = 0, 0
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            for cells in reader:
                line += 1
                if reader.line_num > line:
                    raise InputError(
                        f"{path}, row {line}: expected a quoted cell to end in its row, found one that runs to row "
                        f"{reader.line_num}; close the quote, or take the line break out of the cell"
                    )
                width = width or len(cells)
                if 0 < len(cells) < width and any(cell.strip() for cell in cells):
                    raise InputError(
                        f"{path}, row {line}: expected {width} cells, as in the header, found {len(cells)}; add the "
                        "commas of empty cells, or save the table as XLSX"
                    )
                yield cells
    except OSError as error:
        raise InputError(f"{path}: expected a CSV table, found {found_instead(error)}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected a CSV table in UTF-8, found another encoding; save it as UTF-8") from error
    except csv.Error as error:
        raise InputError(
            f"{path}, row {line + 1}: expected a row of a CSV table, found a quote that is not closed, or something "
            f"else ({error})"
        ) from error


def _xlsx_rows(path: Path, wanted: Sequence[str]) -> Rows:
    """Cells of each row of the only sheet with these columns, whatever dimensions it claims to have."""
    try:
        import openpyxl
    except ImportError as error:
        raise MissingExtraError("openpyxl", "train", purpose="reading an XLSX table") from error
    try:
        formulas = _has_formulas(path)
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # features that do not concern cells
            book = openpyxl.load_workbook(file, read_only=True, data_only=True, keep_links=False)
            sheet = _only_sheet(path, book.worksheets, wanted)
            if formulas:
                _refuse_uncomputed(path, sheet)
            for row in _cells(sheet):
                yield [_text(cell) for cell in row]
    except InputError:
        raise
    except Exception as error:  # openpyxl, given a damaged or foreign file, raises whatever it meets
        raise InputError(f"{path}: expected an XLSX workbook, found something else ({error})") from error


def _has_formulas(path: Path) -> bool:
    """Whether a workbook computes cells; a file that unpacks to more than a table of labels needs is refused."""
    unpacked = tags = 0
    formulas = False
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            unpacked += entry.file_size
            part = archive.read(entry) if unpacked <= MOST_UNPACKED else b""
            tags += part.count(b"<")
            formulas |= FORMULA.search(part) is not None
    if unpacked > MOST_UNPACKED or tags > MOST_TAGS:
        raise InputError(
            f"{path}: expected a workbook of at most {MOST_UNPACKED >> 20} MiB and {MOST_TAGS} XML tags when unpacked, "
            "found more; keep only the sheet with the labels, or save it as CSV"
        )
    return formulas


def _refuse_uncomputed(path: Path, sheet: Any) -> None:
    """Raises InputError for a formula without a value: its cell, or whole row, would look empty."""
    import openpyxl

    with path.open("rb") as file:
        formulas = openpyxl.load_workbook(file, read_only=True, keep_links=False)[sheet.title]
        for number, (row, sources) in enumerate(zip(_cells(sheet), _cells(formulas), strict=True), start=1):
            for cell, source in zip(row, sources, strict=True):
                if cell.value is None and source.value is not None:
                    raise InputError(
                        f"{path}, row {number}: expected a value, found a formula that was never computed "
                        f"({source.value}); open the table in a spreadsheet program and save it"
                    )


def _only_sheet(path: Path, sheets: Sequence[Any], wanted: Sequence[str]) -> Any:
    """The only sheet, or the only one of several whose header has these columns."""
    if len(sheets) == 1:
        return sheets[0]
    names = {_folded(name) for name in wanted}
    fitting = [
        sheet
        for sheet in sheets
        if names <= {_folded(_text(cell)) for cell in next(iter(_cells(sheet)), ())[:MOST_COLUMNS]}
    ]
    if len(fitting) != 1:
        found = ", ".join(sheet.title for sheet in fitting) or "none"
        raise InputError(
            f"{path}: expected one sheet with the columns {', '.join(wanted)}, found {found} of {len(sheets)} sheets; "
            "keep one"
        )
    return fitting[0]


def _cells(sheet: Any) -> Iterator[tuple[Any, ...]]:
    sheet.reset_dimensions()  # a stale one would cut rows off
    return sheet.iter_rows()


def _text(cell: Any) -> str:
    """What a cell shows: a number in percent has its sign."""
    if cell.value is None:
        return ""
    if isinstance(cell.value, (int, float)) and "%" in QUOTED_FORMAT.sub("", cell.number_format):
        return f"{100 * cell.value:g}%"
    return str(cell.value)
