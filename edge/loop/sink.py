"""Where results go. No sink ever blocks the scoring thread: each works in a thread behind a bounded queue."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from fthnet_kit.edge.loop.result import LiveResult

LOG = logging.getLogger("fthnet")
T = TypeVar("T")


class Sink(Protocol):
    """Takes results as they come; never blocks."""

    def offer(self, result: LiveResult) -> None:
        """One result."""

    def close(self) -> None:
        """Finish what is under way, for a few seconds at most."""


class BackgroundWorker(Generic[T]):
    """Handles items one by one in a thread of its own.

    Args:
        handle: called with each item; an error (a full disk) is logged once, counted, and does not end the thread.
        capacity: items that may wait; one more is dropped and counted in `lost`.
        name: of the thread and in the log.

    Attributes:
        lost: items that could not be handled.
        complaint: why, of the last of them.
    """

    CLOSE_TIMEOUT_S = 5.0

    def __init__(self, handle: Callable[[T], None], capacity: int, name: str) -> None:
        self.lost = 0
        self._handle = handle
        self._name = name
        self.complaint = ""
        self._queue: queue.Queue[T | None] = queue.Queue(capacity)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits behind the item in work."""
        return self._queue.empty()

    def submit(self, item: T) -> bool:
        """Hand an item over; False where the queue is full and the item was dropped."""
        try:
            self._queue.put_nowait(item)
            return True
        except queue.Full:
            self._lose("its queue is full")
            return False

    def wake(self, item: T) -> None:
        """Hand an item over, unless one waits already that will do as well."""
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(item)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                self._handle(item)
            except Exception as error:  # whatever it is, the next item may be fine
                self._lose(getattr(error, "strerror", None) or str(error) or type(error).__name__)

    def _lose(self, why: str) -> None:
        self.lost += 1
        first, self.complaint = not self.complaint, why
        if first:
            LOG.warning("%s: cannot keep up: %s; scoring goes on, what is lost is counted", self._name, why)

    def close(self) -> bool:
        """Wait for the queue to empty, but not for ever; False where the thread is still at work."""
        try:
            self._queue.put(None, timeout=self.CLOSE_TIMEOUT_S)
        except queue.Full:
            return False
        self._thread.join(self.CLOSE_TIMEOUT_S)
        return not self._thread.is_alive()
