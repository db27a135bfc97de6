"""The exposure that best shots aim at: learned from the pictures of this camera that can be used."""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import Protocol

MOST_FRAMES = 600  # the newest usable ones: some eyes


class Aim(Protocol):
    """The median luminance of a well exposed field."""

    @property
    def stops(self) -> float | None:
        """Below white; None while it is not known."""

    def note(self, score: float | None, middle_stops: float) -> None:
        """One frame's score and its field's median luminance, in stops below white."""


class LearnedAim:
    """The middle of what usable frames had so far: half of them were darker, half were brighter.

    Args:
        usable: score from which a frame counts.
    """

    def __init__(self, usable: float) -> None:
        self._usable = usable
        self._middles: deque[float] = deque(maxlen=MOST_FRAMES)

    @property
    def stops(self) -> float | None:
        """Below white; None before the first usable frame."""
        return median(self._middles) if self._middles else None

    def note(self, score: float | None, middle_stops: float) -> None:
        """One frame; one that is not usable says nothing."""
        if score is not None and score >= self._usable:
            self._middles.append(middle_stops)
