"""Faults that hide a part of the field, and looks that cost nothing."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fthnet_kit.calibration import local_faults
from fthnet_kit.calibration.local_faults import (
    CELLS,
    brightest_channel,
    hidden_share,
    importance,
    kept,
    local_fault,
)
from fthnet_kit.calibration.training_samples import SampleSource, remaining
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.model.preprocess import Preprocessing, canonical


@pytest.fixture(scope="module")
def field(photograph: Image) -> Image:
    return canonical(photograph, Preprocessing())[64:448, 64:448].copy()


@pytest.fixture(scope="module")
def worth(field: Image) -> np.ndarray:
    return importance(field)


def test_the_price_is_that_of_the_verdicts() -> None:
    assert kept(0) == 1
    assert 90 * kept(0.3) < 60  # no longer good
    assert 90 * kept(0.5) < 40  # rejected
    assert kept(0.05) > 0.9
    assert remaining("over_exposure", 0.5 / 2.2) > 0.9  # half a stop
    assert remaining("under_exposure", 0.1) > 0.95


def test_macula_and_disc_are_worth_more_than_the_rim(worth: np.ndarray, field: Image) -> None:
    assert worth.sum() == pytest.approx(1, abs=1e-4)
    middle = worth[CELLS // 2, CELLS // 2]
    assert middle > 2 * np.median(worth[worth > 0])
    green = cv2.GaussianBlur(cv2.resize(field, (CELLS, CELLS), interpolation=cv2.INTER_AREA)[..., 1], (0, 0), 4)
    disc = np.unravel_index(np.argmax(green), green.shape)
    assert worth[disc] > 1.5 * np.median(worth[worth > 0])


def test_a_part_costs_at_least_its_share_and_more_in_the_middle(worth: np.ndarray) -> None:
    left = np.zeros((CELLS, CELLS), np.float32)
    left[:, : CELLS // 2] = 1
    assert hidden_share(left, worth) >= 0.49
    middle = (local_faults.X**2 + local_faults.Y**2 < 0.16).astype(np.float32)
    field = worth > 0
    assert hidden_share(middle, worth) > 1.5 * middle[field].mean()
    assert hidden_share(np.ones_like(left), worth) == pytest.approx(1, abs=1e-3)
    assert hidden_share(left, np.zeros_like(worth)) == 0


def test_what_lies_at_the_rim_counts_half(worth: np.ndarray) -> None:
    """Light that leaks in there leaves macula, disc and vessels to be seen."""
    rim = (local_faults.X**2 + local_faults.Y**2 >= local_faults.RIM**2).astype(np.float32)
    assert 0.4 < hidden_share(rim, worth) / rim[worth > 0].mean() < 0.9


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_what_is_hidden_is_what_changed(field: Image, seed: int) -> None:
    before = field.copy()
    made, hidden = local_fault(field, np.random.default_rng(seed))
    np.testing.assert_array_equal(field, before)
    assert made.shape == field.shape
    assert made.dtype == np.uint8
    assert 0 <= hidden.min() <= hidden.max() <= 1
    before, after = (cv2.resize(p, (CELLS, CELLS), interpolation=cv2.INTER_AREA).max(axis=2) for p in (field, made))
    if (hidden == 0).any():
        assert after[hidden == 0].mean() > 0.45 * before[hidden == 0].mean()
    np.testing.assert_array_equal(made, local_fault(field, np.random.default_rng(seed))[0])


@pytest.mark.parametrize(("cover", "shade", "wanted"), [(0.45, 0, 0.5), (0.7, 0.5, 0.8), (0.9, 1, 1), (1.0, 1, 1)])
def test_a_shadow_hides_what_is_too_dark_to_see_and_no_more(
    monkeypatch: pytest.MonkeyPatch, field: Image, cover: float, shade: float, wanted: float
) -> None:
    """Light that is weaker is light, vessels show in half the level; a lid or a reflex hides its share."""

    def kind(rng: np.random.Generator) -> local_faults.Fault:
        return np.full((CELLS, CELLS), cover, np.float32), (2.0, 3.0, 6.0)

    monkeypatch.setattr(local_faults, "FAULTS", {kind: 1.0})
    made, hidden = local_fault(field, np.random.default_rng(0))
    np.testing.assert_allclose(hidden, wanted, atol=0.03)
    assert made.mean() == pytest.approx((1 - cover) * field.mean(), abs=5)
    monkeypatch.setattr(local_faults, "SHADES", (kind,))
    np.testing.assert_allclose(local_fault(field, np.random.default_rng(0))[1], shade, atol=1e-5)


def test_shadows_are_drawn_so_that_some_hide_nothing() -> None:
    deepest = [float(local_faults.shadow(np.random.default_rng(seed))[0].max()) for seed in range(60)]
    assert min(deepest) < local_faults.THIN
    assert max(deepest) > local_faults.THICK
    assert {local_faults.shadow, local_faults.half_dark} == set(local_faults.SHADES)


def test_faults_of_all_kinds_and_sizes_are_drawn(field: Image, worth: np.ndarray) -> None:
    shares = [hidden_share(local_fault(field, np.random.default_rng(seed))[1], worth) for seed in range(200)]
    assert np.mean(np.array(shares) < 0.1) > 0.1
    assert np.mean(np.array(shares) > 0.5) > 0.1
    assert 0.05 < np.quantile(shares, 0.5) < 0.4
    for kind in local_faults.FAULTS:
        covers = [kind(np.random.default_rng(seed))[0] for seed in range(20)]
        assert {cover.shape for cover in covers} == {(CELLS, CELLS)}
        assert np.std([cover.mean() for cover in covers]) > 0.001


def test_labels_fall_with_what_is_hidden_and_with_nothing_else(photograph: Image) -> None:
    source = SampleSource([canonical(photograph, Preprocessing())], np.array([80.0]), seed=1)
    samples = [sample for index in range(200) for sample in source.pair(index)]
    plain = [s for s in samples if s.quality and not s.severities.any()]
    brightness = {round(float(s.image.mean())) for s in plain if s.quality == 0.8}
    assert len(brightness) > 20  # looks without a cost
    hidden = [s for s in plain if s.hidden]
    assert len(hidden) > 15
    for sample in hidden:
        assert sample.quality <= 0.8 * kept(sample.hidden) + 1e-6
    assert np.mean([s.known for s in hidden if s.hidden > 0.1]) < 0.5


def test_the_brightest_channel_is_any_of_the_three() -> None:
    picture = np.random.default_rng(2).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    np.testing.assert_array_equal(brightest_channel(picture), picture.max(axis=2))


def test_light_at_the_rim_costs_no_more_than_its_share(worth: np.ndarray) -> None:
    crescents = [local_faults._crescent(np.random.default_rng(seed)) for seed in range(60)]
    shares = np.array([hidden_share(crescent, worth) for crescent in crescents])
    assert max(crescent[CELLS // 2, CELLS // 2] for crescent in crescents) == 0  # the middle is seen
    assert sum(crescent.max() == 1 for crescent in crescents) > 50
    assert 0.05 < np.median(shares) < 0.25
    assert shares.max() < 0.5
