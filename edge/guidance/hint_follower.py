"""Guidance beside the loop: hints from measured frames."""

from __future__ import annotations

from fthnet_kit.edge.guidance.hints import Guide, Hint
from fthnet_kit.edge.guidance.measures import Measures
from fthnet_kit.edge.guidance.texts import Language
from fthnet_kit.edge.loop.result import LiveResult


class GuideSink:
    """Turns measured results into the hint of the moment (`measuring.Follower`).

    Args:
        guide: decides.
        language: of `text`.
    """

    def __init__(self, guide: Guide, language: Language = "en") -> None:
        self.guide = guide
        self.language = language
        self.hint: Hint | None = None

    @property
    def text(self) -> str | None:
        """The hint in the operator's language; None where there is nothing to say."""
        hint = self.hint
        return None if hint is None else hint.text(self.language)

    def follow(self, result: LiveResult, measures: Measures | None) -> None:
        """The hint after this result; none without a picture."""
        hint = None
        try:
            if measures is not None and result.frame is not None:
                hint = self.guide.advise(measures, result.score, result.frame.captured_ns / 1e9)
        finally:
            self.hint = hint

    def idle(self) -> None:
        """Without a picture there is nothing to advise."""
        self.hint = None

    def close(self) -> None:
        """Nothing to release."""
