"""How long the opening of a network camera may take."""

from __future__ import annotations

import pytest

from fthnet_kit.edge.capture.patience import OPEN_TIMEOUT_S, PATIENT_OPEN_EVERY, QUICK_OPEN_TIMEOUT_S, Patience
from fthnet_kit.edge.errors import CameraError


class Camera:
    """Opens after so many seconds of a clock that nothing else moves, or does not within the patience."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.patience = Patience(lambda: self.now_s)

    def opens_in(self, seconds: float) -> float:
        """The patience of the next attempt."""
        with self.patience.attempt():
            self.now_s += seconds
        return self.patience.timeout_s

    def stays_away(self) -> float:
        """The patience of the next attempt."""
        with pytest.raises(CameraError), self.patience.attempt():
            self.now_s += self.patience.timeout_s
            raise CameraError("gone")
        return self.patience.timeout_s


def test_an_unknown_camera_is_given_time() -> None:
    camera = Camera()
    assert camera.patience.timeout_s == OPEN_TIMEOUT_S
    assert camera.stays_away() == OPEN_TIMEOUT_S


@pytest.mark.parametrize(
    ("opened_in_s", "next_s"), [(0.1, QUICK_OPEN_TIMEOUT_S), (1.0, 3.0), (2.0, OPEN_TIMEOUT_S), (9.0, OPEN_TIMEOUT_S)]
)
def test_a_quick_camera_is_missed_soon(opened_in_s: float, next_s: float) -> None:
    assert Camera().opens_in(opened_in_s) == pytest.approx(next_s)


def test_a_camera_that_has_become_slower_is_given_time_now_and_then() -> None:
    camera = Camera()
    waits = [camera.opens_in(0.125), *(camera.stays_away() for _ in range(2 * PATIENT_OPEN_EVERY))]
    patient = [index for index, wait_s in enumerate(waits) if wait_s == OPEN_TIMEOUT_S]
    assert patient == [PATIENT_OPEN_EVERY - 1, 2 * PATIENT_OPEN_EVERY - 1]
    assert camera.opens_in(0.125) == QUICK_OPEN_TIMEOUT_S  # it is back, and as quick as before


def test_a_refusal_at_once_says_nothing_of_its_speed() -> None:
    camera = Camera()
    camera.opens_in(0.125)
    for _ in range(2 * PATIENT_OPEN_EVERY):
        with pytest.raises(CameraError), camera.patience.attempt():
            raise CameraError("refused")
        assert camera.patience.timeout_s == QUICK_OPEN_TIMEOUT_S
