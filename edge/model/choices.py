"""Names of the precisions."""

from __future__ import annotations

from typing import Literal

Precision = Literal["auto", "fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("auto", "fp32", "fp16", "int8")
