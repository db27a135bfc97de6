"""Photographs that calibrate and judge: spread, disjoint, the same every time; what would spoil them is refused."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fthnet_kit.calibration.int8_photographs import (
    BINS,
    FEWEST,
    Photograph,
    contact_sheet,
    find_photographs,
    load,
    path_of,
    refuse_unfit,
    refuse_unfit_scores,
    split,
    stratify,
    without_repeats,
)
from fthnet_kit.calibration.labelled_images import LabelledImage
from fthnet_kit.edge import InputError, Preprocessing
from fthnet_kit.edge.capture.degradations import degrade
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.model.preprocess import prepare

PREPROCESSING = Preprocessing()
ALWAYS = settings(deadline=None)
POINTS = st.one_of(
    st.lists(st.floats(0, 100, allow_subnormal=False), min_size=1, max_size=200),
    st.lists(st.integers(0, 12), min_size=1, max_size=200),
    st.lists(st.floats(-1e4, 1e4, allow_subnormal=False), min_size=1, max_size=30),
).map(lambda values: np.array(values, np.float64))


def bins_of(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    return np.minimum(((values - low) / max(high - low, 1e-9) * BINS).astype(int), BINS - 1)


# Choosing


@ALWAYS
@given(values=POINTS, count=st.integers(1, 250))
def test_stratify_is_spread_over_the_range_and_repeatable(values: np.ndarray, count: int) -> None:
    chosen = stratify(values, count)
    assert len(chosen) == min(count, len(values))
    assert len(set(chosen)) == len(chosen)
    assert chosen == sorted(chosen)
    assert set(chosen) <= set(range(len(values)))
    assert all(type(index) is int for index in chosen)
    assert stratify(values.copy(), count) == chosen
    there = np.bincount(bins_of(values), minlength=BINS)
    taken = np.bincount(bins_of(values)[chosen], minlength=BINS)
    for place in range(BINS):
        assert taken[place] >= min(there[place], taken.max() - 1)


@ALWAYS
@given(values=POINTS, shift=st.integers(-500, 500))
def test_a_larger_choice_contains_the_smaller(values: np.ndarray, shift: int) -> None:
    chosen = [set(stratify(values + shift, count)) for count in (1, 2, 5, 20, 64, 1000)]
    for smaller, larger in itertools.pairwise(chosen):
        assert smaller <= larger


def test_rare_qualities_are_not_drowned() -> None:
    values = np.concatenate([np.full(500, 50.0), [1, 2, 3, 97, 98, 99]])
    assert {500, 501, 502, 503, 504, 505} <= set(stratify(values, 32))


def test_within_a_bin_the_choice_is_spread() -> None:
    chosen = np.sort(np.linspace(0, 100, 1000)[stratify(np.linspace(0, 100, 1000), 40)])
    assert len(chosen) == 40
    assert np.diff(chosen).max() < 7
    assert chosen[0] < 5
    assert chosen[-1] > 95


@ALWAYS
@given(
    seed=st.integers(0, 2**32 - 1),
    length=st.integers(2 * FEWEST, 400),
    count=st.integers(FEWEST, 600),
    held_out=st.integers(FEWEST, 300),
)
def test_who_calibrates_does_not_judge(seed: int, length: int, count: int, held_out: int) -> None:
    values = np.random.default_rng(seed).integers(0, 101, length).astype(np.float64)
    calibrating, judging = split(values, count, held_out)
    assert not set(calibrating) & set(judging)
    assert len(set(calibrating)) == len(calibrating) >= FEWEST
    assert len(set(judging)) == len(judging) >= FEWEST
    assert len(calibrating) <= count
    assert len(judging) <= held_out
    assert set(calibrating) | set(judging) <= set(range(length))
    assert (calibrating, judging) == split(values, count, held_out)


@pytest.mark.parametrize("length", [0, 1, 2 * FEWEST - 1])
def test_too_few_photographs_are_refused(length: int) -> None:
    with pytest.raises(InputError, match=rf"at least 64 different photographs .*, found {length};"):
        split(np.linspace(0, 100, length), 500, 256)


# Folders


@pytest.fixture(scope="module")
def folder(photograph: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """72 photographs in FQS form, darker and darker; their labels say so."""
    folder = tmp_path_factory.mktemp("set")
    (folder / "images").mkdir()
    small = cv2.resize(photograph, (200, 200), interpolation=cv2.INTER_AREA)
    rows = ["file_name,meanOpinionScore"]
    for index in range(72):
        dark = degrade(small, "under_exposure", 0.7 * index / 72, index)
        cv2.imwrite(str(folder / "images" / f"{index:02}.jpg"), dark)
        rows.append(f"{index:02}.jpg,{90 - index}")
    (folder / "scores.csv").write_text("\n".join(rows))
    return folder


def loaded(folder: Path) -> list[Photograph]:
    return [load(entry, PREPROCESSING) for entry in without_repeats(find_photographs([folder]))]


def one_line(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert "; " in message  # what to do next
    return message


def test_labels_come_with_a_table(folder: Path) -> None:
    entries = find_photographs([folder])
    assert [entry.mos for entry in entries if isinstance(entry, LabelledImage)] == [90 - i for i in range(72)]
    found = loaded(folder)
    assert [photograph.label for photograph in found] == [90 - i for i in range(72)]
    assert {photograph.view.shape for photograph in found} == {(384, 384, 3)}
    assert len({photograph.sha256 for photograph in found}) == 72
    np.testing.assert_array_equal(found[3].view, prepare(cv2.imread(str(found[3].path)), PREPROCESSING, 1)[0])
    refuse_unfit(found)


@pytest.mark.parametrize("inner", ["images", "photos", "."])
def test_folder_without_a_table_works(folder: Path, tmp_path: Path, inner: str) -> None:
    shutil.copytree(folder / "images", tmp_path / "plain" / inner, dirs_exist_ok=True)
    found = loaded(tmp_path / "plain")
    assert [photograph.path.name for photograph in found] == [f"{index:02}.jpg" for index in range(72)]
    assert {photograph.label for photograph in found} == {None}
    assert [photograph.sha256 for photograph in found] == [photograph.sha256 for photograph in loaded(folder)]
    refuse_unfit(found)
    refuse_unfit_scores(found, np.linspace(0, 100, 72))


def test_folders_with_and_without_a_table_go_together(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "images" / "00.jpg", tmp_path / "other name.jpg")
    cv2.imwrite(str(tmp_path / "new.png"), np.full((9, 9, 3), 77, np.uint8))
    entries = find_photographs([folder, tmp_path])
    assert len(entries) == 74
    names = {path_of(entry).name for entry in without_repeats(entries)}
    assert len(names) == 73
    assert "new.png" in names
    assert "other name.jpg" not in names


def test_copies_count_once(folder: Path, tmp_path: Path) -> None:
    first = sorted((folder / "images").iterdir())[:3]
    for index in range(40):
        shutil.copy(first[index % 3], tmp_path / f"copy {index:02}.jpg")
    found = without_repeats(find_photographs([tmp_path]))
    assert sorted(path_of(entry).name for entry in found) == ["copy 00.jpg", "copy 01.jpg", "copy 02.jpg"]
    assert len(without_repeats(find_photographs([folder, folder]))) == 72


@pytest.mark.parametrize("content", ["missing", "empty", "text"])
def test_folders_without_photographs_are_refused(tmp_path: Path, content: str) -> None:
    if content != "missing":
        (tmp_path / "set").mkdir()
    if content == "text":
        (tmp_path / "set" / "notes.txt").write_text("hello")
    with pytest.raises(InputError):
        find_photographs([tmp_path / "set"])


# What would spoil a calibration


def test_one_photograph_many_times_is_refused(folder: Path, tmp_path: Path) -> None:
    for index in range(80):
        shutil.copy(folder / "images" / "00.jpg", tmp_path / f"{index}.jpg")
    entries = without_repeats(find_photographs([tmp_path]))
    message = one_line(lambda: split(np.zeros(len(entries)), 500, 256))
    assert "found 1;" in message


@pytest.mark.parametrize("level", [0, 6, 255], ids=["black", "lens cap", "white"])
def test_photographs_without_a_retina_are_refused(tmp_path: Path, level: int) -> None:
    for index in range(40):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((60 + index, 80, 3), level, np.uint8))
    assert "found one in only 0 of 40;" in one_line(lambda: refuse_unfit(loaded(tmp_path)))


def test_a_few_without_a_retina_are_let_through(folder: Path) -> None:
    found = loaded(folder)
    black = Photograph(Path("black.png"), None, np.zeros((384, 384, 3), np.uint8), "0")
    refuse_unfit([*found, *[black] * 72])
    assert "in only 72 of 146;" in one_line(lambda: refuse_unfit([*found, *[black] * 74]))


def test_shuffled_labels_are_refused(folder: Path) -> None:
    found = loaded(folder)
    rng = np.random.default_rng(0)
    scores = np.array([photograph.label for photograph in found]) + rng.normal(0, 5, 72)
    refuse_unfit_scores(found, scores)
    refuse_unfit_scores(found, 10 * scores - 300)
    assert "shuffled" in one_line(lambda: refuse_unfit_scores(found, rng.permutation(scores)))
    assert "SRCC -" in one_line(lambda: refuse_unfit_scores(found, -scores))


def test_a_shuffled_table_of_real_files_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "images", tmp_path / "images")
    header, *rows = (folder / "scores.csv").read_text().split("\n")
    names, labels = zip(*(row.split(",") for row in rows), strict=True)
    shuffled = np.random.default_rng(1).permutation(labels)
    text = "\n".join([header, *(f"{name},{label}" for name, label in zip(names, shuffled, strict=True))])
    (tmp_path / "scores.csv").write_text(text)
    true, found = loaded(folder), loaded(tmp_path)
    brightness = np.array([photograph.view.mean() for photograph in found])
    refuse_unfit_scores(true, brightness)
    assert "shuffled" in one_line(lambda: refuse_unfit_scores(found, brightness))


def test_scores_that_hardly_differ_are_refused(folder: Path) -> None:
    found = loaded(folder)
    message = one_line(lambda: refuse_unfit_scores(found, np.linspace(50, 51, 72)))
    assert "0.3 points" in message
    assert one_line(lambda: refuse_unfit_scores(found, np.full(72, 50.0)))


def test_a_few_labels_are_not_judged(folder: Path) -> None:
    found = loaded(folder)
    unlabelled = [Photograph(p.path, None, p.view, p.sha256) for p in found]
    wrong = -np.array([photograph.label for photograph in found])
    refuse_unfit_scores([*unlabelled[: 72 - FEWEST + 1], *found[72 - FEWEST + 1 :]], wrong)
    one_line(lambda: refuse_unfit_scores([*unlabelled[: 72 - FEWEST], *found[72 - FEWEST :]], wrong))


@pytest.mark.parametrize("count", [1, 25, 26])
def test_contact_sheet_shows_all(folder: Path, count: int) -> None:
    found = loaded(folder)[:count]
    sheet = cv2.imdecode(np.frombuffer(contact_sheet(found), np.uint8), cv2.IMREAD_COLOR)
    assert sheet.shape == (-(-count // 25) * 64, 25 * 64, 3)
    last = sheet[-64:, (count - 1) % 25 * 64 :][:, :64]
    expected = cv2.resize(found[-1].view, (64, 64), interpolation=cv2.INTER_AREA)[:, :, ::-1]
    assert np.abs(last.astype(int) - expected).mean() < 6
