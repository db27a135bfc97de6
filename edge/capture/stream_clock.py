"""When a camera took the pictures that come through buffers, by their timestamps.

A reader that is slower than the camera gets pictures from ever deeper in the buffers of driver and network (OpenCV
issue 13145). They are seconds old, and OpenCV says nothing.
"""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path

SCHEDULER = Path("/proc/thread-self/schedstat")
PROMPT_NS = 2_000_000  # a grab that waits less found its picture waiting; measured: 0.5 ms and less
FASTER = 0.9  # share of the camera's own interval: pictures that come faster have waited
SHARE = 8  # a grab waits 1/8 of an interval for a picture that has not come yet
SURE, LATELY = 2, 8  # so many grabs of the last ones had to wait: one may have waited for something else
DRIFT = 1000  # a camera's clock is wrong by less than one in so many
LONGEST_STEP_NS = 1_000_000_000  # from one timestamp to the next; a longer one, or one back, starts the clock anew


class StreamClock:
    """Capture times that are never later than the true ones, as far as machine and driver can know.

    A grab that had to wait for its picture found all buffers empty; what comes later after its timestamp than then
    has waited for the difference. Until that is known, a picture is only known to be no older than the one before it.

    What the camera itself, or the network, holds back is not seen.

    Args:
        began_ns: monotonic time before which no picture was taken: the opening.
        own: timestamps are by our own clock.

    Attributes:
        captured_ns: monotonic time at which the last picture was taken.
        more: whether fresher pictures may wait behind it.
    """

    def __init__(self, began_ns: int, *, own: bool = False) -> None:
        self.captured_ns = began_ns
        self.more = False
        self._own = own
        self._arrived_ns = began_ns
        self._stamp_ns: int | None = None
        self._delay_ns: int | None = None  # from timestamp to arrival, with empty buffers
        self._waits: deque[bool] = deque(maxlen=LATELY)

    def tell(self, arrived_ns: int, waited_ns: int, stamp_ms: float) -> None:
        """A picture was grabbed.

        Args:
            arrived_ns: monotonic clock when the grab returned.
            waited_ns: for how long it did nothing (`idle_ns`); decoding is not waiting.
            stamp_ms: the picture's timestamp, by the camera's clock.
        """
        stamp_ns = round(1e6 * stamp_ms)
        step_ns = LONGEST_STEP_NS if self._stamp_ns is None else stamp_ns - self._stamp_ns
        passed_ns = arrived_ns - self._arrived_ns
        self._arrived_ns, self._stamp_ns = arrived_ns, stamp_ns
        if not 0 < step_ns < LONGEST_STEP_NS:
            self._delay_ns, step_ns = None, 0
            self._waits.clear()
        waited = waited_ns >= max(PROMPT_NS, step_ns // SHARE) and passed_ns >= FASTER * step_ns
        self._waits.append(waited)
        self._learn(arrived_ns - stamp_ns, passed_ns if waited else 0)
        late_ns = None if self._delay_ns is None else arrived_ns - stamp_ns - self._delay_ns
        self.more = not waited and (late_ns is None or late_ns > step_ns or passed_ns < FASTER * step_ns)
        if self._own:
            self.captured_ns = min(stamp_ns, arrived_ns)
        elif late_ns is not None:
            self.captured_ns = max(self.captured_ns, arrived_ns - late_ns)

    def _learn(self, delay_ns: int, passed_ns: int) -> None:
        """The delay with empty buffers: the shortest, but for what the camera's clock may have drifted since."""
        if self._delay_ns is not None:
            self._delay_ns = min(delay_ns, self._delay_ns + passed_ns // DRIFT)
        elif sum(self._waits) >= SURE:
            self._delay_ns = delay_ns


def idle_ns() -> int:
    """For how long this thread has wanted no processor, from some moment on; only differences mean anything.

    Time in which it wanted one and got none is left out where the kernel says how long that was.
    """
    try:
        queued_ns = int(SCHEDULER.read_bytes().split()[1])
    except (OSError, IndexError, ValueError):
        queued_ns = 0
    return time.monotonic_ns() - time.thread_time_ns() - queued_ns
