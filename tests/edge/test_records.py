"""Records: the chain shows every change, and kills, full disks, moved files and second writers do no harm."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from fthnet_kit.edge.cli.records import records as command
from fthnet_kit.edge.errors import InputError, MissingExtraError
from fthnet_kit.edge.frame import Frame
from fthnet_kit.edge.loop.result import LiveResult
from fthnet_kit.edge.model.score import Algorithm, Score
from fthnet_kit.edge.outputs.records import writer as records_module
from fthnet_kit.edge.outputs.records.chain import CHAIN_LENGTH, chain_value, read_records
from fthnet_kit.edge.outputs.records.verify import Verification, verify
from fthnet_kit.edge.outputs.records.writer import Records

START = datetime(2026, 3, 1, 12, 0, tzinfo=timezone.utc)
ALGORITHM = Algorithm("FTHNet", "1", "kit", "views 1")


def result(index: int = 0, value: float | None = None, when: datetime | None = None) -> LiveResult:
    value = 20.0 + index % 70 if value is None else value
    stages = {"preprocess": 1.5, "gate": 0.2, "infer": 9.0, "post": 0.1}
    score = Score(value, value, "good" if value > 60 else "reject", None, index, None, stages, ALGORITHM)
    truth = {"severity": 0.5, "eye_in_view": True}
    frame = Frame(np.zeros((2, 2, 3), np.uint8), index, time.monotonic_ns(), truth=truth)
    return LiveResult(score, frame, None, when or START + timedelta(seconds=index), 1.0, 12.0, index + 1, 0)


def nothing(reason: str = "no_retina") -> LiveResult:
    return LiveResult(Score(None, reason=reason), None, None, START, None, None, 1, 0)  # type: ignore[arg-type]


def write(path: Path, count: int, **sizes: float) -> Records:
    """Write so many records, waiting where the queue fills."""
    records = Records(path, **sizes)
    for index in range(count):
        while index - records.written > Records.CAPACITY // 2:
            time.sleep(0.001)
        records.offer(result(index))
    records.close()
    assert (records.written, records.lost) == (count, 0)
    return records


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def whats(found: Verification) -> list[str]:
    return [problem.what for problem in found.problems]


def files_of(folder: Path) -> list[Path]:
    """In the order of the chain: closed ones by number, the live one last."""
    return sorted(folder.glob("r.*.jsonl")) + sorted(folder.glob("r.jsonl"))


@pytest.fixture(scope="module")
def rotated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A chain of 40 records over several files, as bytes."""
    folder = tmp_path_factory.mktemp("rotated")
    write(folder / "r.jsonl", 40, rotate_mb=0.004)
    content = {path.name: path.read_bytes() for path in files_of(folder)}
    assert len(content) >= 4
    return content


@pytest.fixture
def lay(tmp_path: Path, rotated: dict[str, bytes]) -> Callable[[], Path]:
    """Lays a fresh copy of the chain into a folder."""

    def lay() -> Path:
        for path in files_of(tmp_path):
            path.unlink()
        for name, content in rotated.items():
            (tmp_path / name).write_bytes(content)
        return tmp_path

    return lay


def edit(path: Path, change: Callable[[list[bytes]], object]) -> None:
    """Change a file's lines, each with its newline."""
    lines = path.read_bytes().splitlines(keepends=True)
    change(lines)
    path.write_bytes(b"".join(lines))


# Writing


def test_records_are_appended_over_runs_as_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "r.jsonl"
    for run in range(3):
        records = Records(path)
        for index in range(5):
            records.offer(result(index))
        records.offer(nothing())
        records.close()
        assert (records.written, records.lost) == (6, 0)
        found = verify(path)
        assert (found.records, found.first_seq, found.last_seq) == (6 * (run + 1), 0, 6 * run + 5)
        assert found.head == records.head
        assert found.problems == found.notes == ()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["score"] for line in lines[:6]] == [20, 21, 22, 23, 24, None]
    assert [line["seq"] for line in lines] == list(range(18))
    assert [line["seq"] for line in lines if "prev" in line] == [0, 6, 12]


