"""The words of page, hints and terminal: all in one table, all in every language, none elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fthnet_kit.bench.quality.session import FACTORS
from fthnet_kit.edge.guidance.texts import CODES, LANGUAGES, REASONS, Language, texts, words_in
from fthnet_kit.edge.outputs.preview.assets import PAGE, TOKEN_PAGE, fill, read_assets
from fthnet_kit.edge.outputs.terminal import STAGES

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "edge" / "assets" / "preview"
PAGES = (PAGE, TOKEN_PAGE)
SCRIPT = (FOLDER / "preview.js").read_text(encoding="utf-8")
PLACE = re.compile(r"\{\{(\w+)\}\}")
SPOKEN_ATTRIBUTES = {"alt", "aria-label", "aria-description", "placeholder", "title", "value"}
SYMBOLS = {"–", "A", "F", "R", ""}  # a dash for what is unknown, and keys of the keyboard


class Spoken(HTMLParser):
    """What a page says: its texts, and the attributes that browsers show or read out."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        unseen = {"value"} if tag == "option" or ("type", "radio") in attrs else set()
        self.found += [value or "" for name, value in attrs if name in SPOKEN_ATTRIBUTES - unseen]

    def handle_data(self, data: str) -> None:
        self.found.append(data)


def spoken(page: str) -> list[str]:
    parser = Spoken()
    parser.feed(page)
    return parser.found


def script_strings() -> Iterator[tuple[str, bool]]:
    """The literal parts of all strings of the script, and whether they are parts of a template."""
    code = re.sub(r"//.*", "", SCRIPT)
    for quoted, template in re.findall(r'"((?:[^"\\\n]|\\.)*)"|`((?:[^`\\]|\\.)*)`', code):
        for part in re.split(r"\$\{[^}]*\}", template) if template else [quoted]:
            yield part, bool(template)


def keys_used() -> set[str]:
    """By the pages, the script and the server."""
    used = {key for page in PAGES for key in PLACE.findall((FOLDER / page).read_text(encoding="utf-8"))}
    used |= set(re.findall(r'\bsay\("(\w+)"', SCRIPT))
    used |= set(re.findall(r'withUnit\("(\w+)"', SCRIPT))
    for module in ("server.py", "handlers.py", "operations.py"):
        code = (ROOT / "edge" / "outputs" / "preview" / module).read_text(encoding="utf-8")
        used |= set(re.findall(r'refusal\(\d+, "(\w+)"', code)) | set(re.findall(r'\.words\["(\w+)"\]', code))
    return (used - {"texts"}) | set(CODES) | terminal_keys()


def terminal_keys() -> set[str]:
    """By the terminal of `run` and `session`; a key that is put together is made of names that the kit defines."""
    modules = ("edge/outputs/terminal.py", "edge/cli/run.py", "edge/deployment/run_assembly.py")
    code = "".join((ROOT / module).read_text(encoding="utf-8") for module in (*modules, "bench/commands/group.py"))
    used = set(re.findall(r'\.(?:say|small)\(\s*"(\w+)"', code)) | set(REASONS.values()) | {"good", "usable", "reject"}
    used |= {f"{key}_{form}" for key in re.findall(r'\.count\("(\w+)"', code) for form in ("one", "other")}
    return used | {f"stage_{name.replace(' ', '_')}" for name in STAGES} | {f"factor_{name}" for name in FACTORS}


def test_every_text_is_there_in_every_language() -> None:
    for key, text in texts().items():
        assert tuple(text) == LANGUAGES, key
        assert all(words.strip() == words and words for words in text.values()), key


def test_a_text_has_the_same_places_in_every_language() -> None:
    for key, text in texts().items():
        assert len({tuple(sorted(re.findall(r"\{(\w+)\}", words))) for words in text.values()}) == 1, key


def test_the_table_has_what_is_used_and_nothing_else() -> None:
    assert keys_used() == set(texts())


def test_no_key_stands_twice_in_the_table() -> None:
    pairs = json.loads((ROOT / "edge/assets/texts.json").read_text(encoding="utf-8"), object_pairs_hook=list)
    assert len({key for key, _ in pairs}) == len(pairs)


def test_no_key_is_made_up_where_the_page_runs() -> None:
    """Otherwise nobody could tell here which keys are used."""
    calls = re.findall(r"\b(?:say|withUnit)\(([^),]*)", SCRIPT)
    assert all(re.fullmatch(r'"\w+"|key', argument) for argument in calls), calls


@pytest.mark.parametrize("name", PAGES)
def test_the_pages_have_no_words_of_their_own(name: str) -> None:
    for text in spoken((FOLDER / name).read_text(encoding="utf-8")):
        assert PLACE.sub("", text).strip() in SYMBOLS, text


def test_the_script_has_no_words_of_its_own() -> None:
    """No words in templates, no two words or capital in other strings, and no single word that is shown as it is."""
    technical = {"Content-Type", "POST", "M", "L", "use strict", "viewBox"}
    technical |= {"stream.mjpg?", "api/best.jpg?", "api/best/"}
    for text, in_template in script_strings():
        words = re.findall(r"[^\W\d_]+" if in_template else r"[^\W\d_]+(?: [^\W\d_]+)+|[A-Z][^\W\d_]*", text)
        assert not words or text in technical, text
    assert not re.search(r'(?:setText\("[\w-]+", |\btell\(|textContent = |\bwords: \[)["`]\w', SCRIPT)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_pages_are_whole(language: Language) -> None:
    assets = read_assets(language)
    for name in PAGES:
        page = assets[name].decode()
        assert "{{" not in page
        assert page.splitlines()[1] == f'<html lang="{texts()["lang"][language]}">'
    inside = re.search(r'<script id="texts" type="application/json">(.*?)</script>', assets[PAGE].decode(), re.DOTALL)
    assert inside is not None
    assert json.loads(inside[1]) == words_in(language)


def test_words_cannot_become_markup() -> None:
    evil = {"a": '"><script>alert(1)</script>&'}
    assert fill('<p title="{{a}}">{{a}}</p>', evil).count("<") == 2
    assert "</script>" not in fill("{{texts}}", evil)
    assert json.loads(fill("{{texts}}", evil)) == evil


def test_a_text_that_is_not_there() -> None:
    with pytest.raises(KeyError):
        fill("{{nothing}}", {})


def test_page_and_guidance_call_a_missing_retina_the_same() -> None:
    assert texts()["no_retina"] == texts()["no_eye"]
