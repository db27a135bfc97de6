"""How long a picture has waited in the buffers of driver and network, and whether fresher ones wait behind it.

A reader that is slower than the camera gets pictures from ever deeper in those buffers (OpenCV issue 13145). They
are seconds old, and OpenCV says nothing.
"""

from __future__ import annotations

import math

PROMPT_NS = 2_000_000  # a grab that waits less found its picture waiting; measured: 0.5 ms and less
FASTER = 0.9  # of the camera's own interval: pictures that come faster have waited
LONGEST_STEP_NS = 1_000_000_000  # from one timestamp to the next; a longer one, or one back, starts the clock anew
LONGEST_TRANSFER_NS = 500_000_000  # from a camera's timestamp to the picture's arrival; if longer, it has another clock


class Backlog:
    """Whether a picture that was just grabbed had waited in a buffer, and for how long.

    A grab that had to wait for its picture found all buffers empty. One that had not may have found the newest
    picture or one of many; there only timestamps (RTSP, V4L2) tell: many wait where pictures come faster than the
    camera took them, and where they come later after their timestamps than they did with empty buffers. Without
    timestamps (MJPEG over HTTP) the next picture is the surer one.

    What the camera itself, or the network, holds back is not seen.

    Args:
        timestamps: whether pictures have any.
        own_clock: they should be by the clock of `arrived_ns`, as V4L2's are. They are believed where pictures come
            a plausible time after them.

    Attributes:
        late_ns: how long the last picture had waited, where timestamps tell; by our own clock, from the timestamp on.
    """

    def __init__(self, *, timestamps: bool, own_clock: bool = False) -> None:
        self.late_ns = 0
        self._timestamps = timestamps
        self._own_clock = timestamps and own_clock
        self._arrived_ns = 0
        self._stamp_ns = -math.inf  # before the first picture, whatever its timestamp
        self._delay_ns = 0  # from timestamp to arrival, with empty buffers

    def holds_more(self, arrived_ns: int, waited_ns: int, stamp_ms: float) -> bool:
        """Whether fresher pictures may wait behind the one that was grabbed.

        Args:
            arrived_ns: monotonic clock when the grab returned.
            waited_ns: for how long it did nothing; decoding is not waiting.
            stamp_ms: the picture's timestamp, by the camera's clock.
        """
        waited = waited_ns >= PROMPT_NS
        stamp_ns = round(1e6 * stamp_ms)
        step_ns, passed_ns = stamp_ns - self._stamp_ns, arrived_ns - self._arrived_ns
        delay_ns = arrived_ns - stamp_ns
        self._arrived_ns, self._stamp_ns = arrived_ns, stamp_ns
        is_first = not self._timestamps or not 0 < step_ns < LONGEST_STEP_NS
        self._delay_ns = delay_ns if waited or is_first else min(delay_ns, self._delay_ns)
        late_ns = delay_ns - self._delay_ns
        is_believed = self._own_clock and 0 <= self._delay_ns < LONGEST_TRANSFER_NS
        self.late_ns = delay_ns if is_believed else late_ns
        return not waited and (is_first or passed_ns < FASTER * step_ns or late_ns > step_ns)
