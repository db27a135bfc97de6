"""Stops a run of ONNX Runtime that takes absurdly long."""

from __future__ import annotations

import threading
import time
import weakref
from typing import TYPE_CHECKING

from fthnet_kit.edge.errors import EngineError

if TYPE_CHECKING:
    import onnxruntime as ort


class RunLimit:
    """Hands out the options of one run, as a context manager, and stops the run when its time is up.

    One thread sleeps beside all runs; a run costs two notes of the time and no switch of threads.

    Args:
        seconds: that a run may take.

    Raises:
        EngineError: on leaving, where the run was stopped.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._running: tuple[float, ort.RunOptions] | None = None  # when it must end, and what stops it
        self._closed = threading.Event()
        self._watch: threading.Thread | None = None

    def __enter__(self) -> ort.RunOptions:
        import onnxruntime as ort

        if self._watch is None:
            look = (weakref.ref(self), self._closed, self._seconds / 4)  # a limit that is forgotten ends its thread
            self._watch = threading.Thread(target=_look, args=look, name="run limit", daemon=True)
            self._watch.start()
        options = ort.RunOptions()
        self._running = (time.monotonic() + self._seconds, options)
        return options

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        running, self._running = self._running, None
        if error is not None and running is not None and running[1].terminate:
            raise EngineError(
                f"ONNX Runtime was stopped after {self._seconds:g} s of one inference; the graph or the machine is not "
                "fit for live scoring"
            ) from error

    def stop_what_is_late(self) -> None:
        """Stop the run if its time is up."""
        running = self._running
        if running is not None and time.monotonic() > running[0]:
            running[1].terminate = True

    def close(self) -> None:
        """End the watching thread; a second call does nothing."""
        self._closed.set()


def _look(limit: weakref.ref[RunLimit], closed: threading.Event, every_s: float) -> None:
    while not closed.wait(every_s):
        found = limit()
        if found is None:
            return
        found.stop_what_is_late()
        del found
