"""Signatures over the chain of records: what a device has signed cannot be written anew, nor cut off, unseen.

Beside the live file `NAME.jsonl` stands `NAME.jsonl.checkpoints`, one JSON object a line, only ever appended::

    {"checkpoint":{"at":"…","chain":"…","kind":"line","seq":999},"key":"…","signature":"…"}

It says that a device saw record `seq` with this chain value, and with it all records before. `kind` is `line` (every
so many records, and when a file is closed), `end` (a run that ended cleanly) or `start` (what was found at the start
of a later run). The signature is Ed25519 over `fthnet-edge-kit records 1`, a newline, and the bytes of the object
behind `checkpoint`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal, get_args

from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.files import open_private
from fthnet_kit.edge.trust.keys import key_id, read_private_key, read_public_key

Kind = Literal["start", "line", "end"]
PURPOSE = b"fthnet-edge-kit records 1\n"
EVERY_RECORDS = 1000
EVERY_S = 60.0
LONGEST_LINE = 4096


@dataclass(frozen=True)
class Checkpoint:
    """A record that a device has signed, and by its chain all before it.

    Attributes:
        seq: number of the record.
        chain: its chain value.
        kind: ``line``, ``end`` of a run, or ``start``: found there by a later run.
        at: when (ISO 8601, UTC), by the device's clock.
    """

    seq: int
    chain: str
    kind: Kind
    at: str

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()


def checkpoints_file(live: Path) -> Path:
    """Where the checkpoints of a chain stand."""
    return live.with_name(f"{live.name}.checkpoints")


class CheckpointWriter:
    """Signs records as they become durable; belongs to the writer of the records.

    Args:
        key: the device's private key.
        live: the live file of the records.
        told: called with each checkpoint, on the writer's thread.

    Raises:
        InputError: the key cannot be read.
        MissingExtraError: `cryptography` is not installed.
    """

    def __init__(self, key: Path, live: Path, told: Callable[[Checkpoint], None] = lambda checkpoint: None) -> None:
        self.told = told
        self.latest: Checkpoint | None = None
        self._key = read_private_key(key)
        self._key_id = key_id(self._key.public_key())
        self._path = checkpoints_file(live)
        self._next_seq = EVERY_RECORDS
        self._due_s = time.monotonic() + EVERY_S

    def is_due(self, seq: int) -> bool:
        """Whether so many records or seconds have passed."""
        return seq >= self._next_seq or time.monotonic() >= self._due_s

    def sign(self, seq: int, chain: str, kind: Kind) -> None:
        """Sign a record that is on the disk.

        Raises:
            OSError: the checkpoint cannot be written.
        """
        self._next_seq, self._due_s = seq + 1 + EVERY_RECORDS, time.monotonic() + EVERY_S
        checkpoint = Checkpoint(seq, chain, kind, datetime.now(timezone.utc).isoformat(timespec="milliseconds"))
        content = checkpoint.to_bytes()
        signature = self._key.sign(PURPOSE + content).hex()
        line = b'{"checkpoint":%s,"key":"%s","signature":"%s"}\n' % (content, self._key_id.encode(), signature.encode())
        file = open_private(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        try:
            size = os.fstat(file).st_size
            if size and os.pread(file, 1, size - 1) != b"\n":
                line = b"\n" + line  # a power cut left half a line
            os.write(file, line)
            os.fdatasync(file)
        finally:
            os.close(file)
        self.latest = checkpoint
        self.told(checkpoint)


def read_checkpoints(live: Path, public_key: Path) -> Iterator[tuple[int, Checkpoint | None]]:
    """Line numbers and checkpoints that a key has signed; None for a line that it has not.

    Raises:
        InputError: the key, or the file, cannot be read.
        MissingExtraError: `cryptography` is not installed.
    """
    key = read_public_key(public_key)
    path = checkpoints_file(live)
    from cryptography.exceptions import InvalidSignature

    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), start=1):
                try:
                    content = json.loads(line)
                    checkpoint = Checkpoint(**content["checkpoint"])
                    key.verify(bytes.fromhex(content["signature"]), PURPOSE + checkpoint.to_bytes())
                    sound = type(checkpoint.seq) is int and checkpoint.kind in get_args(Kind)
                except (ValueError, TypeError, KeyError, RecursionError, InvalidSignature):
                    sound = False
                if line != b"\n":
                    yield number, checkpoint if sound else None
    except OSError as error:
        raise InputError(
            f"{path}: expected the signed checkpoints of these records, found {error.strerror}; the run had no "
            "--records-key, or they were removed"
        ) from error
