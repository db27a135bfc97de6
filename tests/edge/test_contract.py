"""The contract: golden vectors that the kit still makes, and JSON as its schemas say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import cv2
import jsonschema
import numpy as np
import pytest

from fthnet_kit.edge.model.score import Reason
from tests.golden import make_contract_golden as contract

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "edge" / "assets" / "output.schema.json").read_text())
RULES = {None, "dark", "spot", "colour", "steps"}  # that the frames meet


@pytest.fixture(scope="module")
def made() -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    return contract.golden(contract.FOLDER)


def test_the_kit_still_makes_the_golden_vectors(made: tuple[list[dict[str, Any]], dict[str, np.ndarray]]) -> None:
    vectors, inputs = made
    golden = json.loads((contract.FOLDER / "vectors.json").read_text())["vectors"]
    assert [each["frame"] for each in vectors] == [each["frame"] for each in golden]
    for found, expected in zip(vectors, golden, strict=True):
        for name in ("size", "box", "gate", "input", "verdict", "reason"):
            assert found[name] == expected[name], found["frame"]
        assert (found["score"] is None) == (expected["score"] is None)
        assert found["score"] == pytest.approx(expected["score"], abs=0.01)
    for name, view in inputs.items():
        stored = cv2.cvtColor(cv2.imread(str(contract.FOLDER / name)), cv2.COLOR_BGR2RGB)
        difference = np.abs(view.astype(int) - stored)  # another OpenCV may round another way
        assert difference.max() <= 1
        assert np.mean(difference.max(axis=2) > 0) <= 0.001


def test_the_golden_frames_meet_every_case() -> None:
    golden = json.loads((contract.FOLDER / "vectors.json").read_text())["vectors"]
    assert {each["gate"] for each in golden} == RULES
    assert {each["reason"] for each in golden} == {None, "no_retina", "ambiguous_field"}
    sides = [each["box"][2] for each in golden if each["box"]]
    assert min(sides) < 512 < max(sides)
    assert any(side >= 2048 for side in sides)


def check(name: str, content: Any) -> None:
    jsonschema.Draft202012Validator({**SCHEMA, "$ref": f"#/$defs/{name}"}).validate(content)


def test_reasons_of_the_schema_are_those_of_the_kit() -> None:
    assert set(SCHEMA["$defs"]["score"]["properties"]["reason"]["enum"]) == {*get_args(Reason), None}


def test_outputs_follow_their_schemas(fthnet: Any, tmp_path: Path) -> None:
    frames = contract.FOLDER
    done = fthnet("score", "--json", *(frames / f"{name}.png" for name in ("plain", "gray", "two_eyes")))
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 3
    for line in lines:
        check("score_line", line)
        with pytest.raises(jsonschema.ValidationError):
            check("score_line", {**line, "score": None if line["score"] is not None else 50})
    outputs = ("--records", tmp_path / "r.jsonl", "--save-best", tmp_path / "b", "--best-shot", tmp_path / "s")
    for calm in ("", "&defect=none"):  # a calm hand: a slow machine finds a shot, too
        done = fthnet("run", "--source", f"sim:?seconds=5&fps=4&seed=3{calm}", *outputs)
        assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert records
    for record in records:
        check("record", record)
    check("result", json.loads((tmp_path / "b" / "best.json").read_text()))
    shots = list((tmp_path / "s").rglob("best.json"))
    assert shots
    for shot in shots:
        check("best_shot", json.loads(shot.read_text()))
