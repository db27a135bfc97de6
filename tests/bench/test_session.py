"""The session report, on records of a real run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import pytest

from fthnet_kit.bench.quality.session import analyse, read_session
from fthnet_kit.edge import InputError
from fthnet_kit.edge.outputs.records.chain import RecordFiles


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


def test_all_files_of_a_chain_are_read(fthnet, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    source = "sim:?seconds=12&fps=4&seed=3&realtime=0"
    done = fthnet("run", "--source", source, "--records", path, "--records-rotate-mb", 0.01)
    assert done.returncode == 0, done.stderr
    files = RecordFiles.find(path)
    assert len(files.closed()) >= 2
    found = read_session(path)
    assert [record["seq"] for record in found] == list(range(len(found)))
    assert len(found) > len(path.read_text().splitlines()) + 10
    assert read_session(tmp_path) == found
    assert read_session(files.closed()[0][1]) == found[: files.closed()[1][0]]


@pytest.mark.parametrize("content", ["", "text", json.dumps({"score": 1}), json.dumps({"truth": None}) + "\n"])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "r.jsonl").write_text(content)
    with pytest.raises(InputError, match="expected records of `fthnet run`, found none"):
        read_session(tmp_path / "r.jsonl")


def test_what_is_not_of_the_simulator_or_not_there_is_refused(records: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    lines = records.read_text().splitlines(keepends=True)[:3]
    path.write_text("".join(re.sub('"truth":{[^}]*}', '"truth":null', line) for line in lines))
    with pytest.raises(InputError, match="simulated camera, found 3 of another one; run it with --source sim:"):
        read_session(path)
    with pytest.raises(InputError, match="found no such file"):
        read_session(tmp_path / "none.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(InputError, match="expected"):
        read_session(tmp_path / "folder.jsonl")
