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

from fthnet_kit.edge import EngineError, InputError, Preprocessing, QualityScorer
from fthnet_kit.edge.capture.degradations import degrade
from fthnet_kit.edge.model.preprocess import Views, canonical, view_offsets
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


@pytest.mark.parametrize("views", [1, 5, pytest.param(20, marks=pytest.mark.slow)])
def test_views_are_averaged(photograph: np.ndarray, views: int) -> None:
    with QualityScorer.from_bundle(views=views) as scorer:
        score = scorer.score(photograph)
    assert f"views={views}" in score.algorithm.parameters
    assert abs(score.value - QualityScorer.from_bundle().score(photograph).value) < 25  # corners show less


class Rising(FakeBackend):
    """Gives the views 0, 1, 2, …"""

    def infer(self, images: np.ndarray) -> np.ndarray:
        return np.arange(len(images), dtype=np.float32)


@pytest.mark.parametrize(("views", "mean"), [(1, 0.0), (5, 2.0), (20, 9.5)])
def test_the_score_is_the_mean_of_the_views(photograph: np.ndarray, views: Views, mean: float) -> None:
    with QualityScorer(make_card(), Rising(), views) as scorer:
        assert scorer.score(photograph).value == mean


class Recorder(FakeBackend):
    """Keeps what the network was asked."""

    def infer(self, images: np.ndarray) -> np.ndarray:
        self.asked = images.copy()
        return super().infer(images)


@pytest.mark.parametrize("views", [1, 5, 20])
def test_the_gate_judges_the_centre_whatever_the_views(photograph: np.ndarray, views: Views) -> None:
    """Retina only in the middle of a gray wall is scored, a gray middle in a retina is not."""
    image = cv2.resize(photograph, (1024, 1024), interpolation=cv2.INTER_AREA)
    middle = np.zeros(image.shape, bool)
    middle[128:896, 128:896] = True
    in_wall, in_retina = np.where(middle, image, 120), np.where(middle, 120, image)
    card = make_card(preprocessing=Preprocessing(field_crop="none"))
    with QualityScorer(card, FakeBackend(), views) as scorer:
        assert scorer.score(in_wall.astype(np.uint8)).reason is None
        assert scorer.score(in_retina.astype(np.uint8)).reason == "no_retina"


def test_the_network_sees_flipped_views(photograph: np.ndarray) -> None:
    """The released protocol flips half of its crops: each view is the crop or its mirror image, as its seed says."""
    backend = Recorder()
    with QualityScorer(make_card(), backend, 20) as scorer:
        scorer.score(photograph)
    whole = canonical(photograph, scorer.card.preprocessing)[:, :, ::-1]
    offsets = view_offsets(20, 0)
    assert 5 <= sum(flip for _, _, flip in offsets) <= 15
    for view, (top, left, flip) in zip(backend.asked, offsets, strict=True):
        crop = whole[top : top + 384, left : left + 384]
        np.testing.assert_array_equal(view, crop[:, ::-1] if flip else crop)
        assert not np.array_equal(view, crop if flip else crop[:, ::-1])


def test_thresholds_of_another_number_of_views_are_told(caplog: pytest.LogCaptureFixture) -> None:
    QualityScorer.from_bundle().close()
    assert "thresholds" not in caplog.text
    QualityScorer.from_bundle(views=20).close()
    assert "fitted at 1, scores are averaged over 20" in caplog.text


@pytest.mark.parametrize("level", [0, 255])
def test_no_retina_gives_no_value(demo_scorer: QualityScorer, level: int) -> None:
    score = demo_scorer.score(np.full((480, 640, 3), level, np.uint8))
    assert score.value is None
    assert score.verdict is None
    assert score.reason == "no_retina"


def test_values_are_clipped_and_raw_is_kept(photograph: np.ndarray) -> None:
    score = fake_scorer(lambda _: 104.5).score(photograph)
    assert (score.value, score.raw) == (100.0, 104.5)


@pytest.mark.parametrize("answer", [float("nan"), float("inf")])
def test_what_is_no_number_is_no_score(photograph: np.ndarray, answer: float) -> None:
    score = fake_scorer(lambda _: answer).score(photograph)
    assert (score.value, score.raw, score.verdict, score.reason) == (None, None, None, "engine_fault")


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


@pytest.mark.slow
def test_the_readme_example_runs(tmp_path: Path, photograph: np.ndarray) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    (example,) = [block for block in blocks if "QualityScorer" in block]
    assert len(example.splitlines()) <= 10
    cv2.imwrite(str(tmp_path / "fundus.jpg"), photograph)
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "good" in done.stdout or "usable" in done.stdout or "reject" in done.stdout


@pytest.mark.slow
def test_good_photographs_score_above_bad_ones(data: Path, demo_scorer: QualityScorer) -> None:
    rows = list(csv.DictReader((data / "drimdb_val" / "labels.csv").open()))
    values: dict[str, list[float]] = {"good": [], "bad": [], "outlier": []}
    for row in rows:
        score = demo_scorer.score(cv2.imread(str(data / "drimdb_val" / "images" / row["file_name"])))
        values[row["quality"]].append(-1.0 if score.value is None else score.value)
    pairs = list(itertools.product(values["good"], values["bad"]))
    assert np.mean([good > bad for good, bad in pairs]) >= 0.998  # the model card says 1.000
    passed = {
        quality: sum(value >= demo_scorer.card.thresholds.usable for value in values[quality]) for quality in values
    }
    assert passed["good"] >= 38
    assert passed["bad"] <= 2
    assert passed["outlier"] == 0


@pytest.mark.slow
def test_the_gate_lets_real_retinas_through(data: Path, demo_scorer: QualityScorer) -> None:
    rows = list(csv.DictReader((data / "fundus" / "scores.csv").open()))
    worth_scoring = [row for row in rows if row["split"] == "val" and float(row["meanOpinionScore"]) >= 15]
    refused = [
        row["file_name"]
        for row in worth_scoring
        if demo_scorer.score(cv2.imread(str(data / "fundus" / "images" / row["file_name"]))).value is None
    ]
    assert refused == []
