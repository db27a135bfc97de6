"""The newest item for many viewers, none of whom waits for another."""

from __future__ import annotations

import asyncio
import contextlib


class Feed:
    """The newest item for any number of readers: who is slow misses items and delays nobody."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.readers = 0
        self.number = 0
        self.closed = False
        self._item = b""
        self._changed = asyncio.Event()

    def publish(self, item: bytes) -> None:
        """Replace the item."""
        self.number += 1
        self._item = item
        self._wake()

    def close(self) -> None:
        """Let all readers go."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def newer(self, number: int, patience_s: float = 1.0) -> tuple[int, bytes]:
        """Number and content of an item after `number`; no content where none came in time."""
        if self.number == number and not self.closed:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), patience_s)
        return self.number, self._item if self.number != number else b""
