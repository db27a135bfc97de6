"""Thresholds at a sensitivity: the fit, what it refuses, the report and the command."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fthnet_kit.calibration.labelled_images import LabelledImage, read_image_set
from fthnet_kit.calibration.thresholds import (
    GRID,
    NO_VALUE,
    FitTarget,
    ThresholdFit,
    apply_thresholds,
    fit_thresholds,
    lowest_threshold,
    operating_point,
    require_classes,
    score_images,
    wilson,
)
from fthnet_kit.calibration.thresholds_report import ThresholdReport
from fthnet_kit.edge import EngineError, InputError, ModelCard, Thresholds
from fthnet_kit.edge.capture.degradations import degrade
from fthnet_kit.edge.model.bundle import Bundle, shipped_bundle
from fthnet_kit.edge.model.card import CARD_NAME
from tests.conftest import fake_scorer, make_card

SENSITIVITIES = st.floats(0.01, 0.99)
SCORES = st.one_of(st.integers(0, 99).map(float), st.floats(0, 99.9), st.just(NO_VALUE))


def labelled_scores(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """At least five photographs of each of three classes, with any scores."""
    mos = np.repeat([20.0, 50.0, 80.0], [draw(st.integers(5, 12)) for _ in range(3)])
    return np.array(draw(st.lists(SCORES, min_size=len(mos), max_size=len(mos)))), mos


LABELLED_SCORES = st.composite(labelled_scores)()


def synthetic(count: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores that follow the labels within about eight points."""
    rng = np.random.default_rng(seed)
    mos = rng.uniform(0, 100, count)
    return np.clip(mos + rng.normal(0, 8, count), 0, 100), mos


def test_a_fit_by_hand() -> None:
    mos = np.repeat([20.0, 50.0, 80.0], 5)
    scores = np.array([10, 20, 30, 40, 70.0, 25, 45, 50, 55, 60, 42, 62, 75, 80, 90])
    fit = fit_thresholds(scores, mos, FitTarget(0.8))
    assert fit.usable.point.threshold == 40.01  # four of the five ungradable ones score below
    assert (fit.usable.point.sensitivity.hits, fit.usable.point.sensitivity.total) == (4, 5)
    assert (fit.usable.point.specificity.hits, fit.usable.point.specificity.total) == (9, 10)
    assert fit.good.point.threshold == 55.01  # eight of the ten that are not good
    assert (fit.good.point.specificity.hits, fit.good.point.specificity.total) == (4, 5)
    assert fit.thresholds == Thresholds(usable=40.01, good=55.01)
    assert fit.usable.auc == pytest.approx(41 / 50)
    assert (fit.photographs, fit.without_value, fit.good.raised) == (15, 0, False)


@given(st.lists(SCORES, min_size=1, max_size=40).map(np.array), SENSITIVITIES)
def test_the_threshold_is_the_lowest_that_reaches_the_sensitivity(scores: np.ndarray, sensitivity: float) -> None:
    reached = np.mean(scores[:, None] < GRID, axis=0) >= sensitivity
    assert lowest_threshold(scores, sensitivity) == GRID[np.argmax(reached)]


@given(LABELLED_SCORES, SENSITIVITIES, SENSITIVITIES)
@settings(max_examples=20, deadline=None)
@pytest.mark.slow
def test_fits_reach_the_sensitivity_rise_with_it_and_stay_in_order(
    sample: tuple[np.ndarray, np.ndarray], one: float, other: float
) -> None:
    lower, higher = (fit_thresholds(*sample, FitTarget(sensitivity)) for sensitivity in sorted((one, other)))
    for fit in (lower, higher):
        assert fit.thresholds.usable <= fit.thresholds.good
        for cut in (fit.usable, fit.good):
            assert cut.point.sensitivity.value >= fit.target.sensitivity
            assert cut.low <= cut.high
    assert lower.thresholds.usable <= higher.thresholds.usable
    assert lower.thresholds.good <= higher.thresholds.good


def test_ties_fall_on_one_side_together() -> None:
    mos = np.repeat([20.0, 50.0, 80.0], 6)
    fit = fit_thresholds(np.full(18, 50.0), mos, FitTarget(0.5))
    assert fit.thresholds == Thresholds(usable=50.01, good=50.01)
    assert (fit.usable.point.sensitivity.value, fit.usable.point.specificity.value) == (1, 0)
    assert (fit.usable.auc, fit.good.auc) == (0.5, 0.5)


def test_good_is_raised_to_usable_and_says_so() -> None:
    mos = np.repeat([20.0, 50.0, 80.0], [5, 20, 5])
    scores = np.concatenate([np.full(5, 60.0), np.full(20, 10.0), np.full(5, 90.0)])
    fit = fit_thresholds(scores, mos, FitTarget(0.75))
    assert fit.thresholds == Thresholds(usable=60.01, good=60.01)
    assert fit.good.raised
    assert not fit.usable.raised


