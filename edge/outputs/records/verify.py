"""Reads records back and checks their chain; `fthnet_kit.edge.outputs.records.writer` documents the format.

Needs the standard library alone, and `cryptography` where a key is given, so that it runs on an auditor's machine, and
never changes a file. May
read while the kit writes: what is not there yet is not missed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fthnet_kit.edge.outputs.records.chain import (
    CHAIN_LENGTH,
    ORIGIN,
    Line,
    RecordFiles,
    chain_value,
    is_torn,
    lines_of,
    parse_record,
    stated_chain,
)
from fthnet_kit.edge.outputs.records.checkpoints import Checkpoint, checkpoints_file, read_checkpoints


@dataclass(frozen=True)
class Problem:
    """Something that the writer did not do. `line` counts from 1."""

    file: Path
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}"


@dataclass(frozen=True)
class Verification:
    """What the chain says.

    Attributes:
        records: lines that are records, altered ones included.
        files: how many were read.
        first_seq, last_seq: numbers of the first and the last record; None without one.
        head: chain value of the last record, to note elsewhere; None without a record.
        problems: alterations, removals, insertions, in reading order.
        notes: what the writer itself noted: records lost to a full disk, files removed for the disk
            budget, a line in flight.
        lost: records that the writer says it could not write.
        noted_seq: number of the record whose chain value is `noted`; None where there is none.
        signed_seq: number of the last record that a checkpoint of the key covers; None without a key or one.
    """

    records: int
    files: int
    first_seq: int | None
    last_seq: int | None
    head: str | None
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...]
    lost: int
    noted_seq: int | None
    signed_seq: int | None = None


def verify(path: Path, noted: str | None = None, key: Path | None = None, *, running: bool = False) -> Verification:
    """Check every line of a chain; goes on after a problem.

    Args:
        path: what `RecordFiles.find` takes.
        noted: chain value that was noted earlier, to look for.
        key: the device's public key: what its signed checkpoints do not cover is a problem.
        running: the run goes on, so that its newest records need no signature yet.

    Raises:
        InputError: no such records; with a key: no key, or no checkpoints.
        MissingExtraError: with a key: `cryptography` is not installed.
    """
    files = RecordFiles.find(path)
    checker = _Checker(noted, from_origin=files.single is None)
    if key is not None:
        checker.signed = _Signed.read(files, key)
    for file, opened in files.open_all():
        checker.begin(file)
        try:
            for line in lines_of(opened):
                checker.line(line, live=file == files.live and files.single is None)
        except OSError as error:
            checker.problem(f"expected a file that can be read, found {error.strerror}")
    if checker.signed is not None:
        checker.compare_signed(checker.signed, whole=files.single is None, running=running)
    return checker.conclude()


@dataclass
class _Signed:
    """Signed checkpoints of a chain, and which of them its records have met."""

    file: Path
    checkpoints: list[Checkpoint]
    faults: list[Problem]
    covered: int = -1  # number of the last record whose chain value was signed

    @classmethod
    def read(cls, files: RecordFiles, key: Path) -> _Signed:
        """All checkpoints of a chain, in order."""
        live = files.live_of_single() if files.single is not None else files.live
        found, faults, path = [], [], checkpoints_file(live)
        for number, checkpoint in read_checkpoints(live, key):
            if checkpoint is None:
                faults.append(
                    Problem(path, number, "expected a checkpoint that the key has signed, found another line")
                )
            else:
                found.append(checkpoint)
        return cls(path, found, faults)

    def __post_init__(self) -> None:
        self.by_seq: dict[int, list[Checkpoint]] = {}
        for checkpoint in self.checkpoints:
            self.by_seq.setdefault(checkpoint.seq, []).append(checkpoint)

    def meet(self, seq: int, chain: str) -> str | None:
        """Compare a record; what is wrong with it."""
        signed = self.by_seq.get(seq, [])
        if other := next((each for each in signed if each.chain != chain), None):
            return (
                f"record {seq} is another than the one that was signed at {other.at}: it, or one before, was rewritten"
            )
        if signed:
            self.covered = seq
        return None


@dataclass(frozen=True)
class _Link:
    """A chain value that the next line may continue, and that line's number where it is known."""

    chain: str
    next_seq: int | None


