"""What the kit says about one picture: a value with a verdict, or no value with a reason."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Verdict = Literal["good", "usable", "reject"]
Reason = Literal["no_frame", "stalled", "frozen", "no_retina", "ambiguous_field", "corrupt_frame", "engine_fault"]


VERDICT_COLOURS = {"good": "#0b6e4f", "usable": "#d98a00", "reject": "#b3261e"}
STAGES = ("preprocess", "gate", "infer", "post")  # one after the other; what else is timed is a part of these


@dataclass(frozen=True)
class Algorithm:
    """Who computed a score, in the terms of DICOM TID 2102 "Quality Rating Identification"."""

    name: str
    version: str
    manufacturer: str
    parameters: str

    def to_dict(self) -> dict[str, str]:
        """JSON-ready form."""
        return {
            "name": self.name,
            "version": self.version,
            "manufacturer": self.manufacturer,
            "parameters": self.parameters,
        }


@dataclass(frozen=True)
class Score:
    """Quality of one picture.

    Attributes:
        value: 0-100, or None, in which case `reason` says why.
        raw: the network's output in points before it is clipped to 0-100; None without a value.
        verdict: ``good``, ``usable`` or ``reject`` by the card's thresholds; None without a value.
        reason: why there is no value; None with a value.
        frame_index: index of the picture in its source; None for a single image or without a picture.
        captured_ns: monotonic capture time of the picture; None where it is not known.
        stage_ms: duration of each stage in milliseconds (`preprocess`, `gate`, `infer`, `post`; on
            TensorRT also the parts of `infer`: `h2d`, `gpu_compute`, `d2h`, and `enqueue`).
        algorithm: who computed it.
    """

    value: float | None
    raw: float | None = None
    verdict: Verdict | None = None
    reason: Reason | None = None
    frame_index: int | None = None
    captured_ns: int | None = None
    stage_ms: Mapping[str, float] = field(default_factory=dict)
    algorithm: Algorithm | None = None

    @property
    def total_ms(self) -> float:
        """Duration of the whole scoring in milliseconds."""
        return sum(self.stage_ms.get(stage, 0.0) for stage in STAGES)

    def __post_init__(self) -> None:
        if (self.value is None) == (self.reason is None):
            raise ValueError(f"expected either a value or a reason, found value {self.value} and reason {self.reason}")

    def _repr_html_(self) -> str:
        """How a notebook shows it: a bar from 0 to 100 in the colour of the verdict, or the reason."""
        colour = VERDICT_COLOURS.get(self.verdict or "", "#7b8794")
        words = self.verdict if self.value is not None else f"no score: {self.reason}"
        head = f"<b>{'-' if self.value is None else f'{self.value:.1f}'}</b> {words}"
        bar = f'<div style="width:{self.value or 0:.1f}%;height:100%;background:{colour}"></div>'
        model = "" if self.algorithm is None else f"{self.algorithm.name} {self.algorithm.version}, "
        small = html.escape(f"{model}{self.total_ms:.0f} ms")
        return (
            f'<div style="width:16em">{head}<div style="height:.6em;background:#e3e7eb">{bar}</div>'
            f"<small>{small}</small></div>"
        )

    def to_dict(self) -> dict[str, Any]:
        """The names that every JSON output of the kit uses."""
        return {
            "score": None if self.value is None else round(self.value, 3),
            "raw": None if self.raw is None else round(self.raw, 3),
            "verdict": self.verdict,
            "reason": self.reason,
            "stage_ms": {stage: round(ms, 3) for stage, ms in self.stage_ms.items()},
            "algorithm": None if self.algorithm is None else self.algorithm.to_dict(),
        }


@dataclass(frozen=True)
class Thresholds:
    """Scores from which a picture is ``usable`` and ``good``; below `usable` it is ``reject``."""

    usable: float
    good: float

    def __post_init__(self) -> None:
        if not 0 <= self.usable <= self.good <= 100:
            raise ValueError(f"thresholds: expected 0 <= usable <= good <= 100, found {self.usable} and {self.good}")

    def verdict(self, value: float) -> Verdict:
        """The verdict on a score."""
        return "good" if value >= self.good else "usable" if value >= self.usable else "reject"


@dataclass(frozen=True)
class RawRange:
    """Raw values, in points before they are clipped to 0-100, that a network of the card's training can give.

    A value outside of it comes from a graph that is not the card's, or from an engine that fails.
    """

    low: float = -100.0
    high: float = 200.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"raw_range: expected low < high, found {self.low} and {self.high}")

    def holds(self, values: npt.NDArray[np.floating[Any]]) -> bool:
        """Whether all values lie inside; NaN never does."""
        return bool(((values >= self.low) & (values <= self.high)).all())
