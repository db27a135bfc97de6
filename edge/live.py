"""The live loop: grab thread -> latest-frame slot -> scoring -> whoever listens.

The grab thread owns the camera: it opens it again with a growing pause after an unplug and notices a
frozen picture. The scoring side never trusts it: where no frame comes for `stall_s`, the result says so
instead of repeating the last score, and where the grab thread hangs inside the driver, it is abandoned
and a new one takes over.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Literal

from fthnet_kit.edge.cameras import CorruptFrameError, Source
from fthnet_kit.edge.errors import InputError, KitError
from fthnet_kit.edge.frame import Frame
from fthnet_kit.edge.frame_slot import FrameSlot, Grabbed
from fthnet_kit.edge.score import Reason, Score
from fthnet_kit.edge.scorer import QualityScorer

KEPT_SAMPLES = 10_000  # of each stage's duration, for the summary
SIGNATURE_STRIDE = 16


@dataclass(frozen=True)
class LiveOptions:
    """Patience of the live loop.

    Attributes:
        stall_s: without a frame for this long there is no current score.
        abandon_s: without a sign of life for this long the grab thread is given up and replaced.
        frozen_s: identical pictures for this long are not a living camera.
        first_backoff_s, longest_backoff_s: pause before a camera is opened again, doubled each time.
    """

    stall_s: float = 1.0
    abandon_s: float = 10.0
    frozen_s: float = 2.0
    first_backoff_s: float = 0.5
    longest_backoff_s: float = 8.0


@dataclass(frozen=True)
class LiveResult:
    """One scored frame, or the statement that there is none to score.

    Attributes:
        score: value with verdict, or a reason.
        frame: what was scored; None without a picture.
        name: the file, for pictures that come from files.
        captured_at: wall-clock time of the capture, or of the statement.
        age_ms: age of the frame when its scoring began; None without a picture.
        latency_ms: from capture to score; None without a picture.
        captured, dropped: frames so far.
    """

    score: Score
    frame: Frame | None
    name: str | None
    captured_at: datetime
    age_ms: float | None
    latency_ms: float | None
    captured: int
    dropped: int

    def to_dict(self) -> dict[str, Any]:
        """One record, in the names that every JSON output of the kit uses."""
        return {
            "frame": self.score.frame_index,
            "file": self.name,
            "captured_at": self.captured_at.isoformat(timespec="milliseconds"),
            "age_ms": None if self.age_ms is None else round(self.age_ms, 3),
            "latency_ms": None if self.latency_ms is None else round(self.latency_ms, 3),
            "dropped": self.dropped,
            **self.score.to_dict(),
            "truth": None if self.frame is None or self.frame.truth is None else dict(self.frame.truth),
        }


@dataclass
class LiveSummary:
    """Counts and durations of a run; `samples_ms` keeps the newest 10,000 of each stage."""

    captured: int = 0
    dropped: int = 0
    scored: int = 0
    reconnects: int = 0
    seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    samples_ms: dict[str, deque[float]] = field(default_factory=dict)

    def add(self, result: LiveResult) -> None:
        """Count one result."""
        if result.score.reason is not None:
            self.reasons[result.score.reason] += 1
            return
        self.scored += 1
        durations = {**result.score.stage_ms, "frame age": result.age_ms, "capture to score": result.latency_ms}
        for stage, ms in durations.items():
            if ms is not None:
                self.samples_ms.setdefault(stage, deque(maxlen=KEPT_SAMPLES)).append(ms)


class Grabber(threading.Thread):
    """Reads one source into one slot, until the source ends or `stop` is called.

    Args:
        source: what to read; `opened` says whether it is open already.
    """

    def __init__(self, source: Source, slot: FrameSlot, options: LiveOptions, *, opened: bool) -> None:
        super().__init__(name="grab", daemon=True)
        self.source = source
        self.slot = slot
        self.options = options
        self.opened = opened
        self.state: Literal["connecting", "reading"] = "connecting"
        self.alive_s = time.monotonic()
        self.reconnects = 0
        self.failure: Exception | None = None
        self._stopping = threading.Event()
        self._signature = 0
        self._changed_s = time.monotonic()

    def stop(self) -> None:
        """Ask the thread to end; it closes its source itself, even if it comes back from a hang much later."""
        self._stopping.set()
        self.slot.close(discard=True)

    def run(self) -> None:
        """Thread body: read, and open again after each silence."""
        backoff = self.options.first_backoff_s
        try:
            while not self._stopping.is_set():
                frames = self.slot.captured
                if self.opened:
                    self._read_until_silent()
                if self.source.ended or self._stopping.is_set():
                    break
                backoff = self.options.first_backoff_s if self.slot.captured > frames else backoff
                self._reopen(backoff)
                backoff = min(2 * backoff, self.options.longest_backoff_s)
        except Exception as error:  # handed to the scoring thread, which raises it
            self.failure = error
        finally:
            self.source.close()
            self.slot.close()

    def _read_until_silent(self) -> None:
        """Read frames until the source gives none."""
        self.state = "reading"
        while not self._stopping.is_set():
            self.alive_s = time.monotonic()
            try:
                frame = self.source.read()
            except CorruptFrameError as error:
                self.slot.put(Grabbed(None, "corrupt_frame", error.name))
                continue
            if frame is None:
                return
            reason: Reason | None = "frozen" if self.source.live and self._is_frozen(frame) else None
            self.slot.put(Grabbed(frame, reason, frame.name))

    def _is_frozen(self, frame: Frame) -> bool:
        """Whether the picture has been the same, bit for bit, for too long: a living sensor is never that still."""
        signature = zlib.crc32(frame.image[::SIGNATURE_STRIDE, ::SIGNATURE_STRIDE].tobytes())
        now = time.monotonic()
        if signature != self._signature:
            self._signature, self._changed_s = signature, now
        return now - self._changed_s >= self.options.frozen_s

    def _reopen(self, backoff_s: float) -> None:
        """One attempt to open the source again, after a pause."""
        self.state, self.opened = "connecting", False
        self.source.close()
        if self._stopping.wait(backoff_s):
            return
        self.alive_s = time.monotonic()
        try:
            self.source.open()
        except KitError:
            return  # still unplugged
        self.opened = True
        self.reconnects += 1


class LiveLoop:
    """Scores the frames of a source until it ends or `stop` is called.

    Args:
        make_source: makes the source; called again when a grab thread hangs and is replaced.
        scorer: scores each frame, on the thread that iterates over `results`.
        options: patience.

    Example::

        loop = LiveLoop(lambda: make_source("0"), scorer)
        for result in loop.results():
            print(result.score.value, result.age_ms)
    """

    def __init__(
        self, make_source: Callable[[], Source], scorer: QualityScorer, options: LiveOptions | None = None
    ) -> None:
        self.summary = LiveSummary()
        self._make_source = make_source
        self._scorer = scorer
        self._options = options or LiveOptions()
        self._stop = threading.Event()
        self._wall_s = time.time() - time.monotonic()
        self._grabber: Grabber | None = None
        self._abandoned = LiveSummary()  # counts of grab threads that were given up

    def stop(self) -> None:
        """End `results` after the frame in work; may be called from a signal handler or another thread."""
        self._stop.set()

    def results(self) -> Iterator[LiveResult]:
        """Results as they come: one for each frame that is scored, and one now and then while there is none.

        Raises:
            CameraError, InputError: the source cannot be opened at the start, or a file holds no frame.
        """
        started = time.monotonic()
        source = self._make_source()
        source.open()
        self._grabber = self._start_grabber(source, opened=True)
        try:
            while not self._stop.is_set():
                item = self._grabber.slot.take(min(self._options.stall_s, 0.5) if source.live else 0.5)
                result = self._result(item)
                self._count(started)
                if result is not None:
                    self.summary.add(result)
                    yield result
                elif self._grabber.slot.exhausted:
                    break
            if self._grabber.failure is not None:
                raise self._grabber.failure
            if not source.live and not self.summary.captured and not self._stop.is_set():
                raise InputError("the source: expected at least one frame, found none; is the file whole?")
        finally:
            self._grabber.stop()
            self._grabber.join(timeout=1.0)
            self._count(started)

    def _start_grabber(self, source: Source, *, opened: bool) -> Grabber:
        grabber = Grabber(source, FrameSlot(lossless=not source.live), self._options, opened=opened)
        grabber.start()
        return grabber

    def _count(self, started: float) -> None:
        assert self._grabber is not None
        slot = self._grabber.slot
        self.summary.captured = self._abandoned.captured + slot.captured
        self.summary.dropped = self._abandoned.dropped + slot.dropped
        self.summary.reconnects = self._abandoned.reconnects + self._grabber.reconnects
        self.summary.seconds = time.monotonic() - started

    def _result(self, item: Grabbed | None) -> LiveResult | None:
        assert self._grabber is not None
        if item is None:
            return self._silence(self._grabber)
        began_ns = time.monotonic_ns()
        frame = item.frame
        if item.reason is not None or frame is None:
            index = None if frame is None else frame.index
            score = Score(None, reason=item.reason or "no_frame", frame_index=index, algorithm=self._scorer.algorithm)
        else:
            score = self._score(frame)
        return self._live_result(score, frame, item.name, began_ns)

    def _score(self, frame: Frame) -> Score:
        try:
            return self._scorer.score_frame(frame)
        except InputError:
            return Score(None, reason="corrupt_frame", frame_index=frame.index, algorithm=self._scorer.algorithm)

    def _silence(self, grabber: Grabber) -> LiveResult | None:
        """What to say when no frame came; None while patience lasts."""
        if not grabber.source.live or grabber.slot.closed:
            return None
        silent_s = time.monotonic() - grabber.alive_s
        if grabber.state == "reading" and silent_s < self._options.stall_s:
            return None
        if silent_s >= self._options.abandon_s:
            self._replace_grabber(grabber)
        reason: Reason = "stalled" if grabber.state == "reading" else "no_frame"
        return self._live_result(
            Score(None, reason=reason, algorithm=self._scorer.algorithm), None, None, time.monotonic_ns()
        )

    def _replace_grabber(self, hung: Grabber) -> None:
        """Give up a thread that hangs inside the driver; should it come back, it cleans up after itself."""
        hung.stop()
        self._abandoned.captured += hung.slot.captured
        self._abandoned.dropped += hung.slot.dropped
        self._abandoned.reconnects += hung.reconnects
        self._grabber = self._start_grabber(self._make_source(), opened=False)

    def _live_result(self, score: Score, frame: Frame | None, name: str | None, began_ns: int) -> LiveResult:
        assert self._grabber is not None
        now_ns = time.monotonic_ns()
        seen_ns = began_ns if frame is None else frame.captured_ns
        return LiveResult(
            score=score,
            frame=frame,
            name=name,
            captured_at=datetime.fromtimestamp(self._wall_s + seen_ns / 1e9, timezone.utc),
            age_ms=None if frame is None else (began_ns - frame.captured_ns) / 1e6,
            latency_ms=None if frame is None else (now_ns - frame.captured_ns) / 1e6,
            captured=self._abandoned.captured + self._grabber.slot.captured,
            dropped=self._abandoned.dropped + self._grabber.slot.dropped,
        )
