"""The page and the tables of `fthnet bench latency`."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from fthnet_kit.bench.results.charts import MOST_POINTS, Axis, histogram, thinned, time_line
from fthnet_kit.bench.speed.latency_page import STABLE, UNSTABLE, latency_page, latency_tables
from tests.bench.browser import chromium, visit
from tests.bench.contents import bare_content, device, latency_content

HOSTILE = "<script>alert(1)</script>\"'&<img src=http://evil.example/x onerror=alert(2)>\x1b[31m\u202e[bold]"
VOID = {"meta", "link", "path", "rect", "br"}


class Page(HTMLParser):
    """Elements of a page, and whether they close in order."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(content.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def shown(parts: list[Any], width: int = 100) -> str:
    console = Console(width=width, force_terminal=False, record=True)
    with console.capture() as capture:
        for part in parts:
            console.print(part)
    return capture.get()


def test_the_page_says_everything() -> None:
    page = Page(latency_page(latency_content()))
    assert page.open == []
    for words in (
        "Latency of FTHNet demo 1.2",
        "p50, ms",
        "pictures a second",
        UNSTABLE,
        "sudo jetson_clocks",
        "fp16, 1 view",
        "tensorrt 10.3.0",
        "Jetson Orin Nano Engineering",
        "2026-02-11 10:20:30+00:00",
        "gpu_compute",
        "warm-up, 40 samples, left out of the figures",
        "lasting change",
        "300 frames captured, 290 scored, 10 dropped (3 %)",
        "cold start",
        "first picture after 30 s idle",
        "1980.0 MB an hour",
        "limited by neither arithmetic nor memory bandwidth",
        "estimate, not measured",
        "ratio 0.548 [0.545, 0.551], faster",
        "fthnet bench latency --minutes 1 --compare fp32",
        "Not measured:",
    ):
        assert words in page.text
    assert "no Jetson" not in page.text


def test_a_page_of_a_machine_that_tells_nothing() -> None:
    page = Page(latency_page(bare_content()))
    assert page.open == []
    for words in (STABLE, "not known", "This was no Jetson", "The live loop was not measured", "It never settled"):
        assert words in page.text
    assert "This machine does not tell: hottest zone" in page.text
    assert "None" not in page.text
    assert "nan" not in page.text


def hostile_content() -> dict[str, Any]:
    content = latency_content(command=["fthnet", HOSTILE], kit_version=HOSTILE, measured_at=HOSTILE, unstable=[HOSTILE])
    content["model"] |= {"name": HOSTILE, "version": HOSTILE, "manufacturer": HOSTILE, "precision": HOSTILE}
    content["model"]["backend"] = {HOSTILE: HOSTILE}
    content["pictures"]["source"] = HOSTILE
    content["device"] = device(model=HOSTILE, governor=HOSTILE, temperatures_c={HOSTILE: 50.0}, throttling=[HOSTILE])
    content["comparison"]["names"] = [HOSTILE, HOSTILE]
    content["warm_up"]["rule"] = HOSTILE
    content["roofline"]["achieved"]["sentence"] = HOSTILE
    content["steady"]["summary"][HOSTILE] = content["steady"]["summary"]["gate"]
    return content


def test_foreign_words_stay_words() -> None:
    page = latency_page(hostile_content())
    found = Page(page)
    assert not {"script", "img", "iframe"} & set(found.tags)
    assert "<script>alert(1)</script>" in found.text
    assert "\x1b" not in page.decode()
    assert "\u202e" not in page.decode()
    text = shown(latency_tables(hostile_content()), width=400)
    assert "\x1b" not in text
    assert "[bold]" in text


