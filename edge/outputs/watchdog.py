"""systemd's watchdog, fed by the results."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping

from fthnet_kit.edge.loop.result import LiveResult

WATCHDOG_S = 30
ENGINE_FAULT_S = 30  # between two failures without a score between them: the engine is lost
BEATS_IN_TIME = 4  # signs of life within the time after which systemd would kill
STATUS_EVERY_S = 1.0


class Notifier:
    """Tells systemd how this process fares; does nothing where systemd does not ask.

    Never blocks and never fails: a datagram that finds no room is sent again with the next sign of life.

    Args:
        address: of systemd's socket; an abstract one begins with `@`. None: say nothing.
        watchdog_s: silence after which systemd kills; None for never.
        clock: seconds.
    """

    def __init__(
        self,
        address: str | None,
        watchdog_s: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._watched = watchdog_s is not None
        self._every_s = STATUS_EVERY_S if watchdog_s is None else min(STATUS_EVERY_S, watchdog_s / BEATS_IN_TIME)
        self._next_s = 0.0
        self._ready = False
        self._address = address
        self._socket: socket.socket | None = None
        if address is not None and address[:1] in ("/", "@") and hasattr(socket, "AF_UNIX"):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | getattr(socket, "SOCK_CLOEXEC", 0))
            self._socket.setblocking(False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Notifier:
        """As systemd asks in NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID."""
        environment = os.environ if environment is None else environment
        period, process = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
        watched = period.isdecimal() and int(period) > 0 and process in ("", str(os.getpid()))
        return cls(environment.get("NOTIFY_SOCKET") or None, int(period) / 1e6 if watched else None)

    def beat(self, status: str = "") -> None:
        """A sign of life, to be given after each step of the work; the first one says that the start is done."""
        now = self._clock()
        if self._socket is None or (self._ready and now < self._next_s):
            return
        lines = ["WATCHDOG=1"] if self._ready else ["READY=1", "WATCHDOG=1"]
        if status:
            lines.append(f"STATUS={status.splitlines()[0]}")
        if self._send(lines):
            self._ready, self._next_s = True, now + self._every_s

    def give_up(self, status: str) -> None:
        """Ask for a new process, as after a hang; a systemd before version 243 starts it once the silence was too long.

        To be called instead of `beat` from then on.
        """
        now = self._clock()
        if self._watched and now >= self._next_s and self._send([f"STATUS={status}", "WATCHDOG=trigger"]):
            self._next_s = now + self._every_s

    def stopping(self) -> None:
        """The end has begun, and is no hang."""
        self._send(["STOPPING=1"])

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, lines: list[str]) -> bool:
        if self._socket is None or self._address is None:
            return False
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError):
            self._socket.sendto("\n".join(lines).encode(), address)
            return True
        return False


class WatchdogSink:
    """A sink whose work is done on the scoring thread, so that a hang there stops the signs of life.

    A new process is the remedy for a hang, and for an engine that is lost: one whose failures, without a score between
    them, lie `ENGINE_FAULT_S` or more apart. A single failure is none, nor are some that a score follows. A camera
    that is away or stalls never leads to a new process, however long it takes: the loop goes on to say so. Results
    that did not reach the engine (no frame, no retina) say nothing about it, either way.

    Args:
        notifier: default: as the environment says.
        clock: seconds.
    """

    def __init__(self, notifier: Notifier | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.notifier = notifier or Notifier.from_environment()
        self._clock = clock
        self._failing_since_s: float | None = None
        self._engine_lost = False

    def offer(self, result: LiveResult) -> None:
        """A sign of life, with a word on the score for `systemctl status`; none where the engine fails for good."""
        score = result.score
        if score.value is not None:
            self._failing_since_s, self._engine_lost = None, False
        elif score.reason == "engine_fault":
            now = self._clock()
            since = self._failing_since_s = now if self._failing_since_s is None else self._failing_since_s
            self._engine_lost = now - since >= ENGINE_FAULT_S
        if self._engine_lost:
            self.notifier.give_up(f"the engine has failed for {ENGINE_FAULT_S} s; starting again")
            return
        what = score.reason if score.value is None else f"score {score.value:.0f}, {score.verdict}"
        self.notifier.beat(f"{what}; {result.captured} frames, {result.dropped} dropped")

    def close(self) -> None:
        """Say that the end has begun."""
        self.notifier.stopping()
        self.notifier.close()
