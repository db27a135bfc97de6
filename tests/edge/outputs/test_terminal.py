"""What the terminal says: its title, and its words in the operator's language."""

from __future__ import annotations

import io
import re
import time
from datetime import datetime, timezone

import pytest
from rich.console import Console

from fthnet_kit.edge.guidance.texts import LANGUAGES, Language, Words
from fthnet_kit.edge.loop.result import LiveResult, LiveSummary
from fthnet_kit.edge.model.score import Score
from fthnet_kit.edge.outputs.terminal import TerminalView, summary_lines, summary_table


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("rtsp://eye:p@ss@192.0.2.7/[od]/1", "rtsp://…@192.0.2.7/[od]/1"),
        ("http://eye@192.0.2.7/s?USER=a&pwd=p%40ss", "http://…@192.0.2.7/s?USER=a&pwd=…"),
        ("/dev/video0?width=1920&height=1080", "/dev/video0?width=1920&height=1080"),
        ("gst:rtspsrc location=rtsp://eye:pass@h/1", "gst:rtspsrc location=rtsp://…@h/1"),
    ],
)
def test_the_title_shows_the_source_without_passwords(source: str, shown: str) -> None:
    drawn = io.StringIO()
    with TerminalView(Console(file=drawn, force_terminal=True, width=100), source):
        time.sleep(0.3)
    text = drawn.getvalue()
    assert shown in text
    assert "ss@" not in text
    assert "pass" not in text


ENGLISH = ("score", "frame", "dropped", "captured", "stage", "good", "none")


def spoken(language: Language) -> str:
    """A plain line of each of two results, one without a score, and the summary of their run."""
    drawn = io.StringIO()
    console = Console(file=drawn, width=160)
    summary = LiveSummary(captured=2)
    now = datetime.now(timezone.utc)
    good = Score(78.25, verdict="good", stage_ms={"preprocess": 1.5, "gate": 0.25, "infer": 30.0, "post": 0.125})
    nothing = Score(None, reason="no_retina")
    results = [
        LiveResult(good, None, None, now, age_ms=12.0, latency_ms=45.0, captured=1, dropped=0),
        LiveResult(nothing, None, None, now, age_ms=None, latency_ms=None, captured=2, dropped=0),
    ]
    for result in results:
        with TerminalView(console, "sim:", language=language) as view:
            view.offer(result)
        summary.add(result)
    words = Words(language)
    console.print(summary_table(summary, words))
    for line in summary_lines(summary, words):
        console.print(line)
    return drawn.getvalue()


def test_the_terminal_speaks_spanish_whole() -> None:
    text = spoken("es")
    for words in ("puntuación 78,2  buena", "no se ve la retina", "1 imagen evaluada", "omitidas 0", "0,25", "máx."):
        assert words in text
    assert not [word for word in ENGLISH if re.search(rf"\b{word}\b", text)]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_words_for_all_that_a_run_says(language: Language) -> None:
    assert spoken(language).count("\n") > 10


@pytest.mark.parametrize(
    ("language", "number", "said"),
    [
        ("en", 0, "0 frames scored in 2 s"),
        ("en", 1, "1 frame scored in 2 s"),
        ("es", 2, "2 imágenes evaluadas en 2 s"),
        ("fr", 0, "0 image évaluée en 2 s"),
        ("fr", 2, "2 images évaluées en 2 s"),
        ("zh", 1, "2 秒内评分 1 帧"),
    ],
)
def test_plurals_follow_the_language(language: Language, number: int, said: str) -> None:
    assert Words(language).count("scored_in", number, seconds=2) == said


def test_decimals_follow_the_language() -> None:
    assert [Words(language).number(1234.5, 1) for language in LANGUAGES] == ["1234.5", "1234,5", "1234.5", "1234,5"]
