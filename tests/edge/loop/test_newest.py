"""The newest picture wins: what waits in buffers is passed over, for a while; a late scorer waits for a fresh one."""

from __future__ import annotations

import threading
import time

import cv2
import numpy as np
import pytest

from fthnet_kit.edge.capture import opencv_source
from fthnet_kit.edge.capture.network_stream import NetworkStream
from fthnet_kit.edge.frame import EncodedFrame, Frame
from fthnet_kit.edge.loop.frame_slot import FrameSlot, Grabbed
from fthnet_kit.edge.loop.live_loop import LiveLoop
from fthnet_kit.edge.loop.options import LiveOptions
from tests.conftest import fake_scorer

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

    def getBackendName(self) -> str:  # noqa: N802
        return "FLOOD"

    def get(self, _: int) -> float:
        return 0.0

    def grab(self) -> bool:
        return True

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, IMAGE

    def release(self) -> None:
        pass


def opened(monkeypatch: pytest.MonkeyPatch) -> NetworkStream:
    monkeypatch.setattr(opencv_source.cv2, "VideoCapture", Flood)
    source = NetworkStream("rtsp://127.0.0.1:9/video")
    source.open()
    return source


def test_pictures_that_wait_are_passed_over_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opencv_source, "idle_ns", lambda: 0)  # no grab waits, however busy the machine
    stream = opened(monkeypatch)
    opened_ns = time.monotonic_ns()
    frames: list[Frame | None] = []
    reader = threading.Thread(target=lambda: frames.append(stream.read()), daemon=True)
    reader.start()
    reader.join(20)
    stream.close()  # ends a reader that would go on for ever
    assert len(frames) == 1
    assert frames[0] is not None
    assert frames[0].skipped > 0
    assert frames[0].captured_ns <= opened_ns  # what cannot be caught up is not said to be fresh


def test_a_stream_is_opened_with_bounds_on_opening_and_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    opened(monkeypatch)
    assert 0 < Flood.parameters[cv2.CAP_PROP_READ_TIMEOUT_MSEC] < 2000
    assert 0 < Flood.parameters[cv2.CAP_PROP_OPEN_TIMEOUT_MSEC] <= 4000


def jpeg(level: int) -> bytes:
    return cv2.imencode(".jpg", np.full((60, 80, 3), (level, 40, 150), np.uint8))[1].tobytes()


class EncodedCamera:
    """Gives these JPEGs, one each 5 ms or when it is told to, over and over from the last one on."""

    def __init__(self, *jpegs: bytes, pace: threading.Semaphore | None = None) -> None:
        self.live, self.fps, self.ended = True, None, False
        self.jpegs, self.pace, self.opens, self.reads = jpegs, pace, 0, 0

    def open(self) -> None:
        self.opens += 1

    def read(self) -> EncodedFrame | None:
        if self.pace is None:
            time.sleep(0.005)
        elif not self.pace.acquire(timeout=2):
            return None
        index, self.reads = self.reads, self.reads + 1
        return EncodedFrame(self.jpegs[min(index, len(self.jpegs) - 1)], index, time.monotonic_ns())

    def close(self) -> None:
        pass


def test_an_encoded_picture_that_is_broken_does_not_displace_a_whole_one_that_waits() -> None:
    """While one picture is scored four come, of which the newest two are broken."""
    pace = threading.Semaphore(1)
    broken = jpeg(3)[:-40]
    camera = EncodedCamera(jpeg(0), jpeg(1), jpeg(2), broken, broken, pace=pace)

    def answer(_: np.ndarray) -> float:
        pace.release(4)
        while camera.reads < 5:
            time.sleep(0.005)
        time.sleep(0.05)  # what was read is in the slot
        return 50.0

    results = []
    for result in LiveLoop(lambda: camera, fake_scorer(answer)).results():
        results.append(result)
        if len(results) == 2:
            break
    assert [result.score.reason for result in results] == [None, None]
    assert [result.frame.index for result in results if result.frame] == [0, 2]


def test_a_camera_whose_every_picture_is_broken_is_told_and_opened_again() -> None:
    camera = EncodedCamera(jpeg(0), *(jpeg(index % 200)[:-8] for index in range(2000)))
    options = LiveOptions(useless_s=0.5, first_backoff_s=0.02, longest_backoff_s=0.05)
    reasons = []
    start = time.monotonic()
    for result in LiveLoop(lambda: camera, fake_scorer(), options).results():
        reasons.append(result.score.reason)
        if camera.opens > 1 or camera.reads > 1900:
            break
    assert camera.opens > 1
    assert time.monotonic() - start >= options.useless_s
    assert reasons.count("corrupt_frame") > 1


def test_encoded_pictures_that_never_change_are_frozen_unless_they_show_nothing() -> None:
    photograph = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8))[1].tobytes()
    black = cv2.imencode(".jpg", np.zeros((60, 80, 3), np.uint8))[1].tobytes()
    options = LiveOptions(frozen_s=0.2, useless_s=0.6, first_backoff_s=0.02, longest_backoff_s=0.05)
    for data, expected in ((photograph, "frozen"), (black, "no_retina")):
        camera = EncodedCamera(data)
        began = time.monotonic()
        said = []
        for result in LiveLoop(lambda camera=camera: camera, fake_scorer(), options).results():
            said.append(result)
            if time.monotonic() - began > 1.5:
                break
        assert said[-1].score.reason == expected
        assert said[-1].frame is not None
        assert (camera.opens > 1) == (expected == "frozen")
