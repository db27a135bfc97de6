"""Where reports go."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.files import write_atomically


def make_folder(folder: Path) -> None:
    """A folder for reports, with its parents.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: expected a folder that can be made, found {error.strerror}") from error


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Files by name into a folder that exists, each whole or not at all.

    Raises:
        InputError: one cannot be written.
    """
    for name, content in files.items():
        try:
            write_atomically(folder / name, content)
        except OSError as error:
            raise InputError(f"{folder / name}: expected a file that can be written, found {error.strerror}") from error
