"""Agreement with labels, over real files: reading, measuring, metrics, reports, the command."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner, Result

from fthnet_kit.bench.commands.accuracy import accuracy as command
from fthnet_kit.bench.quality import accuracy
from fthnet_kit.bench.quality.accuracy import (
    AccuracyReport,
    ClassedSet,
    Engine,
    Measured,
    RatedSet,
    Simple,
    beside,
    evaluate,
    measure,
    measure_accuracy,
    open_engines,
    read_data,
)
from fthnet_kit.bench.quality.accuracy_page import accuracy_reports, head_lines, report_facts
from fthnet_kit.bench.quality.simple_measures import SIMPLE_MEASURES, mean_gradient
from fthnet_kit.calibration import agreement as metrics
from fthnet_kit.edge import BundleError, EngineError, InputError, Preprocessing, QualityScorer, Thresholds
from fthnet_kit.edge.capture.degradations import degrade
from fthnet_kit.edge.device.machine import Device
from fthnet_kit.edge.errors import KitError
from fthnet_kit.edge.formats.read import read_image
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.model.bundle import Bundle
from tests.conftest import ROOT, FakeBackend, make_card

SCHEMA = json.loads((ROOT / "bench" / "results" / "accuracy.schema.json").read_text(encoding="utf-8"))
RATED = 8  # photographs of the rated folder that show a retina


@pytest.fixture(scope="module")
def small(photograph: Image) -> Image:
    return cv2.resize(photograph, (512, 512), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def rated(small: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Blurred copies whose labels fall, and a black picture, in two folds; one in the training split."""
    folder = tmp_path_factory.mktemp("rated")
    rows = ["file_name,meanOpinionScore,split,fold"]
    for index in range(RATED):
        cv2.imwrite(str(folder / f"{index}.png"), degrade(small, "defocus", index / RATED, 0))
        rows.append(f"{index}.png,{80 - 9 * index},{'val' if index else 'train'},{1 + index % 2}")
    cv2.imwrite(str(folder / "black.png"), np.zeros((512, 512, 3), np.uint8))
    rows.append("black.png,0,val,1")
    (folder / "scores.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture
def classed(small: Image, tmp_path: Path) -> Path:
    rows = ["file_name,quality"]
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"good{index}.png"), np.roll(small, index, axis=0))
        cv2.imwrite(str(tmp_path / f"bad{index}.png"), degrade(small, "defocus", 1 - index / 10, index))
        rows += [f"good{index}.png,good", f"bad{index}.png,bad"]
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros((512, 512, 3), np.uint8))
    rows.append("black.png,outlier")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    return tmp_path


def brightness(images: Image) -> float:
    return 0.3 * float(images.mean())


def engine(precision: str = "fp32", add: float = 0.0) -> Engine:
    return Engine(precision, precision, FakeBackend(lambda images: brightness(images) + add))  # type: ignore[arg-type]


def rated_set(mos: list[float], folds: tuple[str, ...] = ()) -> RatedSet:
    paths = tuple(Path("data") / f"{number}.png" for number in range(len(mos)))
    return RatedSet(Path("data"), paths, np.array(mos, float), "val", folds)


def measured_as(scores: list[float], precision: str = "fp32") -> Measured:
    values = np.array(scores, float)
    return Measured(engine(precision), 1, values, np.where(np.isnan(values), np.nan, 10.0))


def report_of(data: RatedSet | ClassedSet, *measured: Measured) -> AccuracyReport:
    runs, agreements = evaluate(0, data, measured, Thresholds(40, 60))
    return AccuracyReport(
        make_card(), (data,), tuple(runs), tuple(agreements), {"fp16": "why"}, Device(), "2026-01-01T00:00:00+00:00"
    )


