"""The gate before the network."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from fthnet_kit.edge.capture.degradations import DEGRADATIONS, degrade
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.inference.retina_gate import shows_retina, why_not_retina
from fthnet_kit.edge.model.preprocess import INPUT, Preprocessing, prepare
from tests.conftest import FakeBackend, fake_scorer

CASTS = {
    "warm": (1.2, 1.0, 0.8),
    "cool": (0.85, 1.0, 1.15),
    "cooler": (0.8, 1.0, 1.25),
    "green": (0.85, 1.15, 0.85),
    "magenta": (1.15, 0.85, 1.15),
    "dim": (0.6, 0.6, 0.6),
}
NO_CAST = (1.0, 1.0, 1.0)
GRADABLE = 40  # MOS


@pytest.fixture(scope="module")
def picture(photograph: Image) -> Image:
    return cv2.resize(photograph, (720, 720), interpolation=cv2.INTER_AREA)


def view_of(image: Image) -> Image:
    return prepare(image, Preprocessing(), 1)[0]


def cast(view: Image, gains: tuple[float, float, float]) -> Image:
    return np.clip(view * np.array(gains, np.float32), 0, 255).astype(np.uint8)


def painted(level: tuple[int, int, int]) -> Image:
    return np.full((INPUT, INPUT, 3), level, np.uint8)


def outer_eye(burnt_out: int) -> Image:
    """Skin, sclera, iris, pupil and lashes, as a camera sees them that stands too far back."""
    image = painted((230, 170, 140))
    cv2.ellipse(image, (192, 192), (170, 95), 0, 0, 360, (burnt_out, burnt_out - 10, burnt_out - 30), -1)
    cv2.circle(image, (192, 192), 80, (90, 60, 40), -1)
    cv2.circle(image, (192, 192), 35, (15, 10, 10), -1)
    for x in range(20, 370, 8):
        cv2.line(image, (x, 40), (x + (x - 192) // 5, 110), (40, 25, 20), 3)
    return cv2.GaussianBlur(image, (0, 0), 1.5)


def test_the_photograph_is_a_retina(photograph: Image) -> None:
    assert shows_retina(view_of(photograph))


@pytest.mark.parametrize("name", DEGRADATIONS)
@pytest.mark.parametrize("severity", [0.3, 0.5, 0.7])
def test_a_degraded_retina_is_still_a_retina(picture: Image, name: str, severity: float) -> None:
    assert [why_not_retina(view_of(degrade(picture, name, severity, seed))) for seed in range(4)] == [None] * 4


@pytest.mark.parametrize("name", CASTS)
def test_another_cameras_white_balance_is_no_reason(picture: Image, name: str) -> None:
    assert why_not_retina(cast(view_of(picture), CASTS[name])) is None


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (painted((0, 0, 0)), "dark"),
        (painted((18, 6, 3)), "dark"),
        (painted((255, 255, 255)), "colour"),
        (painted((120, 120, 120)), "colour"),
        (painted((40, 70, 160)), "colour"),
        (cv2.circle(painted((4, 2, 2)), (200, 150), 60, (250, 240, 230), -1), "spot"),
        (outer_eye(250), "steps"),
        (outer_eye(150), "white"),
    ],
)
def test_what_is_no_retina(view: Image, reason: str) -> None:
    assert why_not_retina(view) == reason
    assert not shows_retina(view)


@pytest.mark.parametrize("level", [30, 60, 120, 200, 250])
@pytest.mark.parametrize("noise", [0, 3, 8])
def test_a_gray_wall_is_no_retina(level: int, noise: float) -> None:
    rng = np.random.default_rng(1)
    wall = np.clip(level + rng.normal(0, noise, (INPUT, INPUT, 3)), 0, 255).astype(np.uint8)
    assert why_not_retina(wall) == "colour"


def test_a_gray_room_is_no_retina() -> None:
    """As `bench/endurance/faulty_camera.py` shows it when asked for what is no retina."""
    blocks = np.random.default_rng(1).integers(90, 140, (30, 40, 1), np.uint8).repeat(3, axis=2)
    assert not shows_retina(view_of(cv2.resize(blocks, (320, 240))))


def test_the_view_is_left_as_it_is(picture: Image) -> None:
    view = view_of(picture)
    before = view.copy()
    shows_retina(view)
    np.testing.assert_array_equal(view, before)


def test_the_network_is_not_asked_about_an_outer_eye() -> None:
    scorer = fake_scorer()
    assert isinstance(scorer.backend, FakeBackend)
    score = scorer.score(cv2.cvtColor(outer_eye(250), cv2.COLOR_RGB2BGR))
    assert (score.value, score.reason) == (None, "no_retina")
    assert scorer.backend.calls == 0


# On real photographs


def drimdb(data: Path, quality: str) -> dict[str, Image]:
    rows = csv.DictReader((data / "drimdb_val" / "labels.csv").open())
    names = [row["file_name"] for row in rows if row["quality"] == quality]
    return {name: view_of(cv2.imread(str(data / "drimdb_val" / "images" / name))) for name in names}


def fundus(data: Path, least: float, split: str) -> dict[str, Image]:
    rows = csv.DictReader((data / "fundus" / "scores.csv").open())
    names = [row["file_name"] for row in rows if row["split"] == split and float(row["meanOpinionScore"]) >= least]
    return {name: view_of(cv2.imread(str(data / "fundus" / "images" / name))) for name in names}


def refused(views: dict[str, Image], gains: tuple[float, float, float] = NO_CAST) -> dict[str, str]:
    reasons = {name: why_not_retina(cast(view, gains)) for name, view in views.items()}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def test_all_outliers_of_drimdb_are_refused(data: Path) -> None:
    outliers = drimdb(data, "outlier")
    assert len(outliers) == 7
    assert refused(outliers).keys() == outliers.keys()


def test_no_good_photograph_of_drimdb_is_refused(data: Path) -> None:
    good = drimdb(data, "good")
    for gains in (NO_CAST, *CASTS.values()):
        assert refused(good, gains) == {}


def test_no_sample_of_fqs_is_refused(data: Path) -> None:
    for path in (data / "fqs_sample" / "images").iterdir():
        assert why_not_retina(view_of(cv2.imread(str(path)))) is None


@pytest.mark.slow
def test_no_gradable_retina_is_refused(data: Path) -> None:
    gradable = fundus(data, GRADABLE, "val")
    assert len(gradable) > 100
    for gains in (NO_CAST, *CASTS.values()):
        assert refused(gradable, gains) == {}


@pytest.mark.long
def test_no_gradable_retina_is_refused_in_the_larger_set(data: Path) -> None:
    gradable = fundus(data, GRADABLE, "train")
    assert len(gradable) > 800
    for gains in (NO_CAST, *CASTS.values()):
        assert refused(gradable, gains) == {}
