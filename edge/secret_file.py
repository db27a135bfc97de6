"""Passwords and tokens that stand in a file of their own."""

from __future__ import annotations

import logging
from pathlib import Path

from fthnet_kit.edge.errors import InputError

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
