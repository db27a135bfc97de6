"""What a frame is ranked by: each merit sees its own defect."""

from __future__ import annotations

import numpy as np
import pytest

from fthnet_kit.edge.capture.degradations import degrade
from fthnet_kit.edge.capture.simulated_camera import Session, SimulatedCamera
from fthnet_kit.edge.guidance.measures import Measures, measure
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.outputs.best_shot.rank import Appraisal

PLAIN = Measures(lit=0.5, well_lit=0.8, middle_stops=-3.0, fineness=0.9)
FIELD = 0.94 * 480


def calm(seed: int = 0) -> Image:
    """A frame of calm hands without a defect."""
    return SimulatedCamera(Session(2, 10, seed, 640, 480, realtime=False, defect="none")).render(0)[0]


def test_a_faultless_frame_has_all_merits() -> None:
    merits = Appraisal.of(PLAIN)
    assert merits.rank == pytest.approx(100 * 0.9 * 0.8)
    assert merits.to_dict() == {"rank": 72.0, "detail": 0.9, "field": 0.8}


@pytest.mark.parametrize("name", ["defocus", "motion_blur"])
def test_blur_costs_detail_and_leaves_the_field(name: str) -> None:
    image = calm()
    ranks = [Appraisal.of(measure(image)).rank]
    for severity in (0.15, 0.3, 0.5):
        merits = Appraisal.of(measure(degrade(image, name, severity, 0, FIELD)))
        assert merits.field == pytest.approx(Appraisal.of(measure(image)).field, rel=0.05)
        ranks.append(merits.rank)
    assert ranks == sorted(ranks, reverse=True)
    assert ranks[-1] < 0.7 * ranks[0]


def test_another_camera_that_shows_the_eye_darker_ranks_alike() -> None:
    image = calm()
    darker = degrade(image, "under_exposure", 0.2, 0, FIELD)  # one stop
    assert Appraisal.of(measure(darker)).rank == pytest.approx(Appraisal.of(measure(image)).rank, rel=0.1)


@pytest.mark.parametrize("defect", ["move_left", "move_down", "blink"])
def test_what_hides_a_part_of_the_field_costs_field(defect: str) -> None:
    camera = SimulatedCamera(Session(4, 10, 1, 640, 480, realtime=False, defect=defect))
    free = measure(camera.render(0)[0]).well_lit
    index = 21 if defect == "blink" else 30  # the lid is half way down, the camera beside the pupil
    image, truth = camera.render(index)
    assert truth["severity"] > 0.1
    assert measure(image).well_lit < 0.9 * free


def test_nothing_lit_ranks_last() -> None:
    assert Appraisal.of(measure(np.zeros((480, 640, 3), np.uint8))).rank == 0
