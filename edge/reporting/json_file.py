"""JSON files of reports."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def json_file(content: Mapping[str, Any]) -> bytes:
    """A JSON file, six significant digits; null where a number is not finite."""
    text = json.dumps(_tidy(content), indent=2, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode(errors="backslashreplace")  # file names may hold bytes that are no UTF-8


def _tidy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _tidy(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_tidy(entry) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
