"""The format of records: lines, their chain, and the files they stand in.

Needs the standard library alone, so that it runs on an auditor's machine.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fthnet_kit.edge.errors import InputError

ORIGIN = "0" * 64  # stands for the chain value before the first record
LINE_START = b'{"seq":'
CHAIN = re.compile(rb',"chain":"([0-9a-f]{64})"\}')
CHAIN_LENGTH = len(b',"chain":""}') + 64
DIGITS = 12  # the first record's number has so many in the name of a closed file
CLOSED_NAME = re.compile(rf"(.+)\.(\d{{{DIGITS}}})(\.[^.]*)?")
LONGEST_LINE = 1 << 20  # bytes; what is longer is no record


@dataclass(frozen=True)
class RecordFiles:
    """The files of one chain: closed ones, in order, then the live one.

    Attributes:
        live: where new records are written.
        single: look at this one closed file only.
    """

    live: Path
    single: Path | None = None

    @classmethod
    def find(cls, path: Path) -> RecordFiles:
        """The chain that a path names: its live file, one closed file, their folder, or the name without ending.

        Raises:
            InputError: there is none, or a folder with several.
        """
        path = path.resolve() if path.is_symlink() else path
        if path.is_dir():
            return cls._in_folder(path)
        if CLOSED_NAME.fullmatch(path.name) and path.exists():
            return cls(path, single=path)
        for live in (path, path.with_name(path.name + ".jsonl")):
            if live.exists() or cls(live).closed():
                return cls(live)
        raise InputError(f"{path}: expected records of `fthnet run`, found no such file")

    def live_of_single(self) -> Path:
        """The live file of the chain that one closed file belongs to."""
        closed = CLOSED_NAME.fullmatch(self.live.name)
        return self.live.with_name(f"{closed[1]}{closed[3] or ''}") if closed else self.live

    @classmethod
    def _in_folder(cls, folder: Path) -> RecordFiles:
        names = set()
        for path in folder.iterdir():
            if path.is_file() and not path.name.startswith("."):
                with path.open("rb") as file:
                    if file.read(len(LINE_START)) == LINE_START:
                        closed = CLOSED_NAME.fullmatch(path.name)
                        names.add(f"{closed[1]}{closed[3] or ''}" if closed else path.name)
        if len(names) != 1:
            found = ", ".join(sorted(names)) or "none"
            raise InputError(f"{folder}: expected the records of one run, found {found}; name the file")
        return cls(folder / names.pop())

    def closed_name(self, first_seq: int) -> Path:
        """Name of the closed file that begins with this record."""
        return self.live.with_name(f"{self.live.stem}.{first_seq:0{DIGITS}}{self.live.suffix}")

    def closed(self) -> list[tuple[int, Path]]:
        """Number of the first record, and path, of each closed file, in order."""
        found = []
        pattern = re.compile(rf"{re.escape(self.live.stem)}\.(\d{{{DIGITS}}}){re.escape(self.live.suffix)}")
        if self.live.parent.is_dir():
            for path in self.live.parent.iterdir():
                if match := pattern.fullmatch(path.name):
                    found.append((int(match[1]), path))
        return sorted(found)

    def open_all(self) -> Iterator[tuple[Path, BinaryIO]]:
        """Each file in order, opened; also while the kit closes files and removes old ones."""
        if self.single is not None:
            with self.single.open("rb") as file:
                yield self.single, file
            return
        last = -1
        while True:
            later = [(seq, path) for seq, path in self.closed() if seq > last]
            path = later[0][1] if later else self.live
            try:
                file = path.open("rb")
            except FileNotFoundError:  # removed for the disk budget, or being closed just now
                if not later and not any(seq > last for seq, _ in self.closed()):
                    return
                last = later[0][0] if later else last
                continue
            with file:
                if later:
                    last = later[0][0]
                    yield path, file
                elif not any(seq > last for seq, _ in self.closed()):  # still the file after the last closed one
                    yield path, file
                    return


@dataclass(frozen=True)
class Line:
    """One line as it stands in a file, without its newline; `ended` is False where that is missing."""

    number: int
    content: bytes
    ended: bool


def lines_of(file: BinaryIO) -> Iterator[Line]:
    """Lines of an open file; of one that is too long for a record, the beginning."""
    number = 0
    while content := file.readline(LONGEST_LINE):
        number += 1
        rest = content
        while len(rest) == LONGEST_LINE and not rest.endswith(b"\n"):
            rest = file.readline(LONGEST_LINE)
        yield Line(number, content.removesuffix(b"\n"), rest.endswith(b"\n"))


def chain_value(before: str, body: bytes) -> str:
    """Chain value of a record.

    Args:
        before: chain value of the record before it.
        body: the line up to, and without, `,"chain":`.
    """
    return hashlib.sha256(before.encode() + body).hexdigest()


def stated_chain(content: bytes) -> str | None:
    """The chain value that a line ends with."""
    match = CHAIN.fullmatch(content[-CHAIN_LENGTH:])
    return match[1].decode() if match else None


def parse_record(content: bytes) -> dict[str, Any] | None:
    """A line as a record; None for all other bytes."""
    if not content.startswith(LINE_START) or stated_chain(content) is None:
        return None
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return record if type(record.get("seq")) is int and record["seq"] >= 0 else None


def is_torn(tail: bytes) -> bool:
    """Whether bytes without a newline are the beginning of a record, as a power cut leaves it.

    Zeros at its end are file space that was given but never filled.
    """
    written = tail.rstrip(b"\0")
    return written.startswith(LINE_START[: len(written)]) and not _holds_an_object(written)


def _holds_an_object(written: bytes) -> bool:
    try:
        json.JSONDecoder().raw_decode(written.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return False
    return True


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Records of a chain in the order in which they were written; lines that are none are left out.

    Args:
        path: what `RecordFiles.find` takes. `verify` says whether all is there.

    Raises:
        InputError: no such records, or a file that cannot be read.
    """
    for file, opened in RecordFiles.find(path).open_all():
        try:
            for line in lines_of(opened):
                if (record := parse_record(line.content)) is not None:
                    yield record
        except OSError as error:
            raise InputError(f"{file}: expected a file that can be read, found {error.strerror}") from error
