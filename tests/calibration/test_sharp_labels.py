"""Labels of which a part is how sharp the vessels are."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fthnet_kit.calibration.sharp_labels import sharpened, vessel_gradient
from fthnet_kit.calibration.trainer import centre_view
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.model.preprocess import Preprocessing, canonical


@pytest.fixture(scope="module")
def view(photograph: Image) -> Image:
    return np.ascontiguousarray(centre_view(canonical(photograph, Preprocessing())))


def test_blur_lowers_it_step_by_step(view: Image) -> None:
    seen = [vessel_gradient(cv2.GaussianBlur(view, (0, 0), sigma)) for sigma in (0.1, 1, 2, 4, 8)]
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] < 0.5 * seen[0]


def test_grain_does_not_pass_for_vessels(view: Image) -> None:
    hazy = cv2.GaussianBlur(view, (0, 0), 8)
    grain = np.random.default_rng(0).normal(0, 6, view.shape)
    grainy = np.clip(hazy + grain, 0, 255).astype(np.uint8)
    assert vessel_gradient(grainy) < 0.6 * vessel_gradient(view)


def test_a_dim_photograph_is_seen_in_half_as_much_light_again(view: Image) -> None:
    dim = cv2.convertScaleAbs(view, alpha=0.3)
    assert vessel_gradient(dim) == pytest.approx(0.45 * vessel_gradient(view), rel=0.1)


def test_black_has_none() -> None:
    assert vessel_gradient(np.zeros((384, 384, 3), np.uint8)) == 0


def test_a_share_of_the_label_is_what_its_place_is_worth() -> None:
    mos, gradients = np.array([20.0, 80.0, 50.0]), np.array([9.0, 5.0, 7.0])
    np.testing.assert_allclose(sharpened(mos, gradients, 1), [80, 20, 50])
    np.testing.assert_allclose(sharpened(mos, gradients, 0.25), [35, 65, 50])
    np.testing.assert_array_equal(sharpened(mos, gradients, 0), mos)


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 300)), min_size=1, max_size=30),
    st.floats(0, 1),
)
def test_labels_stay_within_the_scale(rows: list[tuple[float, float]], share: float) -> None:
    mos, gradients = np.array(rows).T
    found = sharpened(mos, gradients, share)
    assert found.min() >= mos.min() - 1e-9
    assert found.max() <= mos.max() + 1e-9
