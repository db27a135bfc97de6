"""Signed records: a chain written anew, a cut tail and forged removals are found without a person's note."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from fthnet_kit.edge.cli.records import records as command
from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.outputs.records import checkpoints as module
from fthnet_kit.edge.outputs.records.chain import ORIGIN, chain_value
from fthnet_kit.edge.outputs.records.checkpoints import Checkpoint, CheckpointWriter, checkpoints_file, read_checkpoints
from fthnet_kit.edge.outputs.records.export import for_spreadsheet
from fthnet_kit.edge.outputs.records.verify import Verification, verify
from fthnet_kit.edge.outputs.records.writer import Records
from fthnet_kit.edge.trust.keys import make_key
from tests.edge.test_records import forged, result, write

pytest.importorskip("cryptography", reason="needs the extra [sign]")


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint every ten records."""
    monkeypatch.setattr(module, "EVERY_RECORDS", 10)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    make_key(tmp_path / "device")
    return tmp_path / "device"


@pytest.fixture
def public(key: Path) -> Path:
    return key.with_suffix(".pub")


def signed(path: Path, key: Path, count: int = 25, **sizes: float) -> Records:
    return write(path, count, checkpoints=CheckpointWriter(key, path), **sizes)  # type: ignore[arg-type]


def whats(found: Verification) -> str:
    return "; ".join(problem.what for problem in found.problems)


def rewrite(path: Path, first: int, value: bytes, count: int | None = None) -> None:
    """All scores from a record on become another, and the chain is made anew, as who has no key can do."""
    chain, lines = ORIGIN, []
    for number, line in enumerate(path.read_bytes().splitlines()[:count]):
        body = line.rpartition(b',"chain":"')[0]
        if number >= first:
            before, rest = body.split(b'"score":', 1)
            body = before + b'"score":' + value + rest[rest.index(b",") :]
        if b'"prev":' in body and number:
            start, rest = body.split(b'"prev":"', 1)
            body = start + b'"prev":"' + chain.encode() + rest[64:]
        chain = chain_value(chain, body)
        lines.append(body + b',"chain":"' + chain.encode() + b'"}\n')
    path.write_bytes(b"".join(lines))


def keep_checkpoints(path: Path, count: int) -> None:
    file = checkpoints_file(path)
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:count]))


def test_a_signed_chain_is_whole(tmp_path: Path, key: Path, public: Path) -> None:
    path = tmp_path / "r" / "r.jsonl"
    signed(path, key)
    signed(path, key, 5)
    for where in (path, path.parent):
        found = verify(where, key=public)
        assert (whats(found), found.notes, found.signed_seq, found.records) == ("", (), 29, 30)
    kinds = [checkpoint.kind for _, checkpoint in read_checkpoints(path, public) if checkpoint]
    assert kinds == ["line", "line", "end", "start", "end"]
    assert checkpoints_file(path).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("first", [0, 7, 24])
def test_a_chain_written_anew_is_found(tmp_path: Path, key: Path, public: Path, first: int) -> None:
    path = tmp_path / "r.jsonl"
    signed(path, key)
    rewrite(path, first, b"95.0")
    assert verify(path).problems == ()  # the chain alone says that it is whole
    assert "it, or one before, was rewritten" in whats(verify(path, key=public))


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_checkpoints_taken_away_with_what_they_cover_leave_records_unsigned(
    tmp_path: Path, key: Path, public: Path, kept: int
) -> None:
    path = tmp_path / "r.jsonl"
    signed(path, key)
    rewrite(path, 10 * kept, b"95.0")
    keep_checkpoints(path, kept)
    assert "to 24 are not covered by any signature" in whats(verify(path, key=public))


def test_a_cut_tail_is_found(tmp_path: Path, key: Path, public: Path) -> None:
    path = tmp_path / "r.jsonl"
    signed(path, key)
    rewrite(path, 99, b"", count=15)
    assert verify(path).problems == ()
    assert "records 15 to 24 are missing at the end" in whats(verify(path, key=public))
    assert whats(verify(path, key=public, running=True))


