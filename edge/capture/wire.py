"""The bytes of a connection, and since when the oldest unread ones may have waited."""

from __future__ import annotations

import contextlib
import io
import select
import socket
import ssl
import struct
import time
from collections.abc import Sequence
from typing import Any

SO_TIMESTAMPNS = 35  # Linux: option and message are one number on all machines that the kit runs on
TIMESPEC = struct.Struct("@ll")
LONGEST_WAIT_NS = 10_000_000_000  # by the kernel's stamps; if longer, the wall clock was set meanwhile


class Wire(io.RawIOBase):
    """What a socket receives, as a raw stream.

    A reader that was not given the processor finds old bytes, and they look as if they had just come. So the kernel
    is asked when they came (TLS: the moment at which they were found). And because the sender keeps what the kernel
    has no room for, bytes are taken to be as old as the first ones after the wire was last found empty.

    Args:
        sock: connected; it stays open until this is closed, even if it is closed elsewhere.

    Attributes:
        since_ns: monotonic time from which on all bytes read last were sent; if they came at once, that of the last.
        empty_ns: when the wire was last found empty before them.
        deadline_s: monotonic time at which waiting for bytes ends.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.since_ns = self.empty_ns = time.monotonic_ns()
        self.deadline_s = time.monotonic() + (sock.gettimeout() or 0.0)
        self._socket = sock
        self._kept = sock.makefile("rb", buffering=0)
        self._is_encrypted = isinstance(sock, ssl.SSLSocket)
        if not self._is_encrypted:
            with contextlib.suppress(OSError):  # not Linux
                sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)

    def readable(self) -> bool:
        """Always."""
        return True

    def is_empty(self) -> bool:
        """Whether nothing has come that was not read."""
        return not self._has_some(0.0)

    def readinto(self, buffer: Any) -> int:
        """Read at least one byte; 0 at the end.

        Raises:
            TimeoutError: nothing came before the deadline.
        """
        asked_ns, was_empty = time.monotonic_ns(), self.is_empty()
        if was_empty and not self._has_some(max(0.0, self.deadline_s - time.monotonic())):
            raise TimeoutError("expected more of the picture, found that nothing comes")
        if self._is_encrypted:
            count, arrived_ns = self._socket.recv_into(buffer), time.monotonic_ns()
        else:
            count, notes, _, _ = self._socket.recvmsg_into([buffer], socket.CMSG_SPACE(TIMESPEC.size))
            arrived_ns = _arrival(notes)
        if was_empty:
            self.since_ns, self.empty_ns = arrived_ns, asked_ns
        return count

    def _has_some(self, timeout_s: float) -> bool:
        if self._is_encrypted and self._socket.pending():  # type: ignore[attr-defined]
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(1e3 * timeout_s))

    def close(self) -> None:
        """Let go of the socket."""
        if not self.closed:
            self._kept.close()
        super().close()


def _arrival(notes: Sequence[tuple[int, int, bytes]]) -> int:
    """Monotonic time at which bytes came, by the kernel's note about them; now without one."""
    now_ns = time.monotonic_ns()
    for level, kind, data in notes:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS) and len(data) >= TIMESPEC.size:
            seconds, nanoseconds = TIMESPEC.unpack_from(data)
            waited_ns = time.time_ns() - (10**9 * seconds + nanoseconds)
            return now_ns - waited_ns if 0 < waited_ns < LONGEST_WAIT_NS else now_ns
    return now_ns
