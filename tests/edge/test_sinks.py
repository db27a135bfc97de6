"""Records and the best frame survive kills, full disks and slow disks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np
import pytest

from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.frame import Frame
from fthnet_kit.edge.live import LiveResult
from fthnet_kit.edge.score import Score
from fthnet_kit.edge.sinks import BackgroundWorker, BestFrame, RecordsFile


def result(value: float | None, index: int = 0) -> LiveResult:
    score = (
        Score(value, raw=value, verdict="good", frame_index=index)
        if value is not None
        else Score(None, reason="no_frame")
    )
    frame = Frame(np.full((8, 8, 3), index, np.uint8), index, time.monotonic_ns()) if value is not None else None
    return LiveResult(score, frame, None, datetime.now(timezone.utc), 1.0, 2.0, index + 1, 0)


def test_records_are_appended(tmp_path: Path) -> None:
    for run in range(2):
        records = RecordsFile(tmp_path / "deep" / "r.jsonl")
        for index in range(5):
            records.offer(result(50.0 + index, index))
        records.offer(result(None))
        records.close()
        assert records.written == 6
        assert records.lost == 0
        lines = (tmp_path / "deep" / "r.jsonl").read_text().splitlines()
        assert len(lines) == 6 * (run + 1)
    assert [json.loads(line)["score"] for line in lines[:6]] == [50, 51, 52, 53, 54, None]


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"score": 1}\n{"sco')
    records = RecordsFile(path)
    records.offer(result(2.0))
    records.close()
    assert [json.loads(line)["score"] for line in path.read_text().splitlines()] == [1, 2]


def test_a_whole_last_line_without_a_newline_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"score": 1}\n{"score": 2}')
    records = RecordsFile(path)
    records.offer(result(3.0))
    records.close()
    assert [json.loads(line)["score"] for line in path.read_text().splitlines()] == [1, 2, 3]


@pytest.mark.parametrize("text", ["notes without a newline", "notes\n", '{\n  "pretty": "JSON"\n}', "{}\nnotes"])
def test_a_file_that_holds_no_records_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(text)
    with pytest.raises(InputError, match="expected a file of records"):
        RecordsFile(path)
    assert path.read_text() == text


def test_kill_9_leaves_whole_lines(tmp_path: Path) -> None:
    command = [
        "run",
        "--source",
        "sim:?seconds=0&fps=200&realtime=0&width=320&height=240",
        "--records",
        tmp_path / "r.jsonl",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "fthnet_kit.edge.cli", *map(str, command)], stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (tmp_path / "r.jsonl").exists() and (tmp_path / "r.jsonl").read_bytes().count(b"\n") >= 3:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    lines = (tmp_path / "r.jsonl").read_bytes().split(b"\n")
    assert len(lines) > 3
    for line in lines[:-1]:
        json.loads(line)


def test_a_full_disk_costs_records_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = RecordsFile(tmp_path / "r.jsonl")
    records.offer(result(1.0))
    time.sleep(0.2)
    real, full = os.pwrite, {"on": True}

    def pwrite(file: int, data: bytes, offset: int) -> int:
        if full["on"]:
            return real(file, data[: len(data) // 2], offset)  # what a full disk does: half a record, then ENOSPC
        return real(file, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    records.offer(result(2.0))
    time.sleep(0.2)
    full["on"] = False
    records.offer(result(3.0))
    records.close()
    assert records.lost == 1
    assert [json.loads(line)["score"] for line in (tmp_path / "r.jsonl").read_text().splitlines()] == [1, 3]


def test_a_hanging_disk_never_blocks_and_close_comes_back() -> None:
    release = threading.Event()
    worker: BackgroundWorker[int] = BackgroundWorker(lambda _: release.wait(30) and None, 3, "hanging")
    worker.CLOSE_TIMEOUT_S = 0.2
    started = time.monotonic()
    accepted = [worker.submit(index) for index in range(50)]
    assert time.monotonic() - started < 1
    assert worker.lost == 50 - sum(accepted) > 0
    worker.close()
    assert time.monotonic() - started < 3
    release.set()


def test_unwritable_places_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for make in (RecordsFile, BestFrame):
        with pytest.raises(InputError, match="expected a"):
            make(tmp_path / "file" / "below")


def test_best_frame_is_the_best(tmp_path: Path) -> None:
    best = BestFrame(tmp_path / "best")
    for index, value in enumerate((40.0, 70.0, None, 65.0)):
        best.offer(result(value, index))
    best.close()
    assert json.loads((tmp_path / "best" / "best.json").read_text())["score"] == 70.0
    assert cv2.imread(str(tmp_path / "best" / "best.png"))[0, 0, 0] == 1
    assert not list((tmp_path / "best").glob(".*"))