def run_command(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


# Reading


def test_a_folder_with_scores(rated: Path) -> None:
    val, everything = read_data(rated), read_data(rated, "all")
    assert isinstance(val, RatedSet)
    assert isinstance(everything, RatedSet)
    assert (len(val.paths), len(everything.paths), val.split) == (RATED, RATED + 1, "val")
    assert everything.mos.tolist() == [80, 71, 62, 53, 44, 35, 26, 17, 0]
    folds = read_data(rated, fold_column="fold")
    assert isinstance(folds, RatedSet)
    assert (folds.split, folds.folds, folds.fold_names()) == ("all", ("1", "2") * 4 + ("1",), ["1", "2"])


def test_folds_are_sorted_by_number() -> None:
    assert rated_set([1] * 4, ("10", "b", "9", "a")).fold_names() == ["9", "10", "a", "b"]


def test_a_limit_is_a_seeded_choice_in_the_tables_order(rated: Path) -> None:
    first, second = read_data(rated, "all", limit=5), read_data(rated, "all", limit=5)
    assert first.paths == second.paths
    order = read_data(rated, "all").paths
    assert len(first.paths) == 5
    assert list(first.paths) == sorted(first.paths, key=order.index)


def test_a_folder_with_classes(classed: Path) -> None:
    found = read_data(classed)
    assert isinstance(found, ClassedSet)
    assert found.qualities == ("good", "bad") * 3 + ("outlier",)
    (classed / "images").mkdir()
    for path in classed.glob("*.png"):
        path.rename(classed / "images" / path.name)
    assert read_data(classed).paths[0] == classed / "images" / "good0.png"


def test_a_score_table_that_is_called_labels(rated: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(rated, tmp_path / "copy")
    (folder / "scores.csv").rename(folder / "labels.csv")
    assert isinstance(read_data(folder), RatedSet)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file_name\n", "expected a column quality, found file_name"),
        ("", "expected a column file_name, found no header"),
        ("file_name,quality\ngood0.png,fine\n", r"row 2: expected good, bad, outlier, found 'fine'"),
        ("file_name,quality\ngood0.png\n", "row 2: expected 2 cells, as in the header, found 1"),
        ("file_name,quality\ngood9.png,good\n", r"row 2: expected the image .*good9\.png, found none"),
        ("file_name,quality\ngood0.png,good\ngood0.png,good\n", r"row 3: duplicate file_name 'good0\.png'"),
        ("file_name,quality\ngood0.png,good\nbad0.png,bad\n", "at least 3 good and 3 bad photographs, found 1 and 1"),
    ],
)
def test_wrong_classes_are_refused(classed: Path, table: str, message: str) -> None:
    (classed / "labels.csv").write_text(table)
    with pytest.raises(InputError, match=message):
        read_data(classed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "train"], r"at least 3 photographs in split train, found 1 among 9; take another --split"),
        (["--images", 2], "at least 3 photographs in split val, found 2"),
        (["--fold-column", "nothing"], r"expected a column nothing, found file_name, meanOpinionScore, split, fold"),
        (["--fold-column", "fold", "--images", 4], "at least 2 folds of 3 photographs"),
        (["--data", "nowhere"], "nowhere: expected a folder in FQS form"),
    ],
)
def test_wrong_input_ends_in_one_line(rated: Path, arguments: list[str], message: str) -> None:
    done = run_command("--data", rated, *arguments)
    assert isinstance(done.exception, KitError)
    assert done.exception.exit_code == 3
    assert "\n" not in str(done.exception)
    with pytest.raises(InputError, match=message):
        raise done.exception


def test_classes_have_no_folds(classed: Path) -> None:
    with pytest.raises(InputError, match=r"found classes in labels\.csv; leave out --fold-column"):
        read_data(classed, fold_column="fold")


@pytest.mark.parametrize("views", ["7", "1;5", "", "1,,5"])
def test_other_views_are_wrong_options(rated: Path, views: str) -> None:
    done = run_command("--data", rated, "--views", views)
    assert done.exit_code == 2
    assert "expected some of 1, 5, 20" in done.output


# Measuring