def test_pictures_without_a_value_count_as_rejected() -> None:
    scores, mos = synthetic()
    scores[np.argmin(mos)] = NO_VALUE
    scores[np.argmax(mos)] = NO_VALUE
    fit = fit_thresholds(scores, mos, FitTarget(0.9))
    assert fit.without_value == 2
    assert fit.usable.point.specificity.hits < fit.usable.point.specificity.total
    unseen = fit_thresholds(np.where(mos < 40, NO_VALUE, scores), mos, FitTarget(0.9))
    assert unseen.thresholds.usable == 0
    assert unseen.usable.point.sensitivity.value == 1


def test_intervals_hold_the_threshold_and_are_seeded() -> None:
    scores, mos = synthetic()
    fit = fit_thresholds(scores, mos, FitTarget(0.9))
    assert fit == fit_thresholds(scores, mos, FitTarget(0.9))
    for cut in (fit.usable, fit.good):
        assert cut.low < cut.point.threshold < cut.high
        for share in (cut.point.sensitivity, cut.point.specificity):
            assert share.low <= share.value <= share.high
        assert cut.auc > 0.95


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"), [(8, 10, 0.4902, 0.9433), (0, 10, 0, 0.2775), (10, 10, 0.7225, 1)]
)
def test_wilson_intervals(hits: int, total: int, low: float, high: float) -> None:
    assert (wilson(hits, total).low, wilson(hits, total).high) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(
    ("mos", "message"),
    [
        ([20] * 4 + [50] * 10 + [80] * 10, "usable threshold: expected at least 5 .* below 40 .* found 4 and 20"),
        ([20] * 10 + [50] * 10 + [80] * 3, "good threshold: expected at least 5 .* below 60 .* found 20 and 3"),
        ([20] * 10, "found 10 and 0; label more, take another split or move --usable-mos"),
    ],
)
def test_too_few_photographs_of_a_class(mos: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        require_classes(np.array(mos, float), FitTarget(0.9))
    assert "\n" not in str(caught.value)


def test_a_sensitivity_that_no_threshold_reaches() -> None:
    with pytest.raises(InputError, match=r"sensitivity 0\.9: expected a threshold up to 100"):
        fit_thresholds(np.full(15, 100.0), np.repeat([20.0, 50.0, 80.0], 5), FitTarget(0.9))


@pytest.mark.parametrize("values", [(0.0,), (1.0,), (float("nan"),), (0.9, 60, 40), (0.9, -1, 40), (0.9, 40, 101)])
def test_targets_are_checked(values: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="expected"):
        FitTarget(*values)


def write_set(folder: Path, pictures: dict[str, np.ndarray], mos: dict[str, float]) -> Path:
    folder.mkdir()
    for name, picture in pictures.items():
        cv2.imwrite(str(folder / name), picture)
    rows = "".join(f"{name},{mos[name]},val\n" for name in pictures)
    (folder / "scores.csv").write_text("file_name,meanOpinionScore,split\n" + rows)
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, photograph: np.ndarray) -> Path:
    """A site's photographs: one retina at falling quality, and one picture of nothing."""
    small = cv2.resize(photograph, (480, 480), interpolation=cv2.INTER_AREA)
    pictures, mos = {"nothing.png": np.zeros((120, 120, 3), np.uint8)}, {"nothing.png": 2.0}
    for index, severity in enumerate(np.linspace(0, 1, 8)):
        for name in ("defocus", "under_exposure", "haze"):
            file = f"{name}_{index}.png"
            pictures[file], mos[file] = degrade(small, name, severity, index), round(85 - 80 * severity, 1)
    return write_set(tmp_path_factory.mktemp("site") / "data", pictures, mos)


def test_scores_come_through_the_gate(site: Path) -> None:
    scores = score_images(fake_scorer(lambda _: 70.0), read_image_set(site))
    assert scores.tolist() == [NO_VALUE] + [70.0] * 24


def test_a_failing_engine_is_no_rejected_picture(site: Path) -> None:
    def fail(_: np.ndarray) -> float:
        raise EngineError("broken")

    with pytest.raises(EngineError, match=r"defocus_0\.png: expected a score"):
        score_images(fake_scorer(fail), read_image_set(site))


def make_report() -> ThresholdReport:
    scores, mos = synthetic()
    scores[np.argmin(mos)] = NO_VALUE
    images = [LabelledImage(Path(f"{i}.jpg"), float(value), "val", str(i)) for i, value in enumerate(mos)]
    return ThresholdReport(fit_thresholds(scores, mos, FitTarget(0.9)), make_card(), images, scores, "val", 1)


