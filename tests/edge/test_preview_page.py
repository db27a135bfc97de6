"""The preview page in a real browser: scoring, guidance, the best shot, and every way in which it can go wrong."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import pytest

from fthnet_kit.edge.frame import Frame
from fthnet_kit.edge.guidance.texts import CODES, LANGUAGES, Language, texts
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.loop.live_loop import LiveLoop
from fthnet_kit.edge.model.bundle import shipped_bundle
from fthnet_kit.edge.model.card import CARD_NAME, ModelCard
from fthnet_kit.edge.model.field import find_field
from fthnet_kit.edge.model.preprocess import Preprocessing
from fthnet_kit.edge.model.score import Reason
from fthnet_kit.edge.outputs.best_shot.eye_context import EyeContext
from fthnet_kit.edge.outputs.preview.access import Address
from fthnet_kit.edge.outputs.preview.board import WaitingShot
from tests.bench.browser import chromium
from tests.conftest import fake_scorer, make_card
from tests.edge.test_live import ScriptedCamera, picture

pytest.importorskip("tornado", reason="needs the extra [serve]")
pytest.importorskip("prometheus_client", reason="needs the extra [serve]")
pytest.importorskip("playwright.sync_api", reason="needs Playwright")

from fthnet_kit.edge.outputs.preview.server import PreviewServer
from tests.edge.test_server import make_result, wait_for

pytestmark = pytest.mark.slow

TOKEN = "0123456789abcdef"
WIDTHS = {375: 812, 1280: 800}
HEIGHTS = {320: 568, 768: 1024, **WIDTHS}
PICTURES = os.environ.get("FTHNET_PREVIEW_PICTURES")  # a folder for pictures of the page, to be looked at


@dataclass
class Scene:
    """What the stand-in for the live loop offers, twenty times a second."""

    score: float | None = 74.0
    reason: Reason | None = None
    hint: str | None = None
    shot: WaitingShot | None = None
    silent: bool = False


@dataclass
class Stage:
    """A server with a thread that offers the scene; `decisions` is what the page asked for."""

    image: Image
    address: Address = field(default_factory=lambda: Address("127.0.0.1", 0))
    token: str | None = None
    scene: Scene = field(default_factory=Scene)
    decisions: list[tuple[str, str]] = field(default_factory=list)
    fault: OSError | None = None
    language: Language = "en"
    card: dict[str, Any] = field(default_factory=lambda: {"preprocessing": Preprocessing(field_crop="square")})
    takes_eye: bool = False
    eye: EyeContext | None = None

    def __post_init__(self) -> None:
        EyeContext.parse(b"{}")  # a run has loaded the schema's library with the model's card
        self._stop = threading.Event()
        self.open()
        threading.Thread(target=self._offer, daemon=True).start()

    def open(self) -> None:
        card = make_card(name="demo", version="0.3.0", **self.card)
        self.server = PreviewServer(
            self.address,
            self.token,
            card,
            accept=lambda shot: self._decide("accept", shot),
            retake=lambda shot: self._decide("retake", shot),
            max_clients=2,
            language=self.language,
            set_eye=self._set_eye if self.takes_eye else None,
            eye=lambda: self.eye,
        )
        self.address = self.server.address

    def close(self) -> None:
        self._stop.set()
        self.server.close()

    def _decide(self, action: str, shot: str) -> None:
        if self.fault is not None:
            raise self.fault
        self.decisions.append((action, shot))

    def _set_eye(self, content: bytes) -> None:
        self.eye = EyeContext.parse(content)

    def show(self, **scene: Any) -> None:
        self.scene = Scene(**scene)

    def make_shot(self, name: str = "shot-1") -> WaitingShot:
        return WaitingShot(name, self.image, 86.0, "good", datetime.now(timezone.utc))

    def _offer(self) -> None:
        index = 0
        while not self._stop.wait(0.05):
            scene = self.scene
            if scene.silent:
                continue
            wobble = 3 * np.sin(index / 9) if scene.score is not None else 0
            value = None if scene.score is None else float(np.clip(scene.score + wobble, 0, 100))
            result = make_result(value, scene.reason, index, size=(8, 8))
            if result.frame is not None:
                image = self.image.copy()
                image[:4, :4] = index % 256
                result = replace(result, frame=Frame(image, index, result.frame.captured_ns))
            self.server.offer(result, scene.hint, scene.shot)
            index += 1


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


VITALS = {"temperature_c": 51.5, "throttling": (), "memory_available_mb": 4312, "memory_total_mb": 8192}


@pytest.fixture
def stage_in(photograph: Image, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Language], Stage]]:
    """A stage whose page speaks a language."""
    monkeypatch.setattr("fthnet_kit.edge.outputs.preview.server.read_vitals", lambda: VITALS)
    made: list[Stage] = []

    def make(language: Language) -> Stage:
        image = cv2.resize(photograph, (1280, round(1280 * photograph.shape[0] / photograph.shape[1])))
        made.append(Stage(image, language=language))
        return made[-1]

    yield make
    for stage in made:
        stage.close()


@pytest.fixture
def stage(stage_in: Callable[[Language], Stage]) -> Stage:
    return stage_in("en")


class Tab:
    """An open page that notes its messages and requests."""

    def __init__(self, browser: Any, url: str, width: int = 1280, **options: Any) -> None:
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.context = browser.new_context(viewport={"width": width, "height": HEIGHTS[width]}, **options)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)

    def __enter__(self) -> Tab:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def text(self, name: str) -> str:
        return self.page.locator(f"#{name}").text_content()

    def wait(self, expression: str, seconds: float = 10) -> float:
        """Wait until an expression holds; how long it took. (Playwright's own way needs `eval`, which our CSP bans.)"""
        started = time.monotonic()
        while not self.page.evaluate(expression):
            assert time.monotonic() - started < seconds, (expression, self.page.locator("body").inner_text())
            self.page.wait_for_timeout(30)
        return time.monotonic() - started

    def wait_for_text(self, name: str, text: str, seconds: float = 10) -> float:
        return self.wait(f"document.getElementById('{name}').textContent.includes({text!r})", seconds)

    def picture(self, name: str) -> None:
        """Taken where someone wants to look at it."""
        if PICTURES:
            self.page.screenshot(path=Path(PICTURES) / name, full_page=True)

    def quiet(self, url: str) -> None:
        """No message on the console, no request to anywhere else, nothing wider than the window."""
        assert not self.messages
        assert all(request.startswith(url) for request in self.requests)
        assert self.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


@pytest.mark.slow
def test_the_score_changes_the_camera_goes_and_comes_back(browser: Any) -> None:
    """The real loop with a camera that is unplugged."""
    plugged = threading.Event()
    plugged.set()
    value = [75.0]

    class Camera(ScriptedCamera):
        def open(self) -> None:
            self.refuse_opens = 0 if plugged.is_set() else 1
            super().open()

    camera = Camera(lambda index: picture(index) if plugged.is_set() else None, fps=20)
    loop = LiveLoop(lambda: camera, fake_scorer(lambda images: value[0]))
    server = PreviewServer(Address("127.0.0.1", 0), None, make_card(), summary=loop.summary)

    def run() -> None:
        for result in loop.results():
            server.offer(result)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        with Tab(browser, server.url) as tab:
            tab.wait_for_text("score", "75")
            assert tab.text("verdict-word") == "Good"
            value[0] = 31.0
            tab.wait_for_text("score", "31", 3)
            assert tab.text("verdict-word") == "Reject"
            tab.wait("document.getElementById('picture').naturalWidth === 80")
            plugged.clear()
            assert tab.wait_for_text("banner-title", "Camera lost", 4) < 2
            assert tab.text("score") == "–"
            assert tab.text("camera") == "lost"
            assert "cable" in tab.text("banner-words")
            assert tab.page.locator("#old-picture").is_visible()
            plugged.set()
            tab.wait_for_text("score", "31")
            assert not tab.page.locator("#banner").is_visible()
            assert not tab.page.locator("#old-picture").is_visible()
            tab.quiet(server.url)
    finally:
        loop.stop()
        thread.join()
        server.close()


def every_scene(stage: Stage) -> list[dict[str, Any]]:
    """Good, usable, rejected with a hint, a shot that waits, and every reason without a score."""
    scenes: list[dict[str, Any]] = [{"score": 84.0}, {"score": 50.0}, {"score": 20.0, "hint": "Hold still"}]
    return [*scenes, {"shot": stage.make_shot()}, *({"score": None, "reason": reason} for reason in get_args(Reason))]


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_nothing_in_any_state(browser: Any, stage: Stage, photograph: Image, width: int) -> None:
    """Names, roles, contrast, landmarks: the rules of axe-core, in Chromium."""
    axe = pytest.importorskip("axe_playwright_python.base", reason="needs axe-playwright-python").AXE_SCRIPT
    guarded = Stage(photograph[::4, ::4].copy(), token=TOKEN)
    stage.takes_eye = True
    stage.server.close()
    stage.open()
    try:
        with Tab(browser, stage.server.url, width) as tab, Tab(browser, guarded.server.url, width) as asked:
            tab.wait_for_text("verdict-word", "Good")
            for page in (tab.page, asked.page):
                page.evaluate(axe)
            assert violations(asked.page) == []
            tab.page.keyboard.press("f")
            tab.page.locator("#eye-state").click()
            for scene in every_scene(stage):
                stage.show(**scene)
                time.sleep(0.5)
                assert violations(tab.page) == [], scene
            stage.show(silent=True)
            tab.wait_for_text("banner-title", "Scoring has stopped")
            assert violations(tab.page) == []
    finally:
        guarded.close()


def violations(page: Any) -> list[str]:
    found = page.evaluate("axe.run()")["violations"]
    return [f"{rule['id']}: {node['html'][:120]}" for rule in found for node in rule["nodes"]]


@pytest.mark.parametrize("reason", get_args(Reason))
def test_no_score_is_never_without_its_reason(browser: Any, stage: Stage, reason: Reason) -> None:
    with Tab(browser, stage.server.url) as tab:
        tab.wait_for_text("verdict-word", "Good")
        assert tab.text("why") == ""
        stage.show(score=None, reason=reason)
        tab.wait_for_text("verdict-word", "No score")
        why = tab.text("why")
        assert len(why) > 10
        tab.wait_for_text("spoken", f"No score: {why}")
        if reason in ("ambiguous_field", "corrupt_frame"):
            assert tab.text("hint")  # and what to do


@pytest.mark.parametrize("demonstration", [True, False])
def test_only_the_demonstration_model_is_called_so(browser: Any, stage: Stage, demonstration: bool) -> None:
    shipped = ModelCard.read(shipped_bundle() / CARD_NAME).weights_sha256
    stage.card["weights_sha256"] = shipped if demonstration else "1" * 64
    stage.server.close()
    stage.open()
    with Tab(browser, stage.server.url) as tab:
        tab.wait_for_text("verdict-word", "Good")
        assert tab.page.locator("#demonstration").is_visible() == demonstration


def test_what_the_device_cannot_measure_has_no_row(browser: Any, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    with Tab(browser, stage.server.url) as tab:
        tab.wait_for_text("temperature", "52")
    monkeypatch.setitem(VITALS, "temperature_c", None)
    stage.server.close()
    stage.open()
    with Tab(browser, stage.server.url) as tab:
        tab.wait_for_text("memory", "4.3")
        assert not tab.page.locator("#temperature").is_visible()


@pytest.mark.parametrize("width", [375, 768])
def test_the_chart_and_the_best_shot_are_seen_together_on_a_phone(browser: Any, stage: Stage, width: int) -> None:
    with Tab(browser, stage.server.url, width) as tab:
        stage.show(shot=stage.make_shot(), hint="Hold still")
        names = ["history", "shot", "picture", "score"]
        tab.wait(f"{names}.every(name => document.getElementById(name).getClientRects().length)")
        boxes = {name: tab.page.locator(f"#{name}").bounding_box() for name in names}
        below = {name: box["y"] + box["height"] for name, box in boxes.items()}
        assert boxes["score"]["y"] >= 0
        assert below["picture"] < boxes["history"]["y"] < below["history"] <= boxes["shot"]["y"]
        assert below["shot"] <= HEIGHTS[width]


def test_the_shots_of_the_session_and_what_became_of_them(browser: Any, stage: Stage) -> None:
    def shot(eye: int, take: int = 1) -> WaitingShot:
        return replace(stage.make_shot(f"{eye}-{take}-1"), eye=eye, take=take)

    with Tab(browser, stage.server.url) as tab:
        tab.wait_for_text("verdict-word", "Good")
        assert not tab.page.locator("#shots").is_visible()
        for eye, key in ((1, "a"), (2, "r"), (3, "")):
            stage.show(shot=shot(eye))
            tab.wait_for_text("shot-list", f"Eye {eye}")
            tab.wait("!document.getElementById('shot').hidden")
            tab.page.keyboard.press(key or "x")
            tab.wait(f"document.getElementById('shot').hidden === {'true' if key else 'false'}")
        stage.show(shot=shot(2, take=2))
        tab.wait("document.querySelectorAll('#shot-list li').length === 4")
        rows = tab.page.locator("#shot-list li").all_inner_texts()
        ends = ["waits for you", "kept, unconfirmed", "put aside", "accepted"]
        assert [row.split()[:2] for row in rows] == [["Eye", "2"], ["Eye", "3"], ["Eye", "2"], ["Eye", "1"]]
        assert [row.endswith(end) for row, end in zip(rows, ends, strict=True)] == [True] * 4, rows


def test_the_field_is_drawn_on_request_where_it_lies(browser: Any, stage: Stage) -> None:
    with Tab(browser, stage.server.url) as tab:
        tab.wait("document.getElementById('picture').naturalWidth > 0")
        button = tab.page.get_by_role("button", name="Field")
        assert button.get_attribute("aria-pressed") == "false"
        assert not tab.page.locator("#field").is_visible()
        button.click()
        tab.wait("!document.getElementById('field').hasAttribute('hidden')")
        drawn = {name: float(tab.page.locator("#field-square").get_attribute(name)) for name in ("x", "y", "width")}
        box = find_field(stage.image)
        share = tab.page.evaluate("document.getElementById('picture').naturalWidth") / stage.image.shape[1]
        assert drawn == pytest.approx({"x": box.x * share, "y": box.y * share, "width": box.width * share}, abs=12)
        tab.page.keyboard.press("f")
        tab.wait("document.getElementById('field').hasAttribute('hidden')")


def test_letters_that_are_typed_decide_nothing(browser: Any, stage: Stage) -> None:
    with Tab(browser, stage.server.url) as tab:
        stage.show(shot=stage.make_shot())
        tab.wait("!document.getElementById('shot').hidden")
        tab.page.evaluate("document.body.append(document.createElement('input'))")
        tab.page.locator("body > input").press_sequentially("arf")
        time.sleep(0.5)
        assert stage.decisions == []
        assert tab.page.locator("#shot").is_visible()


STATES: dict[str, tuple[dict[str, Any], str, str]] = {
    "scoring": ({}, "verdict-word", "Good"),
    "guidance": ({"score": 46.0, "hint": "Move a little to the left"}, "hint", "Move a little to the left"),
    "best_shot": ({"score": 84.0, "shot": True}, "shot-score", "86"),
    "camera_lost": ({"score": None, "reason": "no_frame"}, "banner-title", "Camera lost"),
    "engine_fault": ({"score": None, "reason": "engine_fault"}, "banner-title", "Scoring has failed"),
}


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_the_five_states(browser: Any, stage: Stage, width: int) -> None:
    url = stage.server.url
    with Tab(browser, url, width) as tab:
        tab.wait("document.getElementById('picture').naturalWidth > 0")
        for score in (22.0, 47.0, 71.0, 58.0):  # something to see in the history
            stage.show(score=score)
            time.sleep(1.5)
        for name, (scene, place, text) in STATES.items():
            stage.show(**{**scene, "shot": stage.make_shot() if scene.get("shot") else None})
            tab.wait_for_text(place, text)
            if name == "best_shot":
                tab.wait("document.getElementById('shot-picture').naturalWidth > 0")
            time.sleep(0.3)
            tab.picture(f"preview_{name}_{width}.png")
            tab.quiet(url)


@pytest.mark.parametrize(
    ("language", "lang", "verdict", "lost", "advice", "state"),
    [
        ("es", "es", "Buena", "Cámara desconectada", "Compruebe el cable", "desconectada"),
        ("zh", "zh-Hans", "良好", "相机已断开", "请检查相机的连接线", "已断开"),
        ("fr", "fr", "Bonne", "Caméra déconnectée", "Vérifiez le câble", "déconnectée"),
    ],
)
def test_the_page_speaks_the_language_of_the_hints(
    browser: Any,
    stage_in: Callable[[Language], Stage],
    language: Language,
    lang: str,
    verdict: str,
    lost: str,
    advice: str,
    state: str,
) -> None:
    stage = stage_in(language)
    with Tab(browser, stage.server.url) as tab:
        tab.wait_for_text("verdict-word", verdict)
        assert tab.page.evaluate("document.documentElement.lang") == lang
        stage.show(score=None, reason="no_frame")
        tab.wait_for_text("banner-title", lost, 3)
        assert advice in tab.text("banner-words")
        assert tab.text("camera") == state
        stage.show(score=None, reason="no_retina")
        tab.wait_for_text("hint", texts()["no_eye"][language], 3)
        tab.quiet(stage.server.url)


LATIN = re.compile(r"[A-Za-z]{2,}")
NOT_TRANSLATED = {"demo", "GB"}


def test_no_english_is_left_on_the_chinese_page(browser: Any, stage_in: Callable[[Language], Stage]) -> None:
    stage = stage_in("zh")
    with Tab(browser, stage.server.url) as tab:
        tab.wait_for_text("verdict-word", "良好")
        for scene in ({"shot": stage.make_shot()}, *({"score": None, "reason": reason} for reason in get_args(Reason))):
            stage.show(**scene)
            time.sleep(0.4)
            shown = tab.page.locator("body").inner_text()
            named = tab.page.evaluate(
                "[...document.querySelectorAll('[alt], [aria-label]')].map((e) => e.alt ?? e.ariaLabel)"
            )
            assert set(LATIN.findall(" ".join([shown, *named]))) <= NOT_TRANSLATED


def long_scenes(stage: Stage, language: Language) -> list[dict[str, Any]]:
    """Every state of the page, and the longest hint."""
    hint = max((texts()[code][language] for code in CODES), key=len)
    shot = stage.make_shot()
    return [
        {"score": 20.0, "hint": hint, "shot": shot},
        {"score": 50.0},
        *({"score": None, "reason": reason} for reason in get_args(Reason)),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_no_language_is_wider_than_the_window(
    browser: Any, stage_in: Callable[[Language], Stage], monkeypatch: pytest.MonkeyPatch, language: Language
) -> None:
    monkeypatch.setitem(VITALS, "throttling", ("gpu-thermal",))
    stage = stage_in(language)
    with Tab(browser, stage.server.url) as tab:
        for number, scene in enumerate(long_scenes(stage, language)):
            stage.show(**scene)
            time.sleep(0.5)
            for width, height in HEIGHTS.items():
                tab.page.set_viewport_size({"width": width, "height": height})
                tab.quiet(stage.server.url)
                assert tab.page.evaluate(CUT_OFF) == []
                tab.picture(f"preview_{language}_{number}_{width}.png")


@pytest.mark.parametrize(
    ("reason", "title"),
    [("stalled", "Camera gives no pictures"), ("frozen", "Picture is frozen"), ("engine_fault", "Scoring has failed")],
)
def test_faults_are_told_with_what_to_do(browser: Any, stage: Stage, reason: Reason, title: str) -> None:
    with Tab(browser, stage.server.url) as tab:
        tab.wait_for_text("verdict-word", "Good")
        tab.wait("document.getElementById('picture').naturalWidth > 0")
        stage.show(score=None, reason=reason)
        assert tab.wait_for_text("banner-title", title) < 2
        assert len(tab.text("banner-words")) > 20
        assert (tab.text("score"), tab.text("verdict-word")) == ("–", "No score")
        assert tab.page.locator("#banner").get_attribute("role") == "alert"
        assert tab.page.locator("#old-picture").is_visible() == (reason != "engine_fault")  # that camera is well


def test_guidance_is_large_and_goes_away(browser: Any, stage: Stage) -> None:
    with Tab(browser, stage.server.url, 375) as tab:
        stage.show(score=45.0, hint="<b>hold still</b>")
        tab.wait_for_text("hint", "<b>hold still</b>")  # words, never markup
        assert tab.text("verdict-word") == "Usable"
        size = tab.page.evaluate("parseFloat(getComputedStyle(document.getElementById('hint')).fontSize)")
        assert size >= 36
        stage.show(score=None, reason="no_retina")
        tab.wait_for_text("hint", "No retina in view")
        assert not tab.page.locator("#banner").is_visible()
        stage.show()
        tab.wait("document.getElementById('hint').textContent === ''")


def test_a_score_that_is_not_renewed_goes_after_a_second(browser: Any, stage: Stage) -> None:
    with Tab(browser, stage.server.url) as tab:
        tab.wait_for_text("verdict-word", "Good")
        stage.show(silent=True)
        too_old = "document.getElementById('why').textContent === 'The last result is too old'"
        assert tab.wait(f"document.getElementById('score').textContent === '–' && {too_old}") < 2
        assert not tab.page.locator("#banner").is_visible()
        tab.wait_for_text("banner-title", "Scoring has stopped", 3)
        stage.show()
        tab.wait_for_text("verdict-word", "Good")
        tab.quiet(stage.server.url)


@pytest.mark.slow
def test_the_page_says_itself_that_the_connection_is_lost(browser: Any, stage: Stage) -> None:
    with Tab(browser, stage.server.url) as tab:
        tab.wait_for_text("verdict-word", "Good")
        stage.server.close()
        took = tab.wait_for_text("banner-title", "No connection", 5)
        assert took < 3
        assert tab.text("score") == "–"
        stage.open()
        tab.wait_for_text("verdict-word", "Good", 15)
        tab.wait("document.getElementById('picture').naturalWidth > 0")
        assert not tab.page.locator("#banner").is_visible()


def test_the_best_shot_is_accepted_by_mouse_and_sent_back_by_key(browser: Any, stage: Stage) -> None:
    url = stage.server.url
    with Tab(browser, url) as tab, Tab(browser, url, 375) as phone:
        tab.wait_for_text("verdict-word", "Good")
        tab.page.keyboard.press("a")  # there is nothing to accept yet
        stage.show(shot=stage.make_shot("one"))
        tab.wait_for_text("shot-verdict", "Good")
        tab.page.get_by_role("button", name="Accept").click()
        tab.wait_for_text("outcome", "Accepted and kept")
        for each in (tab, phone):
            each.wait("document.getElementById('shot').hidden")
        stage.show(shot=stage.make_shot("two"))
        phone.wait("!document.getElementById('shot').hidden")
        phone.page.keyboard.press("r")
        phone.wait_for_text("outcome", "take another")
        tab.wait("document.getElementById('shot').hidden")
        stage.show(shot=stage.make_shot("three"))
        tab.wait("!document.getElementById('shot').hidden")
        tab.page.get_by_role("button", name="Accept").focus()
        tab.page.keyboard.press("Enter")
        wait_for(lambda: len(stage.decisions) == 3)
        assert stage.decisions == [("accept", "one"), ("retake", "two"), ("accept", "three")]
        for each in (tab, phone):
            each.quiet(url)


def test_a_decision_that_fails_is_told(browser: Any, stage: Stage) -> None:
    stage.fault = OSError("the disk is full")
    with Tab(browser, stage.server.url) as tab:
        stage.show(shot=stage.make_shot())
        tab.wait("!document.getElementById('shot').hidden")
        tab.page.keyboard.press("a")
        tab.wait_for_text("outcome", "Not done: the disk is full")
        stage.fault = None
        tab.page.keyboard.press("a")
        tab.wait_for_text("outcome", "Accepted")


@pytest.mark.slow
def test_one_viewer_too_many_is_told_so(browser: Any, stage: Stage) -> None:
    url = stage.server.url
    with Tab(browser, url) as one, Tab(browser, url) as two:
        for tab in (one, two):
            tab.wait_for_text("verdict-word", "Good")
        with Tab(browser, url) as three:
            three.wait_for_text("banner-words", "2 viewers are connected already", 10)
            one.context.close()
            three.wait_for_text("verdict-word", "Good", 15)


def test_the_token_is_asked_for_and_leaves_the_address(browser: Any, photograph: Image) -> None:
    stage = Stage(photograph[::4, ::4].copy(), token=TOKEN)
    try:
        with Tab(browser, stage.server.url, 375) as tab:
            tab.picture("preview_token_375.png")
            tab.page.get_by_label("token").fill("wrong")
            tab.page.get_by_role("button", name="Open").click()
            tab.page.get_by_label("token").fill(TOKEN)
            tab.page.get_by_role("button", name="Open").click()
            tab.wait_for_text("verdict-word", "Good")
            assert tab.page.url == stage.server.url
            tab.wait("document.getElementById('picture').naturalWidth > 0")
            stage.show(shot=stage.make_shot())
            tab.wait("!document.getElementById('shot').hidden")
            tab.page.get_by_role("button", name="Retake").click()
            wait_for(lambda: stage.decisions == [("retake", "shot-1")])
            assert not [request for request in tab.requests if TOKEN in request]
            (cookie,) = tab.context.cookies()
            assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
            assert cookie["value"] != TOKEN
    finally:
        stage.close()


def test_a_session_is_ended_by_its_button(browser: Any, photograph: Image) -> None:
    stage = Stage(photograph[::4, ::4].copy(), token=TOKEN)
    try:
        with Tab(browser, f"{stage.server.url}?token={TOKEN}") as tab:
            tab.wait("!document.getElementById('log-out').hidden")
            (cookie,) = tab.context.cookies()
            tab.page.get_by_role("button", name="Log out").click()
            tab.page.get_by_label("token").wait_for()
            assert not tab.context.cookies()
            tab.context.add_cookies([cookie])  # a copy that somebody kept
            tab.page.goto(stage.server.url)
            tab.page.get_by_label("token").wait_for()
    finally:
        stage.close()


def test_without_a_token_and_without_shots_nothing_is_asked(browser: Any, stage: Stage) -> None:
    with Tab(browser, stage.server.url) as tab:
        tab.wait_for_text("verdict-word", "Good")
        assert tab.page.evaluate("document.getElementById('log-out').hidden && document.getElementById('eye').hidden")


@pytest.mark.parametrize("width", WIDTHS)
def test_the_eye_and_its_patient_are_set_on_the_page(browser: Any, photograph: Image, width: int) -> None:
    stage = Stage(photograph[::4, ::4].copy(), takes_eye=True)
    try:
        with Tab(browser, stage.server.url, width) as tab:
            tab.wait_for_text("eye-state", "Eye not set")
            tab.page.locator("#eye-state").click()
            tab.page.get_by_label("right eye").check()
            tab.page.get_by_label("Patient ID").fill("4711")
            stage.show(shot=stage.make_shot())
            tab.wait("!document.getElementById('shot').hidden")
            tab.page.get_by_label("Name").press_sequentially("Ra^A")  # keys that decide on a shot elsewhere
            tab.page.get_by_label("Date of birth").fill("1970-02-01")
            tab.page.get_by_label("Sex").select_option("F")
            tab.picture(f"preview_eye_{width}.png")
            tab.page.get_by_role("button", name="Set this eye").click()
            tab.wait_for_text("eye-state", "Eye set: right eye")
            assert stage.eye == EyeContext("R", "Ra^A", "4711", "19700201", "F")
            assert stage.decisions == []
            tab.page.get_by_role("button", name="Set this eye").click()  # which eye has to be said each time
            stage.eye = None  # the eye has left
            tab.wait_for_text("eye-state", "Eye not set")
            tab.page.get_by_label("left eye").check()
            tab.page.get_by_role("button", name="Set this eye").click()
            wait_for(lambda: stage.eye is not None)
            assert stage.eye == EyeContext("L", "Ra^A", "4711", "19700201", "F")
            tab.page.get_by_role("button", name="New patient").click()
            wait_for(lambda: stage.eye is None)
            tab.wait("document.querySelector('[name=patient_id]').value === ''")
            assert tab.page.evaluate(CUT_OFF) == []
            assert tab.page.evaluate(CONTRASTS) == []
            tab.quiet(stage.server.url)
    finally:
        stage.close()


def test_a_patient_that_cannot_be_is_told_in_the_pages_language(browser: Any, photograph: Image) -> None:
    stage = Stage(photograph[::4, ::4].copy(), takes_eye=True, language="es")
    try:
        with Tab(browser, stage.server.url) as tab:
            tab.wait_for_text("eye-state", "Ojo sin indicar")
            tab.page.locator("#eye-state").click()
            tab.page.get_by_label("ojo derecho").check()
            tab.page.get_by_label("Nombre").fill("a\\b")
            tab.page.get_by_role("button", name="Indicar este ojo").click()
            tab.wait_for_text("outcome", "un valor no es admisible")
            assert stage.eye is None
    finally:
        stage.close()


CUT_OFF = """() => [...document.querySelectorAll("p, h1, h2, dl div, dt, dd, span, button")]
  .filter((element) => element.getClientRects().length && !element.closest(".unseen"))
  .filter((element) => {
    const place = element.getBoundingClientRect();
    return place.left < 0 || place.right > innerWidth + 0.5 || element.scrollWidth > element.clientWidth + 1 &&
      getComputedStyle(element).display !== "inline";
  })
  .map((element) => element.id || element.textContent)"""


CONTRASTS = """() => {
  const luminance = (rgb) => {
    const parts = rgb.map((part) => {
      const value = part / 255;
      return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const found = numbers(getComputedStyle(at).backgroundColor);
      if (found.length === 3 || found[3] > 0.8) return found.slice(0, 3);
    }
    return [0, 0, 0];
  };
  const worst = [];
  for (const element of document.querySelectorAll("body *")) {
    const words = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!words || !element.getClientRects().length || element.closest(".unseen")) continue;
    const style = getComputedStyle(element);
    const colour = element instanceof SVGElement ? style.fill : style.color;
    const pair = [luminance(numbers(colour)), luminance(ground(element))].sort((a, b) => b - a);
    const contrast = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (contrast < 4.5) worst.push(`${element.id || element.tagName} ${contrast.toFixed(1)}`);
  }
  return worst;
}"""


def test_contrast_names_and_motion(browser: Any, stage: Stage) -> None:
    with Tab(browser, stage.server.url, reduced_motion="reduce") as tab:
        for scene in (
            {"score": 90.0, "hint": "hold still", "shot": stage.make_shot()},
            {"score": 50.0},
            {"score": 10.0},
            {"score": None, "reason": "engine_fault"},
        ):
            stage.show(**scene)
            time.sleep(0.5)
            assert tab.page.evaluate(CONTRASTS) == []
        assert tab.page.evaluate("getComputedStyle(document.getElementById('gauge-value')).transitionDuration") == "0s"
        assert tab.page.evaluate("[...document.images].every((image) => image.alt)")
