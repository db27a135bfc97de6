"""The title of the terminal's panel."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from fthnet_kit.edge.outputs.terminal import TerminalView


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
