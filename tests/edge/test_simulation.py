"""Degradations and the simulated camera."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fthnet_kit.edge.capture.degradations import DEGRADATIONS, degrade
from fthnet_kit.edge.capture.open_source import make_source
from fthnet_kit.edge.capture.simulated_camera import Session, SimulatedCamera
from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.model.preprocess import Preprocessing, canonical


@pytest.fixture(scope="module")
def field(photograph: np.ndarray) -> np.ndarray:
    return canonical(photograph, Preprocessing())


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_a_degradation_is_seeded_pure_and_grows(field: np.ndarray, name: str) -> None:
    before = field.copy()
    distances = []
    for severity in (0, 0.1, 0.4, 0.7, 1):
        changed = degrade(field, name, severity, 5)
        np.testing.assert_array_equal(changed, degrade(field, name, severity, 5))
        distances.append(float(np.mean(np.abs(changed.astype(int) - field))))
    np.testing.assert_array_equal(field, before)
    assert distances[0] == 0
    assert distances == sorted(distances)
    assert distances[-1] > 1.5


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(DEGRADATIONS)),
    severity=st.floats(0, 1),
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    seed=st.integers(0, 99),
)
def test_any_size_survives_any_degradation(name: str, severity: float, height: int, width: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    changed = degrade(image, name, severity, seed)
    assert changed.shape == image.shape
    assert changed.dtype == np.uint8


def test_a_severity_looks_the_same_at_any_resolution(photograph: np.ndarray) -> None:
    large = degrade(photograph, "defocus", 0.6)
    small = degrade(cv2.resize(photograph, (480, 480), interpolation=cv2.INTER_AREA), "defocus", 0.6)
    difference = cv2.absdiff(cv2.resize(large, (480, 480), interpolation=cv2.INTER_AREA), small)
    assert difference.mean() < 1.5


@pytest.mark.parametrize(("name", "severity"), [("fog", 0.5), ("haze", 1.5), ("haze", -0.1)])
def test_wrong_degradations_are_refused(field: np.ndarray, name: str, severity: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        degrade(field, name, severity)


def session(**options: object) -> SimulatedCamera:
    camera = SimulatedCamera(
        Session(**{"seconds": 2, "fps": 10, "width": 320, "height": 240, "realtime": False, **options})
    )
    camera.open()
    return camera


def frames(camera: SimulatedCamera) -> list:
    found = []
    while not camera.ended:
        found.append(camera.read())
    return found


def test_the_same_seed_gives_the_same_session() -> None:
    first, again, other = frames(session(seed=4)), frames(session(seed=4)), frames(session(seed=5))
    assert len(first) == 20
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        assert a.truth == b.truth
    assert first[0].truth != other[0].truth


def test_truth_is_complete_and_bounded() -> None:
    truths = [session(seconds=30, seed=seed).render(index)[1] for seed in (0, 3) for index in range(0, 300, 7)]
    for truth in truths:
        assert -1 <= truth["exposure"] <= 1
        for factor in ("defocus", "motion", "occlusion", "off_centre", "severity"):
            assert 0 <= truth[factor] <= 1
    assert {truth["eye_in_view"] for truth in truths} <= {True, False}
    assert min(truth["defocus"] for truth in truths) < 0.1
    assert max(truth["defocus"] for truth in truths) > 0.8


def test_blinks_cover_the_eye() -> None:
    camera = SimulatedCamera(Session(seconds=20, fps=30, seed=3, width=320, height=240, realtime=False))
    truths = [camera._handling.truth(i / 30) for i in range(600)]
    closed = next(i for i, truth in enumerate(truths) if truth["occlusion"] > 0.97)
    assert not truths[closed]["eye_in_view"]
    image = camera.render(closed)[0]
    assert image.mean() < 0.25 * camera.render(0)[0].mean()


def test_frames_come_when_they_are_due() -> None:
    camera = session(realtime=True, seconds=0.5, fps=20)
    started = time.monotonic()
    assert len(frames(camera)) == 10
    assert time.monotonic() - started >= 0.44
    assert camera.read() is None


def eye(colour: tuple[int, int, int]) -> np.ndarray:
    """A round field of one colour, beside the middle of a wide picture."""
    image = np.zeros((200, 400, 3), np.uint8)
    cv2.circle(image, (260, 100), 90, colour, -1)
    return image


def test_another_photograph_is_looked_at_wherever_its_field_lies(tmp_path: Path) -> None:
    path = tmp_path / "my eye & its field.png"
    cv2.imwrite(str(path), eye((20, 90, 200)))
    quoted = str(path).replace("&", "%26")
    frame = make_source(f"sim:?photograph={quoted}&width=320&height=240&realtime=0&defect=none").read()
    assert frame is not None
    assert np.abs(frame.image[120, 160].astype(int) - (20, 90, 200)).max() < 40
    lit = np.count_nonzero(frame.image.max(axis=2) > 40)
    assert lit / (np.pi / 4 * (0.94 * 240) ** 2) == pytest.approx(1, abs=0.1)  # it fills the aperture


def test_a_photograph_that_shows_no_single_eye_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "two.png"
    cv2.imwrite(str(path), np.hstack([eye((20, 90, 200))[:, 150:370]] * 2))
    with pytest.raises(InputError, match=r"two\.png: .*found two"):
        make_source(f"sim:?photograph={path}")
    with pytest.raises(InputError, match=r"nothing\.png"):
        make_source("sim:?photograph=nothing.png")
