"""Small texts and numbers from /proc and /sys."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path("/")
READ_LIMIT = 1 << 20  # bytes; nothing that is read here comes near
MB = 10**6


def text(path: Path) -> str | None:
    """A file's text, with marks in place of what is not UTF-8; None where it cannot be read."""
    try:
        if not path.is_file():  # a pipe would keep us waiting
            return None
        with path.open("rb") as file:
            content = file.read(READ_LIMIT)
    except OSError:
        return None
    # A sensor that has no value yet gives None instead of bytes (EAGAIN).
    return content.decode(errors="replace") if content else None


def line(path: Path) -> str | None:
    """The first line of a file that has any; ends of C strings count as ends of lines."""
    return first_line(text(path))


def integer(path: Path) -> int | None:
    """The whole number in a file; None for anything else or beyond 15 digits."""
    found = re.fullmatch(r"-?[0-9]{1,15}", line(path) or "")
    return int(found[0]) if found else None


def entries(folder: Path, pattern: str = "*") -> list[Path]:
    """What a folder holds, sorted; empty where it cannot be read."""
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def first_line(content: str | None) -> str | None:
    """The first line of a text that has anything to print, without what cannot be printed; None where none has."""
    lines = (printable(part) for part in re.split(r"[\0\r\n]", content or ""))
    return next((part for part in lines if part), None)


def printable(content: str) -> str:
    """A text without what cannot be printed, and without space around it."""
    return "".join(character for character in content if character.isprintable()).strip()


def field_of(path: Path, name: str) -> str | None:
    """What a file of lines `name: value` states for a name; None where it states nothing."""
    found = re.search(rf"^{re.escape(name)}[ \t]*:[ \t]*(.*)$", text(path) or "", re.MULTILINE)
    return printable(found[1]) or None if found else None