@pytest.mark.parametrize("content", [latency_content(), bare_content(), hostile_content()], ids=["full", "bare", "odd"])
def test_the_page_loads_nothing(content: dict[str, Any]) -> None:
    page = latency_page(content)
    for name, value in Page(page).attributes:
        if name in ("src", "href", "srcset", "action", "data", "xlink:href"):
            assert value.startswith(("#", "data:")), value
    style = re.search(r"<style>.*?</style>", page.decode(), re.DOTALL)
    assert style is not None
    assert "url(" not in style[0]
    assert "@import" not in style[0]
    assert b"<script" not in page


def test_a_long_run_stays_a_small_page() -> None:
    content = latency_content()
    for name, values in content["steady"]["stages_ms"].items():
        content["steady"]["stages_ms"][name] = values * 20
    content["steady"]["started_s"] = np.linspace(0, 1800, 60_000).tolist()
    page = latency_page(content)
    assert len(page) < 200_000


def test_thinning_keeps_every_peak() -> None:
    values = np.ones(50_000)
    values[[17, 25_001, 49_999]] = 9.0, -3.0, 7.0
    across, up = thinned(np.arange(50_000.0), values)
    assert len(across) <= MOST_POINTS
    assert {9.0, -3.0, 7.0} <= set(up)
    assert (np.diff(across) > 0).all()


@pytest.mark.parametrize(
    "values", [[1.0], [0.0, 0.0], [5.0, 5.0, 5.0], [1e-6, 2e-6], [1.0, 1e9], [10.0] * 200 + [500.0]], ids=str
)
def test_charts_take_all_values(values: list[float]) -> None:
    found = np.array(values)
    marks = {"p50": float(np.median(found)), "p99": float(found.max())}
    for chart in (
        histogram("h", found, marks, {}),
        time_line("t", np.arange(float(len(found))), found, words={}),
        time_line("t", np.arange(float(len(found))), found, words={}, from_zero=True),
    ):
        assert "nan" not in chart
        assert "inf" not in chart
        assert 'class="y"' in chart


def test_a_line_breaks_where_nothing_was_read() -> None:
    values = np.array([np.nan, 50.0, 51.0, np.nan, 52.0, 53.0])
    chart = time_line("t", np.arange(6.0), values, words={})
    drawn = re.findall(r'<path d="([^"]*)"', chart)
    assert [path.count("M") for path in drawn] == [2]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 13.2), (11.9, 12.1), (0, 5e-4), (-5, 5), (1e6, 2e6)])
def test_ticks_are_few_and_within(low: float, high: float) -> None:
    ticks = list(Axis(low, high).ticks())
    assert 2 <= len(ticks) <= 9
    assert all(low - 1e-9 <= tick <= high * (1 + 1e-9) for tick in ticks)


def test_the_tables_fit_a_terminal() -> None:
    text = shown(latency_tables(latency_content()))
    content = latency_content()
    assert "the 90th percentile is at most " in text
    power = np.mean(content["timeline"]["power_mw"])
    assert f"energy a score: {power / content['steady']['throughput_fps']:.0f} mJ of the whole module, at 8.4 W" in text
    for words in ("gpu_compute", "p99", "81.6 pictures a second", "10 dropped", "cold start", UNSTABLE, "ratio 0.548"):
        assert words in text
    assert max(map(len, text.splitlines())) <= 100
    assert STABLE in shown(latency_tables(bare_content()))


def test_the_page_needs_the_runtime_alone() -> None:
    heavy = ("torch", "onnx", "matplotlib", "PIL", "openpyxl", "safetensors", "scipy")
    script = f"import sys, fthnet_kit.bench.speed.latency_page\nprint([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    pages = {"full": latency_content(), "bare": bare_content(), "odd": hostile_content()}
    with chromium() as browser:
        for name, content in pages.items():
            path = tmp_path / f"{name}.html"
            path.write_bytes(latency_page(content))
            for width, scheme in ((375, "light"), (375, "dark"), (1280, "light")):
                found = visit(browser, path, width, tmp_path / f"{name}_{width}_{scheme}.png", scheme)
                assert found.messages == []
                assert found.requests == []
                assert found.overflow <= 0, (name, width)