def test_a_tail_cut_with_its_checkpoints_has_no_signed_end(tmp_path: Path, key: Path, public: Path) -> None:
    path = tmp_path / "r.jsonl"
    signed(path, key)
    rewrite(path, 99, b"", count=20)
    keep_checkpoints(path, 2)
    assert "expected a signed end, found none" in whats(verify(path, key=public))


def test_a_tail_cut_between_two_runs_is_found(tmp_path: Path, key: Path, public: Path) -> None:
    path = tmp_path / "r.jsonl"
    signed(path, key)
    rewrite(path, 99, b"", count=15)
    signed(path, key, 30)
    assert "found 14: the end was cut off then" in whats(verify(path, key=public))


def test_records_written_between_two_runs_are_found(tmp_path: Path, key: Path, public: Path) -> None:
    path = tmp_path / "r.jsonl"
    signed(path, key)
    write(path, 5)  # by somebody without the key
    signed(path, key, 5)
    assert "records 25 to 29 are signed only by the next run" in whats(verify(path, key=public))


def test_a_forged_removal_is_found(tmp_path: Path, key: Path, public: Path) -> None:
    path = tmp_path / "r.jsonl"
    signed(path, key, 60, rotate_mb=0.01, budget_mb=1)
    closed = sorted(tmp_path.glob("r.0*.jsonl"))
    last = json.loads(path.read_bytes().splitlines()[-1])
    removed = json.loads(closed[1].read_bytes().splitlines()[0])["seq"] - 1
    body = b'{"seq":%d,"removed_through":%d,"frame":1' % (last["seq"] + 1, removed)
    with path.open("ab") as file:
        file.write(body + b',"chain":"' + chain_value(last["chain"], body).encode() + b'"}\n')
    closed[0].unlink()
    assert verify(path).problems == ()  # believed without a key
    found = whats(verify(path, key=public))
    assert "missing before this line" in found
    assert f"states that records up to {removed} were removed, and no signature covers it" in found
    assert "missing before this line" in whats(verify(path, key=public, running=True))


def test_an_honest_removal_is_no_problem(tmp_path: Path, key: Path, public: Path) -> None:
    path = tmp_path / "r.jsonl"
    signed(path, key, 120, rotate_mb=0.01, budget_mb=0.03)
    found = verify(path, key=public)
    assert found.first_seq
    assert whats(found) == ""


def test_each_closed_file_can_be_checked_alone(tmp_path: Path, key: Path, public: Path) -> None:
    path = tmp_path / "r.jsonl"
    signed(path, key, 60, rotate_mb=0.01, budget_mb=1)
    for file in sorted(tmp_path.glob("r.0*.jsonl")):
        assert whats(verify(file, key=public)) == ""


def test_another_devices_signature_is_none(tmp_path: Path, key: Path, public: Path) -> None:
    make_key(tmp_path / "eve")
    path = tmp_path / "r.jsonl"
    signed(path, tmp_path / "eve")
    found = whats(verify(path, key=public))
    assert "expected a checkpoint that the key has signed" in found
    assert "records 0 to 24 are not covered" in found


def test_without_checkpoints_a_key_cannot_check(tmp_path: Path, public: Path) -> None:
    path = tmp_path / "r.jsonl"
    write(path, 3)
    with pytest.raises(InputError, match="expected the signed checkpoints"):
        verify(path, key=public)


def test_a_power_cut_in_a_checkpoint_costs_that_one(tmp_path: Path, key: Path, public: Path) -> None:
    path = tmp_path / "r.jsonl"
    signed(path, key)
    file = checkpoints_file(path)
    file.write_bytes(file.read_bytes()[:-50])
    signed(path, key, 5)
    found = verify(path, key=public)
    assert found.signed_seq == 29
    assert whats(found) == "expected a checkpoint that the key has signed, found another line"


