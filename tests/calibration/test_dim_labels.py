"""Labels of dim photographs, as they would be in full light."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fthnet_kit.calibration.dim_labels import FULL_LEVEL, gain_to_full_light, in_full_light, median_level, relit
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.model.preprocess import Preprocessing, canonical


@pytest.mark.parametrize(("level", "gain"), [(75, 2.0), (150, 1.0), (240, 1.0), (20, 5.0)])
def test_a_dim_field_comes_to_full_light_and_a_bright_one_stays(level: int, gain: float) -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    cv2.circle(image, (100, 100), 80, (level // 3, level // 2, level), -1)
    assert gain_to_full_light(image) == pytest.approx(gain)
    lit = in_full_light(image)
    assert median_level(lit) == min(max(level, FULL_LEVEL), 5 * level)
    assert not lit[0].any()  # the surroundings stay black


def test_a_black_picture_has_no_light_to_bring() -> None:
    black = np.zeros((64, 64, 3), np.uint8)
    assert gain_to_full_light(black) == 1
    assert not in_full_light(black).any()


def test_in_full_light_a_photograph_is_the_same_however_dim_it_was(photograph: Image) -> None:
    field = canonical(photograph, Preprocessing())
    dim, darker = (cv2.convertScaleAbs(field, alpha=alpha) for alpha in (0.6, 0.3))
    assert float(cv2.absdiff(dim, darker).mean()) > 20
    assert float(cv2.absdiff(in_full_light(dim), in_full_light(darker)).mean()) < 3


SCORES = st.lists(st.floats(0, 100), min_size=5, max_size=5).map(np.array)


@given(mos=SCORES, seen=SCORES, share=st.floats(0, 1))
def test_labels_of_dim_photographs_rise_and_no_other_moves(mos: np.ndarray, seen: np.ndarray, share: float) -> None:
    gains = np.array([1.0, 1.2, 1.5, 1.8, 5.0])
    made = relit(mos, gains, seen, share)
    assert (made >= mos).all()
    assert (made <= np.maximum(mos, seen) + 1e-9).all()
    np.testing.assert_array_equal(made[:2], mos[:2])
    np.testing.assert_allclose(made[3:] - mos[3:], share * np.maximum(seen - mos, 0)[3:], atol=1e-9)
