"""The newest picture wins: what waits in buffers is passed over, for a while; a late scorer waits for a fresh one."""

from __future__ import annotations

import threading
import time

import cv2
import numpy as np
import pytest

from fthnet_kit.edge.capture import opencv_source
from fthnet_kit.edge.capture.backlog import Backlog
from fthnet_kit.edge.capture.network_stream import NetworkStream
from fthnet_kit.edge.frame import Frame
from fthnet_kit.edge.loop.frame_slot import FrameSlot, Grabbed

IMAGE = np.zeros((8, 8, 3), np.uint8)


def grabbed(index: int) -> Grabbed:
    return Grabbed(Frame(IMAGE, index, time.monotonic_ns()))


def index_of(item: Grabbed | None) -> int | None:
    return None if item is None or item.frame is None else item.frame.index


def test_a_picture_that_waited_for_most_of_an_interval_is_passed_over_for_the_one_that_is_due() -> None:
    slot = FrameSlot(lossless=False)
    slot.put(grabbed(0))
    time.sleep(0.8)
    slot.put(grabbed(1))
    time.sleep(0.45)  # more than half of the interval
    threading.Timer(0.05, slot.put, [grabbed(2)]).start()
    assert index_of(slot.take(5)) == 2
    assert slot.captured == slot.taken + slot.dropped


def test_a_broken_picture_does_not_displace_a_whole_one_that_waits() -> None:
    slot = FrameSlot(lossless=False)
    slot.put(grabbed(0))
    for _ in range(3):
        assert slot.put(Grabbed(None, "corrupt_frame", "camera"))
    assert index_of(slot.take(1)) == 0
    assert (slot.captured, slot.taken, slot.dropped) == (4, 1, 3)
    slot.put(Grabbed(None, "corrupt_frame", "camera"))
    told = slot.take(1)
    assert told is not None
    assert told.reason == "corrupt_frame"
    slot.put(Grabbed(None, "corrupt_frame", "camera"))
    slot.put(grabbed(1))
    assert index_of(slot.take(1)) == 1
    assert slot.captured == slot.taken + slot.dropped


class Flood:
    """What OpenCV opens: a picture is always there."""

    def __init__(self, target: str, backend: int, parameters: list[int]) -> None:
        Flood.parameters = dict(zip(parameters[::2], parameters[1::2], strict=True))

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def get(self, _: int) -> float:
        return 0.0

    def grab(self) -> bool:
        return True

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, IMAGE

    def release(self) -> None:
        pass


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> NetworkStream:
    monkeypatch.setattr(opencv_source.cv2, "VideoCapture", Flood)
    monkeypatch.setattr(Backlog, "holds_more", lambda *_: True)  # whatever else the machine does
    source = NetworkStream("http://127.0.0.1:9/video")
    source.open()
    return source


def test_pictures_that_wait_are_passed_over_but_not_for_ever(stream: NetworkStream) -> None:
    frames: list[Frame | None] = []
    reader = threading.Thread(target=lambda: frames.append(stream.read()), daemon=True)
    reader.start()
    reader.join(20)
    stream.close()  # ends a reader that would go on for ever
    assert len(frames) == 1
    assert frames[0] is not None
    assert frames[0].skipped > 0


def test_a_stream_is_opened_with_bounds_on_opening_and_reading(stream: NetworkStream) -> None:
    assert 0 < Flood.parameters[cv2.CAP_PROP_READ_TIMEOUT_MSEC] < 2000
    assert 0 < Flood.parameters[cv2.CAP_PROP_OPEN_TIMEOUT_MSEC] <= 4000
