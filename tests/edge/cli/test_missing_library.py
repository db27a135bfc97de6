"""A system library that OpenCV cannot find: one line with the remedy, whatever the command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BROKEN = "raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory', name='cv2')\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("score", "a.png"),
        ("run", "--source", "sim:?seconds=1"),
        ("thresholds", "--data", ".", "--sensitivity", "0.9"),
        ("severity", "--data", "."),
        ("verify", "--data", "."),
        ("bench", "latency", "--quick"),
    ],
    ids=lambda command: command[0],
)
def test_a_missing_libgl_is_one_line_with_the_remedy(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "cv2.py").write_text(BROKEN)
    done = subprocess.run(
        [sys.executable, "-m", "fthnet_kit.edge.cli", *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 8
    assert done.stderr == "fthnet: cv2: expected the system library libGL.so.1, found none; sudo apt install libgl1\n"
