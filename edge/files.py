"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

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


def open_regular(path: Path, most: int) -> BinaryIO:
    """A regular file of at most `most` bytes, open for reading; a link, pipe or device is not opened.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger; `strerror` says which.
    """
    _require_regular(path.lstat(), path, most)
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    try:
        _require_regular(os.fstat(file.fileno()), path, most)  # it may be another one by now
    except OSError:
        file.close()
        raise
    return file


def _require_regular(found: os.stat_result, path: Path, most: int) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise OSError(errno.ELOOP, "a symbolic link", str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "no regular file", str(path))
    if found.st_size > most:
        raise OSError(errno.EFBIG, f"{found.st_size} bytes, more than the {most} that it may have", str(path))


def read_regular(path: Path, most: int) -> bytes:
    """Content of a regular file of at most `most` bytes; raises as `open_regular` does, or if it grows meanwhile."""
    with open_regular(path, most) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(size + 1)
    if len(content) > size:
        raise OSError(errno.EFBIG, "that it grew while it was read", str(path))
    return content


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


def state_folder() -> Path:
    """Where this user's, or this service's, state belongs."""
    service = os.environ.get("STATE_DIRECTORY", "").split(":")[0]  # set by systemd
    if service:
        return Path(service)
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local" / "state") / "fthnet"
