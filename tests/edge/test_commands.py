"""The commands as a user types them: results, messages and exit codes."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from fthnet_kit.edge.model.bundle import FP32_NAME, shipped_bundle

pytestmark = pytest.mark.slow

SIM = "sim:?seconds=2&fps=8&seed=3&realtime=0&width=640&height=480"


def one_line(done: subprocess.CompletedProcess[str], code: int) -> str:
    assert done.returncode == code, (done.stdout, done.stderr)
    lines = [line for line in done.stderr.splitlines() if line.startswith("fthnet: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def test_run_writes_one_record_a_frame_with_the_truth(fthnet, tmp_path: Path) -> None:
    done = fthnet("run", "--source", SIM, "--records", tmp_path / "r.jsonl", "--save-best", tmp_path / "best")
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [record["frame"] for record in records] == list(range(16))
    scored = [record for record in records if record["score"] is not None]
    assert len(scored) >= 10
    for record in scored:
        assert record["verdict"] in ("good", "usable", "reject")
        assert {"preprocess", "gate", "infer", "post"} == set(record["stage_ms"])
        assert {"defocus", "exposure", "occlusion", "severity"} <= set(record["truth"])
    best = json.loads((tmp_path / "best" / "best.json").read_text())
    assert best["score"] == max(record["score"] for record in scored)
    assert cv2.imread(str(tmp_path / "best" / "best.png")).shape == (480, 640, 3)
    for word in ("p95", "capture to score", "best frame", "records: 16", "dropped 0"):
        assert word in done.stdout


def test_run_stops_after_max_frames(fthnet, tmp_path: Path) -> None:
    done = fthnet("run", "--source", SIM, "--max-frames", 3, "--records", tmp_path / "r.jsonl")
    assert done.returncode == 0
    assert sum(json.loads(line)["score"] is not None for line in (tmp_path / "r.jsonl").read_text().splitlines()) == 3


def test_run_for_some_seconds_keeps_annotated_pictures(fthnet, tmp_path: Path) -> None:
    """The camera never ends; every frame of the records has its picture."""
    source = "sim:?seconds=0&fps=5&width=640&height=480&seed=3"
    done = fthnet(
        *("run", "--source", source, "--seconds", 2, "--records", tmp_path / "r.jsonl"),
        *("--save-annotated", tmp_path / "drawn"),
    )
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    frames = [record["frame"] for record in records if record.get("frame") is not None]
    assert frames
    assert {path.name for path in (tmp_path / "drawn").iterdir()} == {f"frame-{frame:06}.jpg" for frame in frames}
    picture = cv2.imread(str(tmp_path / "drawn" / f"frame-{frames[0]:06}.jpg"))
    assert picture.shape == (480, 640, 3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    command = ["run", "--source", "sim:?seconds=0&fps=10&width=320&height=240", "--records", str(tmp_path / "r.jsonl")]
    process = subprocess.Popen(
        [sys.executable, "-m", "fthnet_kit.edge.cli", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (
        (tmp_path / "r.jsonl").exists() and (tmp_path / "r.jsonl").stat().st_size
    ):
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert " scored in " in out
    for line in (tmp_path / "r.jsonl").read_text().splitlines():
        json.loads(line)


def test_the_terminal_shows_score_verdict_and_age(tmp_path: Path) -> None:
    """In a real (pseudo) terminal, where rich draws."""
    main, child = pty.openpty()
    command = ["run", "--source", "sim:?seconds=4&fps=8&width=640&height=480&seed=3"]
    process = subprocess.Popen(
        [sys.executable, "-m", "fthnet_kit.edge.cli", *command],
        stdout=child,
        stderr=child,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"},
    )
    os.close(child)
    seen, deadline = b"", time.monotonic() + 90
    while time.monotonic() < deadline:
        if select.select([main], [], [], 0.2)[0]:
            try:
                seen += os.read(main, 65536)
            except OSError:
                break
        elif process.poll() is not None:
            break
    assert process.wait(timeout=20) == 0
    text = seen.decode(errors="replace")
    for word in ("fthnet run", "frame age", "fps", "dropped"):
        assert word in text
    assert any(spark in text for spark in "▃▄▅▆▇█")


def test_score_as_table_and_as_json(fthnet, tmp_path: Path, photograph: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), photograph)
    cv2.imwrite(str(tmp_path / "b.png"), cv2.GaussianBlur(photograph, (0, 0), 25))
    table = fthnet("score", tmp_path)
    assert table.returncode == 0
    assert "a.png" in table.stdout
    assert "verdict" in table.stdout
    lines = fthnet("score", "--json", tmp_path / "a.png", tmp_path / "b.png").stdout.splitlines()
    sharp, blurred = map(json.loads, lines)
    assert sharp["file"].endswith("a.png")
    assert sharp["score"] > blurred["score"] + 10
    assert set(sharp) == {"file", "score", "raw", "verdict", "reason", "stage_ms", "algorithm"}


def test_unreadable_images_are_named_skipped_and_told_by_the_exit_code(fthnet, tmp_path: Path, photograph) -> None:
    cv2.imwrite(str(tmp_path / "good.jpg"), photograph)
    whole = (tmp_path / "good.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("this is text")
    done = fthnet("score", "--json", tmp_path)
    assert "2 of 3 images" in one_line(done, 3)
    assert "half.jpg: expected a whole JPEG, found one cut short" in done.stderr
    assert "text.png: expected an image" in done.stderr
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["score"] is not None


def test_missing_and_altered_bundles(fthnet, tmp_path: Path) -> None:
    assert "expected a bundle, found no such folder" in one_line(
        fthnet("run", "--source", SIM, "--bundle", tmp_path / "none"), 4
    )
    bundle = shutil.copytree(shipped_bundle(), tmp_path / "altered")
    with (bundle / FP32_NAME).open("ab") as file:
        file.write(b"x")
    assert "SHA-256" in one_line(fthnet("run", "--source", SIM, "--bundle", bundle), 4)


def test_sources_that_are_not_there(fthnet, tmp_path: Path) -> None:
    assert "expected a camera or stream" in one_line(fthnet("run", "--source", "97"), 5)
    assert "found no such file" in one_line(fthnet("run", "--source", tmp_path / "missing.mp4"), 3)
    writer = cv2.VideoWriter(str(tmp_path / "empty.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 30, (64, 48))
    writer.release()
    assert "expected" in one_line(fthnet("run", "--source", tmp_path / "empty.avi"), 3)
    (tmp_path / "text.mp4").write_text("no video")
    assert "expected a whole video" in one_line(fthnet("run", "--source", tmp_path / "text.mp4"), 3)


def test_wrong_options_are_told_by_click(fthnet) -> None:
    done = fthnet("run", "--source", SIM, "--views", "3")
    assert done.returncode == 2
    assert "'3' is not one of" in done.stderr
    assert fthnet("fly").returncode == 2


def test_pickled_code_is_refused(fthnet, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"params": {}, "hook": Path("x")}, tmp_path / "net.pth")
    assert "refused" in one_line(fthnet("export", tmp_path / "net.pth", "--pool", "soft", "-o", tmp_path / "b"), 4)
