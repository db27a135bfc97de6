"""Every report as a phone and a desk show it: nothing is loaded, none is wider than the window."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("onnx")
pytest.importorskip("matplotlib")

from fthnet_kit.bench.dossier.write import write_dossier
from fthnet_kit.bench.quality.accuracy_page import accuracy_reports
from fthnet_kit.bench.results.results_file import write_results
from fthnet_kit.convert.precision.quantize_report import quantization_reports
from fthnet_kit.convert.precision.verify_report import verification_reports
from fthnet_kit.edge.model.bundle import Bundle
from tests.bench.browser import chromium, visit
from tests.bench.contents import latency_content
from tests.bench.test_accuracy import measured_as, rated_set, report_of
from tests.calibration.test_thresholds import make_report
from tests.convert.test_reports import CARD, make_outcome, make_verification

REPORTS = {"accuracy", "quantization", "thresholds", "verify"}
DOSSIER = {"anomalies", "evidence", "hazards", "index", "model_card", "soup", "vulnerabilities"}
LONG = Path("a-folder-with-a-rather-long-name-of-photographs-taken-in-the-second-half-of-the-year")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The pages of quantize, verify, accuracy and thresholds, and of a dossier."""
    folder = tmp_path_factory.mktemp("pages")
    make_report().write(folder)
    data = rated_set([10, 30, 50, 70, 90, 20], ("1", "2") * 3)
    data = replace(data, folder=LONG, paths=tuple(LONG / path.name for path in data.paths))
    scores = [11.0, 35, 49, 61, 80, 3]
    measured = [replace(measured_as(scores, form), views=20) for form in ("fp32", "fp16", "int8", "int8-cpu")]
    files = {
        **quantization_reports(make_outcome(), CARD),
        **verification_reports(make_verification(), CARD),
        **accuracy_reports(report_of(data, *measured)),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    pytest.importorskip("cyclonedx")
    results = folder / "latency.json"
    write_results(results, latency_content())
    write_dossier(folder / "dossier", Bundle.open(), "Example maker", [results])
    return sorted([*folder.glob("*.html"), *(folder / "dossier").glob("*.html")])


@pytest.mark.slow
def test_pages_fit_phone_and_desk(pages: list[Path], tmp_path: Path) -> None:
    assert {page.stem for page in pages} == REPORTS | DOSSIER
    with chromium() as browser:
        for page in pages:
            for width in (375, 1280):
                found = visit(browser, page, width, tmp_path / f"{page.stem}_{width}.png")
                assert (found.messages, found.requests, max(0, found.overflow)) == ([], [], 0), (page.name, width)