def test_what_the_docstring_tells_an_auditor_works(lay: Callable[[], Path]) -> None:
    text = records_module.__doc__ or ""
    program = "\n".join(line[4:] for line in text[text.index("    before = None") :].splitlines()[:9])
    files = files_of(lay())
    names = {"files": files, "json": json, "hashlib": hashlib}
    exec(program, dict(names))  # the documented program, as it stands
    edit(files[1], lambda lines: lines.__setitem__(2, lines[2].replace(b'"dropped":0', b'"dropped":1')))
    with pytest.raises(AssertionError):
        exec(program, dict(names))


def test_a_torn_last_line_is_cut_off(tmp_path: Path, lay: Callable[[], Path]) -> None:
    live = lay() / "r.jsonl"
    whole = live.read_bytes()
    for torn in (b"{", b'{"seq":40,"fra', b'{"seq":40,"frame\0\0\0\0', b"\0" * 5000):
        live.write_bytes(whole + torn)
        found = verify(tmp_path)
        assert not found.problems
        assert "not whole" in found.notes[-1].what
        assert len(list(read_records(tmp_path))) == 40
        Records(live).close()
        assert live.read_bytes() == whole
    write(live, 2)
    assert not verify(live).problems
    assert verify(live).last_seq == 41


def test_a_whole_last_line_without_a_newline_is_kept(lay: Callable[[], Path]) -> None:
    live = lay() / "r.jsonl"
    live.write_bytes(live.read_bytes()[:-1])
    assert not verify(live).problems
    write(live, 2)
    found = verify(live)
    assert (found.problems, found.records) == ((), 42)


@pytest.mark.parametrize(
    "text", ["notes without a newline", "notes\n", '{\n  "pretty": "JSON"\n}', "{}\nnotes", '{"score": 1}\n{"sco', "\n"]
)
def test_a_file_that_holds_no_records_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(text)
    with pytest.raises(InputError, match="expected a file of records"):
        Records(path)
    assert path.read_text() == text


def test_unusable_places_and_sizes_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "file" / "below", tmp_path, tmp_path / "pipe", tmp_path / "r.000000000001.jsonl"):
        with pytest.raises(InputError, match="expected a"):
            Records(path)
    with pytest.raises(InputError, match="at least twice"):
        Records(tmp_path / "r.jsonl", rotate_mb=64, budget_mb=100)
    with pytest.raises(InputError, match="at least twice"):
        Records(tmp_path / "r.jsonl", rotate_mb=0)


def test_damage_in_the_middle_or_at_the_end_does_not_stop_the_next_run(lay: Callable[[], Path]) -> None:
    for damage in (b"someone's notes", b"notes\n", b'{"seq":"x"}\n', b'{"seq":40}', b"\0\0\n"):
        live = lay() / "r.jsonl"
        live.write_bytes(live.read_bytes() + damage)
        write(live, 3)
        found = verify(live)
        assert found.records == 43
        assert whats(found) == ["expected a record, found something else: altered, or not written by the kit"]


def test_a_symlink_is_read_but_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    write(tmp_path / "disk" / "real.jsonl", 30, rotate_mb=0.005)
    (tmp_path / "r.jsonl").symlink_to(tmp_path / "disk" / "real.jsonl")
    assert verify(tmp_path / "r.jsonl").records == 30
    with pytest.raises(InputError, match="a symbolic link; name the file that it points to"):
        Records(tmp_path / "r.jsonl")
    assert verify(tmp_path / "r.jsonl").records == 30


def test_numbers_that_json_has_no_word_for_become_null(tmp_path: Path) -> None:
    records = Records(tmp_path / "r.jsonl")
    records.offer(LiveResult(Score(float("nan")), None, "\udcff.png", START, float("inf"), None, 1, 0))
    records.close()
    (record,) = read_records(tmp_path)
    assert record["score"] is record["age_ms"] is None
    assert not verify(tmp_path).problems


def test_two_writers_are_refused_in_and_between_processes(tmp_path: Path) -> None:
    first = Records(tmp_path / "r.jsonl")
    with pytest.raises(InputError, match="expected to be its only writer"):
        Records(tmp_path / "r.jsonl")
    code = "import sys, pathlib, fthnet_kit.edge.outputs.records.writer as w; w.Records(pathlib.Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "r.jsonl"], capture_output=True, text=True)
    assert "only writer" in done.stderr
    first.offer(result(0))
    first.close()
    write(tmp_path / "r.jsonl", 1)
    assert verify(tmp_path).records == 2


