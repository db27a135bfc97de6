"""Messages that wait on disk until somebody has taken them."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.files import make_folder, make_private

LOG = logging.getLogger("fthnet")
APPLICATION_ID = 0x4654484E  # "FTHN", in the header of each of our files
TRIM_STEP = 64
SIZE = "LENGTH(CAST(topic AS BLOB)) + LENGTH(payload)"
TABLE = """CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, payload BLOB NOT NULL, retain INTEGER NOT NULL)"""


@dataclass(frozen=True)
class Message:
    """What is to be sent; `id` grows with age and is 0 until the message is on disk."""

    topic: str
    payload: bytes
    retain: bool = False
    id: int = 0

    @property
    def size(self) -> int:
        """Bytes that count against the bound."""
        return len(self.topic.encode()) + len(self.payload)


class MessageQueue:
    """A queue in one SQLite file, first in, first out; any thread may call it.

    What `append` has returned from survives a killed process; a power cut costs at most the last moments,
    never the file. Beyond its bounds the oldest messages go, and are counted in `dropped`.

    Args:
        path: of the file; made where it is missing. One process at a time may use it.
        most_messages, most_bytes: bounds; bytes are those of topics and payloads.

    Raises:
        InputError: the file cannot be made, belongs to somebody else, or is in use; it is left as it was.
    """

    def __init__(self, path: Path, most_messages: int, most_bytes: int) -> None:
        self.path = path
        self.most_messages = most_messages
        self.most_bytes = most_bytes
        self.dropped = 0
        self._lock = threading.Lock()
        self._database = _open_or_set_aside(path)
        self._count, self._bytes, self.newest = self._database.execute(
            f"SELECT COUNT(*), COALESCE(SUM({SIZE}), 0), COALESCE(MAX(id), 0) FROM messages"  # noqa: S608  (a constant)
        ).fetchone()
        with self._transaction():
            self._apply_bounds()

    def __len__(self) -> int:
        return self._count

    @property
    def bytes(self) -> int:
        """Topics and payloads that wait."""
        return self._bytes

    def append(self, message: Message) -> None:
        """Put a message at the end.

        Raises:
            OSError: it is not on disk (full, read-only…); the queue is as before.
        """
        with self._transaction():
            self.newest = self._database.execute(
                "INSERT INTO messages (topic, payload, retain) VALUES (?, ?, ?)",
                (message.topic, message.payload, message.retain),
            ).lastrowid
            self._count += 1
            self._bytes += message.size
            self._apply_bounds()

    def after(self, last_id: int, most: int) -> list[Message]:
        """The oldest messages that are newer than `last_id`.

        Raises:
            OSError: the file cannot be read.
        """
        with self._transaction():
            rows = self._database.execute(
                "SELECT topic, payload, retain, id FROM messages WHERE id > ? ORDER BY id LIMIT ?", (last_id, most)
            ).fetchall()
        return [Message(topic, payload, bool(retain), number) for topic, payload, retain, number in rows]

    def remove(self, ids: Sequence[int]) -> None:
        """Forget messages, because they were taken.

        Raises:
            OSError: they are still on disk.
        """
        with self._transaction():
            for number in ids:
                self._delete(number)

    def close(self) -> None:
        """Close the file; what waits stays in it."""
        with self._lock:
            self._database.close()

    def _apply_bounds(self) -> None:
        """Drop the oldest messages until the rest is within bounds."""
        while self._count > self.most_messages or self._bytes > self.most_bytes:
            oldest = self._database.execute("SELECT id FROM messages ORDER BY id LIMIT ?", (TRIM_STEP,)).fetchall()
            for (number,) in oldest:
                if self._count <= self.most_messages and self._bytes <= self.most_bytes:
                    break
                self._delete(number)
                self.dropped += 1

    def _delete(self, number: int) -> None:
        row = self._database.execute(f"SELECT {SIZE} FROM messages WHERE id = ?", (number,)).fetchone()  # noqa: S608
        if row is not None:
            self._database.execute("DELETE FROM messages WHERE id = ?", (number,))
            self._count -= 1
            self._bytes -= row[0]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing, the counters included; SQLite's errors become OSErrors."""
        with self._lock:
            before = self._count, self._bytes, self.dropped, self.newest
            try:
                self._database.execute("BEGIN")
                yield
                self._database.execute("COMMIT")
            except sqlite3.Error as error:
                self._count, self._bytes, self.dropped, self.newest = before
                if self._usable():
                    self._database.execute("ROLLBACK")
                raise OSError(f"{self.path}: {error}") from error

    def _usable(self) -> bool:
        """Whether the database is open and amid a transaction."""
        try:
            return self._database.in_transaction
        except sqlite3.ProgrammingError:
            return False


def _open_or_set_aside(path: Path) -> sqlite3.Connection:
    """The database of a file; one of ours that is damaged is renamed, and a new one begun."""
    try:
        make_folder(path.parent, private=not path.parent.exists())
        return _open(path)
    except sqlite3.DatabaseError as error:
        if "malformed" not in str(error):
            raise InputError(f"{path}: expected a queue that can be opened, found: {_explained(error)}") from error
        for suffix in ("", "-wal", "-shm"):
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.replace(path.with_name(path.name + ".damaged" + suffix))
        LOG.warning("%s: the queue was damaged; set aside as %s.damaged, a new one is begun", path, path.name)
        return _open(path)
    except OSError as error:
        raise InputError(f"{path}: expected a file that can be written, found {error.strerror}") from error


def _explained(error: sqlite3.Error) -> str:
    if "locked" in str(error):
        return "another process uses it; give each `fthnet run` a queue of its own"
    return str(error)


def _open(path: Path) -> sqlite3.Connection:
    """Open, lock, check.

    Raises:
        sqlite3.DatabaseError: it cannot be opened, is locked, is none, or is damaged ("malformed").
        InputError: it is a database, but somebody else's.
        OSError: it cannot be made, or is a link.
    """
    make_private(path)  # SQLite gives its other files the same rights
    database = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        (owner,) = database.execute("PRAGMA application_id").fetchone()
        (tables,) = database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        if tables and owner != APPLICATION_ID:
            raise InputError(f"{path}: expected a queue of ours, found another program's database; choose another name")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        if not tables:
            database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            database.execute(TABLE)
        (finding,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if finding != "ok":
            raise sqlite3.DatabaseError(f"malformed: {finding}")
    except BaseException:
        database.close()
        raise
    return database
