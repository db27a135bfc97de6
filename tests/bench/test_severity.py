"""How the score falls with severity: a backend that measures contrast, the shipped model, the command."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from fthnet_kit.bench.quality.looks import LOOKS
from fthnet_kit.bench.quality.severity import (
    SEVERITIES,
    best_images,
    degraded_view,
    measure_severity,
    report_json,
    score_severities,
    severity_table,
    write_report,
)
from fthnet_kit.calibration.labelled_images import LabelledImage
from fthnet_kit.edge import InputError, Preprocessing, QualityScorer
from fthnet_kit.edge.capture.degradations import DEGRADATIONS
from fthnet_kit.edge.cli.main import main
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.model.preprocess import canonical, prepare
from tests.conftest import ROOT, FakeBackend, make_card


class ContrastBackend(FakeBackend):
    """Scores a picture by its mean local contrast."""

    def infer(self, images: Image) -> np.ndarray:
        gray = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]
        return np.array([3 * cv2.absdiff(g, cv2.blur(g, (9, 9))).mean() for g in gray], np.float32)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory, photograph: Image) -> list[LabelledImage]:
    folder = tmp_path_factory.mktemp("photographs")
    small = cv2.resize(photograph, (512, 512), interpolation=cv2.INTER_AREA)
    images = []
    for index, picture in enumerate((small, small[:, ::-1])):
        path = folder / f"{index}.png"
        cv2.imwrite(str(path), picture)
        images.append(LabelledImage(path, 70.0 + index, "val", str(index)))
    return images


def test_a_measure_of_contrast_falls_with_blur_and_rises_with_noise(photographs: list[LabelledImage]) -> None:
    report = measure_severity(ContrastBackend(), Preprocessing(), photographs)
    assert list(report.scores) == list(DEGRADATIONS)
    for name, scores in report.scores.items():
        assert scores.shape == (2, len(SEVERITIES))
        np.testing.assert_array_equal(scores[:, 0], report.scores["defocus"][:, 0])
        np.testing.assert_allclose(report.means(name), scores.mean(axis=0))
    for name in ("defocus", "motion_blur", "haze", "under_exposure"):
        assert report.spearman(name) == pytest.approx(-1)
        assert report.drop(name) > 5
    assert report.spearman("sensor_noise") == pytest.approx(1)
    assert report.drop("sensor_noise") < -20


def test_runs_repeat_whatever_the_other_photographs(photographs: list[LabelledImage]) -> None:
    both = measure_severity(ContrastBackend(), Preprocessing(), photographs, (0, 0.5))
    alone = measure_severity(ContrastBackend(), Preprocessing(), photographs[1:], (0, 0.5))
    for name in DEGRADATIONS:
        np.testing.assert_array_equal(both.scores[name][1:], alone.scores[name])


def test_views_show_the_centre_of_the_degraded_field(photograph: Image) -> None:
    field = canonical(photograph, Preprocessing())
    clean = degraded_view(field, "haze", 0.0, 3)
    assert (clean.shape, clean.dtype) == ((384, 384, 3), np.uint8)
    assert cv2.absdiff(clean, prepare(photograph, Preprocessing(), 1)[0]).mean() < 2
    covered = degraded_view(field, "occlusion", 1.0, 3)
    np.testing.assert_array_equal(covered, degraded_view(field, "occlusion", 1.0, 3))
    assert covered.mean() < clean.mean() / 2


@pytest.mark.parametrize(("answer", "expected"), [(130.0, 100.0), (-5.0, 0.0), (40.0, 40.0)])
def test_scores_are_clipped_as_the_runtime_does(photograph: Image, answer: float, expected: float) -> None:
    backend = FakeBackend(lambda images: answer)
    scores = score_severities(backend, canonical(photograph, Preprocessing()), 0, (0, 0.5, 1))
    assert scores.shape == (10, 3)
    assert np.all(scores == expected)


def test_best_images_are_those_of_the_highest_mos() -> None:
    images = [LabelledImage(Path(name), mos, "val", name) for name, mos in (("a", 10), ("b", 90), ("c", 50), ("d", 90))]
    assert [image.group for image in best_images(images, 3)] == ["b", "d", "c"]
    assert len(best_images(images, 9)) == 4


def test_report_files(photographs: list[LabelledImage], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = measure_severity(ContrastBackend(), Preprocessing(), photographs)
    write_report(report, make_card(), tmp_path)
    content = json.loads((tmp_path / "severity.json").read_text(), parse_constant=pytest.fail)
    assert content["severities"] == list(SEVERITIES)
    assert content["degradations"]["defocus"]["drop"] == pytest.approx(report.drop("defocus"), abs=1e-3)
    assert np.shape(content["degradations"]["jpeg"]["scores"]) == (2, len(SEVERITIES))
    assert cv2.imread(str(tmp_path / "severity.png")).shape[1] > 1000


def test_a_flat_score_has_no_correlation(photographs: list[LabelledImage]) -> None:
    report = measure_severity(FakeBackend(), Preprocessing(), photographs[:1], (0, 1))
    content = json.loads(report_json(report, make_card()), parse_constant=pytest.fail)
    assert content["degradations"]["haze"]["spearman"] is None
    assert list(severity_table(report).columns[3].cells) == ["-"] * 10


@pytest.mark.slow
def test_the_shipped_model_sees_every_degradation(demo_scorer: QualityScorer, photographs: list[LabelledImage]) -> None:
    report = measure_severity(demo_scorer.backend, demo_scorer.card.preprocessing, photographs[:1], (0, 1))
    for name in DEGRADATIONS:
        assert report.drop(name) > 10, name


def test_a_photograph_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected an image"):
        measure_severity(FakeBackend(), Preprocessing(), [LabelledImage(tmp_path / "x.png", 50, "val", "x")])


@pytest.mark.slow
def test_the_command_prints_a_table_and_writes_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("fthnet_kit.edge.inference.onnx_runtime.OnnxBackend", lambda *_, **__: ContrastBackend())
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.jpg").write_bytes((ROOT / "edge" / "assets" / "retina.jpg").read_bytes())
    (data / "scores.csv").write_text("file_name,meanOpinionScore,split\na.jpg,70,val\n")
    with pytest.raises(SystemExit) as ended:
        main(["severity", "--data", str(data), "--images", "3", "-o", str(tmp_path / "new" / "out")])
    out, err = capsys.readouterr()
    assert (ended.value.code, err) == (0, "")
    for name in DEGRADATIONS:
        assert f" {name} " in out
    assert "the 1 best photographs (split val, MOS 70 to 70)" in out
    for name in LOOKS:
        assert f" {name} " in out
    content = json.loads((tmp_path / "new" / "out" / "severity.json").read_text(), parse_constant=pytest.fail)
    assert list(content["looks"]) == list(LOOKS)
    assert {path.name for path in (tmp_path / "new" / "out").iterdir()} == {"severity.json", "severity.png"}


@pytest.mark.parametrize("arguments", [["--data", "none"], ["--data", "none", "--split", "train"]])
def test_bad_input_is_one_line(fthnet, arguments: list[str]) -> None:
    done = fthnet("severity", *arguments)
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert line.startswith("fthnet: none: expected a folder in FQS form")
