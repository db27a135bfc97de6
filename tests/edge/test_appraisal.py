"""What a frame is ranked by: each merit sees its own defect, and the aim is that of the camera."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fthnet_kit.edge.capture.degradations import degrade
from fthnet_kit.edge.capture.simulated_camera import Session, SimulatedCamera
from fthnet_kit.edge.guidance.measures import Measures, measure
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.outputs.best_shot.aim import LearnedAim
from fthnet_kit.edge.outputs.best_shot.rank import TOLERANCE_STOPS, appraise

PLAIN = Measures(lit=0.5, well_lit=0.8, middle_stops=-3.0, fineness=0.9)
FIELD = 0.94 * 480


def calm(seed: int = 0) -> Image:
    """A frame of calm hands without a defect."""
    return SimulatedCamera(Session(2, 10, seed, 640, 480, realtime=False, defect="none")).render(0)[0]


def test_a_faultless_frame_has_all_merits() -> None:
    merits = appraise(PLAIN, aim_stops=-3.0)
    assert merits.rank == pytest.approx(100 * 0.9 * 0.8)
    assert merits.to_dict() == {"rank": 72.0, "detail": 0.9, "exposure": 1, "field": 0.8}


def test_light_is_counted_in_stops_from_the_aim_either_way() -> None:
    def exposure(stops: float) -> float:
        return appraise(replace(PLAIN, middle_stops=-2.0 + stops), aim_stops=-2.0).exposure

    assert exposure(-TOLERANCE_STOPS) == exposure(TOLERANCE_STOPS) == pytest.approx(0.607, abs=1e-3)
    assert 1 == exposure(0) > exposure(0.5) > exposure(2) > exposure(6) < 0.02


def test_where_no_aim_is_known_any_exposure_is_as_good() -> None:
    assert appraise(PLAIN).exposure == appraise(replace(PLAIN, middle_stops=-8.0)).exposure == 1


def test_the_aim_is_the_middle_of_the_usable_frames_of_this_camera() -> None:
    aim = LearnedAim(usable=50)
    aim.note(None, -1.0)
    aim.note(49.9, -1.0)
    assert aim.stops is None
    for stops in (-4.0, -3.5, -3.8, -9.0, -3.6):  # one of them by mistake
        aim.note(50.0, stops)
    assert aim.stops == -3.8
    for _ in range(10_000):  # the light was changed: the old frames are forgotten
        aim.note(80.0, -2.0)
    assert aim.stops == -2.0


@pytest.mark.parametrize(
    ("name", "merit"),
    [("defocus", "detail"), ("motion_blur", "detail"), ("under_exposure", "exposure"), ("over_exposure", "exposure")],
)
def test_a_defect_of_the_picture_costs_its_own_merit_most(name: str, merit: str) -> None:
    image = calm()
    clean = measure(image)
    before, ranks = appraise(clean, clean.middle_stops).to_dict(), []
    for severity in (0.2, 0.4, 0.6):
        after = appraise(measure(degrade(image, name, severity, 0, FIELD)), clean.middle_stops).to_dict()
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
    assert appraise(measure(np.zeros((480, 640, 3), np.uint8))).rank == 0
