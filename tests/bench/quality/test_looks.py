"""Looks that are no fault, and covers of a share of the field."""

from __future__ import annotations

import json
from functools import partial

import cv2
import numpy as np
import pytest

from fthnet_kit.bench.quality.looks import LOOKS, blurred_away, covered, grey, looks_table, measure_looks, tone
from fthnet_kit.calibration.labelled_images import LabelledImage
from fthnet_kit.edge import Preprocessing, Thresholds
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.model.preprocess import canonical, prepare
from tests.conftest import FakeBackend


class BrightnessBackend(FakeBackend):
    """Scores each picture by its brightness, and keeps what it was shown."""

    def infer(self, images: Image) -> np.ndarray:
        self.seen = images.copy()
        return (0.5 * images.mean(axis=(1, 2, 3))).astype(np.float32)


RNG = partial(np.random.default_rng, 3)


@pytest.fixture(scope="module")
def field(photograph: Image) -> Image:
    return canonical(photograph, Preprocessing())


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory, photograph: Image) -> list[LabelledImage]:
    """The photograph, and the same at half its brightness."""
    folder = tmp_path_factory.mktemp("photographs")
    images = []
    for index, factor in enumerate((1.0, 0.5)):
        path = folder / f"{index}.png"
        cv2.imwrite(str(path), (factor * cv2.resize(photograph, (512, 512))).astype(np.uint8))
        images.append(LabelledImage(path, 70.0, "val", str(index)))
    return images


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["lid", "shadow", "black"])
def test_a_cover_hides_its_share_of_the_field_and_nothing_else(field: Image, kind: str, share: float) -> None:
    inside = field.max(axis=2) > 12
    for seed in range(4):
        hidden = covered(field, np.random.default_rng(seed), kind=kind, share=share)
        changed = np.abs(hidden.astype(int) - field).max(axis=2) > 0.5 * field.max(axis=2)
        assert changed[inside].mean() == pytest.approx(share, abs=0.06)
        np.testing.assert_array_equal(hidden[~inside], field[~inside])
    assert np.array_equal(covered(field, RNG(), kind=kind, share=share), covered(field, RNG(), kind=kind, share=share))


def test_lids_come_from_above_or_below_and_shadows_from_anywhere(field: Image) -> None:
    def side(kind: str, seed: int) -> tuple[bool, bool]:
        dark = covered(field, np.random.default_rng(seed), kind=kind, share=0.3).astype(int) - field
        rows, columns = np.abs(dark).sum(axis=(1, 2)), np.abs(dark).sum(axis=(0, 2))
        half = len(rows) // 2
        vertical = abs(rows[:half].sum() - rows[half:].sum()) > abs(columns[:half].sum() - columns[half:].sum())
        return vertical, rows[:half].sum() > rows[half:].sum()

    lids = [side("lid", seed) for seed in range(12)]
    assert all(vertical for vertical, _ in lids)
    assert len({above for _, above in lids}) == 2
    assert len({vertical for vertical, _ in (side("shadow", seed) for seed in range(12))}) == 2


def test_half_a_stop_is_half_a_stop_of_linear_light() -> None:
    gray = np.full((4, 4, 3), 100, np.uint8)
    for stops in (-0.5, 0.5):
        level = int(tone(gray, RNG(), stops=stops)[0, 0, 0])
        assert (level / 100) ** 2.2 == pytest.approx(2**stops, rel=0.02)
    assert tone(gray, RNG(), gamma=1.35)[0, 0, 0] == round(255 * (100 / 255) ** 1.35)
    assert tone(np.full((1, 1, 3), 250, np.uint8), RNG(), stops=0.5)[0, 0, 0] == 255


def test_a_grey_look_has_no_colour_and_its_light_is_a_tone_of_it(field: Image) -> None:
    plain, dim = grey(field, RNG()), grey(field, RNG(), stops=-1.5)
    for picture in (plain, dim):
        assert np.ptp(picture, axis=2).max() == 0
    np.testing.assert_array_equal(plain[..., 0], cv2.cvtColor(field, cv2.COLOR_BGR2GRAY))
    np.testing.assert_array_equal(dim, tone(plain, RNG(), stops=-1.5))
    assert dim.mean() < 0.7 * plain.mean()


def test_what_is_blurred_away_keeps_its_light_and_nothing_else_and_noise_is_fine(field: Image) -> None:
    away, noisy = (blurred_away(field, RNG(), noise=noise) for noise in (False, True))
    assert away.shape == noisy.shape == field.shape
    middle = (slice(150, 362), slice(150, 362))

    def detail(picture: Image) -> float:
        return float(cv2.Laplacian(picture[middle], cv2.CV_32F).std())

    assert away[middle].mean() == pytest.approx(field[middle].mean(), rel=0.1)
    assert detail(away) < 1  # steps of one gray level
    assert detail(field) > 4
    grain = noisy[middle].astype(float) - away[middle]
    assert grain.mean() == pytest.approx(0, abs=0.2)
    assert 2 < grain.std() < 6
    assert abs(np.mean(grain[..., 0] * grain[..., 2])) < 0.1 * grain.var()  # each channel has its own
    dark, light = (blurred_away(np.full_like(field, level), RNG(), noise=True).std() for level in (25, 225))
    assert light == pytest.approx(3 * dark, rel=0.1)  # as photons: by the root of the level


def test_every_look_is_scored_against_the_clean_view(photographs: list[LabelledImage]) -> None:
    """A backend that scores brightness moves with every look, and follows brightness altogether."""
    report = measure_looks(BrightnessBackend(), Preprocessing(), photographs, Thresholds(20, 30))
    assert list(report.scores) == list(LOOKS)
    assert report.follows_brightness() == pytest.approx(1)
    assert (report.scores["gain +0.5 stop"] > report.clean).all()
    assert (report.scores["gamma 1.35"] < report.clean).all()
    assert report.moved("gain -0.5 stop") == pytest.approx(
        float((report.clean - report.scores["gain -0.5 stop"]).mean())
    )
    for kind in ("lid", "shadow", "black"):
        assert (report.scores[f"{kind} over 50%"] < report.scores[f"{kind} over 30%"]).all()
    dark = report.scores["black over 50%"]
    assert report.count("black over 50%", "reject") == int((dark < 20).sum())
    assert report.count("black over 50%", "good") == int((dark >= 30).sum())
    assert looks_table(report).row_count == len(LOOKS)


def test_the_clean_view_is_the_networks_own(photographs: list[LabelledImage]) -> None:
    backend = BrightnessBackend()
    report = measure_looks(backend, Preprocessing(), photographs[:1], Thresholds(40, 60))
    view = prepare(cv2.imread(str(photographs[0].path)), Preprocessing(), 1)[0]
    clean = backend.seen[0]
    assert cv2.absdiff(clean, view).mean() < 2
    assert report.brightness[0] == pytest.approx(float(clean.mean()))
    facts = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert facts["score_against_brightness"] is None  # one photograph has no correlation
    assert facts["looks"]["gamma 0.75"]["mean_moved"] > 1


def test_scores_are_clipped_as_the_runtime_does(photographs: list[LabelledImage]) -> None:
    report = measure_looks(FakeBackend(lambda images: 130.0), Preprocessing(), photographs, Thresholds(40, 60))
    assert set(report.clean) == {100.0}
    assert report.count("lid over 30%", "good") == 2
