"""The hand-over between the thread that grabs frames and the one that scores them."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace

from fthnet_kit.edge.frame import AnyFrame, EncodedFrame
from fthnet_kit.edge.model.score import Reason

INTERVAL_SMOOTHING = 0.1
LONGEST_INTERVAL_NS = 1_000_000_000  # a longer pause is an outage and says nothing about the camera's rate
SPARES = 4  # pictures that nobody has decoded, in case that newer ones prove to be broken


@dataclass(frozen=True)
class Grabbed:
    """What a source gave: a frame, or why there is none to score (`frozen`, `corrupt_frame`, `stalled`).

    Attributes:
        frame: the picture, where there is one.
        reason: why it is not to be scored.
        name: of the file.
        skipped: pictures that came just before it and were passed over.
        spares: encoded pictures before it that nobody took, newest first.
    """

    frame: AnyFrame | None
    reason: Reason | None = None
    name: str | None = None
    skipped: int = 0
    spares: tuple[EncodedFrame, ...] = ()

    def behind(self, newer: Grabbed) -> Grabbed:
        """What waits when a newer picture comes: the newer one; but a broken picture displaces no whole one.

        Whether an encoded picture is whole is not known before it is decoded, so those before it are kept in spare.
        """
        if newer.reason == "corrupt_frame" and self.frame is not None:
            return self
        if not isinstance(newer.frame, EncodedFrame) or not isinstance(self.frame, EncodedFrame) or self.reason:
            return newer
        return replace(newer, spares=(self.frame, *self.spares)[:SPARES])


class FrameSlot:
    """Room for one frame.

    Lossy (cameras): a newer frame replaces one that was not taken, which counts as dropped. Lossless
    (files): `put` waits until the last frame was taken. At every moment
    ``captured == taken + dropped + (1 if a frame waits)``.
    """

    def __init__(self, *, lossless: bool) -> None:
        self.lossless = lossless
        self.captured = 0
        self.taken = 0
        self.dropped = 0
        self._item: Grabbed | None = None
        self._put_ns = 0
        self._interval_ns = 0.0
        self._closed = False
        self._changed = threading.Condition()

    @property
    def closed(self) -> bool:
        """Whether no further frame will come; one may still wait."""
        return self._closed

    @property
    def exhausted(self) -> bool:
        """Closed, and nothing waits."""
        with self._changed:
            return self._closed and self._item is None

    def put(self, item: Grabbed) -> bool:
        """Hand over a frame; False where the slot is closed and nobody will take it."""
        with self._changed:
            while self.lossless and self._item is not None and not self._closed:
                self._changed.wait()
            if self._closed:
                return False
            now = time.monotonic_ns()
            step = now - self._put_ns
            if self._put_ns and step < LONGEST_INTERVAL_NS:
                self._interval_ns += (step - self._interval_ns) * (INTERVAL_SMOOTHING if self._interval_ns else 1)
            self._put_ns = now
            self.captured += 1 + item.skipped
            self.dropped += (self._item is not None) + item.skipped
            self._item = item if self._item is None else self._item.behind(item)
            self._changed.notify_all()
            return True

    def take(self, timeout_s: float) -> Grabbed | None:
        """The newest frame; None after `timeout_s` without one, or when the slot is exhausted.

        A camera's frame that has waited for more than half a frame interval is passed over for the next
        one, which is due in less than that: better a short wait than an old picture.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._item is None and not self._closed:
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            if self._item is not None and not self.lossless:
                self._await_fresher()
            item, self._item = self._item, None
            if item is not None:
                self.taken += 1
                self._changed.notify_all()
            return item

    def _await_fresher(self) -> None:
        waited_ns = time.monotonic_ns() - self._put_ns
        if self._interval_ns / 2 < waited_ns < self._interval_ns and not self._closed:
            self._changed.wait((self._interval_ns - waited_ns) * 1.25 / 1e9)

    def close(self, *, discard: bool = False) -> None:
        """No further frames. With `discard` the one that waits is dropped, too."""
        with self._changed:
            self._closed = True
            if discard and self._item is not None:
                self._item = None
                self.dropped += 1
            self._changed.notify_all()
