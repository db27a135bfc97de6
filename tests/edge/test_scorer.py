"""The public scorer on the shipped bundle."""

from __future__ import annotations

import csv
import itertools
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from fthnet_kit.edge import EngineError, InputError, QualityScorer
from fthnet_kit.edge.capture.degradations import degrade
from tests.conftest import ROOT, FakeBackend, fake_scorer, make_card


def test_score_of_the_photograph(demo_scorer: QualityScorer, photograph: np.ndarray) -> None:
    score = demo_scorer.score(photograph)
    assert 0 <= score.value <= 100
    assert score.verdict == demo_scorer.card.thresholds.verdict(score.value)
    assert score.reason is None
    assert score.stage_ms["preprocess"] > 0
    assert score.stage_ms["infer"] > 0
    assert score.algorithm.name == demo_scorer.card.name
    assert "views=1" in score.algorithm.parameters


def test_scoring_is_deterministic(demo_scorer: QualityScorer, photograph: np.ndarray) -> None:
    assert demo_scorer.score(photograph).raw == demo_scorer.score(photograph).raw


@pytest.mark.parametrize("name", ["defocus", "under_exposure", "haze"])
def test_a_spoiled_photograph_scores_lower(demo_scorer: QualityScorer, photograph: np.ndarray, name: str) -> None:
    spoiled = degrade(photograph, name, 0.8, 1)
    assert demo_scorer.score(spoiled).value < demo_scorer.score(photograph).value - 10


@pytest.mark.parametrize("views", [1, 5, 20])
def test_views_are_averaged(photograph: np.ndarray, views: int) -> None:
    with QualityScorer.from_bundle(views=views) as scorer:
        score = scorer.score(photograph)
    assert f"views={views}" in score.algorithm.parameters
    assert abs(score.value - QualityScorer.from_bundle().score(photograph).value) < 25  # corners show less


@pytest.mark.parametrize("level", [0, 255])
def test_no_retina_gives_no_value(demo_scorer: QualityScorer, level: int) -> None:
    score = demo_scorer.score(np.full((480, 640, 3), level, np.uint8))
    assert score.value is None
    assert score.verdict is None
    assert score.reason == "no_retina"


def test_values_are_clipped_and_raw_is_kept(photograph: np.ndarray) -> None:
    score = fake_scorer(lambda _: 104.5).score(photograph)
    assert (score.value, score.raw) == (100.0, 104.5)


def test_not_an_image(demo_scorer: QualityScorer) -> None:
    with pytest.raises(InputError):
        demo_scorer.score(np.zeros((4, 4, 3), np.float64))


def test_closing_closes_the_backend(photograph: np.ndarray) -> None:
    backend = FakeBackend()
    with QualityScorer(make_card(), backend):
        pass
    assert backend.closed
    scorer = QualityScorer.from_bundle()
    scorer.close()
    scorer.close()
    with pytest.raises(EngineError, match="closed"):
        scorer.backend.infer(np.zeros((1, 384, 384, 3), np.uint8))


def test_the_readme_example_runs(tmp_path: Path, photograph: np.ndarray) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    (example,) = [block for block in blocks if "QualityScorer" in block]
    assert len(example.splitlines()) <= 10
    cv2.imwrite(str(tmp_path / "fundus.jpg"), photograph)
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "good" in done.stdout or "usable" in done.stdout or "reject" in done.stdout


def test_good_photographs_score_above_bad_ones(data: Path, demo_scorer: QualityScorer) -> None:
    rows = list(csv.DictReader((data / "drimdb_val" / "labels.csv").open()))
    values: dict[str, list[float]] = {"good": [], "bad": [], "outlier": []}
    for row in rows:
        score = demo_scorer.score(cv2.imread(str(data / "drimdb_val" / "images" / row["file_name"])))
        values[row["quality"]].append(-1.0 if score.value is None else score.value)
    pairs = list(itertools.product(values["good"], values["bad"]))
    assert np.mean([good > bad for good, bad in pairs]) >= 0.8


def test_the_gate_lets_real_retinas_through(data: Path, demo_scorer: QualityScorer) -> None:
    rows = list(csv.DictReader((data / "fundus" / "scores.csv").open()))
    worth_scoring = [row for row in rows if row["split"] == "val" and float(row["meanOpinionScore"]) >= 15]
    refused = [
        row["file_name"]
        for row in worth_scoring
        if demo_scorer.score(cv2.imread(str(data / "fundus" / "images" / row["file_name"]))).value is None
    ]
    assert refused == []
