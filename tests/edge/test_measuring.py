"""Frames are measured once for all who ask, beside the loop, in order, whatever one of them does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone

import numpy as np
import pytest

from fthnet_kit.edge.capture.simulated_camera import Session, SimulatedCamera
from fthnet_kit.edge.frame import Frame
from fthnet_kit.edge.guidance import measuring
from fthnet_kit.edge.guidance.hint_follower import GuideSink
from fthnet_kit.edge.guidance.hints import Guide
from fthnet_kit.edge.guidance.measures import Measures
from fthnet_kit.edge.guidance.measuring import MeasuringSink
from fthnet_kit.edge.loop.result import LiveResult
from fthnet_kit.edge.model.score import Score


class Ear:
    """Notes what it is told."""

    def __init__(self, on_follow: Callable[[], None] = lambda: None) -> None:
        self.heard: list[tuple[LiveResult, Measures | None]] = []
        self.idle_calls = 0
        self.closed = False
        self._on_follow = on_follow

    def follow(self, result: LiveResult, measures: Measures | None) -> None:
        self.heard.append((result, measures))
        self._on_follow()

    def idle(self) -> None:
        self.idle_calls += 1

    def close(self) -> None:
        self.closed = True

    @property
    def indices(self) -> list[int]:
        return [result.captured for result, _ in self.heard]


def result(index: int, *, picture: bool = True, image: np.ndarray | None = None) -> LiveResult:
    image = np.zeros((64, 64, 3), np.uint8) if image is None else image
    frame = Frame(image, index, round(1e8 * index)) if picture else None
    score = Score(50.0, verdict="usable") if picture else Score(None, reason="no_frame")
    return LiveResult(score, frame, None, datetime.now(timezone.utc), 0.0, 0.0, index, 0)


def wait_for(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert true()


def test_each_frame_is_measured_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = SimulatedCamera(Session(1, 10, 0, 320, 240, realtime=False, defect="none"))
    measured, real = [], measuring.measure
    monkeypatch.setattr(measuring, "measure", lambda *args: measured.append(0) or real(*args))
    ears = [Ear(), Ear()]
    sink = MeasuringSink(ears)
    for index in range(5):
        sink.offer(result(index, image=camera.render(index)[0]))
        wait_for(lambda: len(ears[1].heard) > index)  # noqa: B023
    sink.close()
    assert len(measured) == 5
    for (_, one), (_, other) in zip(ears[0].heard, ears[1].heard, strict=True):
        assert one is other
        assert one is not None
        assert one.sharpness > 0.5
    assert [measures.shift is None for _, measures in ears[0].heard if measures] == [True, False, False, False, False]
    assert all(ear.closed for ear in ears)


def test_scoring_never_waits_and_a_lost_camera_is_told_all_the_same() -> None:
    release = threading.Event()
    ear = Ear(lambda: release.wait(20) and None)
    sink = MeasuringSink([ear])
    sink.offer(result(0))
    wait_for(lambda: len(ear.heard) == 1)
    started = time.monotonic()
    for index in range(1, 101):
        sink.offer(result(index, picture=index not in (10, 20)))
    assert time.monotonic() - started < 1
    release.set()
    sink.close()
    assert ear.indices == [0, 10, 20, 97, 98, 99, 100]
    assert sink.skipped == 98 - MeasuringSink.MOST_WAITING


def test_an_error_of_one_keeps_nothing_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ValueError("xyzzy")

    ears = [Ear(fail), Ear()]
    sink = MeasuringSink(ears)
    for index in range(3):
        sink.offer(result(index))
    sink.close()
    assert ears[0].indices == ears[1].indices == [0, 1, 2]
    assert caplog.text.count("xyzzy") == 1


def test_a_picture_that_cannot_be_measured_is_handed_on_without_measures(caplog: pytest.LogCaptureFixture) -> None:
    ear = Ear()
    sink = MeasuringSink([ear])
    for index in range(2):
        sink.offer(result(index, image=np.zeros((64, 64, 3), np.float64)))
    sink.offer(result(2))
    sink.close()
    assert [measures is None for _, measures in ear.heard] == [True, True, False]
    assert len(caplog.records) == 1


def test_silence_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MeasuringSink, "IDLE_S", 0.02)
    ear = Ear()
    sink = MeasuringSink([ear])
    wait_for(lambda: ear.idle_calls > 1)
    sink.close()
    assert not sink._thread.is_alive()


def test_hints_come_from_the_measures_and_go_with_the_picture() -> None:
    guide = GuideSink(Guide(), "es")
    dark = Measures(lit=0.5, bright_stops=-6, middle_stops=-7, sharpness=1, shift=(0.0, 0.0))
    for index in range(5):
        guide.follow(result(index), dark)
    assert guide.hint is not None
    assert guide.hint.code == "too_dark"
    assert guide.text == guide.hint.text("es")
    guide.follow(result(5, picture=False), None)
    assert guide.text is None
    for index in range(6, 12):
        guide.follow(result(index), dark)
    assert guide.text
    guide.idle()
    assert guide.text is None
