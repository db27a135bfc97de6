"""Looks that cost nothing: colour, light and dirt of another camera or eye."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fthnet_kit.calibration.local_faults import CLIPPED, LIT, lost_levels
from fthnet_kit.calibration.looks import LEAST_LEVEL, LEAST_LIGHT, dirty, expose, fall_off, glow
from fthnet_kit.calibration.training_samples import SampleSource
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.model.preprocess import Preprocessing, canonical


@pytest.fixture(scope="module")
def field(photograph: Image) -> Image:
    return canonical(photograph, Preprocessing())[64:448, 64:448].copy()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_look_keeps_the_order_of_levels(field: Image, seed: int) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 256, 1).repeat(3, axis=2)
    made = expose(ramp, np.random.default_rng(seed))[0, :, 0].astype(int)
    assert (np.diff(made) >= 0).all()
    assert made[0] == 0


def test_looks_differ_and_cost_only_what_they_clip(field: Image) -> None:
    dull = cv2.convertScaleAbs(field, alpha=0.4, beta=40)  # far from both ends
    looks = [expose(dull, np.random.default_rng(seed)) for seed in range(60)]
    assert np.ptp([look.mean() for look in looks]) > 40
    assert max(float(lost_levels(look).mean()) for look in looks) < 0.02
    clipped = cv2.convertScaleAbs(field, alpha=6.0)
    assert lost_levels(clipped).mean() > 0.3


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), stops=st.floats(0, 6))
def test_no_look_makes_a_dark_photograph_darker(field: Image, seed: int, stops: float) -> None:
    photograph = cv2.convertScaleAbs(field, alpha=2 ** (-stops / 2.2))
    lit = photograph[::4, ::4].max(axis=2) > LIT
    if lit.any():
        before, after = (
            np.median(picture[::4, ::4].max(axis=2)[lit])
            for picture in (photograph, expose(photograph, np.random.default_rng(seed)))
        )
        assert after >= min(before, LEAST_LEVEL) - 1


def test_a_dim_photograph_may_come_in_full_light(field: Image) -> None:
    dim = cv2.convertScaleAbs(field, alpha=25 / float(np.median(field.max(axis=2))))
    levels = [np.median(expose(dim, np.random.default_rng(seed)).max(axis=2)) for seed in range(80)]
    assert min(levels) < 45
    assert max(levels) > 120


def test_light_falls_off_smoothly_and_never_too_far() -> None:
    even = np.full((384, 384, 3), 200, np.uint8)
    weakest = []
    for seed in range(60):
        light = (fall_off(even, np.random.default_rng(seed))[..., 0] / 200.0) ** 2.2
        assert light.max() > 0.97
        assert light.min() >= LEAST_LIGHT - 0.02
        assert np.abs(np.diff(light, axis=0)).max() < 0.03
        weakest.append(np.unravel_index(np.argmin(light), light.shape))
    assert sum(60 < y < 324 and 60 < x < 324 for y, x in weakest) > 3  # the middle
    assert sum(y in (0, 383) or x in (0, 383) for y, x in weakest) > 30  # a side, or the rim


def test_dirt_is_sharp_on_a_blurred_picture_and_hides_next_to_nothing(field: Image) -> None:
    blurred = cv2.GaussianBlur(field, (0, 0), 8)
    black = blurred.max(axis=2) == 0
    for seed in range(20):
        made = dirty(blurred, np.random.default_rng(seed))
        assert 0 < np.mean(np.abs(made.astype(int) - blurred).max(axis=2) > 8) < 0.1
        assert not made[black].any()
        assert np.abs(cv2.Laplacian(made, cv2.CV_32F)).max() > 4 * np.abs(cv2.Laplacian(blurred, cv2.CV_32F)).max()


def test_some_spots_are_large_and_none_hides_what_lies_under_it() -> None:
    even = np.full((384, 384, 3), 160, np.uint8)
    changed = [dirty(even, np.random.default_rng(seed))[..., 0] for seed in range(40)]
    widest = [
        cv2.distanceTransform((np.abs(each.astype(int) - 160) > 8).astype(np.uint8), cv2.DIST_L2, 3).max()
        for each in changed
    ]
    assert max(widest) > 8
    assert np.median(widest) < 12
    assert min(each.min() for each in changed) > 160 * 0.45


def test_light_leaks_in_at_the_rim_and_leaves_the_middle() -> None:
    field = cv2.circle(np.zeros((384, 384, 3), np.uint8), (192, 192), 190, (40, 60, 120), -1)
    mask = cv2.dilate(field, np.ones((17, 17))).max(axis=2) == 0  # a cell and more from what is lit
    all_around = 0
    for seed in range(60):
        added = glow(field, np.random.default_rng(seed)).astype(int) - field
        assert (added >= 0).all()
        assert not added[172:212, 172:212].any()
        assert not added[mask].any()
        corners = [added[y, x].max() for y, x in ((60, 60), (60, 323), (323, 60), (323, 323))]
        all_around += min(corners) > 0
    assert 5 < all_around < 55


def test_light_that_clips_has_a_price_and_light_that_veils_has_none(photograph: Image) -> None:
    source = SampleSource([canonical(photograph, Preprocessing())], np.array([80.0]), seed=2)
    looks = [source._looked(source._view(0, rng), 0, rng) for rng in map(np.random.default_rng, range(900))]
    clipped = [look for look in looks if np.mean(look.image[..., 1] >= CLIPPED) > 0.03]
    assert len(clipped) > 5
    assert all(look.lost > 0.01 for look in clipped)
    assert sum(look.lost == 0 for look in looks) > 450


def test_a_fault_costs_in_another_look_too(photograph: Image) -> None:
    source = SampleSource([canonical(photograph, Preprocessing())], np.array([80.0]), seed=4)
    gained, worse = [], []
    for first, second in map(source.pair, range(500)):
        if not first.quality or second.severities.max() > 0.4 or second.other_field:
            continue
        fine = []
        for sample in (first, second):
            green = cv2.resize(sample.image[..., 1], (64, 64), interpolation=cv2.INTER_AREA).astype(np.float32)
            fine.append((green - cv2.GaussianBlur(green, (0, 0), 3))[8:-8, 8:-8].ravel())
        if np.corrcoef(fine)[0, 1] > 0.7:  # one crop
            gained.append(float(second.image.mean()) - float(first.image.mean()))
            if not (first.hidden or second.hidden):
                worse.append(second.quality <= first.quality)
    assert len(gained) > 30
    assert 0.25 < np.mean(np.abs(gained) > 20) < 0.7
    assert np.mean(worse) > 0.95  # few are two photographs of one crop by chance
