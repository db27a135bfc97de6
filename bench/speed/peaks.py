"""What a machine could do at most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Peaks:
    """The roofs for one precision.

    Attributes:
        name: whose they are.
        tflops: tera-operations per second of what runs in floating point, dense.
        int8_tops: of what runs in INT8; None where that is not known.
        memory_gb_s: GB of 10⁹ bytes per second, read and written together.
    """

    name: str
    tflops: float
    int8_tops: float | None
    memory_gb_s: float


class Machine(Protocol):
    """Something that has peaks."""

    def peaks(self, precision: str) -> Peaks:
        """The roofs for a precision."""
