"""The words that an operator meets, in every language: hints, page and terminal share one table."""

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
REASONS = {  # why there is no score: the key of its text
    "no_frame": "camera_lost",
    "stalled": "camera_stalled",
    "frozen": "picture_frozen",
    "no_retina": "no_retina",
    "ambiguous_field": "ambiguous_field",
    "corrupt_frame": "corrupt_frame",
    "engine_fault": "scoring_failed",
}
DECIMAL_COMMA: tuple[Language, ...] = ("es", "fr")


@cache
def texts() -> Mapping[str, Mapping[Language, str]]:
    """The table of texts, by key and language (`assets/texts.json`); the code of a hint is the key of its text."""
    table: Mapping[str, Mapping[Language, str]] = json.loads(
        (files("fthnet_kit.edge") / "assets" / "texts.json").read_text(encoding="utf-8")
    )
    return table


def words_in(language: Language) -> dict[str, str]:
    """All texts in one language, by key.

    Raises:
        ValueError: not one of `LANGUAGES`.
    """
    if language not in LANGUAGES:
        raise ValueError(f"language: expected one of {', '.join(LANGUAGES)}, found {language!r}")
    return {key: text[language] for key, text in texts().items()}


class Words:
    """What the terminal says in one language, with numbers as they are written there.

    Args:
        language: one of `LANGUAGES`.

    Raises:
        ValueError: not one of `LANGUAGES`.
    """

    def __init__(self, language: Language = "en") -> None:
        self.language = language
        self._words = words_in(language)

    def say(self, key: str, **values: object) -> str:
        """A text with its values in place; a space that may not break is a plain one, so that logs can be searched.

        Raises:
            KeyError: no such text, or a value that it needs is missing.
        """
        return self._words[key].format(**values).replace("\u00a0", " ")

    def small(self, key: str) -> str:
        """A text as part of a line: its first letter is small."""
        text = self.say(key)
        return text[:1].lower() + text[1:]

    def count(self, key: str, number: int, **values: object) -> str:
        """A text in its singular or plural: `key_one` or `key_other`, by the language's rule."""
        form = "one" if self.is_singular(number) else "other"
        return self.say(f"{key}_{form}", number=number, **values)

    def is_singular(self, number: int) -> bool:
        """Whether a count takes the singular: one thing does, in French none too, and Chinese has no plural."""
        return number == 1 or (self.language == "fr" and number == 0)

    def number(self, value: float, digits: int = 0) -> str:
        """A number with the language's decimal sign."""
        text = f"{value:.{digits}f}"
        return text.replace(".", ",") if self.language in DECIMAL_COMMA else text
