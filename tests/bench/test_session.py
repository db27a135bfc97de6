"""The session report, on records of a real run."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from fthnet_kit.bench.session import analyse, read_session
from fthnet_kit.edge import InputError


@pytest.fixture(scope="module")
def records(fthnet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("session") / "records.jsonl"
    source = "sim:?seconds=20&fps=4&seed=3&realtime=0"
    assert fthnet("run", "--source", source, "--records", path).returncode == 0
    return path


def test_the_shipped_model_follows_the_session(records: Path) -> None:
    report = analyse(read_session(records))
    assert report.frames > 60
    assert report.spearman["severity"] <= -0.6
    assert report.spearman["defocus"] <= -0.7


def test_command_prints_and_draws(records: Path, tmp_path: Path, fthnet) -> None:
    pytest.importorskip("matplotlib")
    done = fthnet("session", records, "-o", tmp_path / "plots" / "s.png")
    assert done.returncode == 0, done.stderr
    for factor in ("severity", "defocus", "exposure", "occlusion"):
        assert factor in done.stdout
    assert cv2.imread(str(tmp_path / "plots" / "s.png")).shape[1] > 500


@pytest.mark.parametrize("content", ["", "text", json.dumps({"score": 1}), json.dumps({"truth": None}) + "\n"])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "r.jsonl").write_text(content)
    with pytest.raises(InputError, match="expected records"):
        read_session(tmp_path / "r.jsonl")
