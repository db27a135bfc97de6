"""What the operator is told, against the truth of the simulated camera."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fthnet_kit.edge.capture.degradations import degrade
from fthnet_kit.edge.capture.simulated_camera import DEFECTS, Handling, Session, SimulatedCamera
from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.guidance.hints import BLINK_S, Guide, Hint, HintPatience, Optics
from fthnet_kit.edge.guidance.measures import Measures, measure
from fthnet_kit.edge.guidance.texts import CODES, LANGUAGES, Code, texts
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.inference.retina_gate import shows_retina
from fthnet_kit.edge.model.preprocess import Preprocessing, prepare
from fthnet_kit.edge.model.score import Score

FPS = 10
USABLE = Score(50.0, verdict="usable")
NO_RETINA = Score(None, reason="no_retina")
PLAIN = Measures(lit=0.5, bright_stops=-2, middle_stops=-2.5, sharpness=1.0, shift=(0.0, 0.0))
SPOILED: dict[str, Measures] = {
    "too_dark": replace(PLAIN, bright_stops=-5.0, middle_stops=-6.0),
    "too_bright": replace(PLAIN, clipped=0.9),
    "move_left": replace(PLAIN, offset=(-0.1, 0.02)),
    "move_right": replace(PLAIN, offset=(0.1, 0.02)),
    "move_up": replace(PLAIN, offset=(0.02, -0.1)),
    "move_down": replace(PLAIN, offset=(0.02, 0.1)),
    "hold_still": replace(PLAIN, shift=(0.1, 0.1)),
    "out_of_focus": replace(PLAIN, sharpness=0.4),
    "uneven": replace(PLAIN, tilt_stops=5.0),
}


def camera(defect: str, seed: int, seconds: float) -> SimulatedCamera:
    session = Session(seconds=seconds, fps=FPS, seed=seed, width=320, height=240, realtime=False, defect=defect)
    return SimulatedCamera(session)


def told(defect: str, seed: int, settle_s: float, seconds: float = 12.0) -> Counter[str | None]:
    """What is said in the frames in which the defect has been there, whole, for `settle_s`."""
    played = camera(defect, seed, seconds)
    guide = Guide()
    said: Counter[str | None] = Counter()
    began: float | None = None
    for index in range(round(seconds * FPS)):
        image, truth = played.render(index)
        now = index / FPS
        retina = shows_retina(prepare(image, Preprocessing(), 1)[0])
        hint = guide.update(image, USABLE if retina else NO_RETINA, now)
        there = truth["defect"] or defect == "none"
        began = None if not there else now if began is None else began
        if began is not None and now - began >= settle_s:
            said[None if hint is None else hint.code] += 1
    return said


def follow(guide: Guide, measures: Measures, start_s: float, seconds: float, score: Score = USABLE) -> list[str | None]:
    found = []
    for step in range(round(seconds * FPS)):
        hint = guide.advise(measures, score, start_s + step / FPS)
        found.append(None if hint is None else hint.code)
    return found


# Against the simulator's truth

SETTLE_S = {"lens_dirty": 10.0, "no_eye": BLINK_S + 0.6}  # dust shows when the eye has moved; a blink ends


@pytest.mark.parametrize("defect", [defect for defect in DEFECTS if defect != "none"])
def test_one_defect_gives_its_hint(defect: str) -> None:
    said = told(defect, 1, SETTLE_S.get(defect, 0.5), 16.0 if defect == "lens_dirty" else 10.0)
    assert said.total() >= 6
    assert said[defect] / said.total() >= 0.9, said


def test_no_defect_gives_no_hint() -> None:
    assert told("none", 1, 0.0).keys() == {None}


@pytest.mark.slow
def test_a_natural_session_is_not_called_dirty() -> None:
    played = camera("", 3, 30.0)
    guide = Guide()
    codes = set()
    for index in range(30 * FPS):
        hint = guide.update(played.render(index)[0], USABLE, index / FPS)
        codes.add(None if hint is None else hint.code)
    assert "lens_dirty" not in codes
    assert {"out_of_focus", "blink", None} <= codes


def test_every_defect_of_the_simulator_has_a_hint() -> None:
    assert set(DEFECTS) == {"none", *CODES}


def test_a_defect_needs_a_known_name() -> None:
    with pytest.raises(InputError, match=r"sim: defect: expected one of none, too_dark.*found 'fog'"):
        Session(defect="fog")


def test_a_natural_session_knows_nothing_of_defects() -> None:
    played = camera("", 3, 2.0)
    assert type(played._handling) is Handling
    assert "defect" not in played.render(5)[1]


def test_a_session_with_a_defect_is_repeatable_and_begins_without_it() -> None:
    for defect in ("too_dark", "lens_dirty", "uneven"):
        first, again = camera(defect, 4, 5.0), camera(defect, 4, 5.0)
        for index in (3, 40):
            np.testing.assert_array_equal(first.render(index)[0], again.render(index)[0])
        assert first.render(40)[1]["defect"]
        assert first.render(3)[1]["defect"] == (defect == "lens_dirty")


# Measures


@pytest.fixture(scope="module")
def frame() -> Image:
    return SimulatedCamera(Session(width=1280, height=960, realtime=False, defect="none", seed=1)).render(0)[0]


def test_measures_do_not_depend_on_the_resolution(frame: Image) -> None:
    large = measure(frame)
    small = measure(cv2.resize(frame, (480, 360), interpolation=cv2.INTER_AREA))
    assert small.lit == pytest.approx(large.lit, abs=0.02)
    assert small.offset == pytest.approx(large.offset, abs=0.006)
    assert small.bright_stops == pytest.approx(large.bright_stops, abs=0.1)
    assert small.tilt_stops == pytest.approx(large.tilt_stops, abs=0.15)
    assert small.sharpness == pytest.approx(large.sharpness, abs=0.1)


def test_light_is_measured_in_stops(frame: Image) -> None:
    darker = degrade(frame, "under_exposure", 0.4)  # 2 stops
    assert measure(frame).bright_stops - measure(darker).bright_stops == pytest.approx(2, abs=0.2)


def test_blur_lowers_sharpness_step_by_step(frame: Image) -> None:
    field = 0.94 * 960
    values = [measure(degrade(frame, "defocus", severity, 0, field)).sharpness for severity in (0, 0.3, 0.5, 0.7, 0.9)]
    assert values == sorted(values, reverse=True)
    assert values[2] < 0.7 * values[0]


@pytest.mark.parametrize("shift", [(24, 0), (0, -18), (-12, 30)])
def test_movement_is_measured_in_field_diameters(frame: Image, shift: tuple[int, int]) -> None:
    moved = cv2.warpAffine(frame, np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32), (1280, 960))
    found = measure(moved, measure(frame)).shift
    assert found == pytest.approx((shift[0] / 902, shift[1] / 902), abs=0.005)


@pytest.mark.parametrize("level", [0, 3])
def test_nothing_lit_measures_nothing(level: int) -> None:
    assert measure(np.full((480, 640, 3), level, np.uint8)) == Measures()


@settings(max_examples=40)
@given(
    height=st.integers(1, 700), width=st.integers(1, 700), channels=st.sampled_from([1, 3, 4]), seed=st.integers(0, 9)
)
def test_any_frame_can_be_measured(height: int, width: int, channels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, channels), np.uint8)
    before = image.copy()
    first = measure(image)
    second = measure(np.ascontiguousarray(image[::-1]), first)
    np.testing.assert_array_equal(image, before)
    for found in (first, second):
        assert 0 <= found.lit <= 1
        assert 0 <= found.clipped <= 1
        assert np.isfinite([*found.offset, found.bright_stops, found.middle_stops, found.tilt_stops]).all()
        assert np.isfinite(found.sharpness)


def test_a_resolution_that_changes_is_no_movement(frame: Image) -> None:
    guide = Guide()
    guide.update(frame, USABLE, 0.0)
    guide.update(frame[:700], USABLE, 0.1)
    assert guide.measures is not None
    assert guide.measures.shift is None


# One hint at a time, with hysteresis


@pytest.mark.parametrize("code", SPOILED)
def test_a_defect_appears_after_a_while_and_goes(code: str) -> None:
    guide = Guide()
    assert set(follow(guide, PLAIN, 0, 2)) == {None}
    said = follow(guide, SPOILED[code], 2, 2)
    assert said[0] is None
    assert said[6:] == [code] * 14  # 0.6 s: speed is an average over half a second
    assert follow(guide, PLAIN, 4, 2)[-1] is None


def test_the_defect_that_hides_the_others_is_named_first() -> None:
    measures = Measures(
        lit=0.5, bright_stops=-5, middle_stops=-6, offset=(0.1, 0), tilt_stops=6, sharpness=0.2, shift=(0.0, 0.0)
    )
    said = []
    guide = Guide()
    now = 0.0
    for repair in ({}, {"bright_stops": -2.0, "middle_stops": -3.0}, {"offset": (0.0, 0.0)}, {"sharpness": 1.0}):
        measures = replace(measures, **repair)
        said.append(follow(guide, measures, now, 3)[-1])
        now += 3
    assert said == ["too_dark", "move_right", "out_of_focus", "uneven"]
    assert list(CODES).index("too_dark") < list(CODES).index("out_of_focus")


def test_a_measure_at_its_limit_does_not_flicker() -> None:
    guide = Guide(patience=HintPatience(stay_s=0.0))
    follow(guide, SPOILED["uneven"], 0, 1)
    rng = np.random.default_rng(0)
    said = [
        guide.advise(replace(PLAIN, tilt_stops=3.0 + rng.uniform(-0.3, 0.3)), USABLE, 1 + step / FPS)
        for step in range(100)
    ]
    assert {hint.code for hint in said if hint} == {"uneven"}
    assert None not in said


def test_a_good_picture_needs_no_advice_on_focus() -> None:
    good = Score(80.0, verdict="good")
    for code, spoiled in SPOILED.items():
        said = follow(Guide(), spoiled, 0, 3, good)
        assert said[-1] == (None if code == "out_of_focus" else code)


def test_a_short_closure_is_a_blink_and_a_long_one_no_eye() -> None:
    guide = Guide()
    follow(guide, PLAIN, 0, 2)
    said = follow(guide, Measures(), 2, 4, NO_RETINA)
    assert said[5] == "blink"
    assert said[-1] == "no_eye"
    assert follow(guide, PLAIN, 6, 2)[-1] is None


def test_without_an_eye_from_the_start() -> None:
    assert follow(Guide(), Measures(), 0, 1, NO_RETINA)[-1] == "no_eye"


def test_a_score_that_falls_with_the_sharpness_is_focus() -> None:
    guide = Guide()
    softer = replace(PLAIN, sharpness=0.8)  # not soft enough for itself
    follow(guide, PLAIN, 0, 2, Score(58.0, verdict="usable"))
    assert follow(guide, softer, 2, 2, Score(55.0, verdict="usable"))[-1] is None
    assert follow(guide, softer, 4, 2, Score(40.0, verdict="usable"))[-1] == "out_of_focus"


@pytest.mark.parametrize(
    ("optics", "expected"),
    [
        (Optics(), ("move_right", "move_down")),
        (Optics(flip_x=True), ("move_left", "move_down")),
        (Optics(flip_x=True, flip_y=True), ("move_left", "move_up")),
        (Optics(axis=(0.2, 0.0)), ("move_left", "move_left")),
        (Optics(axis=(0.0, 0.2)), ("move_up", "move_up")),
    ],
)
def test_left_and_right_as_the_optics_have_them(optics: Optics, expected: tuple[str, str]) -> None:
    for code, wanted in zip(("move_right", "move_down"), expected, strict=True):
        assert follow(Guide(optics), SPOILED[code], 0, 2)[-1] == wanted


@settings(max_examples=60)
@given(
    runs=st.lists(
        st.tuples(st.sampled_from([*SPOILED, "plain", "nothing"]), st.integers(1, 25)), min_size=1, max_size=15
    ),
    fps=st.sampled_from([4, 10, 30]),
    appear_s=st.sampled_from([0.0, 0.2, 0.5]),
    stay_s=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_hints_appear_late_and_stay(runs: list[tuple[str, int]], fps: int, appear_s: float, stay_s: float) -> None:
    patience = HintPatience(appear_s=appear_s, appear_frames=2, stay_s=stay_s)
    guide = Guide(patience=patience)
    shown: list[tuple[float, Hint | None]] = []
    now = 0.0
    for kind, frames in runs:
        for _ in range(frames):
            measures = {"plain": PLAIN, "nothing": Measures()}.get(kind) or SPOILED[kind]
            score = NO_RETINA if kind == "nothing" else USABLE
            shown.append((now, guide.advise(measures, score, now)))
            now += 1 / fps
    for (_, before), (at, after) in itertools.pairwise(shown):
        if before is not None and after != before:
            assert at - before.since_s >= stay_s - 1e-9
        if after is not None and after != before:
            assert after.since_s == at
            assert at >= appear_s
    assert shown[0][1] is None  # one frame is no defect


# The texts


def test_every_hint_in_every_language() -> None:
    for code in CODES:
        for language in LANGUAGES:
            text = Hint(code, 0.0).text(language)
            assert text == text.strip()
            assert 2 <= len(text) <= 32
    for language in LANGUAGES:
        assert len({texts()[code][language] for code in CODES}) == len(CODES)


def test_an_unknown_language() -> None:
    code: Code = "blink"
    with pytest.raises(ValueError, match=r"expected one of en, es, zh, fr, found 'xx'"):
        Hint(code, 0.0).text("xx")  # type: ignore[arg-type]
