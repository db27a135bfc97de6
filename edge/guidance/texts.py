"""The words of the hints, in every language."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Literal, get_args

Code = Literal[
    "no_eye",
    "blink",
    "too_dark",
    "too_bright",
    "move_left",
    "move_right",
    "move_up",
    "move_down",
    "hold_still",
    "out_of_focus",
    "uneven",
    "lens_dirty",
]
CODES: tuple[Code, ...] = get_args(Code)  # in the order of priority: an earlier defect spoils the later measures
Language = Literal["en", "es", "zh", "fr"]
LANGUAGES: tuple[Language, ...] = get_args(Language)


@cache
def texts() -> Mapping[Code, Mapping[Language, str]]:
    """The table of texts, by code and language (`assets/guidance.json`)."""
    table: Mapping[Code, Mapping[Language, str]] = json.loads(
        (files("fthnet_kit.edge") / "assets" / "guidance.json").read_text(encoding="utf-8")
    )
    return table
