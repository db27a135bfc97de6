"""Drawn pictures without a retina, and the training samples made of them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fthnet_kit.calibration import drawn_non_retinas as drawing
from fthnet_kit.calibration.looks import jitter_colour
from fthnet_kit.calibration.training_samples import (
    FAULT_FREE_MOS,
    FAULTS,
    SampleSource,
    TrainingSample,
    random_crop,
)
from fthnet_kit.edge import Preprocessing
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.model.preprocess import canonical

KINDS = ("outer_eye", "room", "surface")
MOS = np.array([80.0, 60.0, 20.0])


@pytest.fixture(scope="module")
def source(photograph: Image) -> SampleSource:
    return SampleSource([canonical(photograph, Preprocessing())] * 3, MOS, seed=11)


@pytest.fixture(scope="module")
def pairs(source: SampleSource) -> list[tuple[TrainingSample, TrainingSample]]:
    return [source.pair(index) for index in range(240)]


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(("not_retina", *KINDS)))
@pytest.mark.slow
def test_pictures_depend_on_the_seed_and_nothing_else(seed: int, kind: str) -> None:
    draw = getattr(drawing, kind)
    picture = draw(np.random.default_rng(seed))
    assert picture.shape == (512, 512, 3)
    assert picture.dtype == np.uint8
    assert picture.flags.c_contiguous
    np.testing.assert_array_equal(picture, draw(np.random.default_rng(seed)))
    assert not np.array_equal(picture, draw(np.random.default_rng(seed + 1)))


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_a_kind_are_many(kind: str) -> None:
    pictures = [getattr(drawing, kind)(np.random.default_rng(seed)) for seed in range(24)]
    colours = np.array([picture.mean(axis=(0, 1)) for picture in pictures])
    assert (colours.std(axis=0) > 10).all()
    assert np.mean([picture.std() > 2 for picture in pictures]) > 0.7


@pytest.mark.slow
def test_every_kind_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []

    def recording(kind: str) -> object:
        draw = getattr(drawing, kind)
        return lambda rng: (drawn.append(kind), draw(rng))[1]

    for kind in KINDS:
        monkeypatch.setattr(drawing, kind, recording(kind))
    for seed in range(60):
        drawing.not_retina(np.random.default_rng(seed))
    assert set(drawn) == set(KINDS)
    assert len(drawn) == 60
    assert drawn.count("outer_eye") > drawn.count("room") > 0


def test_one_generator_gives_one_picture_after_another() -> None:
    rng = np.random.default_rng(3)
    first, second = drawing.not_retina(rng), drawing.not_retina(rng)
    assert not np.array_equal(first, second)
    again = np.random.default_rng(3)
    np.testing.assert_array_equal(first, drawing.not_retina(again))
    np.testing.assert_array_equal(second, drawing.not_retina(again))


def is_negative(sample: TrainingSample) -> bool:
    return sample.quality == 0


def test_negatives_score_nothing_and_their_severities_are_unknown(
    pairs: list[tuple[TrainingSample, TrainingSample]],
) -> None:
    negatives = [sample for pair in pairs for sample in pair if is_negative(sample)]
    for sample in negatives:
        assert not sample.known
        assert not sample.severities.any()
        assert sample.severities.shape == (len(FAULTS),)
        assert sample.severities.dtype == np.float32
        assert sample.image.shape == (384, 384, 3)
        assert sample.image.dtype == np.uint8
    # half of the pairs show one crop twice; a fifth of the samples of the other half are negatives
    assert 0.04 < len(negatives) / (2 * len(pairs)) < 0.2
    assert len({sample.image.tobytes() for sample in negatives}) == len(negatives)


def test_negatives_are_the_same_in_every_run(
    source: SampleSource, pairs: list[tuple[TrainingSample, TrainingSample]]
) -> None:
    again = SampleSource(source.photographs, MOS, seed=11)
    for index, pair in enumerate(pairs):
        if any(map(is_negative, pair)):
            for ours, theirs in zip(pair, again.pair(index), strict=True):
                np.testing.assert_array_equal(ours.image, theirs.image)
                assert ours.quality == theirs.quality
    other = [SampleSource(source.photographs, MOS, seed=12).pair(index) for index in range(40)]
    assert [is_negative(a) for a, _ in other] != [is_negative(a) for a, _ in pairs[:40]]


def test_negatives_look_nothing_like_the_photographs() -> None:
    black = SampleSource([np.zeros((512, 512, 3), np.uint8)], np.array([80.0]), seed=0)
    drawn = [sample for index in range(60) for sample in black.pair(index) if is_negative(sample)]
    assert len(drawn) > 4
    assert np.mean([sample.image.max() > 20 for sample in drawn]) > 0.8


def test_severities_of_photographs_are_known_where_they_were_good(
    pairs: list[tuple[TrainingSample, TrainingSample]],
) -> None:
    photographs = [s for pair in pairs for s in pair if not is_negative(s) and not s.other_field]
    undegraded = [sample for sample in photographs if not sample.severities.any() and not sample.hidden]
    assert {round(100 * sample.quality, 6) for sample in undegraded} == set(MOS)
    for sample in undegraded:
        assert sample.known == (100 * sample.quality >= FAULT_FREE_MOS)
    for sample in photographs:
        assert 0 < sample.quality <= 0.8


# Colour casts


def blue_over_red(image: Image, blue: int = 0) -> float:
    mean = image.reshape(-1, 3).mean(axis=0)
    return float(mean[blue] / mean[2 - blue])


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_jitter_changes_colours_and_nothing_else(photograph: Image, seed: int) -> None:
    small = photograph[::8, ::8]
    jittered = jitter_colour(small, np.random.default_rng(seed))
    assert jittered.shape == small.shape
    assert jittered.dtype == np.uint8
    before, after = (picture.reshape(-1, 3).astype(int) for picture in (small, jittered))
    assert not after[(before == 0).all(axis=1)].any()
    chosen = np.random.default_rng(0).integers(len(before), size=(2000, 2))
    brighter = (before[chosen[:, 0]] >= before[chosen[:, 1]]).all(axis=1)  # in every channel, and stays so
    assert (after[chosen[brighter, 0]] >= after[chosen[brighter, 1]]).all()


def test_some_photographs_lose_their_colour_and_keep_their_vessels(photograph: Image) -> None:
    small = photograph[::4, ::4]

    def colourfulness(image: Image) -> float:
        return float(np.ptp(image.astype(float), axis=2).mean() / image.mean())

    def contrast(image: Image) -> float:
        return float(cv2.Laplacian(image[..., 1], cv2.CV_32F).std() / image[..., 1].mean())

    jittered = [jitter_colour(small, np.random.default_rng(seed)) for seed in range(200)]
    grey = [image for image in jittered if colourfulness(image) < 0.3 * colourfulness(small)]
    assert 0.03 < len(grey) / len(jittered) < 0.3
    assert np.median([contrast(image) for image in grey]) > 0.75 * contrast(small)


def test_some_cameras_hardly_show_blue(photograph: Image) -> None:
    small = photograph[::8, ::8]
    ratios = np.array([blue_over_red(jitter_colour(small, np.random.default_rng(s))) for s in range(200)])
    ratios /= blue_over_red(small)
    assert 0.05 < np.mean(ratios < 0.5) < 0.35
    assert np.mean(np.abs(ratios - 1) < 0.25) > 0.5


def test_casts_keep_labels(pairs: list[tuple[TrainingSample, TrainingSample]], photograph: Image) -> None:
    natural = blue_over_red(photograph)
    ratios: dict[float, list[float]] = {}
    for pair in pairs:
        for sample in pair:
            faulty = sample.severities.any() or sample.hidden or sample.other_field
            if not is_negative(sample) and not faulty:
                label = round(100 * sample.quality, 6)
                ratios.setdefault(label, []).append(blue_over_red(sample.image, blue=2) / natural)
    assert set(ratios) == set(MOS)
    for found in ratios.values():
        assert min(found) < 0.6
        assert max(found) > 0.8


def test_no_cast_tells_the_worse_of_a_contrast_pair(pairs: list[tuple[TrainingSample, TrainingSample]]) -> None:
    ratios = []
    for a, b in pairs:
        thumbnails = [cv2.resize(s.image[..., 0], (24, 24), interpolation=cv2.INTER_AREA).ravel() for s in (a, b)]
        if min(np.std(thumbnails, axis=1)) > 3 and np.corrcoef(thumbnails)[0, 1] > 0.8:
            ratios.append([blue_over_red(sample.image, blue=2) for sample in (a, b)])
    first, second = np.array(ratios).T
    gained = second - first
    assert len(gained) > 20
    assert 0.2 < np.mean(np.abs(gained) < 0.05) < 0.9  # some in one look, some in two
    assert abs(gained.mean()) < 3 * gained.std() / np.sqrt(len(gained))


def test_crops_are_of_the_field_mirrored_and_turned() -> None:
    field = np.arange(512 * 512 * 3, dtype=np.uint32).astype(np.uint8).reshape(512, 512, 3)
    crops = [random_crop(field, np.random.default_rng(seed)) for seed in range(40)]
    assert {crop.shape for crop in crops} == {(384, 384, 3)}
    assert all(crop.flags.c_contiguous for crop in crops)
    centre = field[64:448, 64:448]
    turned = [np.rot90(centre, quarter) for quarter in range(4)]
    wanted = {np.ascontiguousarray(view).tobytes() for t in turned for view in (t, t[:, ::-1])}
    share = np.mean([crop.tobytes() in wanted for crop in crops])
    assert 0.25 < share < 0.75
