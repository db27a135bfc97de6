"""Measures each scored frame once, beside the loop, for all that build on the measures: guidance and the best shot."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from fthnet_kit.edge.guidance.measures import LONGEST_GAP_S, Measures, measure
from fthnet_kit.edge.loop.result import LiveResult

LOG = logging.getLogger("fthnet")


class Follower(Protocol):
    """Takes results with their measures, in order, on the measuring thread."""

    def follow(self, result: LiveResult, measures: Measures | None) -> None:
        """One result; no measures where it has no picture, or one that cannot be measured."""

    def idle(self) -> None:
        """No result has come for `MeasuringSink.IDLE_S`."""

    def close(self) -> None:
        """No more results will come; called on the thread that closes the sink."""


class MeasuringSink:
    """A sink that measures pictures in a thread of its own and hands them on; scoring never waits.

    Where measuring cannot keep up, the oldest picture that waits is left out and counted in `skipped`. A result
    without a picture is never left out.

    Args:
        followers: who takes the results; an error in one is logged once and keeps nothing from the others.
    """

    MOST_WAITING = 4  # pictures
    IDLE_S = 1.0
    CLOSE_TIMEOUT_S = 5.0

    def __init__(self, followers: Sequence[Follower]) -> None:
        self.skipped = 0
        self._followers = followers
        self._complaints: set[str] = set()  # where they came from
        self._previous: tuple[float, Measures] | None = None
        self._waiting: deque[LiveResult] = deque()
        self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="measuring", daemon=True)
        self._thread.start()

    def offer(self, result: LiveResult) -> None:
        """Note a result."""
        with self._changed:
            self._waiting.append(result)
            pictures = [place for place, waiting in enumerate(self._waiting) if waiting.frame is not None]
            if len(pictures) > self.MOST_WAITING:
                del self._waiting[pictures[0]]
                self.skipped += 1
                self._complain("queue", "cannot keep up; some frames are neither advised on nor kept as best shots")
            self._changed.notify()

    def close(self) -> None:
        """Measure what waits, end the thread and close the followers."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(self.CLOSE_TIMEOUT_S)
        for follower in self._followers:
            try:
                follower.close()
            except Exception as error:  # the others have something to finish too
                self._complain(type(follower).__name__, f"{type(error).__name__}: {error}")

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._waiting, self.IDLE_S)
                result = self._waiting.popleft() if self._waiting else None
                if result is None and self._stopping:
                    return
            if result is None:
                self._tell(None, None)
            else:
                self._tell(result, self._measured(result))

    def _tell(self, result: LiveResult | None, measures: Measures | None) -> None:
        for follower in self._followers:
            try:
                if result is None:
                    follower.idle()
                else:
                    follower.follow(result, measures)
            except Exception as error:  # nothing that is built on measures is worth the run
                self._complain(type(follower).__name__, f"{type(error).__name__}: {error}")

    def _measured(self, result: LiveResult) -> Measures | None:
        if result.frame is None:
            self._previous = None
            return None
        now_s = result.frame.captured_ns / 1e9
        previous = None
        if self._previous is not None and 0 < now_s - self._previous[0] <= LONGEST_GAP_S:
            previous = self._previous[1]
        try:
            measures = measure(result.frame.image, previous)
        except Exception as error:
            self._complain("frame", f"{type(error).__name__}: {error}")
            self._previous = None
            return None
        self._previous = (now_s, measures)
        return measures

    def _complain(self, where: str, what: str) -> None:
        """Log the first complaint of each place."""
        if where not in self._complaints:
            self._complaints.add(where)
            LOG.warning("measuring: %s: %s", where, what)