def test_each_photograph_is_read_once_and_prepared_once_for_each_views(
    rated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    real_read, real_prepare = accuracy.read_image, accuracy.prepare_with_centre
    monkeypatch.setattr(accuracy, "read_image", lambda path: calls.append("read") or real_read(path))
    monkeypatch.setattr(accuracy, "prepare_with_centre", lambda i, p, v: calls.append(v) or real_prepare(i, p, v))
    engines = [engine("fp32"), engine("int8", add=1.0)]
    paths = read_data(rated, "all").paths
    done: list[int] = []
    found = measure(engines, Preprocessing(), paths, (1, 5), lambda: done.append(1))
    assert calls == ["read", 1, 5] * len(paths)
    assert len(done) == len(paths)
    assert [(m.engine.precision, m.views) for m in found] == [("fp32", 1), ("int8", 1), ("fp32", 5), ("int8", 5)]
    np.testing.assert_allclose(found[1].scores[:-1] - found[0].scores[:-1], 1, atol=1e-4)
    for measured in found:  # the black picture comes last
        assert np.isnan(measured.scores[-1])
        assert np.isnan(measured.ms[-1])
        assert (measured.ms[:-1] > 0).all()


@pytest.mark.parametrize(("answer", "expected"), [(130.0, 100.0), (-3.0, 0.0)])
def test_scores_are_clipped(rated: Path, answer: float, expected: float) -> None:
    engines = [Engine("fp32", "fp32", FakeBackend(lambda images: answer))]
    (found,) = measure(engines, Preprocessing(), read_data(rated).paths[:2], (1,))
    assert found.scores.tolist() == [expected] * 2


def test_a_score_that_is_not_finite_is_the_engines_fault(rated: Path) -> None:
    engines = [Engine("int8", "int8-cpu", FakeBackend(lambda images: float("nan")))]
    with pytest.raises(EngineError, match=r"1\.png: expected a finite score from int8-cpu, found nan"):
        measure(engines, Preprocessing(), read_data(rated).paths[:2], (1,))


def test_a_photograph_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected an image"):
        measure([engine()], Preprocessing(), [tmp_path / "x.png"], (1,))


@pytest.mark.slow
def test_scores_are_those_of_the_runtime(rated: Path) -> None:
    path = read_data(rated).paths[0]
    with open_engines(Bundle.open(), ("fp32",)) as (engines, _), QualityScorer.from_bundle(views=5) as scorer:
        (found,) = measure(engines, scorer.card.preprocessing, [path], (5,))
        assert found.scores[0] == pytest.approx(scorer.score(read_image(path)).value, abs=1e-4)


def test_a_cpu_leaves_fp16_out_unless_asked_for_by_name() -> None:
    bundle = Bundle.open()
    with open_engines(bundle) as (engines, left_out):
        assert [(e.precision, e.form, e.emulated) for e in engines] == [
            ("fp32", "fp32", False),
            ("int8", "int8-cpu", False),
        ]
        assert list(left_out) == ["fp16"]
    with open_engines(bundle, ("fp16", "fp32")) as (engines, left_out):
        assert [(e.form, e.emulated) for e in engines] == [("fp32", False), ("fp16", True)]
        assert left_out == {}


def test_precisions_that_a_bundle_lacks_are_left_out_and_refused_by_name() -> None:
    bundle = Bundle.open()
    bare = replace(bundle, card=replace(bundle.card, precisions={}))
    with open_engines(bare) as (engines, left_out):
        assert [e.form for e in engines] == ["fp32"]
        assert "fthnet quantize" in left_out["int8"]
    with pytest.raises(BundleError, match="int8-cpu"), open_engines(bare, ("int8",)):
        pass


def test_a_backend_that_is_not_there_is_told() -> None:
    with pytest.raises(EngineError, match="CUDAExecutionProvider"), open_engines(Bundle.open(), (), "onnxruntime-cuda"):
        pass


# Metrics


def test_golden_metrics() -> None:
    data = rated_set([10, 20, 30, 40, 50])
    (run,) = evaluate(0, data, [measured_as([20, 10, 40, 30, 50])], Thresholds(40, 60))[0]
    expected = {"PLCC": 0.8, "SRCC": 0.8, "KRCC": 0.6, "RMSE": np.sqrt(80)}
    assert {name: found.value for name, found in run.metrics.items()} == pytest.approx(expected)
    for found in run.metrics.values():
        assert found.low <= found.value <= found.high
    assert run.metrics == evaluate(0, data, [measured_as([20, 10, 40, 30, 50])], Thresholds(40, 60))[0][0].metrics
    assert (run.ms_percentile(50), run.without_score, run.folds) == (10.0, 0, ())


def test_a_photograph_without_a_score_counts_as_0() -> None:
    data, nan = rated_set([10, 20, 30, 40]), float("nan")
    without, zero = (evaluate(0, data, [measured_as([v, 20, 30, 40])], Thresholds(40, 60))[0][0] for v in (nan, 0))
    assert without.metrics == zero.metrics
    assert without.metrics["RMSE"].value == pytest.approx(5)
    assert (without.without_score, zero.without_score) == (1, 0)


def test_golden_auc() -> None:
    data = ClassedSet(Path("data"), tuple(map(Path, "abcdefg")), ("good",) * 3 + ("bad",) * 3 + ("outlier",))
    nan = float("nan")
    (run,) = evaluate(0, data, [measured_as([80, 50, nan, 50, 10, nan, 3])], Thresholds(40, 60))[0]
    assert run.metrics["AUC"].value == pytest.approx((3 + 2.5 + 0.5) / 9)
    assert run.metrics["AUC"].low < run.metrics["AUC"].value < run.metrics["AUC"].high
    assert data.scores_of("bad", run.scores).tolist() == [50, 10, -1]


def test_what_a_precision_changes() -> None:
    data, nan = rated_set([10, 30, 50, 70, 90]), float("nan")
    first, second = measured_as([10, 39, 50, 61, nan]), measured_as([11, 41, 50, 59, nan], "int8")
    runs, (found,) = evaluate(0, data, [first, second], Thresholds(40, 60))
    assert (found.reference, found.form, found.cost.images, found.cost.flips) == ("fp32", "int8", 4, 2)
    assert (found.cost.mean, found.cost.worst, found.cost.srcc) == pytest.approx((1.25, 2, 1))
    assert found.verdicts == {
        "good": {"good": 0, "usable": 1, "reject": 0},
        "usable": {"good": 0, "usable": 1, "reject": 0},
        "reject": {"good": 0, "usable": 1, "reject": 1},
    }
    for name, change in found.changes.items():
        assert change.value == pytest.approx(runs[1].metrics[name].value - runs[0].metrics[name].value)
        assert change.low <= change.value <= change.high


def test_a_precision_that_changes_nothing_has_an_interval_of_nothing() -> None:
    scores = [12.0, 20, 44, 41, 70]
    _, (found,) = evaluate(
        0, rated_set([10, 30, 50, 70, 90]), [measured_as(scores), measured_as(scores, "fp16")], Thresholds(40, 60)
    )
    assert all((c.value, c.low, c.high) == (0, 0, 0) for c in found.changes.values())


def test_photographs_without_any_score_have_nothing_to_agree_on() -> None:
    nothing = [float("nan")] * 3
    runs, agreements = evaluate(
        0, rated_set([1, 2, 3]), [measured_as(nothing), measured_as(nothing, "int8")], Thresholds(40, 60)
    )
    assert agreements == []
    assert np.isnan([runs[0].metrics["PLCC"].value, runs[0].metrics["SRCC"].high, runs[0].ms_percentile(95)]).all()


def test_folds_are_measured_one_by_one() -> None:
    mos, scores = [10.0, 20, 30, 40, 50, 60, 70, 80], [12.0, 25, 28, 50, 40, 66, 70, 80]
    data = rated_set(mos, ("2", "1") * 4)
    (run,) = evaluate(0, data, [measured_as(scores)], Thresholds(40, 60))[0]
    assert [(fold.name, fold.images) for fold in run.folds] == [("1", 4), ("2", 4)]
    first = metrics.agreement(np.array(scores[1::2]), np.array(mos[1::2]))
    second = metrics.agreement(np.array(scores[::2]), np.array(mos[::2]))
    assert run.folds[0].metrics["PLCC"].value == pytest.approx(first.plcc)
    assert run.folds[1].metrics["RMSE"].value == pytest.approx(second.rmse)
    mean, deviation = run.fold_means()["RMSE"]
    assert mean == pytest.approx((first.rmse + second.rmse) / 2)
    assert deviation == pytest.approx(abs(first.rmse - second.rmse) / np.sqrt(2))


# Reports


def check_schema(content: dict) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker()).validate(content)


