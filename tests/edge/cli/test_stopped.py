"""Ctrl-C in the middle of every long command, typed in a terminal: what moved until then, and what is kept."""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.long
PATIENCE_S = 120.0
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# What is typed after `fthnet`, what the terminal shows when it is at work, and what the last line says.
COMMANDS = {
    "score photos --views 20": ("scoring", "nothing was changed"),
    "archive score photos -o out --views 20": ("pictures", "finished shards are kept"),
    "severity --data {fundus}": ("scoring", "nothing was changed"),
    "thresholds --data {fundus} --sensitivity 0.9": ("scoring", "nothing was changed"),
    "bench accuracy --data {fundus}": ("scoring", "nothing was kept"),
    "bench latency --seconds 600": ("steady state", "nothing was kept"),
    "bench pick --runs 10000": ("candidates", "nothing was kept"),
    "bench best-shot --data {fundus}": ("playing", "nothing was kept"),
    "bench live": ("alone", "nothing was kept"),
    "bench soak": ("a score again", "nothing was kept"),
    "train --data {fundus} -o trained --minutes 5": ("reading photographs", "its last checkpoint is kept"),
    "quantize bundle --data {fundus}": ("%", "the bundle is as it was"),
    "verify --data {fundus}": ("%", "nothing was changed"),
    "build bundle --check": ("for sm", "no engine was installed"),
}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def stop_at_work(words: list[str], sign: str, folder: Path) -> tuple[int, str]:
    """Type a command in a terminal, see its sign and two changes, press Ctrl-C: exit code, and all that was shown."""
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENCV_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "fthnet_kit.edge.cli", *words],
        cwd=folder,
        env={**environment, "TERM": "xterm", "COLUMNS": "150"},
        stdout=subprocess.PIPE,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown, changes, began = "", 0, time.monotonic()
    try:
        while True:
            try:
                text = ESCAPES.sub("", os.read(ours, 1 << 16).decode(errors="replace"))
            except OSError:  # the other end is closed: it has ended
                assert changes >= 2, f"it ended before it was stopped: {shown[-2000:]}"
                break
            changes += sign in shown and bool(text.strip())
            shown += text
            if changes == 2:
                os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all that it started, too
            assert time.monotonic() - began < PATIENCE_S, shown[-2000:]
        return process.wait(30), shown
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        os.close(ours)


@pytest.mark.parametrize("typed", COMMANDS)
def test_a_command_that_is_stopped_says_what_is_kept(typed: str, tmp_path: Path, data: Path) -> None:
    if "--check" in typed and not find_spec("tensorrt_rtx"):
        pytest.skip("TensorRT for RTX is not installed")
    (tmp_path / "photos").mkdir()
    for number in range(30):
        shutil.copy(ROOT / "edge/assets/retina.jpg", tmp_path / "photos" / f"{number}.jpg")
    shutil.copytree(ROOT / "edge" / "demo", tmp_path / "bundle")
    before = contents(tmp_path)
    sign, kept = COMMANDS[typed]
    code, shown = stop_at_work(typed.format(fundus=data / "fundus").split(), sign, tmp_path)
    assert code == 1, shown[-2000:]
    (line,) = [line for line in shown.splitlines() if line.startswith("fthnet: ")]
    assert line.startswith("fthnet: stopped: ")
    assert kept in line
    assert "Traceback" not in shown
    made = {name: content for name, content in contents(tmp_path).items() if before.get(name) != content}
    assert {name.split("/")[0] for name in made} <= {"out", "trained.training"}, made.keys()
