r"""The record of a run: JSON Lines, one line a result, chained so that a later change shows.

A line is one JSON object in ASCII, ended by a newline::

    {"seq":41,"frame":40,…,"truth":null,"chain":"9f2c…64 hexadecimal digits…"}

`seq` counts the records of a chain from 0, over all its files and restarts. `chain` stands last, and is

    SHA-256( chain value of the record before, as 64 ASCII digits  +  the line's bytes up to, without, `,"chain":` )

in lower-case hexadecimal; before record 0 stand 64 zeros. Between `seq` and the result's own members stand,
where there is something to say:

- `prev`: the chain value of the record before. In the first line of every file and of every run, so that
  each file can be checked without the one before it.
- `lost_before`: how many results could not be written just before this one (queue or disk full). They
  have no `seq`.
- `removed_through`: files with records up to this number are removed for the disk budget. Written and
  made durable before they are removed: files that are missing without such a word were not removed here.

Files: records go to `NAME.jsonl`. One that has reached its size is renamed to `NAME.000000123456.jsonl`, the
number being that of its first record, so that names sort as the chain goes; the chain continues in a
new `NAME.jsonl`. `.NAME.jsonl.lock` keeps a second writer away.

An auditor's check, in Python, of the files in order::

    before = None
    for path in files:
        for line in open(path, "rb"):
            body, mark, rest = line.rpartition(b',"chain":"')
            record = json.loads(line)
            before = before or record["prev"]
            chain = hashlib.sha256(before.encode() + body).hexdigest()
            assert rest == chain.encode() + b'"}\n', (path, record["seq"])
            before = chain

What it cannot show: the chain has no secret, so whoever writes all later lines anew, or cuts lines off the
end, leaves a chain that is whole. Against both stand signed checkpoints (`checkpoints.py`, `--records-key`); or note
the head (the last chain value, which `fthnet records verify` prints) somewhere else, and check it with `--head`.

Durability: every line is on the disk itself (`fdatasync`) before the next one is waited for, so that a power cut
costs the line in flight. Where lines come faster than the disk makes them durable, it is once for all that had
come, at least once a second. A process that is killed loses the line in flight and what waited in the queue.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.files import make_folder, open_private, refuse_link
from fthnet_kit.edge.loop.result import LiveResult
from fthnet_kit.edge.loop.sink import BackgroundWorker
from fthnet_kit.edge.outputs.records.chain import (
    CLOSED_NAME,
    LINE_START,
    LONGEST_LINE,
    ORIGIN,
    RecordFiles,
    chain_value,
    is_torn,
    lines_of,
    parse_record,
)
from fthnet_kit.edge.outputs.records.checkpoints import Checkpoint, CheckpointWriter, Kind

LOG = logging.getLogger("fthnet")
MB = 1_000_000
FILES_WITHIN_BUDGET = 2  # at least: the live file and a closed one


@dataclass(frozen=True)
class _Waiting:
    """A result on its way to the disk: its members as JSON, and how many were dropped just before it."""

    members: bytes
    dropped_before: int


class Records:
    """Sink that appends one chained record a result; the module's docstring describes the format.

    A record is written whole or not at all: a torn last line, left by a power cut, is cut off when the file
    is opened again, and a write that a full disk cut short is taken back. Lines that are damaged otherwise
    stay as they are, for `verify` to find, and the chain goes on from the last record before them.

    Args:
        path: the live file; made, with its folder, where it is not there.
        rotate_mb: size at which it is closed and a new one begun, in 10^6 bytes.
        budget_mb: size that all files together may have; beyond it the oldest are removed whole.
        checkpoints: signs the chain as it grows.

    Raises:
        InputError: the file cannot be opened for appending, another process writes it, it holds something
            else than records (and is left as it was), or the sizes make no sense.
    """

    CAPACITY = 10_000
    LONGEST_UNSYNCED_S = 1.0  # while records come faster than the disk can follow
    LOOK_EVERY_S = 1.0  # whether the live file is still where it belongs

    def __init__(
        self,
        path: Path,
        *,
        rotate_mb: float = 64,
        budget_mb: float = 1024,
        checkpoints: CheckpointWriter | None = None,
    ) -> None:
        if not 0 < FILES_WITHIN_BUDGET * rotate_mb <= budget_mb:
            raise InputError(
                f"records: expected a disk budget of at least twice the size of a file, "
                f"found {budget_mb} MB for files of {rotate_mb} MB"
            )
        if CLOSED_NAME.fullmatch(path.name):
            raise InputError(f"{path}: expected another name; one with such a number is a closed file of records")
        self.path = path
        self.written = 0
        self._files = RecordFiles(path)
        self._rotate_bytes = int(rotate_mb * MB)
        self._budget_bytes = int(budget_mb * MB)
        self._file = -1
        self._end = 0
        self._first_seq = 0  # where the live file begins
        self._seq = 0  # the next record's
        self._chain = ORIGIN  # the last record's
        self._state_prev = True  # whether the next record states the chain value before it
        self._rotate_at = self._rotate_bytes
        self._condemned: list[Path] = []  # closed files to remove once the chain says so
        self._removed_through = -1  # last record of these
        self._dropped = 0  # by a full queue, since the last result that found room in it
        self._unwritten = 0  # by a failing disk, since the last record
        self._complained = ""
        self._lock = -1
        self._checkpoints = checkpoints
        make_folder(path.parent, private=not path.parent.exists())
        try:
            self._lock = self._locked()
            self._resume()
            if self._seq:
                self._sign("start")
        except OSError as error:
            self._close_files()
            raise InputError(f"{path}: expected a file that can be written, found {error.strerror}") from error
        except InputError:
            self._close_files()
            raise
        self._synced_s = self._looked_s = time.monotonic()
        self._worker: BackgroundWorker[_Waiting] = BackgroundWorker(self._append, self.CAPACITY, "records")

    @property
    def lost(self) -> int:
        """Records that could not be written."""
        return self._worker.lost

    @property
    def shortfall(self) -> str | None:
        """How many records could not be written, and why; None where all were."""
        if not self.lost:
            return None
        return f"{self.lost} records are not in {self.path}: {self._worker.complaint}"

    @property
    def head(self) -> str | None:
        """Chain value of the last record; None before the first."""
        return self._chain if self._seq else None

    def tell_heads(self, told: Callable[[Checkpoint], None]) -> None:
        """Call with the latest signed checkpoint, and with each later one as it is written."""
        if self._checkpoints is not None:
            self._checkpoints.told = told
            if self._checkpoints.latest is not None:
                told(self._checkpoints.latest)

    def offer(self, result: LiveResult) -> None:
        """Queue one record."""
        if self._worker.submit(_Waiting(_members(result.to_dict()), self._dropped)):
            self._dropped = 0
        else:
            self._dropped += 1

    def close(self) -> None:
        """Write what waits, and make it durable."""
        if self._worker.close():
            self._try_to_sign("end")
            self._close_files()
        else:
            LOG.warning("%s: the disk does not answer; the last records may be lost", self.path)

    # Opening

    def _locked(self) -> int:
        """A lock beside the live file, held as long as the process lives."""
        while True:
            lock = open_private(self._lock_file, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(lock)
                raise InputError(
                    f"{self.path}: expected to be its only writer, found another process; choose another name"
                ) from error
            if self._is_lock_file(lock):
                return lock
            os.close(lock)  # its writer ended and removed it meanwhile

    @property
    def _lock_file(self) -> Path:
        return self._files.live.with_name(f".{self._files.live.name}.lock")

    def _is_lock_file(self, lock: int) -> bool:
        """Whether what is locked is still what others find by the name."""
        try:
            return os.path.samestat(os.fstat(lock), self._lock_file.lstat())
        except FileNotFoundError:
            return False

    def _resume(self) -> None:
        """Open the live file, and go on after the last record that is there."""
        closed = self._files.closed()
        self._refuse_foreign()
        self._open_live()
        last = _last_record(self._files.live)
        for _, path in reversed(closed):
            last = last or _last_record(path)
        if last is not None:
            self._seq, self._chain = last
        elif closed:
            self._seq = closed[-1][0] + 1  # nothing legible is left; numbers still rise
        if not self._end:
            self._first_seq = self._seq
        self._condemn()

    def _refuse_foreign(self) -> None:
        """Leave alone what is no file of records."""
        live = self._files.live
        refuse_link(live)
        if not live.exists():
            return
        with live.open("rb") as file:
            start = file.readline(LONGEST_LINE)
        if not (start.startswith(LINE_START) or is_torn(start)):
            raise InputError(f"{self.path}: expected a file of records, found something else; choose another name")

    def _open_live(self) -> None:
        """Open or make the live file; cut off a torn last line, end one that lacks its newline."""
        self._file = open_private(self._files.live, os.O_RDWR | os.O_CREAT)
        _sync_folder(self._files.live.parent)
        size = os.fstat(self._file).st_size
        self._end = _end_of_last_line(self._file)
        if tail := os.pread(self._file, size - self._end, self._end):
            if is_torn(tail):
                os.ftruncate(self._file, self._end)
            else:
                self._end = size + os.pwrite(self._file, b"\n", size)
        self._first_seq = _first_seq(self._files.live, default=self._seq)
        self._state_prev = True
        self._rotate_at = self._rotate_bytes

    # Writing; in the worker's thread from here on

    def _append(self, waiting: _Waiting) -> None:
        """Write one record.

        Raises:
            OSError: it could not be written; the next one says so.
        """
        self._unwritten += waiting.dropped_before
        try:
            if self._file >= 0 and self._end >= self._rotate_at:
                self._try_to_rotate()
            if self._file < 0:
                self._open_live()
                self._condemn()
            self._write(waiting.members)
        except OSError:
            self._unwritten += 1
            raise
        self.written += 1
        self._unwritten = 0
        if self._condemned:
            self._sync()
            self._remove_condemned()
        if self._worker.is_idle or time.monotonic() - self._synced_s >= self.LONGEST_UNSYNCED_S:
            self._sync()
        if self._checkpoints is not None and self._checkpoints.is_due(self._seq):
            self._try_to_sign("line")
        if time.monotonic() - self._looked_s >= self.LOOK_EVERY_S:
            self._check_place()

    def _sign(self, kind: Kind) -> None:
        """Sign the last record, once it is on the disk."""
        self._sync()
        if self._checkpoints is not None and self._seq:
            self._checkpoints.sign(self._seq - 1, self._chain, kind)

    def _try_to_sign(self, kind: Kind) -> None:
        """The same; a failure is logged and costs no record."""
        try:
            self._sign(kind)
        except OSError as error:
            self._complain(f"cannot write a signed checkpoint: {error.strerror}")

    def _write(self, members: bytes) -> None:
        """Put one record at the end of the live file, whole or not at all."""
        body = self._head_of_line() + members
        chain = chain_value(self._chain, body)
        line = body + b',"chain":"' + chain.encode() + b'"}\n'
        try:
            self._put(line)
        except OSError:
            if not self._condemned:
                raise
            self._remove_condemned()  # on a full disk these make room for the line that names them
            self._put(line)
        self._end += len(line)
        self._seq, self._chain, self._state_prev = self._seq + 1, chain, False

    def _put(self, line: bytes) -> None:
        try:
            if os.pwrite(self._file, line, self._end) != len(line):
                raise OSError(errno.ENOSPC, "no space left for a whole record")
        except OSError:
            try:
                os.ftruncate(self._file, self._end)
            except OSError:  # not full but gone: open it again for the next record
                self._abandon_live()
            raise

    def _head_of_line(self) -> bytes:
        """The members that the writer itself adds, before those of the result."""
        head: dict[str, Any] = {"seq": self._seq}
        if self._state_prev:
            head["prev"] = self._chain
        if self._unwritten:
            head["lost_before"] = self._unwritten
        if self._condemned:
            head["removed_through"] = self._removed_through
        return _members(head, opening=b"{") + b","

    def _sync(self) -> None:
        """Make what is written durable; a failure is logged once."""
        if self._file >= 0:
            try:
                os.fdatasync(self._file)
            except OSError as error:
                self._complain(f"cannot make records durable: {error.strerror}")
        self._synced_s = time.monotonic()

    def _check_place(self) -> None:
        """Where someone moved or removed the live file, go on in a new one."""
        self._looked_s = time.monotonic()
        if self._file < 0:
            return
        mine = os.fstat(self._file)
        try:
            there = self._files.live.stat()
        except OSError:
            there = None
        if there is not None and (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino):
            return
        self._complain("someone moved, removed or replaced the file; the records go on in a new one")
        self._abandon_live()
        if there is not None:
            try:
                self._set_aside()
            except OSError as error:
                self._complain(str(error))

    def _abandon_live(self) -> None:
        """Stop using the open file; the next record opens one."""
        file, self._file = self._file, -1
        if file >= 0:
            with contextlib.suppress(OSError):
                os.close(file)

    # Closing a file and removing old ones

    def _try_to_rotate(self) -> None:
        """Close the live file under its number; where that fails, go on in it for as long again."""
        self._try_to_sign("line")
        try:
            os.fsync(self._file)
            self._set_aside()
        except OSError as error:
            self._complain(f"cannot begin a new file: {error}")
            self._rotate_at = self._end + self._rotate_bytes
        else:
            self._abandon_live()

    def _set_aside(self) -> None:
        """Rename the live file; never over another one."""
        closed = self._files.closed_name(self._first_seq)
        if closed.exists():
            raise FileExistsError(errno.EEXIST, f"{closed} exists already")
        self._files.live.rename(closed)

    def _condemn(self) -> None:
        """Choose the oldest closed files that, with a full live file, exceed the budget."""
        closed = [(seq, path, path.stat().st_size) for seq, path in self._files.closed()]
        excess = sum(size for *_, size in closed) + self._rotate_bytes - self._budget_bytes
        self._condemned = []
        for index, (_, path, size) in enumerate(closed):
            if excess <= 0:
                break
            excess -= size
            self._condemned.append(path)
            self._removed_through = (closed[index + 1][0] if index + 1 < len(closed) else self._first_seq) - 1

    def _remove_condemned(self) -> None:
        for path in self._condemned:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                self._complain(f"cannot remove {path.name}: {error.strerror}")
        self._condemned = []
        _sync_folder(self._files.live.parent)

    def _complain(self, what: str) -> None:
        if what != self._complained:
            LOG.warning("%s: %s", self.path, what)
            self._complained = what

    def _close_files(self) -> None:
        self._abandon_live()
        if self._lock >= 0:
            with suppress(OSError):
                self._lock_file.unlink()  # while it is locked: whoever waits for it looks whether it is still there
            os.close(self._lock)
            self._lock = -1


def _members(content: dict[str, Any], opening: bytes = b"") -> bytes:
    """An object's members as JSON, without the braces around them."""
    try:
        text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(content), separators=(",", ":"))
    return opening + text[1:-1].encode("ascii")


def _finite(value: Any) -> Any:
    """The same with None for numbers that JSON has no word for."""
    if isinstance(value, dict):
        return {key: _finite(member) for key, member in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _first_seq(path: Path, default: int) -> int:
    """Number of a file's first record, by which it is named when it is closed."""
    with path.open("rb") as file:
        for line in lines_of(file):
            if (record := parse_record(line.content)) is not None:
                return int(record["seq"])
    return default


def _last_record(path: Path) -> tuple[int, str] | None:
    """Number that follows, and chain value, of a file's last record; None where it holds none."""
    with path.open("rb") as file:
        file.seek(_end_of_last_line(file.fileno(), before=1))
        record = parse_record(file.readline(LONGEST_LINE).removesuffix(b"\n"))
        if record is None:  # damaged: look at all
            file.seek(0)
            for line in lines_of(file):
                record = parse_record(line.content) or record
    return None if record is None else (record["seq"] + 1, record["chain"])


def _end_of_last_line(file: int, before: int = 0) -> int:
    """Offset just after the last newline of an open file that has so many bytes behind it."""
    end = os.fstat(file).st_size - before
    while end > 0:
        start = max(0, end - 65536)
        newline = os.pread(file, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _sync_folder(folder: Path) -> None:
    """Make names durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
