"""What a frame is ranked by: each merit sees its own defect, and movement is that of the exposure."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

import numpy as np
import pytest

from fthnet_kit.edge.capture.degradations import BRIGHTEST_STOPS, DARKEST_STOPS, degrade
from fthnet_kit.edge.capture.simulated_camera import Session, SimulatedCamera
from fthnet_kit.edge.frame import Frame
from fthnet_kit.edge.guidance.measures import UNSTEADY, Measures, measure
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.loop.result import LiveResult
from fthnet_kit.edge.model.score import Score
from fthnet_kit.edge.outputs.best_shot.aim import MIDDLE_GRAY_STOPS
from fthnet_kit.edge.outputs.best_shot.rank import LOST_SPEED, Appraisal, Appraiser, appraise

PLAIN = Measures(lit=0.5, well_lit=0.8, middle_stops=MIDDLE_GRAY_STOPS, fineness=0.9, shift=(0.0, 0.0))
FIELD = 0.94 * 480


def calm(seed: int = 0) -> Image:
    """A frame of calm hands without a defect."""
    return SimulatedCamera(Session(2, 10, seed, 640, 480, realtime=False, defect="none")).render(0)[0]


def result(at_s: float | None) -> LiveResult:
    """A result with a frame captured at `at_s`, or without one."""
    frame = None if at_s is None else Frame(np.zeros((4, 4, 3), np.uint8), 0, round(1e9 * at_s))
    score = Score(None, reason="no_frame") if at_s is None else Score(70.0)
    return LiveResult(score, frame, None, datetime.now(timezone.utc), 0.0, 0.0, 0, 0)


def appraised(*shown: tuple[float | None, tuple[float, float] | None]) -> list[Appraisal | None]:
    """Appraisals of frames at these times that moved by these shifts since the frame before."""
    found: list[Appraisal | None] = []
    appraiser = Appraiser(lambda _, appraisal: found.append(appraisal))
    for at_s, shift in shown:
        appraiser.follow(result(at_s), None if at_s is None else replace(PLAIN, shift=shift))
    appraiser.flush()
    return found


def test_a_faultless_frame_has_all_merits() -> None:
    merits = appraise(PLAIN, speed=0.0)
    assert (merits.exposure, merits.stillness) == (1, 1)
    assert merits.rank == pytest.approx(100 * 0.9 * 0.8)
    assert merits.to_dict() == {"rank": 72.0, "detail": 0.9, "exposure": 1, "stillness": 1, "field": 0.8}


def test_light_is_counted_in_stops_from_middle_gray() -> None:
    def exposure(stops: float) -> float:
        return appraise(replace(PLAIN, middle_stops=MIDDLE_GRAY_STOPS + stops), 0.0).exposure

    assert exposure(-DARKEST_STOPS / 2) == pytest.approx(0.5)
    assert exposure(BRIGHTEST_STOPS / 2) == pytest.approx(0.5)
    assert exposure(-18) == exposure(9) == 0
    other_camera = appraise(replace(PLAIN, middle_stops=-3.0), 0.0, aim_stops=-3.0)
    assert other_camera.exposure == 1


@pytest.mark.parametrize(
    ("name", "merit"),
    [("defocus", "detail"), ("motion_blur", "detail"), ("under_exposure", "exposure"), ("over_exposure", "exposure")],
)
def test_a_defect_of_the_picture_costs_its_own_merit_most(name: str, merit: str) -> None:
    image = calm()
    before, ranks = appraise(measure(image), 0.0).to_dict(), []
    for severity in (0.15, 0.3, 0.5):
        after = appraise(measure(degrade(image, name, severity, 0, FIELD)), 0.0).to_dict()
        kept = {share: after[share] / before[share] for share in after if share != "rank"}
        assert min(kept, key=kept.__getitem__) == merit
        ranks.append(after["rank"])
    assert before["rank"] > ranks[0] > ranks[1] > ranks[2]


@pytest.mark.parametrize("defect", ["move_left", "move_down", "blink"])
def test_what_hides_a_part_of_the_field_costs_field(defect: str) -> None:
    camera = SimulatedCamera(Session(4, 10, 1, 640, 480, realtime=False, defect=defect))
    free = measure(camera.render(0)[0]).well_lit
    index = 21 if defect == "blink" else 30  # the lid is half way down, the camera beside the pupil
    image, truth = camera.render(index)
    assert truth["severity"] > 0.1
    assert measure(image).well_lit < 0.9 * free


def test_nothing_lit_ranks_last() -> None:
    assert appraise(measure(np.zeros((480, 640, 3), np.uint8)), 0.0).rank == 0


def test_movement_after_a_frame_counts_before_that_before_it() -> None:
    found = appraised((0.0, None), (0.1, (0.0125, 0.0)), (0.2, (0.025, 0.0)), (0.3, (0.0, 0.0)))
    speeds = [LOST_SPEED * (1 - appraisal.stillness) for appraisal in found if appraisal]
    assert speeds == pytest.approx([0.125, 0.25, 0.0, 0.0])  # of the last, what was before it


@pytest.mark.parametrize(
    "next_frame",
    [(0.1, None), (5.0, (0.0, 0.0)), (0.0, (0.0, 0.0)), (None, None)],
    ids=["lost", "gap", "clock", "none"],
)
def test_unknown_movement_counts_as_unsteady(next_frame: tuple[float | None, tuple[float, float] | None]) -> None:
    first = appraised((0.0, None), next_frame)[0]
    assert first is not None
    assert first.stillness == pytest.approx(1 - UNSTEADY / LOST_SPEED)


def test_results_stay_in_order_and_those_without_a_picture_have_no_rank() -> None:
    taken: list[tuple[LiveResult, Appraisal | None]] = []
    appraiser = Appraiser(lambda *pair: taken.append(pair))
    shown = [result(0.0), result(None), result(0.1), result(0.2)]
    for one in shown:
        appraiser.follow(one, None if one.frame is None else PLAIN)
    assert len(taken) == 3  # the last waits for the next
    appraiser.flush()
    appraiser.flush()
    assert all(one is other for one, (other, _) in zip(shown, taken, strict=True))
    assert [appraisal is None for _, appraisal in taken] == [False, True, False, False]


def test_a_picture_that_could_not_be_measured_ranks_last() -> None:
    taken: list[Appraisal | None] = []
    appraiser = Appraiser(lambda _, appraisal: taken.append(appraisal))
    appraiser.follow(result(0.0), None)
    appraiser.flush()
    assert taken[0] is not None
    assert taken[0].rank == 0
