"""Guidance beside the loop: hints from the newest frame, in a thread of their own."""

from __future__ import annotations

import logging
import threading

from fthnet_kit.edge.guidance import Guide, Hint, Language
from fthnet_kit.edge.live import LiveResult

LOG = logging.getLogger("fthnet")
IDLE_S = 1.0  # without a result for so long there is nothing to advise


class GuideSink:
    """A sink that turns results into the hint of the moment; the newest frame wins, scoring never waits.

    Args:
        guide: measures frames and decides.
        language: of `text`.
    """

    def __init__(self, guide: Guide, language: Language = "en") -> None:
        self.guide = guide
        self.language = language
        self.hint: Hint | None = None
        self._newest: LiveResult | None = None
        self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="guide", daemon=True)
        self._thread.start()

    @property
    def text(self) -> str | None:
        """The hint in the operator's language; None where there is nothing to say."""
        hint = self.hint
        return None if hint is None else hint.text(self.language)

    def offer(self, result: LiveResult) -> None:
        """Note a result; an older one that nobody has looked at is forgotten."""
        with self._changed:
            self._newest = result
            self._changed.notify()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(2.0)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._newest is not None, IDLE_S)
                result, self._newest = self._newest, None
                if self._stopping:
                    return
            if result is None or result.frame is None:
                self.hint = None  # no picture, no advice
                continue
            try:
                self.hint = self.guide.update(result.frame.image, result.score, result.frame.captured_ns / 1e9)
            except Exception as error:  # advice is never worth the run
                self.hint = None
                LOG.warning("guidance: %s: %s", type(error).__name__, error)
