"""What an archive holds: names of pictures from folders, globs, lists, tables and addresses, each name once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from fthnet_kit.edge.capture.image_files import find_images
from fthnet_kit.edge.errors import InputError, MissingExtraError, PictureError
from fthnet_kit.edge.formats.read import IMAGE_SUFFIXES

PATH_COLUMNS = ("file", "path", "file_name", "filename", "image")
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
LIST_SUFFIX = ".txt"


def load_pyarrow(*modules: str) -> Any:
    """Import pyarrow with its parts of these names.

    Raises:
        MissingExtraError: it is not installed.
    """
    from importlib import import_module

    try:
        for module in modules:
            import_module(f"pyarrow.{module}")
        return import_module("pyarrow")
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", purpose="an archive") from error


def list_inputs(names: Iterable[str], path_column: str | None = None) -> list[str]:
    """Names of all pictures, in the order of `names`; a name that comes again is left out.

    Args:
        names: files, folders and globs (`find_images`); ``.txt`` lists of one name a line; ``.csv``, ``.tsv`` and
            ``.parquet`` tables with a column of names; addresses (``s3://bucket/folder``) of a picture or a folder.
            What lists and tables name is relative to their folder.
        path_column: the column of names in a table; default: the first there is of `PATH_COLUMNS`.

    Raises:
        InputError: a name that leads to no picture, or a list or table that cannot be read.
        MissingExtraError: a table in Parquet or an address, and pyarrow is not installed.
    """
    found: dict[str, None] = {}
    for name in names:
        found.update(dict.fromkeys(_behind(name, path_column)))
    return list(found)


def inputs_hash(names: Iterable[str]) -> str:
    """SHA-256 over all names in their order."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def read_bytes(name: str) -> bytes:
    """What lies behind a name.

    Raises:
        PictureError: nothing that can be read.
    """
    try:
        if _is_address(name):
            system, path = _file_system(name)
            with system.open_input_stream(path) as stream:
                return stream.read()
        return Path(name).read_bytes()
    except OSError as error:
        found = error.strerror or type(error).__name__
        raise PictureError(f"expected an image, found none ({found})", kind="missing") from error


def _behind(name: str, path_column: str | None) -> Iterable[str]:
    if _is_address(name):
        return _at_address(name)
    suffix = Path(name).suffix.lower()
    if suffix == LIST_SUFFIX:
        return _resolved(name, _lines(Path(name)))
    if suffix in TABLE_SUFFIXES:
        return _resolved(name, _column(Path(name), path_column))
    return map(str, find_images([name]))


def _is_address(name: str) -> bool:
    return "://" in name


def _file_system(address: str) -> tuple[Any, str]:
    pyarrow = load_pyarrow("fs")
    try:
        system, path = pyarrow.fs.FileSystem.from_uri(address)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError, OSError, ImportError, ValueError) as error:
        found = " ".join(str(error).split())
        raise InputError(f"{address}: expected an address that pyarrow can open, found {found}") from error
    return system, path


def _at_address(address: str) -> Iterator[str]:
    """Pictures below an address, or the address itself where it is a file."""
    pyarrow = load_pyarrow("fs")
    system, path = _file_system(address)
    try:
        (facts,) = system.get_file_info([path])
        if facts.type == pyarrow.fs.FileType.File:
            yield address
            return
        listing = system.get_file_info(pyarrow.fs.FileSelector(path, recursive=True))
    except OSError as error:
        raise InputError(f"{address}: expected a picture or a folder, found {error.strerror or error}") from error
    below = sorted(
        each.path
        for each in listing
        if each.type == pyarrow.fs.FileType.File and PurePosixPath(each.path).suffix.lower() in IMAGE_SUFFIXES
    )
    if not below:
        raise InputError(f"{address}: expected an image or a folder of images, found none")
    bare, mark, query = address.partition("?")  # s3://bucket/folder?region=eu-west-1: the options go last
    for each in below:
        yield bare.rstrip("/") + quote(each.removeprefix(path.rstrip("/"))) + mark + query


def _resolved(name: str, members: Iterable[str]) -> Iterator[str]:
    """Names of a list or table, relative to its folder."""
    folder = Path(name).parent
    empty = True
    for member in members:
        empty = False
        yield member if _is_address(member) else str(folder / member)
    if empty:
        raise InputError(f"{name}: expected names of pictures, found none")


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a list of names in UTF-8, found {error}") from error
    return [line for line in text.splitlines() if line.strip()]


def _column(path: Path, path_column: str | None) -> list[str]:
    columns = _parquet_columns(path) if path.suffix.lower() == ".parquet" else _text_columns(path)
    wanted = PATH_COLUMNS if path_column is None else (path_column,)
    name = next((each for each in wanted if each in columns), None)
    if name is None:
        found = ", ".join(columns) or "no columns"
        raise InputError(f"{path}: expected a column {' or '.join(wanted)}, found {found}; --path-column names another")
    empty = next((row for row, value in enumerate(columns[name], 1) if not value), None)
    if empty is not None:
        raise InputError(f"{path}: row {empty}: expected a name in column {name}, found none")
    return columns[name]


def _text_columns(path: Path) -> dict[str, list[str]]:
    import csv

    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: expected a table in UTF-8, found {error}") from error
    head, *body = [row for row in rows if row] or [[]]
    ragged = next((number for number, row in enumerate(body, 1) if len(row) != len(head)), None)
    if ragged is not None:
        raise InputError(f"{path}: row {ragged}: expected {len(head)} fields, found {len(body[ragged - 1])}")
    return {name: [row[place] for row in body] for place, name in enumerate(head)}


def _parquet_columns(path: Path) -> dict[str, list[str]]:
    pyarrow = load_pyarrow("parquet")
    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise InputError(f"{path}: expected a table in Parquet, found {error}") from error
    text = {field.name for field in table.schema if pyarrow.types.is_string(field.type)}
    return {name: table.column(name).to_pylist() for name in table.column_names if name in text}