@dataclass
class _Checker:
    """Follows a chain line by line.

    After a line that does not fit, the next may continue it, as it stands or as it should read, or the
    last one that fitted: so one alteration is one problem, and what follows is still checked.
    """

    noted: str | None
    from_origin: bool
    records: int = 0
    files: int = 0
    lost: int = 0
    removed_through: int = -1
    noted_seq: int | None = None
    first_seq: int | None = None
    last_seq: int | None = None
    head: str | None = None
    good: _Link | None = None
    doubtful: tuple[_Link, ...] = ()
    findings: list[tuple[Problem, int | None]] = field(default_factory=list)  # with the last record of a missing file
    notes: list[Problem] = field(default_factory=list)
    file: Path = field(default_factory=Path)
    number: int = 0
    signed: _Signed | None = None
    removals: list[tuple[int, int]] = field(default_factory=list)  # record that states one, and its last record

    def __post_init__(self) -> None:
        if self.from_origin:
            self.good = _Link(ORIGIN, 0)

    def begin(self, file: Path) -> None:
        """Go on to the next file."""
        self.file, self.number = file, 0
        self.files += 1

    def problem(self, what: str, missing_through: int | None = None) -> None:
        """Note one, at the current line; `missing_through`: what the disk budget may explain."""
        self.findings.append((Problem(self.file, self.number, what), missing_through))

    def note(self, what: str) -> None:
        """Note something that is no problem, at the current line."""
        self.notes.append(Problem(self.file, self.number, what))

    def line(self, line: Line, *, live: bool) -> None:
        """Check one line."""
        self.number = line.number
        record = parse_record(line.content)
        if not line.ended and live and record is None and is_torn(line.content):
            self.note("the last line is not whole: in flight, or cut by a power cut; the next run takes it back")
            return
        if not line.ended and not live:
            self.problem("expected a newline at the end of a closed file, found none")
        if record is None:
            self.problem("expected a record, found something else: altered, or not written by the kit")
            self._doubt(line.content)
            return
        self._record(record, line.content)

    def _record(self, record: dict[str, Any], content: bytes) -> None:
        stated, seq = record["chain"], record["seq"]
        body = content[:-CHAIN_LENGTH]
        links = [*([self.good] if self.good else []), *self.doubtful]
        link = next((link for link in links if chain_value(link.chain, body) == stated), None)
        anchor = record.get("prev")
        trusted = link is not None or (isinstance(anchor, str) and chain_value(anchor, body) == stated)
        if link is not None:
            if link.next_seq not in (None, seq):
                self.problem(f"expected record {link.next_seq}, found the number {seq}")
            if anchor not in (None, link.chain):
                self.problem('expected in "prev" the chain value of the record before, found another')
        elif trusted:
            self._anchored(seq)
        else:
            self._unfitting(seq)
        self.records += 1
        self.first_seq = seq if self.first_seq is None else self.first_seq
        self.last_seq, self.head = seq, stated
        if self.signed is not None and (wrong := self.signed.meet(seq, stated)):
            self.problem(wrong)
        if not trusted:
            self._doubt(content)
            return
        self.good, self.doubtful = _Link(stated, seq + 1), ()
        if stated == self.noted:
            self.noted_seq = seq
        elif anchor is not None and anchor == self.noted and self.noted_seq is None:
            self.noted_seq = seq - 1
        self._told_by_the_writer(record)

    def _told_by_the_writer(self, record: dict[str, Any]) -> None:
        """Losses and removals that a record states."""
        lost, removed = record.get("lost_before"), record.get("removed_through")
        if type(lost) is int:
            self.lost += lost
            self.note(
                f"{_count(lost, 'record')} could not be written before record {record['seq']} (queue or disk full)"
            )
        if type(removed) is int:
            self.removals.append((record["seq"], removed))

    def _anchored(self, seq: int) -> None:
        """A line that agrees with the "prev" it states, but not with the line before it."""
        if self.good is None:
            self.note(f"the file begins with record {seq}; what came before lies in other files")
        elif self.good.next_seq is not None and seq > self.good.next_seq:
            missing = _span(self.good.next_seq, seq - 1)
            self.problem(f"{missing} missing before this line", seq - 1 if self.number == 1 else None)
        else:
            self.problem(
                f"expected record {self.good.next_seq}, found record {seq} of another chain, or out of its place"
            )

    def _unfitting(self, seq: int) -> None:
        """A line that agrees with nothing."""
        expected = self.good.next_seq if self.good else None
        if expected is None or seq == expected or self.doubtful:
            self.problem(f"record {seq} was altered: its bytes do not give its chain value")
        elif seq > expected:
            self.problem(f"{_span(expected, seq - 1)} missing before record {seq}, or its number was altered")
        else:
            self.problem(f"expected record {expected}, found record {seq}: repeated, moved, inserted or altered")

    def _doubt(self, content: bytes) -> None:
        """The next line may continue this one, as it stands or as its bytes say."""
        stated = stated_chain(content)
        links = [_Link(stated, None)] if stated else []
        if self.good is not None:
            links.append(_Link(chain_value(self.good.chain, content[:-CHAIN_LENGTH]), None))
        self.doubtful = tuple(links)

    def compare_signed(self, signed: _Signed, *, whole: bool, running: bool) -> None:
        """What the checkpoints say of the chain as a whole, at its end."""
        self.findings += [(fault, None) for fault in signed.faults]
        last = -1 if self.last_seq is None else self.last_seq
        if whole and (cut := [each for each in signed.checkpoints if each.seq > last]):
            self.problem(
                f"{_span(last + 1, cut[-1].seq)} missing at the end: record {cut[-1].seq} was signed at {cut[-1].at}"
            )
        if not running and signed.covered < last:
            self.problem(f"{_span(signed.covered + 1, last)} not covered by any signature")
        elif whole and not running and signed.checkpoints and signed.checkpoints[-1].kind != "end":
            self.problem("expected a signed end, found none: the run goes on, was killed, or its end was cut off")
        before: Checkpoint | None = None
        for each in signed.checkpoints:
            self._compare_start(before, each)
            before = each
        for seq, through in self.removals:
            if seq > signed.covered and not running:
                self.problem(
                    f"record {seq} states that records up to {through} were removed, and no signature covers it"
                )

    def _compare_start(self, before: Checkpoint | None, each: Checkpoint) -> None:
        if before is not None and each.seq < before.seq:
            self.problem(
                f"expected record {before.seq} or later at {each.at}, found {each.seq}: the end was cut off then"
            )
        elif each.kind == "start" and (before is None or each.seq > before.seq):
            first = 0 if before is None else before.seq + 1
            what = f"{_span(first, each.seq)} signed only by the next run, at {each.at}"
            if before is not None and before.kind == "end":
                self.problem(f"{what}, after a signed end: nothing of the kit wrote them")
            else:
                self.note(f"{what}: the run before had no key, or did not end cleanly")

    def conclude(self) -> Verification:
        """Sort out which missing files the writer itself removed."""
        claims = [through for seq, through in self.removals if self.signed is None or seq <= self.signed.covered]
        self.removed_through = max(claims, default=-1)
        problems = []
        for problem, missing_through in self.findings:
            if missing_through is not None and missing_through <= self.removed_through:
                self.notes.append(
                    Problem(
                        problem.file, problem.line, f"{problem.what}: removed for the disk budget, as the chain says"
                    )
                )
            else:
                problems.append(problem)
        return Verification(
            records=self.records,
            files=self.files,
            first_seq=self.first_seq,
            last_seq=self.last_seq,
            head=self.head,
            problems=tuple(problems),
            notes=tuple(self.notes),
            lost=self.lost,
            noted_seq=self.noted_seq,
            signed_seq=None if self.signed is None or self.signed.covered < 0 else self.signed.covered,
        )


def _span(first: int, last: int) -> str:
    return f"record {first} is" if first == last else f"records {first} to {last} are"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