# Losses


def test_a_full_disk_costs_records_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = Records(tmp_path / "r.jsonl")
    records.offer(result(1))
    until(lambda: records.written == 1)
    real, full = os.pwrite, {"on": True}

    def pwrite(file: int, data: bytes, offset: int) -> int:
        if full["on"]:
            return real(file, data[: len(data) // 2], offset)  # what a full disk does: half a record, then ENOSPC
        return real(file, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    for index in (2, 3):
        records.offer(result(index))
    until(lambda: records.lost == 2)
    assert (tmp_path / "r.jsonl").read_bytes().count(b"\n") == 1
    assert (tmp_path / "r.jsonl").read_bytes().endswith(b"}\n")  # the half records are taken back
    full["on"] = False
    records.offer(result(4))
    records.offer(result(5))
    records.close()
    assert records.lost == 2
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == [1, 4, 5]
    assert [line.get("lost_before") for line in lines] == [None, 2, None]
    found = verify(tmp_path)
    assert (found.problems, found.lost) == ((), 2)
    assert "2 records could not be written before record 1" in found.notes[0].what


def test_a_full_queue_is_told_where_it_was_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Records, "CAPACITY", 4)
    records = Records(tmp_path / "r.jsonl")
    real, gate = os.pwrite, threading.Event()

    def pwrite(file: int, data: bytes, offset: int) -> int:
        gate.wait(10)
        return real(file, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    records.offer(result(0))
    until(records._worker._queue.empty)
    for index in range(1, 9):
        records.offer(result(index))
    assert records.lost == 4
    gate.set()
    until(lambda: records.written == 5)
    records.offer(result(9))
    records.close()
    assert [(r["frame"], r.get("lost_before")) for r in read_records(tmp_path)][-2:] == [(4, None), (9, 4)]
    assert verify(tmp_path).lost == 4


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_really_full_disk(small_disk: Path) -> None:
    path = small_disk / "r.jsonl"
    (small_disk / "other").write_bytes(bytes(400_000))
    records = Records(path, rotate_mb=0.03, budget_mb=1)
    for index in range(400):
        records.offer(result(index))
    until(lambda: records.written + records.lost == 400)
    assert records.lost > 100
    written = records.written
    (small_disk / "other").unlink()
    for index in range(400, 500):
        records.offer(result(index))
    records.close()
    assert records.written >= written + 100
    found = verify(path)
    assert (found.problems, found.records, found.lost) == ((), records.written, records.lost)


def test_a_budget_larger_than_the_disk_still_lets_new_records_in(tmp_path: Path, monkeypatch) -> None:
    """The oldest files are past the budget, but the word of their removal finds no room as long as they are there."""
    path = tmp_path / "r.jsonl"
    write(path, 200, rotate_mb=0.02)
    oldest, real = files_of(tmp_path)[0], os.pwrite

    def pwrite(file: int, data: bytes, offset: int) -> int:
        if oldest.exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    write(path, 40, rotate_mb=0.02, budget_mb=0.06)
    found = verify(path)
    assert (found.problems, found.lost) == ((), 0)
    assert (found.first_seq or 0) > 0


# Rotation and budget


def test_files_are_closed_by_size_and_the_chain_goes_on(lay: Callable[[], Path]) -> None:
    folder = lay()
    found = verify(folder)
    paths = files_of(folder)
    assert (found.problems, found.notes, found.records, found.files) == ((), (), 40, len(paths))
    assert [record["frame"] for record in read_records(folder)] == list(range(40))
    for path in paths:
        first = json.loads(path.read_bytes().splitlines()[0])
        assert "prev" in first
        assert path.name in (f"r.{first['seq']:012}.jsonl", "r.jsonl")
    for path in paths[:-1]:
        assert 4000 <= path.stat().st_size < 5000
    for named in (folder, folder / "r", folder / "r.jsonl"):
        assert verify(named).head == found.head
    one = verify(paths[2])
    assert one.problems == ()
    assert one.files == 1
    assert "begins with record" in one.notes[0].what


def test_the_budget_removes_the_oldest_files_and_the_chain_says_so(tmp_path: Path) -> None:
    write(tmp_path / "r.jsonl", 400, rotate_mb=0.02, budget_mb=0.08)
    paths = files_of(tmp_path)
    assert 0.05e6 < sum(path.stat().st_size for path in paths) < 0.081e6
    found = verify(tmp_path)
    assert found.problems == ()
    assert found.first_seq and found.last_seq == 399
    assert found.records == 400 - found.first_seq
    assert "removed for the disk budget" in found.notes[0].what
    assert f"records 0 to {found.first_seq - 1} are missing" in found.notes[0].what
    paths[0].unlink()  # one more, by somebody else
    (what,) = whats(verify(tmp_path))
    assert "missing" in what


def test_a_smaller_budget_is_kept_from_the_next_start_on(tmp_path: Path) -> None:
    write(tmp_path / "r.jsonl", 200, rotate_mb=0.02)
    write(tmp_path / "r.jsonl", 1, rotate_mb=0.02, budget_mb=0.06)
    assert sum(path.stat().st_size for path in files_of(tmp_path)) < 0.062e6
    assert verify(tmp_path).problems == ()


def test_a_kill_between_the_word_and_the_removal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(Records, "_remove_condemned", lambda self: self._condemned.clear())
        write(path, 200, rotate_mb=0.02, budget_mb=0.06)
    assert verify(path).first_seq == 0
    assert verify(path).problems == ()
    write(path, 5, rotate_mb=0.02, budget_mb=0.06)
    assert (verify(path).first_seq or 0) > 0
    assert verify(path).problems == ()


def test_a_kill_while_a_file_is_closed(lay: Callable[[], Path]) -> None:
    """After the rename there is no live file, or an empty one."""
    for leave_empty in (False, True):
        folder = lay()
        (folder / "r.jsonl").unlink()
        if leave_empty:
            (folder / "r.jsonl").touch()
        last = verify(folder).last_seq
        assert verify(folder).problems == ()
        write(folder / "r.jsonl", 3)
        assert verify(folder).problems == ()
        assert verify(folder).last_seq == (last or 0) + 3


@pytest.fixture
def durable(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Size of the file each time that a slow disk has made it durable: what a power cut then would leave."""
    sizes: list[int] = []
    real = os.fdatasync

    def slow(file: int) -> None:
        size = os.fstat(file).st_size
        time.sleep(0.01)
        real(file)
        sizes.append(size)

    monkeypatch.setattr(records_module.os, "fdatasync", slow)
    return sizes


def test_a_power_cut_costs_at_most_the_line_in_flight(tmp_path: Path, durable: list[int]) -> None:
    records = Records(tmp_path / "r.jsonl")
    for index in range(10):
        records.offer(result(index))
        until(lambda: len(durable) == index + 1)  # noqa: B023
        assert durable[-1] == (tmp_path / "r.jsonl").stat().st_size
    records.close()
    assert records.written == 10


def test_a_slow_disk_makes_many_records_durable_at_once(tmp_path: Path, durable: list[int]) -> None:
    records = Records(tmp_path / "r.jsonl")
    for index in range(2000):
        records.offer(result(index))
    until(lambda: bool(durable) and records.written == 2000 and durable[-1] == (tmp_path / "r.jsonl").stat().st_size)
    assert len(durable) < 200
    records.close()
    assert records.lost == 0


def test_a_name_that_is_taken_is_not_overwritten(tmp_path: Path) -> None:
    taken = tmp_path / "r.000000000000.jsonl"
    records = Records(tmp_path / "r.jsonl", rotate_mb=0.005)
    taken.write_text("something else")
    for index in range(30):
        records.offer(result(index))
    records.close()
    assert (records.written, records.lost) == (30, 0)
    assert taken.read_text() == "something else"


@pytest.mark.parametrize("how", ["moved", "removed", "replaced"])
def test_a_live_file_that_someone_takes_away_is_missed(tmp_path: Path, monkeypatch, how: str) -> None:
    monkeypatch.setattr(Records, "LOOK_EVERY_S", 0)
    path = tmp_path / "r.jsonl"
    records = Records(path)
    records.offer(result(0))
    until(lambda: records.written == 1)
    if how == "moved":
        path.rename(tmp_path / "away")
    elif how == "removed":
        path.unlink()
    else:
        (tmp_path / "new").write_text("notes")
        (tmp_path / "new").replace(path)
    for index in range(1, 5):
        records.offer(result(index))
        until(lambda: records.written + records.lost == index + 1)  # noqa: B023
    records.close()
    assert records.lost == 0
    assert [record["seq"] for record in read_records(path)][-3:] == [2, 3, 4]
    assert any("missing before this line" in what for what in whats(verify(path)))


# Tampering


@given(st.data())
def test_one_flipped_byte_is_found(tmp_path_factory, rotated: dict[str, bytes], data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("flipped")
    target = data.draw(st.sampled_from(sorted(rotated)))
    position = data.draw(st.integers(0, len(rotated[target]) - 1))
    flip = data.draw(st.integers(1, 255))
    for name, content in rotated.items():
        if name == target:
            content = bytearray(content)  # noqa: PLW2901
            content[position] ^= flip
        (folder / name).write_bytes(content)
    found = verify(folder)
    assert 1 <= len(found.problems) <= 3
    line = rotated[target][:position].count(b"\n") + 1
    assert found.problems[0].file.name == target
    assert found.problems[0].line == line


def test_a_flipped_byte_in_a_record_is_one_problem_at_its_line(lay: Callable[[], Path]) -> None:
    for number, old, new in (
        (3, b'"dropped":0', b'"dropped":1'),
        (1, b'"prev":"', b'"prev":"0'),
        (3, b'"}\n', b'"]\n'),
    ):
        folder = lay()
        edit(files_of(folder)[1], lambda lines: lines.__setitem__(number - 1, lines[number - 1].replace(old, new)))  # noqa: B023
        (problem,) = verify(folder).problems
        assert (problem.file, problem.line) == (files_of(folder)[1], number)


@pytest.mark.parametrize("index", [0, 4, -1])
def test_a_removed_line_is_found(lay: Callable[[], Path], index: int) -> None:
    folder = lay()
    edit(files_of(folder)[1], lambda lines: lines.pop(index))
    (what,) = whats(verify(folder))
    assert "is missing" in what


def test_a_swapped_pair_is_found(lay: Callable[[], Path]) -> None:
    folder = lay()
    edit(files_of(folder)[1], lambda lines: lines.insert(3, lines.pop(4)))
    found = verify(folder)
    assert 1 <= len(found.problems) <= 3
    assert found.problems[0].line == 4


def test_an_inserted_line_is_found(lay: Callable[[], Path]) -> None:
    for inserted in (
        lambda lines: lines[2],
        lambda lines: lines[3].replace(b'"score":', b'"score":1'),
        lambda _: b"\n",
    ):
        folder = lay()
        edit(files_of(folder)[1], lambda lines: lines.insert(4, inserted(lines)))  # noqa: B023
        (problem,) = verify(folder).problems
        assert problem.line == 5


def test_an_appended_foreign_line_is_found(lay: Callable[[], Path]) -> None:
    deep = b'{"seq":' + b"[" * 100_000 + b',"chain":"' + b"0" * 64 + b'"}\n'
    for foreign in (b"{}\n", b"note\n", b"note", b'{"seq":40}', b"\xff\xfe\n", deep):
        folder = lay()
        with (folder / "r.jsonl").open("ab") as file:
            file.write(foreign)
        (problem,) = verify(folder).problems
        assert "expected a record" in problem.what


def reforged(line: bytes, before: str, old: bytes, new: bytes) -> bytes:
    body = line.removesuffix(b"\n")[:-CHAIN_LENGTH].replace(old, new)
    return body + b',"chain":"' + chain_value(before, body).encode() + b'"}\n'


def test_an_edited_value_with_its_own_hash_anew_is_found_by_the_next(lay: Callable[[], Path]) -> None:
    folder = lay()

    def forge(lines: list[bytes]) -> None:
        lines[3] = reforged(lines[3], json.loads(lines[2])["chain"], b'"dropped":0', b'"dropped":9')

    edit(files_of(folder)[1], forge)
    (problem,) = verify(folder).problems
    assert problem.line == 5


def forged(path: Path, *members: str, before: str = "0" * 64) -> None:
    """A file whose chain is whole, and whose records hold whatever they are given, `BEFORE` filled in."""
    with path.open("wb") as file:
        for text in members:
            body = ("{" + text.replace("BEFORE", before)).encode()
            before = chain_value(before, body)
            file.write(body + b',"chain":"' + before.encode() + b'"}\n')


def test_a_forged_chain_with_wrong_numbers_or_anchors_is_found(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    forged(path, '"seq":0', '"seq":2', '"seq":3')
    assert whats(verify(path)) == ["expected record 1, found the number 2"]
    forged(path, '"seq":0', f'"seq":1,"prev":"{"0" * 64}"', '"seq":2,"prev":"BEFORE"')
    assert whats(verify(path)) == ['expected in "prev" the chain value of the record before, found another']
    forged(path, '"seq":5,"prev":"BEFORE"', before="1" * 64)
    assert whats(verify(path)) == ["records 0 to 4 are missing before this line"]
    forged(path, '"seq":0,"prev":"BEFORE"', before="1" * 64)
    assert "another chain" in whats(verify(path))[0]


def test_the_budget_explains_missing_files_but_no_lines_within_one(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    forged(path, '"seq":5,"prev":"BEFORE","removed_through":4', before="1" * 64)
    assert verify(path).problems == ()
    forged(path, '"seq":5,"prev":"BEFORE","removed_through":3', before="1" * 64)
    assert whats(verify(path)) == ["records 0 to 4 are missing before this line"]
    forged(path, '"seq":0,"prev":"BEFORE"')
    forged(tmp_path / "rest", '"seq":5,"prev":"BEFORE","removed_through":4', before="1" * 64)
    path.write_bytes(path.read_bytes() + (tmp_path / "rest").read_bytes())
    assert whats(verify(path)) == ["records 1 to 4 are missing before this line"]


def test_a_closed_file_ends_with_a_newline(lay: Callable[[], Path]) -> None:
    folder = lay()
    closed = files_of(folder)[1]
    closed.write_bytes(closed.read_bytes()[:-1])
    assert whats(verify(folder)) == ["expected a newline at the end of a closed file, found none"]


def test_a_removed_middle_file_is_found_and_a_removed_first_one(lay: Callable[[], Path]) -> None:
    for index in (0, 1):
        folder = lay()
        files_of(folder)[index].unlink()
        (problem,) = verify(folder).problems
        assert (problem.line, "are missing" in problem.what) == (1, True)


def test_a_chain_written_anew_or_cut_off_shows_in_the_noted_head_alone(lay: Callable[[], Path]) -> None:
    folder = lay()
    live = folder / "r.jsonl"
    noted = verify(folder).head
    assert verify(folder, noted).noted_seq == 39
    write(live, 5)
    assert verify(folder, noted).noted_seq == 39
    edit(live, lambda lines: lines.__delitem__(slice(-6, None)))
    assert verify(folder).problems == ()
    assert verify(folder, noted).noted_seq is None


@pytest.mark.parametrize("seed", range(60))
def test_odd_bytes_never_raise(lay: Callable[[], Path], seed: int) -> None:
    folder = lay()
    rng = random.Random(seed)
    for path in files_of(folder):
        content = bytearray(path.read_bytes())
        for _ in range(rng.randrange(4)):
            start = rng.randrange(len(content))
            length = rng.choice((0, 1, 5, 700))
            content[start : start + length] = rng.choice(
                (rng.randbytes(9), b"\n", b"\0" * 5000, b"{", b'{"seq":1e999}')
            )
        path.write_bytes(content)
    verify(folder)
    list(read_records(folder))
    for row in (CliRunner().invoke(command, ["export", str(folder), "-o", str(folder / "t.csv")]),):
        assert row.exception is None or isinstance(row.exception, InputError)


def test_a_line_without_end_costs_no_memory(lay: Callable[[], Path]) -> None:
    folder = lay()
    with (folder / "r.jsonl").open("ab") as file:
        file.write(b"x" * 5_000_000 + b"\n")
    assert len(verify(folder).problems) == 1


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(InputError, match="found"):
            verify(path)
    write(tmp_path / "a.jsonl", 1)
    write(tmp_path / "b.jsonl", 1)
    with pytest.raises(InputError, match=r"a\.jsonl, b\.jsonl; name the file"):
        verify(tmp_path)
    assert verify(tmp_path / "a").records == 1


# Kills, clocks, speed

WRITER = """
import os, sys
from pathlib import Path
from fthnet_kit.edge.outputs.records.writer import Records
from tests.edge.test_records import result
records = Records(Path(sys.argv[1]), rotate_mb=0.02, budget_mb=50)
index = 0
while True:
    if index - records.written < 50:
        records.offer(result(index))
        index += 1
    os.write(1, b"%9d\\n" % records.written)
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_loses_no_whole_record(tmp_path: Path) -> None:
    rng = random.Random(5)
    path = tmp_path / "r.jsonl"
    before = runs = 0
    for _ in range(5):
        log = tmp_path / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-c", WRITER, path], stdout=out, cwd=Path(__file__).parents[2], start_new_session=True
            )
        until(lambda: log.stat().st_size > 10, 60)  # noqa: B023
        time.sleep(rng.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait()
        written = int(log.read_bytes().split(b"\n")[-2])
        found = verify(path)
        assert found.problems == ()
        assert found.records >= before + written
        assert found.lost == 0
        runs += found.records > before  # one may be killed before its first record
        before = found.records
    write(path, 1, rotate_mb=0.02)
    found = verify(path)
    assert (found.problems, found.records, found.files > 5) == ((), before + 1, True)
    frames = [record["frame"] for record in read_records(path)]
    starts = [index for index, frame in enumerate(frames) if frame == 0]
    assert len(starts) == runs + 1 >= 4
    for start, end in zip(starts, [*starts[1:], len(frames)], strict=True):
        assert frames[start:end] == list(range(end - start))


def test_a_clock_that_jumps_breaks_nothing(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    records = Records(tmp_path / "r.jsonl")
    for index, days in enumerate((0, 400, -9000, 1)):
        records.offer(result(index, when=START + timedelta(days=days)))
    records.close()
    assert verify(tmp_path).problems == ()
    assert CliRunner().invoke(command, ["plot", str(tmp_path), "-o", str(tmp_path / "p.png")]).exit_code == 0


def test_reading_while_writing_sees_a_whole_chain(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    records = Records(path, rotate_mb=0.01, budget_mb=0.1)
    done = threading.Event()

    def keep_writing() -> None:
        for index in range(100_000):
            while index - records.written > 20:
                time.sleep(0.0005)
            records.offer(result(index))
            if done.is_set():
                return

    writer = threading.Thread(target=keep_writing)
    writer.start()
    until(lambda: records.written > 100)
    deadline, looks = time.monotonic() + 3, 0
    while time.monotonic() < deadline:
        found = verify(path)
        assert found.problems == ()
        looks += 1
    done.set()
    writer.join()
    records.close()
    assert looks > 10
    assert records.lost == 0
    assert (verify(path).first_seq or 0) > 0


@pytest.mark.long
def test_a_hundred_thousand_records(tmp_path: Path) -> None:
    spent = []
    for count in (10_000, 100_000):
        started = time.process_time()
        write(tmp_path / str(count) / "r.jsonl", count, rotate_mb=8)
        found = verify(tmp_path / str(count))
        assert (found.problems, found.records) == ((), count)
        spent.append(time.process_time() - started)
    assert spent[1] < 20 * spent[0]  # in proportion, not by the square


# Commands


def invoke(*arguments: object) -> tuple[str, BaseException | None]:
    done = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, (InputError, MissingExtraError)), done.exception
    return done.output, done.exception


def test_verify_prints_one_line_a_problem_and_the_head(lay: Callable[[], Path]) -> None:
    folder = lay()
    output, error = invoke("verify", folder)
    assert error is None
    head = verify(folder).head
    assert f"head: {head}" in output
    assert f"whole: 40 records (0 to 39) in {len(files_of(folder))} files" in output
    output, error = invoke("verify", folder, "--head", f" {head} ".upper())
    assert error is None
    assert "noted head: record 39, 0 before the last" in output
    _, error = invoke("verify", folder, "--head", "0f" * 32)
    assert isinstance(error, InputError)
    assert "no record with the noted head" in str(error)
    edit(files_of(folder)[1], lambda lines: lines.pop(2))
    edit(files_of(folder)[2], lambda lines: lines.pop(2))
    output, error = invoke("verify", folder)
    assert isinstance(error, InputError)
    assert error.exit_code == 3
    assert "found 2 problems" in str(error)
    assert sum("is missing" in line for line in output.splitlines()) == 2


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    records = Records(tmp_path / "r.jsonl")
    for index in range(30):
        records.offer(nothing("stalled" if index % 4 else "no_frame") if 10 <= index < 20 else result(index))
    records.close()
    return tmp_path


def test_export_to_csv(mixed: Path) -> None:
    output, error = invoke("export", mixed, "-o", mixed / "out" / "t.csv")
    assert error is None
    assert output.startswith("30 records: ")
    with (mixed / "out" / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["seq"]) for row in rows] == list(range(30))
    assert list(rows[0])[:7] == ["seq", "captured_at", "file", "frame", "score", "raw", "verdict"]
    assert {"stage_infer_ms", "truth_severity", "truth_eye_in_view", "algorithm_name", "chain"} <= set(rows[0])
    assert not {"truth", "stage_ms", "algorithm"} & set(rows[0])
    assert (rows[5]["score"], rows[5]["reason"], rows[5]["stage_infer_ms"]) == ("25.0", "", "9.0")
    assert (rows[12]["score"], rows[12]["reason"], rows[12]["truth_severity"]) == ("", "no_frame", "")
    assert not list((mixed / "out").glob(".*"))


def test_export_to_parquet(mixed: Path) -> None:
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    _, error = invoke("export", mixed, "-o", mixed / "t.parquet")
    assert error is None
    table = parquet.read_table(mixed / "t.parquet")
    assert table.num_rows == 30
    types = {name: str(table.schema.field(name).type) for name in table.column_names}
    assert types["captured_at"] == "timestamp[us, tz=UTC]"
    assert (types["seq"], types["score"], types["verdict"]) == ("int64", "double", "string")
    assert (types["truth_eye_in_view"], types["stage_infer_ms"], types["file"]) == ("bool", "double", "string")
    assert table["captured_at"][5].as_py() == START + timedelta(seconds=5)
    assert table["score"].to_pylist()[9:11] == [29.0, None]


def test_export_of_odd_but_chained_values(tmp_path: Path) -> None:
    """A forger's chain may be whole and hold anything."""
    huge = "9" * 20
    forged(
        tmp_path / "r.jsonl",
        '"seq":0,"score":"high","frame":1e30,"captured_at":7',
        f'"seq":1,"score":[1],"frame":{huge}',
        '"seq":2,"truth":{"a":{}},"captured_at":"today"',
    )
    assert verify(tmp_path).problems == ()
    pytest.importorskip("pyarrow")
    for ending in ("csv", "parquet"):
        _, error = invoke("export", tmp_path, "-o", tmp_path / f"t.{ending}")
        assert error is None


def test_exports_that_cannot_be(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "expected a name ending in" in str(invoke("export", mixed, "-o", mixed / "t.xlsx")[1])
    (mixed / "file").write_text("")
    assert "expected a folder that can be written" in str(invoke("export", mixed, "-o", mixed / "file" / "t.csv")[1])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    error = invoke("export", mixed, "-o", mixed / "t.parquet")[1]
    assert isinstance(error, MissingExtraError)
    assert "fthnet-edge-kit[parquet]" in str(error)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    error = invoke("plot", mixed, "-o", mixed / "t.png")[1]
    assert isinstance(error, MissingExtraError)


def test_plot(mixed: Path) -> None:
    pytest.importorskip("matplotlib")
    output, error = invoke("plot", mixed, "-o", mixed / "out" / "p.png")
    assert error is None
    assert output.startswith("30 records: ")
    picture = cv2.imread(str(mixed / "out" / "p.png"))
    assert picture.shape[1] > 900
    assert picture.std() > 10
    assert "expected a PNG or SVG" in str(invoke("plot", mixed, "-o", mixed / "p.xyz")[1])


def test_a_long_plot_is_thinned(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("fthnet_kit.edge.outputs.records.plot.DRAWN", 7)
    assert "6 records (every 5th of 30)" in invoke("plot", mixed, "-o", mixed / "p.svg")[0]
