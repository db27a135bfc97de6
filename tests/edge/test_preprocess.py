"""The one way from an image to network input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.image import to_bgr8
from fthnet_kit.edge.model.preprocess import Preprocessing, canonical, centre, find_field, prepare

GOLDEN = Path(__file__).parents[1] / "golden"
SQUARE, WHOLE = Preprocessing(), Preprocessing(field_crop="none")
PILLOW = Preprocessing(field_crop="none", resize="pil")


@pytest.fixture(scope="module")
def regenerated(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    path = tmp_path_factory.mktemp("golden") / "preprocess.json"
    subprocess.run([sys.executable, GOLDEN / "make_preprocess_golden.py", path], check=True)
    return json.loads(path.read_text())


def test_the_script_regenerates_the_golden_file(regenerated: list[dict]) -> None:
    stored = json.loads((GOLDEN / "preprocess.json").read_text())
    assert [{k: v for k, v in row.items() if k != "means"} for row in regenerated] == [
        {k: v for k, v in row.items() if k != "means"} for row in stored
    ]
    for new, old in zip(regenerated, stored, strict=True):
        if "means" in old:
            np.testing.assert_allclose(new["means"], old["means"], atol=0.5, err_msg=f"{old['picture']} {old['crop']}")


@st.composite
def images(draw: st.DrawFn) -> np.ndarray:
    height, width = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    channels = draw(st.sampled_from([(), (1,), (3,), (4,)]))
    dtype = draw(st.sampled_from([np.uint8, np.uint16]))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    image = rng.integers(0, np.iinfo(dtype).max + 1, (height, width, *channels)).astype(dtype)
    layout = draw(st.sampled_from(["contiguous", "reversed", "strided", "fortran"]))
    if layout == "reversed":
        return image[::-1, ::-1]
    if layout == "strided":
        return np.repeat(np.repeat(image, 2, 0), 2, 1)[::2, ::2]
    return np.asfortranarray(image) if layout == "fortran" else image


@settings(max_examples=60, deadline=None)
@given(images(), st.sampled_from([SQUARE, WHOLE, PILLOW]), st.sampled_from([1, 5, 20]))
def test_any_image_becomes_contiguous_network_input(image: np.ndarray, how: Preprocessing, views: int) -> None:
    before = image.copy()
    made = prepare(image, how, views)
    assert made.shape == (views, 384, 384, 3)
    assert made.dtype == np.uint8
    assert made.flags.c_contiguous
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(made, prepare(np.ascontiguousarray(image), how, views))


@pytest.mark.parametrize("crop", [SQUARE, WHOLE, PILLOW], ids=["square", "none", "pil"])
@pytest.mark.parametrize("shape", [(1, 1), (6000, 8000), (3000, 4000), (37, 2000)])
def test_extreme_sizes(shape: tuple[int, int], crop: Preprocessing) -> None:
    image = np.broadcast_to(np.uint8([30, 60, 120]), (*shape, 3))
    made = prepare(image, crop)
    assert made.shape == (1, 384, 384, 3)
    if shape != (1, 1):  # one pixel in a square of eight: interpolated with the black around it
        np.testing.assert_array_equal(made[0, 192, 192], [120, 60, 30])


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(9, np.uint8),
        "text",
    ],
    ids=["float", "two channels", "empty", "one dimension", "no array"],
)
def test_anything_else_is_one_clear_line(wrong: object) -> None:
    with pytest.raises(InputError, match=r"expected .* found") as caught:
        prepare(wrong, SQUARE)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_formats_that_hold_the_same_picture_agree(photograph: np.ndarray) -> None:
    expected = prepare(photograph, SQUARE)
    alpha = np.dstack([photograph, np.full(photograph.shape[:2], 7, np.uint8)])
    np.testing.assert_array_equal(prepare(alpha, SQUARE), expected)
    np.testing.assert_array_equal(prepare(photograph.astype(np.uint16) * 257, SQUARE), expected)
    gray = cv2.cvtColor(photograph, cv2.COLOR_BGR2GRAY)
    np.testing.assert_array_equal(to_bgr8(gray), to_bgr8(gray[:, :, None]))


def test_output_is_rgb(photograph: np.ndarray) -> None:
    mean = prepare(photograph, SQUARE)[0, 150:230, 150:230].mean(axis=(0, 1))
    assert mean[0] > mean[1] > mean[2] * 0.9  # a retina is red


@settings(max_examples=25, deadline=None)
@given(side=st.integers(200, 900), left=st.integers(0, 300), top=st.integers(0, 300), border=st.integers(0, 5))
def test_the_field_is_found_wherever_it_lies(side: int, left: int, top: int, border: int) -> None:
    photograph = cv2.imread(str(Path(__file__).parents[2] / "edge" / "assets" / "retina.jpg"))
    field = cv2.resize(photograph, (side, side), interpolation=cv2.INTER_AREA)
    frame = np.full((side + top + 40, side + left + 60, 3), border, np.uint8)
    frame[top : top + side, left : left + side] = np.maximum(field, border)
    box = find_field(frame)
    tolerance = 3 * max(1, max(frame.shape) // 128) + 8
    assert box.width == box.height
    assert box.width % 8 == 0
    assert abs(box.width - side) <= tolerance
    assert abs(box.x + box.width / 2 - left - side / 2) <= tolerance
    assert abs(box.y + box.height / 2 - top - side / 2) <= tolerance


@pytest.mark.parametrize("size", [(1411, 1411), (1920, 1080), (760, 570), (301, 299), (4000, 3000)])
def test_the_centre_view_is_the_centre_of_the_whole(photograph: np.ndarray, size: tuple[int, int]) -> None:
    image = cv2.resize(photograph, size, interpolation=cv2.INTER_AREA)
    for how in (SQUARE, WHOLE, PILLOW):
        difference = centre(image, how).astype(int) - canonical(image, how)[64:448, 64:448]
        assert np.abs(difference).max() <= 1


def test_views_are_seeded_and_differ(photograph: np.ndarray) -> None:
    a, b = (prepare(photograph, Preprocessing(seed=seed), 20) for seed in (0, 1))
    np.testing.assert_array_equal(a, prepare(photograph, Preprocessing(seed=0), 20))
    assert not np.array_equal(a, b)
    assert len({view.tobytes() for view in a}) > 15
    with pytest.raises(InputError, match=r"views: expected one of"):
        prepare(photograph, SQUARE, 3)


@pytest.mark.parametrize(
    "wrong", [{"field_crop": "round"}, {"views": 2}, {"normalisation": "x"}, {"resize": "x"}], ids=str
)
def test_wrong_preprocessing_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"expected"):
        Preprocessing(**wrong)
