"""Capture times from timestamps: never flattering, and right once the buffers were empty."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from fthnet_kit.edge.capture.stream_clock import StreamClock

MS = 1_000_000


class Camera:
    """It takes a picture every step into a buffer without bounds, which holds some when the reading begins."""

    def __init__(self, clock: StreamClock, step_ms: float, held: int, offset_ms: float) -> None:
        self.clock, self.step_ms, self.offset_ms = clock, step_ms, offset_ms
        self.now_ms, self.index = held * step_ms, 0

    def grab(self, decoding_ms: float) -> tuple[float, float]:
        """True and told age of the next picture, in ms, of which nothing tells but when it came and its timestamp."""
        taken_ms = self.index * self.step_ms
        waited_ms = max(0.0, taken_ms - self.now_ms)
        self.now_ms += waited_ms + decoding_ms
        self.index += 1
        self.clock.tell(round(MS * self.now_ms), round(MS * waited_ms), self.offset_ms + taken_ms)
        return self.now_ms - taken_ms, self.now_ms - self.clock.captured_ns / MS


CAMERAS = {
    "step_ms": st.floats(16, 200),
    "held": st.integers(0, 60),
    "offset_ms": st.sampled_from([-7e6, -20.0, 0.0, 500.0]),
    "pauses_ms": st.lists(st.sampled_from([0.0, 0.0, 0.0, 50.0, 700.0]), min_size=5, max_size=60),
    "decoding": st.floats(0.01, 1.5),
}


@given(**CAMERAS)
def test_no_picture_is_said_to_be_younger_than_it_is(
    step_ms: float, held: int, offset_ms: float, pauses_ms: list[float], decoding: float
) -> None:
    """Also where decoding takes longer than the interval, so that the backlog grows."""
    camera = Camera(StreamClock(0), step_ms, held, offset_ms)
    for pause_ms in pauses_ms:
        true_ms, told_ms = camera.grab(decoding * step_ms)
        assert told_ms >= true_ms - decoding * step_ms - 0.01
        camera.now_ms += pause_ms


@given(step_ms=CAMERAS["step_ms"], held=CAMERAS["held"], offset_ms=CAMERAS["offset_ms"], decoding=st.floats(0.01, 0.7))
def test_a_reader_that_keeps_up_is_told_the_true_age(
    step_ms: float, held: int, offset_ms: float, decoding: float
) -> None:
    """And that there is nothing more to pass over, once the backlog that it began with is gone."""
    camera = Camera(StreamClock(0), step_ms, held, offset_ms)
    for _ in range(round(held / (1 - decoding)) + 10):
        camera.grab(decoding * step_ms)
    camera.now_ms += 5 * step_ms
    behind = []
    for _ in range(round(5 / (1 - decoding)) + 5):
        true_ms, told_ms = camera.grab(decoding * step_ms)
        assert abs(told_ms - true_ms) <= decoding * step_ms + 0.01
        behind.append(camera.clock.more)
    assert behind[0]
    assert not behind[-1]


@settings(max_examples=20)
@given(st.integers(2, 400))
def test_a_clock_that_drifts_makes_no_picture_old(minutes: int) -> None:
    """By 200 millionths, more than any crystal does, either way."""
    for rate in (1 - 2e-4, 1 + 2e-4):
        clock = StreamClock(0)
        for picture in range(60 * minutes):
            at_ms = 900.0 * picture
            clock.tell(round(MS * (at_ms + 5)), 800 * MS, at_ms * rate)
        assert abs(at_ms - clock.captured_ns / MS) < 25


def test_a_camera_that_starts_its_clock_anew_makes_no_picture_younger() -> None:
    clock = StreamClock(0)
    for index in range(10):
        clock.tell(MS * (40 * index + 5), 30 * MS, 40 * index)
    before_ns = clock.captured_ns
    clock.tell(MS * 2000, 0, 3)
    assert clock.captured_ns == before_ns
    assert clock.more


def test_timestamps_by_our_own_clock_are_believed() -> None:
    clock = StreamClock(0, own=True)
    clock.tell(MS * 1000, 0, 100)
    assert clock.captured_ns == MS * 100
    clock.tell(MS * 1001, 0, 1500)
    assert clock.captured_ns == MS * 1001
