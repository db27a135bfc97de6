"""`fthnet bench pick`: what it tries, what it takes, and that `auto` follows it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fthnet_kit.bench.speed import pick
from fthnet_kit.edge import Bundle
from fthnet_kit.edge.inference.pick import Choice
from tests.conftest import ROOT


@pytest.mark.long
def test_a_pick_is_measured_kept_and_followed(fthnet, tmp_path: Path) -> None:
    config = tmp_path / "unit.toml"
    config.write_text('[camera]\nsource = "sim:?seconds=1&fps=5&seed=3"\n')
    done = fthnet("bench", "pick", "--runs", "10", "--config", config)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "unit.pick.json").read_text())
    tried = {(row["backend"], row["precision"]) for row in content["candidates"]}
    assert {("onnxruntime", "fp32"), ("onnxruntime", "int8")} <= tried
    assert content["candidates"][0]["ratio"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    chosen = content["choice"]
    assert f"fastest: {chosen['backend']} {chosen['precision']}" in done.stdout
    content["choice"] = {"backend": "onnxruntime", "precision": "int8", "threads": 1}
    content["circumstances"]["model"] = Bundle.open().card.files["fthnet.int8-cpu.onnx"]
    content["circumstances"]["library"] = _library()
    (tmp_path / "unit.pick.json").write_text(json.dumps(content))
    ran = fthnet("run", "--config", config)
    assert "1 thread" in ran.stdout, ran.stderr


def _library() -> str:
    from fthnet_kit.edge.inference.pick import Circumstances

    return Circumstances.now(Bundle.open(), Choice("onnxruntime", "fp32")).library


def test_a_precision_whose_gate_does_not_hold_is_no_candidate(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(ROOT / "edge" / "demo", folder)
    card = json.loads((folder / "model_card.json").read_text())
    for name in list(card["precisions"]):
        if name.startswith("int8-cpu"):
            card["precisions"][name]["holds"] = False
    (folder / "model_card.json").write_text(json.dumps(card))
    found = pick.candidates(Bundle.open(folder))
    assert Choice("onnxruntime", "fp32") == found[0]
    assert Choice("onnxruntime", "int8") not in found


@pytest.mark.parametrize(
    ("ratios", "fastest"),
    [([(1.0, 1.0), (0.8, 0.9)], 1), ([(1.0, 1.0), (0.97, 1.02)], 0), ([(1.0, 1.0), (0.8, 0.9), (0.7, 0.85)], 2)],
)
def test_only_what_is_proved_faster_takes_the_place_of_the_default(
    ratios: list[tuple[float, float]], fastest: int
) -> None:
    rows = [{"median_ms": 100 * value, "ratio": {"value": value, "high": high}} for value, high in ratios]
    assert pick._fastest(rows) is rows[fastest]


@pytest.mark.parametrize(("cores", "counts"), [(1, []), (2, [1]), (4, [2, 1]), (8, [4, 1])])
def test_fewer_threads_that_are_tried(cores: int, counts: list[int]) -> None:
    assert pick.thread_counts(cores) == counts