def test_a_killed_run_is_told_and_signed_by_the_next(tmp_path: Path, key: Path, public: Path) -> None:
    path = tmp_path / "r.jsonl"
    code = f"""
import sys, time
from pathlib import Path
from tests.edge.test_records import result
from fthnet_kit.edge.outputs.records import checkpoints
from fthnet_kit.edge.outputs.records.writer import Records
checkpoints.EVERY_RECORDS = 10
path = Path({str(path)!r})
records = Records(path, checkpoints=checkpoints.CheckpointWriter(Path({str(key)!r}), path))
for index in range(14):
    records.offer(result(index))
while records.written < 14:
    time.sleep(0.01)
print("written", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdout.readline() == b"written\n"
        child.kill()
    assert "not covered by any signature" in whats(verify(path, key=public))
    assert whats(verify(path, key=public, running=True)) == ""
    signed(path, key, 5)
    found = verify(path, key=public)
    assert whats(found) == ""
    assert ["did not end cleanly" in note.what for note in found.notes] == [True]


def test_heads_are_told(tmp_path: Path, key: Path) -> None:
    path, heads = tmp_path / "r.jsonl", []
    records = Records(path, checkpoints=CheckpointWriter(key, path))
    records.tell_heads(heads.append)
    for index in range(25):
        records.offer(result(index))
        while records.written <= index:
            time.sleep(0.001)
    records.close()
    assert [(head.seq, head.kind) for head in heads] == [(9, "line"), (19, "line"), (24, "end")]
    assert heads[-1].chain == records.head
    assert json.loads(heads[-1].to_bytes()).keys() == {"at", "chain", "kind", "seq"}
    later = CheckpointWriter(key, path)
    records = Records(path, checkpoints=later)
    records.tell_heads(heads.append)
    records.close()
    assert [head.kind for head in heads[3:]] == ["start", "end"]


def test_a_disk_that_takes_no_checkpoint_costs_no_record(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "r.jsonl"
    checkpoints_file(path).mkdir()
    signed(path, key)
    assert verify(path).records == 25
    assert "cannot write a signed checkpoint" in caplog.text


def test_the_command(fthnet: Callable, tmp_path: Path, key: Path, public: Path) -> None:
    path = tmp_path / "r" / "r.jsonl"
    source = "sim:?seconds=1&fps=4&realtime=0"
    done = fthnet("run", "--source", source, "--records", path, "--records-key", key)
    assert done.returncode == 0, done.stderr
    whole = fthnet("records", "verify", path, "--key", public)
    assert (whole.returncode, "signed: up to record 3" in whole.stdout) == (0, True)
    rewrite(path, 0, b"95.0")
    found = fthnet("records", "verify", path, "--key", public)
    assert found.returncode == 3
    assert "was rewritten" in found.stdout


# Spreadsheets


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "＝"])
def test_text_that_a_spreadsheet_would_run_is_made_harmless(tmp_path: Path, start: str) -> None:
    path, text = tmp_path / "r.jsonl", f'{start}cmd|"/C calc"!A0'
    member = json.dumps(text)
    forged(path, '"seq":0,"prev":"' + ORIGIN + f'","file":{member},{json.dumps(start + "name")}:1,"score":-1.5')
    done = CliRunner().invoke(command, ["export", str(path), "-o", str(tmp_path / "t.csv")])
    assert done.exit_code == 0, done.output
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["file"] == f"'{text}"
    assert row["score"] == "-1.5"  # a number stays one
    assert f"'{start}name" in row


def test_other_values_are_left_alone() -> None:
    for value in ("a=b", "", 1, -1.5, None, True):
        assert for_spreadsheet(value) == value


def test_a_checkpoint_round_trips() -> None:
    checkpoint = Checkpoint(3, "a" * 64, "line", "2026-01-01T00:00:00+00:00")
    assert Checkpoint(**json.loads(checkpoint.to_bytes())) == checkpoint


def test_a_copy_elsewhere_verifies(tmp_path: Path, key: Path, public: Path) -> None:
    signed(tmp_path / "r" / "r.jsonl", key)
    copy = shutil.copytree(tmp_path / "r", tmp_path / "auditor")
    assert whats(verify(copy / "r.jsonl", key=public)) == ""