def test_the_report_has_everything_that_was_measured(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = make_report()
    report.write(tmp_path)
    content = json.loads((tmp_path / "thresholds.json").read_text(), parse_constant=pytest.fail)
    assert content["fitted_thresholds"] == vars(report.fit.thresholds)
    assert content["card_thresholds"] == {"usable": 40, "good": 60}
    assert content["usable"]["point"]["sensitivity"]["value"] >= 0.9
    assert sum(image["score"] is None for image in content["images"]) == content["without_value"] == 1
    assert cv2.imread(str(tmp_path / "thresholds.png")).shape[1] > 500
    page = (tmp_path / "thresholds.html").read_text()
    assert all(cell in page for row in report.rows() for cell in row)


def test_rows_show_the_fitted_threshold_beside_the_cards() -> None:
    report = make_report()
    usable, usable_now, good, _ = report.rows()
    now = operating_point(report.scores, report.mos, 40, 40)
    assert usable[1].startswith(f"{report.fit.usable.point.threshold:.2f} [")
    assert usable_now[1] == "40.00"
    assert usable_now[2].startswith(f"{now.sensitivity.value:.3f} [")
    assert good[4] == f"{report.fit.good.auc:.3f}"


def fit_of(folder: Path) -> ThresholdFit:
    content = json.loads((folder / "thresholds.json").read_text())
    scores = [NO_VALUE if image["score"] is None else image["score"] for image in content["images"]]
    mos = [image["mos"] for image in content["images"]]
    return fit_thresholds(np.array(scores), np.array(mos), FitTarget(0.9))


def test_the_command_prints_and_applies(fthnet, site: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    bundle = shutil.copytree(shipped_bundle(), tmp_path / "bundle")
    before = Bundle.open(bundle).card
    report = tmp_path / "deep" / "report"
    done = fthnet("thresholds", bundle, "--data", site, "--sensitivity", 0.9, "-o", report, "--apply")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "25 photographs (split val), views 1" in done.stdout
    assert "counted as rejected: 1" in done.stdout
    after = Bundle.open(bundle).card
    assert after.thresholds != before.thresholds
    assert dataclasses.replace(after, thresholds=before.thresholds) == before
    told = [
        f"{name} {getattr(before.thresholds, name):.2f} → {getattr(after.thresholds, name):.2f}"
        for name in ("usable", "good")
    ]
    assert ", ".join(told) in done.stdout
    assert (bundle / CARD_NAME).read_text() == after.to_json()
    assert fit_of(report).thresholds.usable == pytest.approx(after.thresholds.usable, abs=0.011)
    assert {path.name for path in report.iterdir()} == {"thresholds.json", "thresholds.png", "thresholds.html"}


def test_without_apply_nothing_changes(fthnet, site: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(shipped_bundle(), tmp_path / "bundle")
    card = (bundle / CARD_NAME).read_bytes()
    done = fthnet("thresholds", bundle, "--data", site, "--sensitivity", 0.8, "--split", "all", "--threads", 1)
    assert done.returncode == 0, done.stderr
    assert "card is unchanged" in done.stdout
    assert (bundle / CARD_NAME).read_bytes() == card


def test_a_card_that_cannot_be_written_keeps_its_content(tmp_path: Path) -> None:
    (tmp_path / CARD_NAME).write_text(make_card().to_json())
    (tmp_path / f".{CARD_NAME}.tmp").mkdir()
    with pytest.raises(InputError, match="expected a card that can be written"):
        apply_thresholds(Bundle(tmp_path, make_card()), Thresholds(usable=10, good=20))
    assert ModelCard.read(tmp_path / CARD_NAME) == make_card()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--good-mos", "99"], 3, "found 25 and 0"),
        (["--usable-mos", "70"], 3, "expected 0 <= usable-mos <= good-mos <= 100, found 70 and 60"),
        (["--apply", "--views", "5"], 3, "expected views 1 as in the card, found 5"),
        (["--split", "train"], 3, "split 'train'"),
        (["--data", "none"], 3, "expected a folder in FQS form"),
        (["--sensitivity", "nan"], 3, "sensitivity: expected more than 0"),
    ],
)
def test_bad_input_is_one_line(fthnet, site: Path, arguments: list[str], code: int, message: str) -> None:
    done = fthnet("thresholds", "--data", site, "--sensitivity", 0.9, *arguments)
    assert done.returncode == code
    (line,) = done.stderr.splitlines()
    assert line.startswith("fthnet: ")
    assert message in line


def test_an_output_that_is_a_file_is_told_before_scoring(fthnet, site: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "file").write_text("")
    done = fthnet("thresholds", "--data", site, "--sensitivity", 0.9, "-o", tmp_path / "file")
    assert done.returncode == 3
    assert "expected a folder that can be written" in done.stderr


def test_a_sensitivity_out_of_range_is_told_by_click(fthnet, site: Path) -> None:
    assert fthnet("thresholds", "--data", site, "--sensitivity", 1.5).returncode == 2
