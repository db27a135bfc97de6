"""How long to wait for a network camera to open."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fthnet_kit.edge.errors import CameraError

OPEN_TIMEOUT_S = 4.0  # the first time
QUICK_OPEN_TIMEOUT_S = 1.5  # for a camera that is known to open in less than a third of it
PATIENT_OPEN_EVERY = 4  # attempts that ran out of time: the camera may have become slower
READ_TIMEOUT_S = 1.5


class Patience:
    """Short with a camera known to be quick, so that its return is noticed soon.

    Args:
        clock_s: monotonic seconds.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._opened_in_s: float | None = None
        self._timeouts = 0

    @property
    def timeout_s(self) -> float:
        """For the next attempt."""
        if self._opened_in_s is None or self._timeouts % PATIENT_OPEN_EVERY == PATIENT_OPEN_EVERY - 1:
            return OPEN_TIMEOUT_S
        return min(max(3 * self._opened_in_s, QUICK_OPEN_TIMEOUT_S), OPEN_TIMEOUT_S)

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """An attempt to open; it failed if it raises CameraError."""
        began_s = self._clock_s()
        try:
            yield
        except CameraError:
            self._timeouts += self._clock_s() - began_s >= QUICK_OPEN_TIMEOUT_S
            raise
        self._opened_in_s, self._timeouts = self._clock_s() - began_s, 0
