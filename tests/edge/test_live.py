"""The live loop under faults: slow scorers, unplugged, hanging and frozen cameras, broken pictures."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from fthnet_kit.edge.capture.source import CorruptFrameError
from fthnet_kit.edge.errors import CameraError, EngineError, InputError
from fthnet_kit.edge.frame import Frame
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.loop.live_loop import LiveLoop
from fthnet_kit.edge.loop.options import LiveOptions
from fthnet_kit.edge.loop.result import LiveResult
from tests.conftest import fake_scorer

pytestmark = pytest.mark.slow

QUICK = LiveOptions(stall_s=0.15, abandon_s=0.6, frozen_s=0.2, first_backoff_s=0.02, longest_backoff_s=0.05)


def picture(index: int) -> Image:
    image = np.full((60, 80, 3), (20, 40, 150), np.uint8)
    image[0, 0, 0] = index % 256
    return image


class ScriptedCamera:
    """A camera that does what a function says for each read: gives an image, None, waits or raises."""

    def __init__(
        self, script: Callable[[int], Image | None], fps: float = 0, live: bool = True, frames: int = 10**9
    ) -> None:
        self.script, self.live, self.fps, self.frames = script, live, fps or None, frames
        self.reads = self.opens = self.closes = 0
        self.refuse_opens = 0
        self.started = time.monotonic()

    @property
    def ended(self) -> bool:
        return self.reads >= self.frames

    def open(self) -> None:
        self.opens += 1
        if self.refuse_opens:
            self.refuse_opens -= 1
            raise CameraError("still unplugged")

    def read(self) -> Frame | None:
        if self.ended:
            return None
        index = self.reads
        self.reads += 1
        if self.fps:
            time.sleep(max(0.0, self.started + index / self.fps - time.monotonic()))
        image = self.script(index)
        return None if image is None else Frame(image, index, time.monotonic_ns())

    def close(self) -> None:
        self.closes += 1


def collect(loop: LiveLoop, enough: Callable[[list[LiveResult]], bool], seconds: float = 20) -> list[LiveResult]:
    results: list[LiveResult] = []
    deadline = time.monotonic() + seconds
    for result in loop.results():
        results.append(result)
        if enough(results) or time.monotonic() > deadline:
            break
    assert enough(results), [r.score.reason for r in results[-20:]]
    return results


def reasons(results: list[LiveResult]) -> list[str | None]:
    return [result.score.reason for result in results]


def test_a_fast_camera_and_a_slow_scorer() -> None:
    """60 fps in, 5 fps scored: no frame waits for another, every drop counted, memory flat."""
    camera = ScriptedCamera(picture, fps=60, frames=360)
    loop = LiveLoop(lambda: camera, fake_scorer(seconds=0.2))
    ages, dropped, peaks = [], [], []
    tracemalloc.start()
    for result in loop.results():
        ages.append(result.age_ms)
        dropped.append(result.dropped)
        peaks.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert len(ages) > 20
    assert np.percentile(ages, 95) < 100  # half a scoring: a frame that had waited for one would be 200 ms old
    assert loop.summary.captured == 360
    assert loop.summary.captured == loop.summary.scored + loop.summary.dropped
    assert dropped == sorted(dropped)
    assert np.mean(peaks[-5:]) - np.mean(peaks[5:10]) < 100_000


def test_files_are_read_in_full_however_slow_the_scorer() -> None:
    camera = ScriptedCamera(picture, live=False, frames=40)
    results = list(LiveLoop(lambda: camera, fake_scorer(seconds=0.01)).results())
    assert [r.score.frame_index for r in results] == list(range(40))
    assert results[-1].dropped == 0
    assert camera.closes >= 1


def test_unplugged_and_plugged_in_again() -> None:
    camera = ScriptedCamera(lambda i: None if i == 10 else picture(i), fps=100)

    def script(index: int) -> Image | None:
        if index == 10:
            camera.refuse_opens = 4
            return None
        return picture(index)

    camera.script = script
    loop = LiveLoop(lambda: camera, fake_scorer(), QUICK)
    results = collect(loop, lambda rs: sum(r.score.value is not None for r in rs) > 25)
    assert "no_frame" in reasons(results)
    assert loop.summary.reconnects == 1
    assert camera.opens == 6
    assert results[-1].score.value is not None


def test_a_read_that_stalls_is_told_and_ends_by_itself() -> None:
    def script(index: int) -> Image:
        if index == 5:
            time.sleep(0.4)
        return picture(index)

    results = collect(LiveLoop(lambda: ScriptedCamera(script, fps=100), fake_scorer(), QUICK), lambda rs: len(rs) > 20)
    told = [r for r in results if r.score.reason == "stalled"]
    assert told
    assert all(r.score.value is None and r.frame is None for r in told)


def test_a_read_that_hangs_for_ever_is_abandoned() -> None:
    release = threading.Event()
    cameras: list[ScriptedCamera] = []

    def hang(index: int) -> Image:
        if index == 5:
            release.wait(20)
        return picture(index)

    def make() -> ScriptedCamera:
        cameras.append(ScriptedCamera(picture if cameras else hang, fps=100))
        return cameras[-1]

    loop = LiveLoop(make, fake_scorer(), QUICK)
    results = collect(
        loop, lambda rs: "stalled" in reasons(rs) and sum(r.score.value is not None for r in rs[-5:]) == 5
    )
    assert len(cameras) == 2
    scored = [r.score.frame_index for r in results if r.score.value is not None]
    release.set()
    assert scored[-1] > 0
    assert loop.summary.captured >= loop.summary.scored


def test_a_frozen_picture_is_not_scored() -> None:
    backend_calls = []

    def answer(images: Image) -> float:
        backend_calls.append(1)
        return 77.0

    camera = ScriptedCamera(lambda index: picture(min(index, 10) if index < 60 else index), fps=100)
    results = collect(
        LiveLoop(lambda: camera, fake_scorer(answer), QUICK),
        lambda rs: "frozen" in reasons(rs) and rs[-1].score.value is not None,
    )
    frozen = [r for r in results if r.score.reason == "frozen"]
    assert all(r.score.value is None for r in frozen)
    assert len(backend_calls) == sum(r.score.value is not None for r in results)


def test_broken_pictures_are_told_and_the_loop_goes_on() -> None:
    def script(index: int) -> Image:
        if index == 2:
            raise CorruptFrameError("b.jpg", "cut short")
        if index == 3:
            return np.zeros((60, 80, 3), np.uint8)
        if index == 4:
            return picture(index)[:30, :40].copy()  # the resolution changes
        return picture(index)

    results = list(LiveLoop(lambda: ScriptedCamera(script, live=False, frames=7), fake_scorer()).results())
    assert reasons(results) == [None, None, "corrupt_frame", "no_retina", None, None, None]
    assert results[2].name == "b.jpg"


@pytest.mark.parametrize("fault", [float("nan"), float("inf"), EngineError("device lost")], ids=str)
def test_a_network_that_fails_gives_no_score(fault: float | Exception) -> None:
    def answer(images: Image) -> float:
        if isinstance(fault, Exception):
            raise fault
        return fault

    results = list(LiveLoop(lambda: ScriptedCamera(picture, live=False, frames=3), fake_scorer(answer)).results())
    assert reasons(results) == ["engine_fault"] * 3


def test_a_camera_that_is_not_there_at_the_start_is_an_error() -> None:
    camera = ScriptedCamera(picture)
    camera.refuse_opens = 1
    with pytest.raises(CameraError):
        next(LiveLoop(lambda: camera, fake_scorer()).results())


def test_a_file_without_frames_is_an_error() -> None:
    with pytest.raises(InputError, match="at least one frame"):
        list(LiveLoop(lambda: ScriptedCamera(picture, live=False, frames=0), fake_scorer()).results())


def driver_bug(index: int) -> Image:
    if index == 3:
        raise RuntimeError("driver bug")
    return picture(index)


def test_a_camera_that_raises_an_unknown_error_is_opened_again() -> None:
    camera = ScriptedCamera(driver_bug, fps=50)
    loop = LiveLoop(lambda: camera, fake_scorer(), QUICK)
    results = collect(loop, lambda rs: bool(rs) and (rs[-1].score.frame_index or 0) > 6)
    assert results[-1].score.value is not None
    assert loop.summary.faults == {"camera": 1}
    assert loop.summary.reconnects == 1


def test_a_file_that_raises_an_unknown_error_ends_the_loop_in_one_line() -> None:
    with pytest.raises(InputError, match="RuntimeError: driver bug") as caught:
        list(LiveLoop(lambda: ScriptedCamera(driver_bug, live=False), fake_scorer(), QUICK).results())
    assert "\n" not in str(caught.value)


def test_stop_from_another_thread_ends_the_loop() -> None:
    loop = LiveLoop(lambda: ScriptedCamera(picture, fps=50), fake_scorer(), QUICK)
    threading.Timer(0.3, loop.stop).start()
    results = list(loop.results())
    assert results
    assert loop.summary.captured == loop.summary.scored + loop.summary.dropped
    assert not [t for t in threading.enumerate() if t.name == "grab" and t.is_alive()]


def test_records_say_what_happened() -> None:
    (result,) = LiveLoop(lambda: ScriptedCamera(picture, live=False, frames=1), fake_scorer(lambda _: 61.0)).results()
    record = result.to_dict()
    assert record["score"] == 61.0
    assert record["verdict"] == "good"
    assert record["reason"] is None
    assert record["frame"] == 0
    assert set(record["stage_ms"]) == {"preprocess", "gate", "infer", "post"}
    assert set(record["algorithm"]) == {"name", "version", "manufacturer", "parameters"}
    assert record["age_ms"] >= 0
    assert record["latency_ms"] >= record["age_ms"]
    assert record["truth"] is None
