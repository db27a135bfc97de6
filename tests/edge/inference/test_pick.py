"""`auto` follows a pick that was measured here, and nothing else."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from fthnet_kit.edge import Bundle, QualityScorer
from fthnet_kit.edge.inference.pick import Choice, pick_file, picked, write_pick


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open()


@pytest.fixture
def path(bundle: Bundle, tmp_path: Path) -> Path:
    path = tmp_path / "fthnet" / "pick.json"
    write_pick(path, bundle, Choice("onnxruntime", "int8", 1), {"runs": 10})
    return path


def altered(path: Path, section: str, **values: Any) -> None:
    content = json.loads(path.read_text())
    content[section] |= values
    path.write_text(json.dumps(content))


def test_auto_follows_the_users_pick(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert pick_file() == path
    with QualityScorer.from_bundle() as scorer:
        assert scorer.backend.describe()["threads"] == "1"
    with QualityScorer.from_bundle(threads=2) as scorer:  # what is asked for goes before
        assert scorer.backend.describe()["threads"] == "2"


@pytest.mark.parametrize("asked", [{"precision": "fp32"}, {"backend": "onnxruntime"}])
def test_what_is_asked_for_is_not_replaced(path: Path, asked: dict[str, Any]) -> None:
    altered(path, "choice", threads=7)
    with QualityScorer.from_bundle(pick=path, **asked) as scorer:
        assert scorer.backend.describe()["threads"] != "7"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"model": "0" * 64}, "another model"),
        ({"cpu": "another"}, "another cpu"),
        ({"cores": 96}, "another cores"),
        ({"library": "onnxruntime 0.1"}, "another library"),
    ],
)
def test_a_pick_of_other_circumstances_is_told_and_not_followed(
    bundle: Bundle, path: Path, changed: dict[str, Any], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert picked(bundle, path) == Choice("onnxruntime", "int8", 1)
    altered(path, "circumstances", **changed)
    with caplog.at_level(logging.WARNING):
        assert picked(bundle, path) is None
    assert told in caplog.text
    assert "bench pick" in caplog.text


@pytest.mark.parametrize(
    "choice",
    [
        {"backend": "auto"},
        {"backend": "sh"},
        {"precision": "bf16"},
        {"precision": ["int8"]},
        {"threads": 0},
        {"threads": True},
        {"more": 1},
    ],
)
def test_a_choice_that_cannot_be_is_told_and_not_followed(
    bundle: Bundle, path: Path, choice: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    altered(path, "choice", **choice)
    assert picked(bundle, path) is None
    assert "not followed" in caplog.text


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"pick"', '{"schema": "fthnet-pick"}', "\0", "1e999"])
def test_another_file_is_told_and_not_followed(
    bundle: Bundle, path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text(text)
    assert picked(bundle, path) is None
    assert "not followed" in caplog.text


def test_a_configuration_has_a_pick_of_its_own(tmp_path: Path) -> None:
    assert pick_file(tmp_path / "unit.toml") == tmp_path / "unit.pick.json"
