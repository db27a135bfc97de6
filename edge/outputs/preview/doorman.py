"""Who has shown the token: sessions that end, and guesses that are few."""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable

LOG = logging.getLogger("fthnet")
SESSION_S = 12 * 3600.0  # a working day
MOST_SESSIONS = 64
GUESSES, GUESSES_S = 10, 60.0  # wrong tokens of one source; more are refused unread
LONGEST_PAUSE_S = 900.0
MOST_SOURCES = 4096
NETWORK_BITS = 64  # what one IPv6 host may choose its addresses from


def source_of(address: str) -> str:
    """Who an address counts as: itself, or for IPv6 its /64."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((ip, NETWORK_BITS), strict=False))


class Sessions:
    """Cookies of browsers that have shown the token: random, forgotten after some hours, kept as hashes alone.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends_s: OrderedDict[bytes, tuple[float, str]] = OrderedDict()

    def begin(self, source: str) -> str:
        """A new session; the oldest goes where there are too many."""
        cookie = secrets.token_urlsafe(32)
        self._ends_s[_hashed(cookie)] = (self._clock() + SESSION_S, source)
        while len(self._ends_s) > MOST_SESSIONS:
            self._ends_s.popitem(last=False)
        return cookie

    def holds(self, cookie: str) -> bool:
        """Whether this is a session that has not ended."""
        ends_s, _ = self._ends_s.get(_hashed(cookie), (0.0, ""))
        return self._clock() < ends_s

    def end(self, cookie: str) -> None:
        """Forget a session."""
        self._ends_s.pop(_hashed(cookie), None)

    def has_source(self, source: str) -> bool:
        """Whether somebody there is logged in."""
        now = self._clock()
        return any(now < ends_s and where == source for ends_s, where in self._ends_s.values())


def _hashed(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode("utf-8", "surrogateescape")).digest()


class Guesses:
    """Wrong tokens, by source: ten a minute, then a pause that doubles with each further ten.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wrong_s: OrderedDict[str, deque[float]] = OrderedDict()
        self._paused: OrderedDict[str, tuple[float, float]] = OrderedDict()  # until when, and how long

    def pause_s(self, source: str) -> float:
        """How long no token of this source is looked at; 0 where one is."""
        until_s, _ = self._paused.get(source, (0.0, 0.0))
        return max(0.0, until_s - self._clock())

    def note(self, source: str) -> None:
        """One wrong token."""
        now = self._clock()
        recent = self._wrong_s.setdefault(source, deque(maxlen=GUESSES))
        self._wrong_s.move_to_end(source)
        recent.append(now)
        while now - recent[0] > GUESSES_S:
            recent.popleft()
        LOG.warning("preview: a wrong token from %s (%d within a minute)", source, len(recent))
        if len(recent) == GUESSES:
            _, before_s = self._paused.get(source, (0.0, GUESSES_S / 2))
            pause_s = min(2 * before_s, LONGEST_PAUSE_S)
            self._paused[source] = (now + pause_s, pause_s)
            recent.clear()
            LOG.warning("preview: %s: no token is looked at for %.0f s", source, pause_s)
        for kept in (self._wrong_s, self._paused):
            while len(kept) > MOST_SOURCES:
                kept.popitem(last=False)

    def forget(self, source: str) -> None:
        """The right token came."""
        self._wrong_s.pop(source, None)
        self._paused.pop(source, None)
