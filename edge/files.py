"""Files that appear whole or not at all."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from fthnet_kit.edge.errors import InputError


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary file beside `path` and rename: the old content stays until the new one is on the disk."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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


LOG = logging.getLogger("fthnet")


OTHERS_READ = 0o004


def read_secret(path: Path, what: str) -> str:
    """A password or token, without the end of its line; warns where everybody on this machine can read the file.

    Args:
        path: the file.
        what: it holds, for the messages, as in "a token".

    Raises:
        InputError: the file cannot be read as text, or is empty.
    """
    try:
        secret = path.read_text(encoding="utf-8").rstrip("\r\n")
        readable = path.stat().st_mode & OTHERS_READ
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a file with {what}, found {error}") from error
    if not secret:
        raise InputError(f"{path}: expected {what}, found an empty file")
    if readable:
        LOG.warning("%s: everybody on this machine can read %s; chmod 600 helps", path, what)
    return secret
