"""The bench that compares true ages with those that are said."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_true_ages_are_measured() -> None:
    size = ["--width", "640", "--height", "480", "--fps", "10", "--busy", "0", "--seconds", "2"]
    command = [sys.executable, "-m", "fthnet_kit.bench.endurance.true_age", *size]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, 1), done.stderr  # 1: an age was flattered by more than a quarter of a second
    found = json.loads(done.stdout)
    assert 0 < found["scored"] <= found["captured"]
    assert found["capture_to_score_ms"]["p50"] > 0
    assert found["true_less_said_ms"]["p50"] == pytest.approx(
        found["capture_to_score_ms"]["p50"] - found["as_said_ms"]["p50"], abs=50
    )
