"""The settings of the live loop."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LiveOptions:
    """Patience of the live loop.

    Attributes:
        stall_s: without a frame for this long there is no current score.
        abandon_s: a read that hangs for this long is given up, and a new grab thread takes over. Each thread that
            still hangs doubles the patience.
        abandon_open_s: the same for an attempt to open the camera again.
        first_open_s: the same for the first attempt, which then ends the loop.
        frozen_s: identical pictures for this long are not a living camera.
        useless_s: nothing but frozen or broken pictures for this long, and the camera is opened again.
        first_backoff_s, longest_backoff_s: pause before a camera is opened again, doubled each time.
    """

    stall_s: float = 1.0
    abandon_s: float = 2.0
    abandon_open_s: float = 6.0
    first_open_s: float = 15.0
    frozen_s: float = 2.0
    useless_s: float = 5.0
    first_backoff_s: float = 0.25
    longest_backoff_s: float = 1.0
