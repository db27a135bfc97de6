"""The files of the preview page, with their words in the operator's language.

All words stand in one table, `assets/texts.json`. They are put into the pages once, at the start: `{{key}}`
becomes the text, and `{{texts}}` all of them as JSON, for the script.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from importlib.resources import files

from fthnet_kit.edge.guidance.texts import Language, words_in

PAGE, TOKEN_PAGE = "index.html", "token.html"
WRONG_TOKEN_PAGE, WAIT_PAGE = "token.html?wrong", "token.html?wait"  # the same, saying why it is shown again
ASSETS = {  # by the path of the request: the file and its content type
    "/preview.css": ("preview.css", "text/css; charset=utf-8"),
    "/preview.js": ("preview.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
PLACE = re.compile(r"\{\{(\w+)\}\}")


def read_assets(language: Language) -> dict[str, bytes]:
    """Every file that is served, by its name; the pages speak the language."""
    words = words_in(language)
    pages = {name: fill(_read(name), words).encode() for name in (PAGE, TOKEN_PAGE)}
    for name, role in ((WRONG_TOKEN_PAGE, b' role="alert"'), (WAIT_PAGE, b' role="status"')):
        pages[name] = pages[TOKEN_PAGE].replace(role + b" hidden", role)
    return {**pages, **{name: _read(name).encode() for name, _ in ASSETS.values()}}


def fill(page: str, words: Mapping[str, str]) -> str:
    """A page with its words in place.

    Raises:
        KeyError: the page asks for a text that is not there.
    """
    as_json = json.dumps(words, ensure_ascii=False).replace("<", "\\u003c")  # nothing in it can end the element
    return PLACE.sub(lambda found: as_json if found[1] == "texts" else html.escape(words[found[1]]), page)


def _read(name: str) -> str:
    return (files("fthnet_kit.edge") / "assets" / "preview" / name).read_text(encoding="utf-8")
