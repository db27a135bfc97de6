"""`fthnet bench best-shot`: the frame that is kept, against what the simulated camera did to it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fthnet_kit.bench.quality.best_shot import distribution, frames_of, play, quality_of
from fthnet_kit.edge.capture.simulated_camera import Session
from fthnet_kit.edge.frame import Frame
from fthnet_kit.edge.inference.scorer import QualityScorer
from fthnet_kit.edge.model.score import Score
from fthnet_kit.edge.outputs.best_shot.shot import BestShotOptions

SMALL = Session(8, 10, 3, 320, 240, realtime=False)


def test_frames_come_in_simulated_time() -> None:
    frames = list(frames_of(Session(0.5, 10, 1, 64, 64, realtime=False)))
    assert [frame.captured_ns for frame in frames] == [0, 10**8, 2 * 10**8, 3 * 10**8, 4 * 10**8]


@pytest.mark.slow
def test_a_scorer_that_knows_the_truth_keeps_the_best_frame(tmp_path: Path) -> None:
    def score(frame: Frame) -> Score:
        return Score(100 * quality_of(frame), frame_index=frame.index)

    kept = play(SMALL, score, BestShotOptions(usable=0, good=60), tmp_path)
    assert (kept.seed, kept.score, kept.truth) == (3, 1, 1)
    assert 0.8 < kept.appraisal <= 1
    assert kept.best == max(quality_of(frame) for frame in frames_of(SMALL))


@pytest.mark.slow
def test_a_score_that_tells_nothing_still_gives_nearly_the_best_frame(tmp_path: Path) -> None:
    """Every frame with the eye in view scores the same: what is kept is the choice of the rank."""

    def flat(frame: Frame) -> Score:
        assert frame.truth is not None
        if frame.truth["eye_in_view"]:
            return Score(50.0, raw=50.0, verdict="usable", frame_index=frame.index)
        return Score(None, reason="no_retina", frame_index=frame.index)

    options = BestShotOptions(usable=40, good=60)
    kept = [
        play(Session(12, 15, seed, 320, 240, realtime=False), flat, options, tmp_path / str(seed)) for seed in range(3)
    ]
    assert min(one.appraisal for one in kept) >= 0.9
    assert all(one.appraisal > one.score + 0.1 for one in kept)


def test_a_scorer_that_lets_nothing_through_keeps_nothing(tmp_path: Path) -> None:
    kept = play(SMALL, lambda frame: Score(None, reason="no_retina"), BestShotOptions(), tmp_path)
    assert (kept.appraisal, kept.score, kept.truth) == (0, 0, 0)


def test_distribution() -> None:
    found = distribution([1.0, 0.95, 0.9, 0.5])
    assert (found["min"], found["median"], found["within"]) == (0.5, 0.925, 0.5)


@pytest.mark.slow
def test_the_command(fthnet, tmp_path: Path) -> None:
    path = tmp_path / "shots.json"
    done = fthnet("bench", "best-shot", "--sessions", "1", "--seconds", "4", "--fps", "5", "--json", path)
    assert done.returncode == 0, done.stderr
    assert "score alone" in done.stdout
    found = json.loads(path.read_text())
    assert set(found["distribution"]) == {"appraisal", "score", "truth"}
    assert [session["seed"] for session in found["sessions"]] == [0]


@pytest.mark.slow
def test_with_the_shipped_model_the_kept_frame_is_nearly_the_best(tmp_path: Path) -> None:
    """The first two of the 100 sessions of `fthnet bench best-shot`, by none of which a constant was chosen.

    Measured with model 0.3.0: 92 of the 100 are within 5 %, the least 0.838; by score alone 10, the least 0.417.
    """
    with QualityScorer.from_bundle() as scorer:
        options = BestShotOptions.of(scorer.card.thresholds)
        kept = [
            play(Session(20, 15, seed, 640, 480, realtime=False), scorer.score_frame, options, tmp_path / str(seed))
            for seed in range(2)
        ]
    shares = [one.appraisal for one in kept]
    print("kept / best available:", np.round(shares, 3), "by score alone:", [round(one.score, 3) for one in kept])
    assert min(shares) >= 0.95
