"""The `pil` resize, held against Pillow itself and against the score of the shipped model."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from fthnet_kit.edge import QualityScorer
from fthnet_kit.edge.capture.image_files import find_images
from fthnet_kit.edge.formats.read import read_image
from fthnet_kit.edge.model.pillow_resize import pillow_resize
from fthnet_kit.edge.model.preprocess import Preprocessing, prepare

AUTHORS = Preprocessing(field_crop="none", resize="pil")


def by_pillow(image: np.ndarray, side: int) -> np.ndarray:
    """Columns first, in whatever order the installed Pillow would take the two passes."""
    across = Pillow.fromarray(image).resize((side, image.shape[0]), Pillow.Resampling.BILINEAR)
    return np.asarray(across.resize((side, side), Pillow.Resampling.BILINEAR))


@settings(max_examples=30, deadline=None)
@example(height=1, width=1, side=512, margin=64, seed=0)
@example(height=3000, width=40, side=512, margin=0, seed=0)
@example(height=513, width=511, side=512, margin=64, seed=0)
@given(
    height=st.integers(1, 1500),
    width=st.integers(1, 1500),
    side=st.sampled_from([100, 512]),
    margin=st.integers(0, 3),
    seed=st.integers(0, 2**16),
)
def test_it_is_pillows(height: int, width: int, side: int, margin: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    made = pillow_resize(image, side, margin)
    whole = by_pillow(image, side)
    difference = np.abs(made.astype(int) - whole[margin : side - margin, margin : side - margin])
    assert difference.max() <= (1 if max(height, width) > 3 * side else 0)
    assert difference.mean() <= 0.03  # single precision rounds the halves of simple ratios by chance
    either_order = np.asarray(Pillow.fromarray(image).resize((side, side), Pillow.Resampling.BILINEAR))
    assert np.abs(whole.astype(int) - either_order).max() <= 1


@pytest.mark.parametrize("size", [(3000, 4000), (1411, 1411), (575, 760), (1944, 2592)])
def test_a_photograph_is_all_but_bit_exact(photograph: np.ndarray, size: tuple[int, int]) -> None:
    image = cv2.resize(photograph, size[::-1], interpolation=cv2.INTER_AREA)
    difference = np.abs(pillow_resize(image, 512).astype(int) - by_pillow(image, 512))
    assert difference.max() <= 1
    assert difference.mean() <= 0.001


@pytest.mark.slow
def test_scores_are_those_of_pillows_pictures(data: Path) -> None:
    paths = find_images([str(data / name / "images") for name in ("drimdb_val", "hei_med")])
    paths = paths[::2]
    assert len(paths) >= 75
    differences = []
    with QualityScorer.from_bundle(views=1) as scorer:
        for path in paths:
            image = read_image(path)
            theirs = np.asarray(Pillow.fromarray(image[:, :, ::-1]).resize((512, 512), Pillow.Resampling.BILINEAR))
            ours = scorer.backend.infer(prepare(image, AUTHORS, 1))[0]
            differences.append(ours - scorer.backend.infer(theirs[np.newaxis, 64:448, 64:448])[0])
    assert np.abs(differences).max() <= 0.05


@pytest.mark.parametrize("views", [1, 5])
def test_the_choice_reaches_the_network_input(photograph: np.ndarray, views: int) -> None:
    area, pil = prepare(photograph, Preprocessing(), views), prepare(photograph, Preprocessing(resize="pil"), views)
    difference = np.abs(area.astype(int) - pil)
    assert 0.2 < difference.mean() < 3
