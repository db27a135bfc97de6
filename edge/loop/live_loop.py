"""The live loop: grab thread -> latest-frame slot -> scoring -> whoever listens.

The grab thread owns the camera: it opens it again with a growing pause after an unplug, notices a frozen
picture, and opens again what gives nothing but frozen or broken pictures. The scoring side never trusts
it: where no frame comes for `stall_s`, the result says so instead of repeating the last score, a picture
that had to wait that long is not scored, and where the grab thread hangs inside the driver, it is
abandoned and a new one takes over.

Whatever a camera, the scorer or a sink raises is logged once and counted (`LiveSummary.faults`), and the
loop goes on. It ends by an error only at the start, where there is nothing to open, with a file that
cannot be read on, and with a driver that hangs again and again. Durations are of the monotonic clock; the
wall clock is only read for `captured_at`.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone

from fthnet_kit.edge.capture.source import Source
from fthnet_kit.edge.errors import CameraError, InputError, KitError
from fthnet_kit.edge.frame import AnyFrame, Frame
from fthnet_kit.edge.inference.scorer import QualityScorer
from fthnet_kit.edge.loop.frame_slot import FrameSlot, Grabbed
from fthnet_kit.edge.loop.grabber import Grabber
from fthnet_kit.edge.loop.options import LiveOptions
from fthnet_kit.edge.loop.result import LiveResult, LiveSummary
from fthnet_kit.edge.loop.sink import Sink
from fthnet_kit.edge.loop.stop_signals import FINAL_SIGNALS
from fthnet_kit.edge.model.score import Reason, Score

LOG = logging.getLogger("fthnet")
TICK_S = 0.5  # between two statements that there is no frame
LONGEST_READ_S = 1.5  # patience.READ_TIMEOUT_S: how long a healthy driver can keep the grab thread from ending
MOST_HUNG = 6  # grab threads inside the driver, 2 minutes in all: only the end of the process can free them


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
        self._stopping = False  # no Event: a signal handler sets it, and must take no lock
        self._grabber: Grabber | None = None
        self._abandoned = LiveSummary()  # counts of grab threads that were given up
        self._hung: list[Grabber] = []  # those of them that have not come back

    def stop(self) -> None:
        """End `results` after the frame in work; may be called from a signal handler or another thread."""
        self._stopping = True

    def stop_on_signals(self) -> None:
        """End cleanly on SIGTERM, SIGINT and SIGHUP; call it from the main thread.

        A terminal that closes (SIGHUP) ends the run as SIGTERM does; under `nohup`, which ignores it, it goes on.
        """
        for number in FINAL_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda *_: self.stop())

    def feed(self, sinks: Sequence[Sink], max_scored: int | None = None, max_s: float | None = None) -> None:
        """Hand every result to every sink until the source ends, `stop` is called, or enough is scored.

        What a sink raises is counted in `summary.faults` and ends nothing. The sinks are closed however it ends.

        Raises:
            CameraError, InputError: as `results`.
        """
        try:
            ends_s = math.inf if max_s is None else time.monotonic() + max_s
            for result in self.results():
                began_s = time.perf_counter()
                for sink in sinks:
                    try:
                        sink.offer(result)
                    except (Exception, SystemExit) as error:  # rich exits where nobody reads its output any more
                        self.summary.add_fault(type(sink).__name__, error)
                self.summary.add_overhead(result, 1e3 * (time.perf_counter() - began_s))
                if time.monotonic() >= ends_s or (max_scored is not None and self.summary.scored >= max_scored):
                    break
        finally:
            for sink in sinks:
                try:
                    sink.close()
                except (Exception, SystemExit) as error:
                    self.summary.add_fault(type(sink).__name__, error)

    def results(self) -> Iterator[LiveResult]:
        """Results as they come: one for each frame that is scored, and one now and then while there is none.

        Raises:
            CameraError, InputError: the source cannot be opened at the start, a file holds no frame or cannot be read
                on, or the camera's driver hangs again and again.
        """
        if self._stopping:
            return
        started = time.monotonic()
        source = self._make_source()
        if not self._open_first(source):
            return
        self._grabber = self._start_grabber(source, opened=True)
        try:
            while not self._stopping:
                item = self._grabber.slot.take(self._patience_s(self._grabber))
                result = self._result(item)
                self._count(started)
                if result is not None:
                    self.summary.add(result)
                    yield result
                elif self._grabber.slot.exhausted:
                    break
            if self._grabber.failure is not None:
                raise _fatal(self._grabber.failure)
            if not source.live and not self.summary.captured and not self._stopping:
                raise InputError("the source: expected at least one frame, found none; is the file whole?")
        finally:
            self._grabber.stop()
            self._grabber.join(timeout=LONGEST_READ_S + 1.0)
            self._count(started)

    def _open_first(self, source: Source) -> bool:
        """Open the source; False where `stop` was called meanwhile.

        A camera is opened in a thread, as a driver may hang (OpenCV's GStreamer does, with a misspelt element) and then
        not even a signal would end the process.
        """
        if not source.live:
            source.open()
            return True
        outcome: list[Exception | None] = []
        opener = threading.Thread(target=lambda: outcome.append(_error_of(source.open)), name="open", daemon=True)
        opener.start()
        deadline = time.monotonic() + self._options.first_open_s
        while opener.is_alive() and not self._stopping:
            opener.join(0.05)
            if time.monotonic() > deadline:
                raise CameraError(
                    f"the source: expected a camera that opens, found none in {self._options.first_open_s:g} s; "
                    "is its address or pipeline right?"
                )
        if outcome and outcome[0] is not None:
            raise outcome[0]
        return not opener.is_alive()

    def _start_grabber(self, source: Source, *, opened: bool) -> Grabber:
        grabber = Grabber(
            source,
            FrameSlot(lossless=not source.live),
            self._options,
            lambda error: self.summary.add_fault("camera", error),
            opened=opened,
        )
        grabber.start()
        return grabber

    def _patience_s(self, grabber: Grabber) -> float:
        """How long to wait for a frame: until a stall must be reported, then a tick at a time."""
        left = grabber.alive_s + self._options.stall_s - time.monotonic()
        return left if 0 < left < TICK_S else min(TICK_S, self._options.stall_s)

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
        frame, reason = self._decoded(item)
        began_ns = time.monotonic_ns()
        if reason is not None or frame is None:
            index = None if frame is None else frame.index
            score = Score(None, reason=reason or "no_frame", frame_index=index, algorithm=self._scorer.algorithm)
        else:
            score = self._score(frame)
        return self._live_result(score, frame, item.name, began_ns)

    def _decoded(self, item: Grabbed) -> tuple[Frame | None, Reason | None]:
        """The newest picture that is whole and fresh; or why none is to be scored."""
        assert self._grabber is not None
        if item.frame is None:
            return None, item.reason
        if self._is_stale(item.frame):
            return None, "stalled"
        for taken in (item.frame, *item.spares):
            if self._is_stale(taken):
                break
            try:
                frame = taken.decoded()
            except InputError:
                continue
            self._grabber.judge(whole=True)
            return frame, item.reason
        self._grabber.judge(whole=False)
        return None, "corrupt_frame"

    def _is_stale(self, frame: AnyFrame) -> bool:
        """Whether a camera's frame waited so long for the scorer that it is the last one from before a stall."""
        assert self._grabber is not None
        return self._grabber.source.live and time.monotonic() - frame.captured_ns / 1e9 >= self._options.stall_s

    def _score(self, frame: Frame) -> Score:
        try:
            return self._scorer.score_frame(frame)
        except InputError:
            reason: Reason = "corrupt_frame"
        except Exception as error:
            self.summary.add_fault("scorer", error)
            reason = "engine_fault"
        return Score(None, reason=reason, frame_index=frame.index, algorithm=self._scorer.algorithm)

    def _silence(self, grabber: Grabber) -> LiveResult | None:
        """What to say when no frame came; None while patience lasts."""
        if not grabber.source.live or grabber.slot.closed:
            return None
        silent_s = time.monotonic() - grabber.alive_s
        if grabber.state == "reading" and silent_s < self._options.stall_s:
            return None
        reason: Reason = "stalled" if grabber.state == "reading" else "no_frame"
        self._hung = [hung for hung in self._hung if hung.is_alive()]
        patience_s = self._options.abandon_s if grabber.state == "reading" else self._options.abandon_open_s
        if silent_s >= patience_s * 2 ** len(self._hung):
            self._replace_grabber(grabber)
        return self._live_result(
            Score(None, reason=reason, algorithm=self._scorer.algorithm), None, None, time.monotonic_ns()
        )

    def _replace_grabber(self, hung: Grabber) -> None:
        """Give up a thread that hangs inside the driver; should it come back, it cleans up after itself.

        Raises:
            CameraError: too many hang already.
        """
        if len(self._hung) == MOST_HUNG:
            raise CameraError(
                f"expected the camera's driver to answer, found {MOST_HUNG + 1} calls that never returned; start again"
            )
        hung.stop()
        self._hung.append(hung)
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
            captured_at=datetime.fromtimestamp(time.time() - (now_ns - seen_ns) / 1e9, timezone.utc),
            age_ms=None if frame is None else (began_ns - frame.captured_ns) / 1e6,
            latency_ms=None if frame is None else (now_ns - frame.captured_ns) / 1e6,
            captured=self._abandoned.captured + self._grabber.slot.captured,
            dropped=self._abandoned.dropped + self._grabber.slot.dropped,
        )


def _error_of(action: Callable[[], None]) -> Exception | None:
    """What an action raises, if it does."""
    try:
        action()
    except Exception as error:
        return error
    return None


def _fatal(error: Exception) -> KitError:
    """An error that ends the loop, as one line with an exit code."""
    if isinstance(error, KitError):
        return error
    what = f"{type(error).__name__}: {error}"
    fatal = InputError(f"the source: expected pictures, found that reading them failed: {what}")
    fatal.__cause__ = error
    return fatal