class Page(HTMLParser):
    """Notes what a page would load or lead to."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.references: list[str] = []
        self.tags: list[str] = []
        self.feed(content.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]


@pytest.mark.slow
def test_json_follows_the_schema_and_holds_all_that_the_metrics_need() -> None:
    pytest.importorskip("matplotlib")
    data, nan = rated_set([10, 30, 50, 70, 90, 20], ("1", "2") * 3), float("nan")
    report = report_of(data, measured_as([11, 35, 49, 61, nan, 3]), measured_as([12, 36, 40, 62, nan, 3], "int8"))
    files = accuracy_reports(report)
    assert list(files) == ["accuracy.json", "accuracy.png", "accuracy.html"]
    content = json.loads(files["accuracy.json"], parse_constant=pytest.fail)
    check_schema(content)
    labels = np.array([photograph["mos"] for photograph in content["data"][0]["photographs"]])
    for run in content["runs"]:
        scores = np.array([0 if score is None else score for score in run["scores"]])
        for name, statistic in accuracy.STATISTICS.items():
            low, high = metrics.bootstrap_interval(scores, labels, statistic)
            expected = {"value": statistic(scores, labels), "low": low, "high": high}
            assert run["metrics"][name] == pytest.approx(expected, rel=1e-5)
        assert run["without_score"] == 1
        assert [fold["fold"] for fold in run["folds"]] == ["1", "2"]
    assert content["left_out"] == {"fp16": "why"}
    for wrong in ({"runs": []}, {"schema": "other"}, {"more": 1}):
        with pytest.raises(jsonschema.ValidationError):
            check_schema({**content, **wrong})


def test_page_needs_nothing_beside_it() -> None:
    pytest.importorskip("matplotlib")
    data = rated_set([10, 30, 50, 70], ("1", "2") * 2)
    report = report_of(replace(data, folder=Path("a<b>&")), measured_as([11, 35, 49, 61]))
    report = replace(report, data=(replace(data, folder=Path("a<b>&"), paths=(Path("a<b>&/x.png"),) * 4),))
    files = accuracy_reports(report)
    page = Page(files["accuracy.html"])
    assert {"html", "h1", "h2", "table", "img", "dl"} <= set(page.tags)
    assert not {"script", "b", "iframe"} & set(page.tags)
    assert [reference[:22] for reference in page.references] == ["data:,", "data:image/png;base64,"]
    assert b"://" not in files["accuracy.html"]
    assert b"a&lt;b&gt;&amp;" in files["accuracy.html"]
    assert b"No logistic function is fitted" in files["accuracy.html"]
    assert b"One model scored every fold" in files["accuracy.html"]
    assert cv2.imdecode(np.frombuffer(files["accuracy.png"], np.uint8), cv2.IMREAD_COLOR).shape[0] > 500


@pytest.mark.slow
def test_metrics_that_cannot_be_told_are_null_and_dashes() -> None:
    pytest.importorskip("matplotlib")
    nothing = [float("nan")] * 3
    report = report_of(rated_set([1, 2, 3]), measured_as(nothing), measured_as(nothing, "int8"))
    content = json.loads(accuracy_reports(report)["accuracy.json"], parse_constant=pytest.fail)
    check_schema(content)
    assert content["runs"][0]["metrics"]["PLCC"] == {"value": None, "low": None, "high": None}
    assert content["runs"][0]["ms_per_picture"] == {"median": None, "p95": None}
    assert "– [–, –]" in accuracy_reports(report)["accuracy.html"].decode()


@pytest.mark.slow
def test_emulated_fp16_is_said(rated: Path) -> None:
    data = read_data(rated, limit=3)
    report = measure_accuracy(Bundle.open(), [data], (1,), ("fp16",))
    assert any("fp16 is emulated" in line for line in head_lines(report))
    assert report_facts(report)["runs"][0]["emulated"] is True


# The command


@pytest.mark.long
def test_scores_of_blurred_copies_agree_with_falling_labels(rated: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    done = run_command("--data", rated, "--split", "all", "--views", "1,5", "-o", tmp_path / "new" / "out")
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    assert "9 photographs (split all, MOS 0 to 80); 1 without a score, counted as 0" in done.stdout
    assert "fp16 left out: ONNX Runtime computes FP16 in FP32" in done.stdout
    for words in ("int8-cpu", "fp32 → int8-cpu", "KRCC [95 %]"):
        assert words in done.stdout
    out = tmp_path / "new" / "out"
    assert {path.name for path in out.iterdir()} == {"accuracy.json", "accuracy.png", "accuracy.html"}
    content = json.loads((out / "accuracy.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    check_schema(content)
    assert [(run["form"], run["views"]) for run in content["runs"]] == [
        ("fp32", 1),
        ("int8-cpu", 1),
        ("fp32", 5),
        ("int8-cpu", 5),
    ]
    for run in content["runs"]:
        assert run["metrics"]["SRCC"]["value"] > 0.95
        assert run["metrics"]["PLCC"]["value"] > 0.9
    assert [found["views"] for found in content["agreement"]] == [1, 5]
    assert [(found["measure"], found["views"]) for found in content["baselines"]] == [
        (name, views) for views in (1, 5) for name in SIMPLE_MEASURES
    ]
    for name in SIMPLE_MEASURES:
        assert done.stdout.count(f"fp32 less {name}") == 2


@pytest.mark.long
def test_folds_take_twenty_views(rated: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    arguments = ("--fold-column", "fold", "--precision", "int8", "--threads", 2, "-o", tmp_path)
    done = run_command("--data", rated, *arguments)
    assert done.exit_code == 0, done.output
    assert "mean ± SD" in done.stdout
    content = json.loads((tmp_path / "accuracy.json").read_text(encoding="utf-8"))
    check_schema(content)
    (run,) = content["runs"]
    assert (run["views"], run["images"], [fold["images"] for fold in run["folds"]]) == (20, 9, [5, 4])
    assert [photograph["fold"] for photograph in content["data"][0]["photographs"]] == ["1", "2"] * 4 + ["1"]


@pytest.mark.slow
def test_sharp_photographs_part_from_blurred_ones(classed: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    done = run_command("--data", classed, "--precision", "fp32", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "7 photographs (3 good, 3 bad, 1 outlier); 1 without a score, counted below all others" in done.stdout
    assert "1.000 [1.000, 1.000]" in done.stdout
    content = json.loads((tmp_path / "out" / "accuracy.json").read_text(encoding="utf-8"))
    check_schema(content)
    assert content["data"][0]["labels"] == "classes"
    assert content["runs"][0]["metrics"] == {"AUC": {"value": 1, "low": 1, "high": 1}}
    assert content["runs"][0]["classes"]["outlier"] == [-1]
    assert content["agreement"] == []


@pytest.mark.slow
def test_several_folders_of_both_forms_are_measured_each_by_itself(rated: Path, classed: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    done = run_command("--data", rated, "--data", classed, "--precision", "int8", "-o", out)
    assert done.exit_code == 0, done.output
    content = json.loads((out / "accuracy.json").read_text(encoding="utf-8"))
    check_schema(content)
    assert [sorted(run["metrics"]) for run in content["runs"]] == [["KRCC", "PLCC", "RMSE", "SRCC"], ["AUC"]]
    assert max(len(line) for line in done.stdout.splitlines() if line.startswith("┃")) <= 160


def test_what_is_missing_is_told_before_scoring(rated: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "file").write_text("")
    done = run_command("--data", rated, "-o", tmp_path / "file" / "out")
    assert isinstance(done.exception, InputError)
    assert "expected a folder that can be written" in str(done.exception)
    assert done.stdout == ""
    done = run_command(tmp_path / "no_bundle", "--data", rated)
    assert isinstance(done.exception, BundleError)


# Simple measures


def test_simple_measures_are_told_beside_the_model_with_the_paired_difference(rated: Path) -> None:
    """The model is made the measure itself: every draw of the bootstrap must then find no difference."""
    data = read_data(rated, "all")
    simple = [one for one in Simple.unmeasured((1,), len(data.paths)) if one.name == "mean gradient"]
    same = Engine("fp32", "fp32", FakeBackend(lambda images: float(np.mean([mean_gradient(i) for i in images]))))
    measured = measure([same], Preprocessing(), data.paths, (1,), simple=simple)
    (found,) = beside(0, data, measured, simple)
    np.testing.assert_allclose(found.values, measured[0].scores, rtol=1e-5)
    assert np.isnan(found.values[-1])  # the black picture
    assert set(found.metrics) == set(found.gains) == {"PLCC", "SRCC", "KRCC"}
    assert found.metrics["SRCC"].value > 0.95
    for gain in found.gains.values():
        assert (gain.value, gain.low, gain.high) == pytest.approx((0, 0, 0), abs=1e-5)


def test_what_the_model_has_more_is_paired_and_signed() -> None:
    rng = np.random.default_rng(1)
    mos = np.linspace(0, 100, 60)
    scores, measure_values = mos + rng.normal(0, 10, 60), mos + rng.normal(0, 60, 60)
    data = rated_set(mos.tolist())
    simple = Simple("contrast", 1, measure_values)
    (found,) = beside(0, data, [measured_as(scores.tolist()), measured_as([1.0] * 60, "int8")], [simple])
    gain = found.gains["SRCC"]
    assert found.form == "fp32"
    assert gain.value == pytest.approx(metrics.srcc(scores, mos) - metrics.srcc(measure_values, mos))
    draws = metrics.bootstrap_values(scores, mos, metrics.srcc) - metrics.bootstrap_values(
        measure_values, mos, metrics.srcc
    )
    assert (gain.low, gain.high) == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])))
    assert 0 < gain.low < gain.value < gain.high


def test_simple_measures_are_what_their_names_say() -> None:
    step = np.zeros((384, 384, 3), np.uint8)
    step[:, 192:, 1] = 100  # an edge of green, and none of the others
    for name, expected in {"mean gradient": 2 * 400 / 384, "contrast": 50.0}.items():
        assert SIMPLE_MEASURES[name](step) == pytest.approx(expected)
    assert SIMPLE_MEASURES["Laplacian variance"](step) == pytest.approx(2 * 100**2 / 384)
    for value in SIMPLE_MEASURES.values():
        assert value(step[..., ::-1].copy()) > 0
        assert value(step[..., [1, 0, 2]].copy()) == 0


@pytest.mark.slow
def test_drimdb_parts_good_from_bad(data: Path) -> None:
    if not (data / "drimdb_val").is_dir():
        pytest.skip("no drimdb_val")
    report = measure_accuracy(Bundle.open(), [read_data(data / "drimdb_val")], (1,), ("fp32",))
    assert report.runs[0].metrics["AUC"].value > 0.95


@pytest.mark.long
def test_the_validation_split_is_ranked_alike_in_both_precisions(data: Path) -> None:
    if not (data / "fundus").is_dir():
        pytest.skip("no fundus")
    report = measure_accuracy(Bundle.open(), [read_data(data / "fundus", limit=40)], (1,))
    for run in report.runs:
        assert run.metrics["SRCC"].value > 0.8
    (found,) = report.agreements
    assert found.cost.mean < 1.0  # 0.1 with VNNI; without it ONNX Runtime's INT8 saturates: 0.65
