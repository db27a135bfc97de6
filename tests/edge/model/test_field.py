"""The retinal field and nothing else: bars, pages, viewer frames and second eyes around real pictures."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fthnet_kit.edge import QualityScorer
from fthnet_kit.edge.errors import AmbiguousFieldError
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.model.field import Box, find_field
from tests.conftest import ROOT, FakeBackend, fake_scorer

SIDES = ["top", "bottom", "left", "right"]
COLOURS = {
    "white": ((255, 255, 255), (255, 255, 255)),
    "gray": ((128, 128, 128), (128, 128, 128)),
    "dark viewer": ((48, 45, 45), (48, 45, 45)),
    "blue": ((150, 80, 20), (150, 80, 20)),
    "gradient": ((230, 120, 40), (240, 240, 240)),
    "gray gradient": ((60, 60, 60), (220, 220, 220)),
}
SIDE = 480


def plain(side: int = SIDE) -> Image:
    photograph = cv2.imread(str(ROOT / "edge" / "assets" / "retina.jpg"))
    return cv2.resize(photograph, (side, side), interpolation=cv2.INTER_AREA)


def bar(colour: str, depth: int, length: int, *, along: bool) -> Image:
    """Depth x length pixels, with text; a gradient runs along or across it."""
    first, last = (np.array(end, float) for end in COLOURS[colour])
    ramp = np.linspace(0, 1, length)[None, :, None] if along else np.linspace(0, 1, depth)[:, None, None]
    painted = np.ascontiguousarray(np.broadcast_to(first + (last - first) * ramp, (depth, length, 3)).astype(np.uint8))
    ink = (0, 0, 0) if painted.mean() > 120 else (255, 255, 255)
    cv2.putText(painted, "OD 45deg 2024-01-01", (8, depth * 2 // 3), cv2.FONT_HERSHEY_SIMPLEX, 0.5, ink, 1, cv2.LINE_AA)
    return painted


def with_bar(image: Image, side: str, painted: Image) -> tuple[Image, int, int]:
    """The image with a bar at one side, and where its old corner now lies (x, y)."""
    if side in ("left", "right"):
        painted = painted.transpose(1, 0, 2)
        return (
            (np.hstack([painted, image]), painted.shape[1], 0)
            if side == "left"
            else (np.hstack([image, painted]), 0, 0)
        )
    return (np.vstack([painted, image]), 0, painted.shape[0]) if side == "top" else (np.vstack([image, painted]), 0, 0)


def on_page(image: Image, colour: tuple[int, int, int], margin: int) -> Image:
    """What is dark around the field becomes a page, with a margin around the picture."""
    lit = cv2.morphologyEx((image.max(axis=2) > 20).astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(lit)
    field = cv2.morphologyEx(
        (labels == 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((31, 31))
    )
    page = image.copy()
    page[field == 0] = colour
    return cv2.copyMakeBorder(page, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=colour)


def jpeg(image: Image, quality: int = 85) -> Image:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


def assert_same_field(found: Box, expected: Box, x: int = 0, y: int = 0) -> None:
    """Equal but for the grid of the thumbnail and its rounding."""
    slack = 0.04 * expected.width + 8
    assert abs(found.width - expected.width) <= slack
    assert abs(found.x + found.width / 2 - x - expected.x - expected.width / 2) <= slack
    assert abs(found.y + found.height / 2 - y - expected.y - expected.height / 2) <= slack


@settings(max_examples=80)
@given(
    side=st.sampled_from(SIDES),
    colour=st.sampled_from(sorted(COLOURS)),
    share=st.floats(0.03, 0.4),
    along=st.booleans(),
    quality=st.integers(70, 98),
    mirrored=st.booleans(),
)
@pytest.mark.slow
def test_a_bar_moves_nothing(side: str, colour: str, share: float, along: bool, quality: int, mirrored: bool) -> None:
    image = plain()[:, ::-1] if mirrored else plain()
    painted = bar(colour, max(14, int(share * SIDE)), SIDE, along=along)
    framed, x, y = with_bar(image, side, painted)
    assert_same_field(find_field(jpeg(framed, quality)), find_field(image), x, y)


@settings(max_examples=40)
@given(
    gray=st.integers(45, 255),
    tint=st.integers(-20, 0),
    margin=st.integers(0, 200),
    border=st.sampled_from([0, 0, 9, 60, 150]),
    quality=st.integers(80, 98),
)
@pytest.mark.slow
def test_a_page_is_no_field(gray: int, tint: int, margin: int, border: int, quality: int) -> None:
    """Also where the page itself lies in a black border."""
    page = on_page(plain(), (gray, gray, gray + tint), margin)
    framed = cv2.copyMakeBorder(page, border, border // 2, border, border, cv2.BORDER_CONSTANT)
    assert_same_field(find_field(jpeg(framed, quality)), find_field(plain()), margin + border, margin + border)


@settings(max_examples=25)
@given(colours=st.lists(st.sampled_from(["gray", "dark viewer", "white", "blue"]), min_size=3, max_size=3))
@pytest.mark.slow
def test_a_viewer_is_no_field(colours: list[str]) -> None:
    """Side bar, then tool bar, then status bar."""
    image, left, top = plain(), 0, 0
    for side, colour, share in zip(("left", "top", "bottom"), colours, (0.25, 0.08, 0.06), strict=True):
        length = image.shape[0] if side == "left" else image.shape[1]
        image, x, y = with_bar(image, side, bar(colour, int(share * SIDE), length, along=True))
        left, top = left + x, top + y
    assert_same_field(find_field(jpeg(image)), find_field(plain()), left, top)


@settings(max_examples=40)
@given(
    side=st.integers(80, 400),
    left=st.integers(0, 700),
    top=st.integers(0, 300),
    portrait=st.booleans(),
    level=st.integers(0, 6),
)
@pytest.mark.slow
def test_a_small_field_off_the_centre_is_found(side: int, left: int, top: int, portrait: bool, level: int) -> None:
    frame = np.full((720, 1280, 3), level, np.uint8)
    least = 720 // 4 + 8
    side = max(side, least)
    frame[top : top + side, left : left + side] = np.maximum(plain(side), level)[: 720 - top, : 1280 - left]
    x, y = (top, left) if portrait else (left, top)
    expected = find_field(plain(side))
    found = find_field(np.ascontiguousarray(frame.transpose(1, 0, 2)) if portrait else frame)
    assert abs(found.width - expected.width) <= 2 * 10 + 8
    assert abs(found.x - expected.x - x) <= 2 * 10 + 8
    assert abs(found.y - expected.y - y) <= 2 * 10 + 8


@pytest.mark.parametrize("gap", [0, 10, 80])
@pytest.mark.parametrize("paper", [0, 255])
@pytest.mark.parametrize("stacked", [False, True])
def test_two_eyes_are_ambiguous(gap: int, paper: int, stacked: bool) -> None:
    eyes = [plain(), plain()[:, ::-1]]
    shape = (gap, SIDE, 3) if stacked else (SIDE, gap, 3)
    pair = (np.vstack if stacked else np.hstack)([eyes[0], np.full(shape, paper, np.uint8), eyes[1]])
    with pytest.raises(AmbiguousFieldError, match="expected one retinal field, found two"):
        find_field(jpeg(pair))


def test_pages_without_a_field_are_ambiguous() -> None:
    page = np.full((600, 800, 3), 255, np.uint8)
    cv2.putText(page, "Report", (60, 200), cv2.FONT_HERSHEY_SIMPLEX, 3, (0, 0, 0), 9)
    page[500:590, 20:120] = plain(100)[:90]
    with pytest.raises(AmbiguousFieldError, match="found only flat areas"):
        find_field(page)


def test_the_network_is_not_asked_about_two_eyes() -> None:
    scorer = fake_scorer()
    assert isinstance(scorer.backend, FakeBackend)
    score = scorer.score(np.hstack([plain(), plain()]))
    assert (score.value, score.verdict, score.reason) == (None, None, "ambiguous_field")
    assert score.stage_ms["preprocess"] > 0
    assert scorer.backend.calls == 0


@pytest.mark.parametrize("framing", ["banner", "page", "sides", "gradient", "page in black"])
def test_a_framed_photograph_scores_as_the_plain_one(demo_scorer: QualityScorer, framing: str) -> None:
    image = plain(600)
    if framing == "banner":
        framed = with_bar(image, "bottom", bar("white", 120, 600, along=True))[0]
    elif framing == "sides":
        framed = with_bar(
            with_bar(image, "left", bar("white", 90, 600, along=True))[0], "right", bar("white", 60, 600, along=True)
        )[0]
    elif framing == "gradient":
        framed = with_bar(image, "top", bar("gradient", 90, 600, along=False))[0]
    else:
        framed = on_page(image, (255, 255, 255), 30)
        framed = (
            cv2.copyMakeBorder(framed, 40, 40, 90, 90, cv2.BORDER_CONSTANT) if framing == "page in black" else framed
        )
    assert demo_scorer.score(jpeg(framed, 95)).value == pytest.approx(demo_scorer.score(jpeg(image, 95)).value, abs=5)


# On real photographs


def only_lit(image: Image) -> Box | None:
    """Steps 1 alone, written independently: the box of the largest lit region."""
    step = max(1, max(image.shape[:2]) // 128)
    start_y, start_x = (min(step, side) // 2 for side in image.shape[:2])
    peak = cv2.medianBlur(np.ascontiguousarray(image[start_y::step, start_x::step].max(axis=2)), 5)
    bright = int(np.sort(peak, axis=None)[-(-peak.size * 95 // 100) - 1])
    _, _, stats, _ = cv2.connectedComponentsWithStats((peak > max(8, 12 * bright // 100)).astype(np.uint8))
    x, y, w, h, _ = max(stats[1:].tolist(), key=lambda row: row[4], default=(0, 0, 0, 0, 0))
    if 4 * max(w, h) * step < min(image.shape[:2]):
        return None
    x, y, w, h = x * step, y * step, min(w * step, image.shape[1] - x * step), min(h * step, image.shape[0] - y * step)
    side = -(-max(w, h) // 8) * 8
    return Box(x + (w - side) // 2, y + (h - side) // 2, side, side)


@pytest.mark.slow
def test_nothing_is_taken_from_real_photographs(data: Path) -> None:
    """The field of each is its largest lit region: nothing in it looks like a bar, a page or a second eye."""
    paths = [path for name in ("fundus", "hei_med", "fqs_sample") for path in (data / name / "images").iterdir()]
    rows = csv.DictReader((data / "drimdb_val" / "labels.csv").open())
    paths += [data / "drimdb_val" / "images" / row["file_name"] for row in rows if row["quality"] != "outlier"]
    assert len(paths) > 1600
    changed = []
    for path in paths:
        image = cv2.imread(str(path))
        expected = only_lit(image)
        if expected is not None and max(image.shape[:2]) < 2000 and find_field(image) != expected:
            changed.append(path.name)
    assert changed == []
