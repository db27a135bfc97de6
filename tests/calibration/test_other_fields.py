"""Pictures of another field of the retina cost; macula and disc elsewhere in the picture do not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fthnet_kit.calibration.other_fields import OTHER_FIELD_KEPT, decentred, other_field
from fthnet_kit.calibration.training_samples import SampleSource
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.model.preprocess import INPUT, RESIZE, Preprocessing, canonical

ORANGE, DISC, MACULA = (60, 110, 190), (150, 220, 250), (20, 40, 80)


def eye(radius: int = RESIZE // 2, disc: int = 450) -> Image:
    """An even field with a bright disc to a side and a dark macula in the middle, BGR."""
    picture = np.zeros((RESIZE, RESIZE, 3), np.uint8)
    middle = RESIZE // 2
    cv2.circle(picture, (middle, middle), radius, ORANGE, -1)
    cv2.circle(picture, (disc, middle - 10), 38, DISC, -1)
    cv2.circle(picture, (middle, middle), 36, MACULA, -1)
    return picture


def hues(picture: Image) -> float:
    """How much the hue of RGB differs over a picture, whatever light fell on it: log of red by green."""
    red, green = (cv2.GaussianBlur(picture[..., channel], (0, 0), 3).astype(float) + 1 for channel in (0, 1))
    lit = green > 30
    return float(np.std(np.log(red[lit] / green[lit]))) if lit.any() else 0.0


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), disc=st.integers(60, 450))
def test_neither_macula_nor_disc_nor_rim_is_seen(seed: int, disc: int) -> None:
    field = eye(disc=disc)
    before = field.copy()
    made = other_field(field, np.random.default_rng(seed))
    np.testing.assert_array_equal(field, before)
    assert made is not None
    assert made.shape == (INPUT, INPUT, 3)
    assert np.abs(made.astype(int) - ORANGE).max() <= 2


def test_both_sides_are_shown_at_several_sizes(photograph: Image) -> None:
    field = eye()
    field[RESIZE // 2 :][field[RESIZE // 2 :].max(axis=2) > 0] = (0, 200, 0)
    made = [other_field(field, np.random.default_rng(seed)) for seed in range(40)]
    below = [int(picture[..., 2].max()) < 100 for picture in made if picture is not None]
    assert 8 < sum(below) < 32
    real = canonical(photograph, Preprocessing())
    detail = [
        cv2.Laplacian(picture, cv2.CV_32F).std()
        for picture in (other_field(real, np.random.default_rng(seed)) for seed in range(40))
        if picture is not None
    ]
    assert max(detail) > 1.5 * min(detail)  # some enlarged, some only reflected


def test_a_field_that_is_dark_there_has_none() -> None:
    assert other_field(eye(radius=150), np.random.default_rng(0)) is None


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), disc=st.sampled_from([62, 450]))
def test_a_camera_that_aims_at_the_disc_shows_both_once(seed: int, disc: int) -> None:
    field = eye(disc=disc)
    before = field.copy()
    made = decentred(field, np.random.default_rng(seed))
    np.testing.assert_array_equal(field, before)
    assert made.shape == (INPUT, INPUT, 3)
    assert made.max(axis=2).min() > 60  # filled to its corners
    level = made[..., 1].astype(int)
    for seen in (level > 165, level < 75):  # disc, macula
        count, _, boxes, _ = cv2.connectedComponentsWithStats(seen.astype(np.uint8))
        assert sum(boxes[1:, cv2.CC_STAT_AREA] > 50) == 1, count
    columns = np.nonzero(level < 75)[1]
    away = columns.mean() - INPUT / 2
    assert away < -30 if disc > RESIZE / 2 else away > 30


def test_a_pair_of_one_photograph_teaches_what_another_field_costs() -> None:
    source = SampleSource([eye()], np.array([80.0]), seed=0)
    pairs = [source.pair(index) for index in range(500)]
    wanted = pytest.approx(0.8 * OTHER_FIELD_KEPT)
    other = [(a, b) for a, b in pairs if b.other_field and not (a.hidden or b.hidden or b.severities.any())]
    assert len(other) > 10
    for whole, beside in other:
        assert whole.known
        assert not whole.other_field
        assert (whole.quality, beside.quality) == (0.8, wanted)
        assert not beside.known  # an enlarged picture is not free of blur
    assert np.mean([hues(whole.image) for whole, _ in other]) > 2 * np.mean([hues(beside.image) for _, beside in other])


def test_some_photographs_have_the_disc_near_the_middle_at_no_cost() -> None:
    source = SampleSource([eye()], np.array([80.0]), seed=1)
    samples = [sample for index in range(120) for sample in source.pair(index)]
    distances = []
    for sample in samples:
        if sample.quality == 0.8:
            red, green = (cv2.GaussianBlur(sample.image[..., channel], (0, 0), 9).astype(float) for channel in (0, 1))
            row, column = np.unravel_index(np.argmin(np.where(green > 30, red / (green + 1), 99)), green.shape)
            distances.append(np.hypot(row - INPUT / 2, column - INPUT / 2))
    assert 0.05 < np.mean(np.array(distances) < 110) < 0.5  # where only the crop moves, 130 at least
