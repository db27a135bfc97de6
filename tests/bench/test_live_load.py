"""`fthnet bench live`: the real command, a real camera on loopback, real viewers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fthnet_kit.bench.endurance.live_load import ROWS, Load


def load(age_ms: float, overhead_ms: float) -> Load:
    p95 = {"frame age": age_ms, "capture to score": 90.0, "loop overhead": overhead_ms}
    return Load("alone", 10, 20, {row: {"p95": ms} for row, ms in p95.items()}, {})


def test_what_is_promised_is_checked() -> None:
    assert load(49.0, 1.9).failures(20) == []
    assert load(51.0, 1.9).failures(20) == ["alone: frame age p95 51.00 ms, expected at most 50.00"]
    assert len(load(51.0, 2.1).failures(20)) == 2


@pytest.mark.long
def test_everything_in_use(fthnet, tmp_path: Path) -> None:
    """Whether this machine keeps the promises is for the command to say, not for the test."""
    path = tmp_path / "live.json"
    done = fthnet("bench", "live", "--seconds", "6", "--fps", "5", "--json", path)
    assert done.returncode == 0 or "fthnet: live: " in done.stderr.splitlines()[-1], done.stderr
    alone, everything = json.loads(path.read_text())["loads"]
    assert not alone["delivered"]
    assert set(everything["delivered"]) >= {"pictures", "events", "scrapes"}
    assert min(everything["delivered"].values()) >= 1
    for run in (alone, everything):
        assert set(run["ms"]) == set(ROWS)
        assert 1 <= run["scored"] <= run["captured"]
