"""`fthnet bench report`: one page from a folder of results."""

from __future__ import annotations

import json
import os
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fthnet_kit.bench.commands.report import report
from fthnet_kit.bench.endurance.fault_soak import KIND as SOAK
from fthnet_kit.bench.endurance.fault_soak import Strike, by_fault
from fthnet_kit.bench.endurance.live_load import KIND as LOAD
from fthnet_kit.bench.endurance.live_load import ROWS, Load
from fthnet_kit.bench.quality.best_shot import KIND as BEST_SHOT
from fthnet_kit.bench.quality.best_shot import Shares
from fthnet_kit.bench.quality.severity import SeverityReport, report_json
from fthnet_kit.bench.report.summary_page import read_folder, report_page
from fthnet_kit.bench.results.results_file import write_results
from fthnet_kit.calibration.labelled_images import LabelledImage
from fthnet_kit.edge import InputError
from fthnet_kit.edge.model.bundle import Bundle
from tests.bench.browser import chromium, visit
from tests.bench.contents import accuracy_content, bare_content, latency_content
from tests.bench.test_latency_report import HOSTILE, Page


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two latencies, an accuracy, and files that are no results."""
    write_results(tmp_path / "orin.json", latency_content())
    write_results(tmp_path / "laptop.json", bare_content())
    write_results(tmp_path / "accuracy.json", accuracy_content())
    (tmp_path / "package.json").write_text('{"name": "other"}')
    (tmp_path / "newer.json").write_text('{"schema": "fthnet-latency", "version": 9}')
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "notes.txt").write_text("not looked at")
    return tmp_path


def test_the_page_holds_every_result(folder: Path) -> None:
    page = Page(report_page(*read_folder(folder)))
    assert page.open == []
    text = page.text
    for words in (
        "Latency of FTHNet demo 1.2, orin.json",
        "Latency of FTHNet demo 1.2, laptop.json",
        "Accuracy of FTHNet demo 1.2, accuracy.json",
        "0.934 [0.912, 0.951]",
        "0.934 [–, 0.951]",
        "fp16, emulated",
        "fp32 → fp16",
        "1 of 2",
        "int8 left out",
        "May be unstable: orin.json.",
        "broken.json: expected results",
        "package.json: expected results",
        "newer.json: expected fthnet-latency version 1, found 9; update this kit",
    ):
        assert words in text
    assert "notes.txt" not in text


def test_the_contents_lead_to_sections(folder: Path) -> None:
    page = Page(report_page(*read_folder(folder)))
    names = [value for name, value in page.attributes if name == "id"]
    leads = [value[1:] for name, value in page.attributes if name == "href" and value.startswith("#")]
    assert leads == ["summary", "result-1", "result-2", "result-3", "left-out"]
    assert sorted(names) == sorted(leads)
    headings = [int(tag[1]) for tag in page.tags if tag in ("h1", "h2", "h3", "h4")]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(headings))


def test_latency_comes_before_accuracy(folder: Path) -> None:
    found, _, left_out = read_folder(folder)
    assert [each.path.name for each in found] == ["laptop.json", "orin.json", "accuracy.json"]
    assert len(left_out) == 3


@pytest.mark.parametrize("text", [None, "[]"])
def test_a_folder_without_results_is_refused(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "other.json").write_text(text)
    with pytest.raises(InputError, match="expected results of `fthnet bench latency --json`"):
        read_folder(tmp_path)
    with pytest.raises(InputError, match="found no such folder"):
        read_folder(tmp_path / "none")


def test_foreign_words_stay_words(tmp_path: Path) -> None:
    content = latency_content()
    content["model"]["name"] = HOSTILE
    write_results(tmp_path / "<script>.json", content)
    accuracy = accuracy_content(left_out={HOSTILE: HOSTILE})
    accuracy["data"][0]["folder"] = HOSTILE
    write_results(tmp_path / "accuracy.json", accuracy)
    (tmp_path / "<img src=x>.json").write_text("<b>")
    Path(os.fsdecode(bytes(tmp_path) + b"/\xff\x1b.json")).write_text("no UTF-8 in its name")
    page = Page(report_page(*read_folder(tmp_path)))
    assert not {"script", "img"} & set(page.tags)
    assert "<img src=x>.json" in page.text


def test_the_command_writes_the_page(folder: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(report, [str(folder)], catch_exceptions=False)
    assert done.exit_code == 0
    assert f"3 results, 3 other files; page: {folder / 'report.html'}" in done.output
    assert (folder / "report.html").read_bytes().startswith(b"<!doctype html>")
    done = CliRunner().invoke(report, [str(folder), "-o", str(tmp_path / "review.html")], catch_exceptions=False)
    assert done.exit_code == 0
    assert (tmp_path / "review.html").read_bytes() == (folder / "report.html").read_bytes()
    with pytest.raises(InputError, match="expected a file that can be written"):
        CliRunner().invoke(report, [str(folder), "-o", str(tmp_path / "no" / "r.html")], catch_exceptions=False)


def test_one_result_is_a_report(folder: Path) -> None:
    only = folder / "only"
    only.mkdir()
    shutil.copy(folder / "laptop.json", only)
    text = Page(report_page(*read_folder(only))).text
    assert "Files that are no results" not in text
    assert json.loads((only / "laptop.json").read_text())["kit_version"] in text


@pytest.mark.slow
def test_the_page_in_a_browser(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_bytes(report_page(*read_folder(folder)))
    with chromium() as browser:
        for width in (375, 1280):
            found = visit(browser, path, width, tmp_path / f"report_{width}.png")
            assert found.messages == []
            assert found.requests == []
            assert found.overflow <= 0


def test_results_of_other_kinds_are_tables_of_the_page(tmp_path: Path) -> None:
    """Written by what writes them; one that does not hold what its kind holds is named."""
    strikes = [Strike("reset", 0.0, 1.0, {"no_frame": 3}, 2, 0.75), Strike("mute", 2.0, 3.0, {}, 0, None)]
    checks = {"crashes": {"passed": True, "found": "0 crashes"}, "recovery": {"passed": False, "found": "1 never"}}
    rows = {row: {"p95": 31.25} for row in ROWS}
    loads = [vars(Load(name, 52, 60, rows, {})) for name in ("alone", "all outputs in use")]
    shares = Shares(np.array([0.5, 1.0]), ("a", "b")).to_dict()
    report = SeverityReport(
        (0.0, 1.0), (LabelledImage(tmp_path / "a.jpg", 71.0, "val", "a"),), {"glare": np.array([[80.5, 20.0]])}
    )
    contents = {
        "soak": {"kind": SOAK, "checks": checks, "faults": by_fault(strikes)},
        "live": {"kind": LOAD, "loads": loads},
        "shots": {"kind": BEST_SHOT, "figures": {"information": {"rank": shares, "score": {"sessions": 0}}}},
        "half": {"kind": SOAK, "checks": 3},
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "severity.json").write_text(report_json(report, Bundle.open(None).card))
    found, others, left_out = read_folder(tmp_path)
    assert (len(found), len(others)) == (0, 4)
    assert left_out[0].split("/")[-1].startswith("half.json: expected results")
    text = Page(report_page(found, others, left_out)).text
    for words in (
        "Soak with faults, soak.json",
        "FAILED",
        "0.75",
        "Live loop under load, live.json",
        "52 of 60",
        "31.25",
        "Best shot, shots.json",
        "VIF",
        "0.750",
        "Degradations, severity.json",
        "80.5",
        "60.5",
    ):
        assert words in text
    assert "Summary" not in text
