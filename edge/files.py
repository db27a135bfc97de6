"""Files that appear whole or not at all, closed to others where patients are in them, and never through a link.

All that the kit writes goes through this module. Files with patients' data are *private*: 0600 in folders of 0700,
whatever the umask. Others (bundles, reports, units) are 0644 less the umask. A path whose last part is a symbolic
link is refused: whoever can plant one would choose where a service writes.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from fthnet_kit.edge.errors import InputError, found_instead

LOG = logging.getLogger("fthnet")
PRIVATE_FILE, SHARED_FILE, PRIVATE_FOLDER = 0o600, 0o644, 0o700
OTHERS = 0o077
OTHERS_READ = 0o004


def write_atomically(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write to a temporary file beside `path` and rename: the old content stays until the new one is on the disk.

    Args:
        path: of the file; an older one is replaced.
        content: all of it.
        private: only the owner may read it.

    Raises:
        OSError: it cannot be written, or `path` is a link, a folder or a device.
    """
    with replacing(path, private=private) as file:
        file.write(content)


@contextmanager
def replacing(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` at the end; an error leaves what was there.

    Raises:
        OSError: it cannot be written, or `path` is a link, a folder or a device.
    """
    refuse_link(path)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)  # a killed process may have left it
    handle = os.open(
        temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, PRIVATE_FILE if private else SHARED_FILE
    )
    try:
        with os.fdopen(handle, "w+b") as file:
            if private:
                os.fchmod(handle, PRIVATE_FILE)
            yield file
            file.flush()
            os.fsync(handle)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def refuse_link(path: Path) -> None:
    """Leave alone what is no regular file.

    Raises:
        OSError: `path` is a symbolic link, a folder, a device or a pipe.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(mode):
        raise OSError(errno.ELOOP, "a symbolic link; name the file that it points to", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "a folder, device or pipe", str(path))


def open_private(path: Path, flags: int) -> int:
    """Open a regular file that only its owner may read, or make it; a descriptor.

    Args:
        path: of the file.
        flags: of `os.open`.

    Raises:
        OSError: it cannot be opened, or is a link, a folder or a device.
    """
    refuse_link(path)
    handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(errno.EINVAL, "a folder, device or pipe", str(path))
        if stat.S_IMODE(facts.st_mode) != PRIVATE_FILE:
            _close_to_others(path, handle)
    except BaseException:
        os.close(handle)
        raise
    return handle


def make_private(path: Path) -> None:
    """Make an empty file that only its owner may read, or close one that is there to others; it is not opened then.

    Raises:
        OSError: it cannot be made, or is a link, a folder or a device.
    """
    refuse_link(path)
    if not path.exists():
        os.close(open_private(path, os.O_RDWR | os.O_CREAT | os.O_EXCL))
    elif stat.S_IMODE(path.stat().st_mode) != PRIVATE_FILE:
        _close_to_others(path)


def _close_to_others(path: Path, handle: int | None = None) -> None:
    try:
        if handle is None:
            path.chmod(PRIVATE_FILE)
        else:
            os.fchmod(handle, PRIVATE_FILE)
    except PermissionError:  # somebody else's file, or a file system without rights
        LOG.warning("%s: cannot be closed to others on this machine; its rights stay as they are", path)


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


def make_folder(folder: Path, *, private: bool = False) -> None:
    """A folder, with its parents; one that is there keeps its rights.

    Args:
        folder: to make.
        private: only the owner may enter it, nor those of its parents that are made; it may not be a symbolic link.

    Raises:
        InputError: it cannot be made.
    """
    try:
        if private:
            _make_private_folder(folder)
        else:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: expected a folder that can be written, found {error.strerror}") from error


def new_private_folder(folder: Path) -> None:
    """Make a folder that only its owner may enter.

    Raises:
        OSError: it cannot be made, or something is there.
    """
    folder.mkdir(PRIVATE_FOLDER)
    folder.chmod(PRIVATE_FOLDER)  # the umask may have taken rights from the owner


def _make_private_folder(folder: Path) -> None:
    if folder.is_symlink():
        raise OSError(errno.ELOOP, "a symbolic link; name the folder that it points to", str(folder))
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        new_private_folder(each)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "a file", str(folder))


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


def parse_json(content: str | bytes) -> Any:
    """What JSON of others holds.

    Raises:
        ValueError: it is none, no text, or nested too deeply.
    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


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
    except OSError as error:
        raise InputError(f"{path}: expected a file with {what}, found {found_instead(error)}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected a file with {what}, found {error}") from error
    if not secret:
        raise InputError(f"{path}: expected {what}, found an empty file")
    warn_if_others_read(path, what)
    return secret


def state_folder() -> Path:
    """Where this user's, or this service's, state belongs."""
    service = os.environ.get("STATE_DIRECTORY", "").split(":")[0]  # set by systemd
    if service:
        return Path(service)
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local" / "state") / "fthnet"


def warn_if_others_read(path: Path, what: str) -> None:
    """Log where everybody on this machine can read a file with a secret."""
    if path.stat().st_mode & OTHERS_READ:
        LOG.warning("%s: everybody on this machine can read %s; chmod 600 helps", path, what)
