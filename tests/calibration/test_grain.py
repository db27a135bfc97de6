"""Grain over whatever is shown: structure that is no detail of an eye, at the price of noise."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fthnet_kit.calibration.grain import grainy
from fthnet_kit.calibration.other_fields import OTHER_FIELD_KEPT
from fthnet_kit.calibration.training_samples import FAULTS, SampleSource, remaining
from fthnet_kit.edge.capture.degradations import NOISE_SIGMA
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.model.preprocess import INPUT, RESIZE

NOISE, DEFOCUS = FAULTS.index("sensor_noise"), FAULTS.index("defocus")


def field() -> Image:
    """An even field with a disc and some vessels, BGR."""
    picture = np.full((RESIZE, RESIZE, 3), (60, 110, 170), np.uint8)
    cv2.circle(picture, (420, 250), 38, (150, 220, 250), -1)
    for bend in range(-200, 201, 50):
        cv2.ellipse(picture, (420, 250 + bend // 2), (300, abs(bend) + 10), 0, 90, 270, (40, 70, 130), 3)
    return picture


@settings(max_examples=60, deadline=None)
@given(severity=st.floats(0.01, 0.3), seed=st.integers(0, 2**32 - 1), level=st.integers(60, 190))
def test_grain_is_as_strong_as_said_and_hardly_moves_a_level(severity: float, seed: int, level: int) -> None:
    even = np.full((INPUT, INPUT, 3), level, np.uint8)
    made = grainy(even, severity, np.random.default_rng(seed))
    assert (even == level).all()
    assert made.mean() == pytest.approx(level, abs=0.1 + severity * NOISE_SIGMA * 0.5)  # rows are few
    assert made.std() == pytest.approx(severity * NOISE_SIGMA, rel=0.25, abs=0.5)


def test_grain_comes_fine_and_coarse_in_grey_in_colour_and_in_rows() -> None:
    even = np.full((INPUT, INPUT, 3), 128, np.uint8)
    found = set()
    for seed in range(100):
        grain = grainy(even, 0.3, np.random.default_rng(seed)).astype(float) - 128
        down, right = (np.mean(grain * np.roll(grain, 1, axis)) / grain.var() for axis in (0, 1))
        found.add((bool(down > 0.4), bool(right > 0.95), bool(np.ptp(grain, axis=2).max() == 0)))
    assert found >= {
        (coarse, rows, grey) for coarse in (False, True) for rows, grey in ((False, False), (False, True), (True, True))
    }


def test_some_grain_went_through_a_jpeg() -> None:
    """Steps between blocks of eight pixels, which grain as it comes from a sensor does not have."""
    even = np.full((INPUT, INPUT, 3), 128, np.uint8)
    steps = []
    for seed in range(100):
        grain = grainy(even, 0.3, np.random.default_rng(seed)).astype(float)
        energy = (np.diff(grain, axis=1) ** 2).mean(axis=(0, 2))[:376].reshape(47, 8).mean(axis=0)
        steps.append(energy.max() / max(energy.mean(), 1e-9))
    assert 0.02 < np.mean(np.array(steps) > 2) < 0.5


def test_both_pictures_of_a_pair_have_the_same_grain_so_that_only_the_eye_tells_them_apart() -> None:
    source = SampleSource([field()], np.array([80.0]), seed=0)
    same = 0
    for a, b in (source.pair(index) for index in range(400)):
        grain = float(a.severities[NOISE])
        if 0 < grain <= 0.3 and grain == b.severities[NOISE] and not b.other_field:
            same += b.quality < a.quality
            assert b.quality <= a.quality or a.hidden  # by its look
            assert a.quality <= 0.8 * remaining("sensor_noise", grain) + 1e-6
    assert same > 20


def test_grain_costs_what_noise_of_its_strength_costs() -> None:
    source = SampleSource([field()], np.array([80.0]), seed=1)
    samples = [sample for index in range(200) for sample in source.pair(index)]
    alone = [s for s in samples if np.flatnonzero(s.severities).tolist() == [NOISE] and not s.hidden]
    small = [s for s in alone if s.severities[NOISE] <= 0.3]
    assert len(small) > 20
    for sample in small:
        kept = OTHER_FIELD_KEPT if sample.other_field else 1.0
        assert sample.quality == pytest.approx(0.8 * kept * remaining("sensor_noise", float(sample.severities[NOISE])))
    assert np.median([s.severities[NOISE] for s in small]) < 0.12  # most is fine


def test_another_field_has_any_fault_too_at_both_prices() -> None:
    source = SampleSource([field()], np.array([80.0]), seed=2)
    others = [b for a, b in (source.pair(index) for index in range(400)) if b.other_field and not b.hidden]
    alone = [b for b in others if not b.severities.any()]
    assert len(alone) > 5
    assert {b.quality for b in alone} == {0.8 * OTHER_FIELD_KEPT}
    faults: set[int] = set()
    for b in others:
        found = set(np.flatnonzero(b.severities).tolist())
        if DEFOCUS not in found:  # else it may be one that shows hardly anything
            faults |= found
        wanted = 0.8 * OTHER_FIELD_KEPT * np.prod([remaining(FAULTS[k], float(b.severities[k])) for k in found])
        assert b.quality == pytest.approx(wanted, rel=1e-5)
    assert len(faults - {NOISE}) > 2


def test_some_samples_show_hardly_anything_and_are_crisp_all_the_same() -> None:
    """As the photographs that experts call bad: light, specks and noise."""
    source = SampleSource([field()], np.array([80.0]), seed=4)
    singles = [s for index in range(400) for s in source.pair(index) if s.severities[DEFOCUS] >= 0.4]
    empty = [s for s in singles if 0 < s.severities[NOISE] <= 0.3]
    assert len(empty) > 25
    sharp = cv2.Laplacian(field(), cv2.CV_32F).std()
    crisp = [cv2.Laplacian(s.image, cv2.CV_32F).std() > sharp for s in empty]
    assert np.mean(crisp) > 0.1
    for s in empty:
        assert s.quality < 0.8 * remaining("defocus", 0.4)
    assert {s.other_field for s in empty} == {False, True}
    assert any(s.hidden > 0.1 for s in empty)


def test_what_is_no_retina_has_grain_too_and_scores_nothing() -> None:
    source = SampleSource([field()], np.array([80.0]), seed=3)
    none = [s for index in range(150) for s in source.pair(index) if s.quality == 0]
    rough = [float(np.median(cv2.absdiff(s.image, cv2.medianBlur(s.image, 3)))) for s in none]
    assert min(rough) == 0
    assert max(rough) > 1


def test_noise_lies_over_blur() -> None:
    source = SampleSource([field()], np.array([80.0]), seed=6)
    samples = [sample for index in range(400) for sample in source.pair(index)]
    blurred = [s for s in samples if s.severities[FAULTS.index("defocus")] > 0.4]
    rough = {
        noisy: [cv2.Laplacian(s.image, cv2.CV_32F).std() for s in blurred if (s.severities[NOISE] > 0.15) == noisy]
        for noisy in (False, True)
    }
    assert len(rough[True]) > 3
    assert min(rough[True]) > 2 * np.median(rough[False])
