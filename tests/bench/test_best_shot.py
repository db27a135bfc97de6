"""`fthnet bench best-shot`: the frame that is kept, against the photograph that the simulated camera looked at."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from fthnet_kit.bench.quality.best_shot import (
    Look,
    Watched,
    compare,
    interval,
    looks_of,
    read_sessions,
    truth_of,
    watch,
)
from fthnet_kit.bench.quality.full_reference import ms_ssim, ssim_maps, vif
from fthnet_kit.edge.capture.simulated_camera import Session, SimulatedCamera, photograph_of
from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.frame import Frame
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.model.score import Score
from fthnet_kit.edge.outputs.best_shot.shot import BestShotOptions

SHORT = Session(6, 8, 3, 640, 480, realtime=False)
ANY = BestShotOptions(usable=0, good=60)


def planes(image: Image) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float32)


@cache
def retina() -> np.ndarray:
    return planes(cv2.resize(photograph_of(Session()), (400, 400), interpolation=cv2.INTER_AREA))


def flat(frame: Frame) -> Score:
    """Every frame with the eye in view scores the same: what is kept is the choice of the rank."""
    assert frame.truth is not None
    if frame.truth["eye_in_view"]:
        return Score(50.0, verdict="usable", frame_index=frame.index)
    return Score(None, reason="no_retina", frame_index=frame.index)


@cache
def watched(seed: int) -> Watched:
    session = replace(SHORT, seed=seed)
    return watch(session, Look.of(photograph_of(session), seed), flat, f"eye-{seed}")


def test_the_same_picture_is_whole_and_noise_blur_and_a_lid_cost() -> None:
    everywhere = np.ones_like(retina())
    assert vif(retina(), retina(), everywhere) == pytest.approx(1)
    assert ms_ssim(retina(), retina(), everywhere) == pytest.approx(1)
    noise = np.random.default_rng(0).normal(0, 4, retina().shape).astype(np.float32)
    covered = retina().copy()
    covered[:130] = 0
    for worse in (retina() + noise, cv2.GaussianBlur(retina(), (0, 0), 1.5), covered):
        assert vif(retina(), worse, everywhere) < 0.8
        assert ms_ssim(retina(), worse, everywhere) < 0.99


def test_a_darker_picture_costs_likeness_and_hardly_information() -> None:
    everywhere = np.ones_like(retina())
    assert ms_ssim(retina(), 0.5 * retina(), everywhere) < 0.95
    assert vif(retina(), 0.9 * retina(), everywhere) > 0.9


def test_only_the_field_counts() -> None:
    left = np.zeros_like(retina())
    left[:, :200] = 1
    other = retina().copy()
    other[:, 230:] = 0
    assert vif(retina(), other, left) > 0.97
    assert ms_ssim(retina(), other, left) > 0.97


def test_ssim_is_that_of_its_definition() -> None:
    first, second = retina()[100:111, 100:111], cv2.GaussianBlur(retina(), (0, 0), 2)[100:111, 100:111]
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / np.outer(line, line).sum()
    means = [(window * one).sum() for one in (first, second)]
    variances = [(window * one**2).sum() - mean**2 for one, mean in zip((first, second), means, strict=True)]
    covariance = (window * first * second).sum() - means[0] * means[1]
    luminance, structure = (plane[5, 5] for plane in ssim_maps(first, second))
    assert luminance == pytest.approx((2 * means[0] * means[1] + 6.5025) / (means[0] ** 2 + means[1] ** 2 + 6.5025))
    assert structure == pytest.approx((2 * covariance + 58.5225) / (sum(variances) + 58.5225), rel=1e-3)


def test_a_frame_lies_on_the_photograph_wherever_the_hand_holds_the_camera() -> None:
    """Without any degradation the frame is the photograph but for what the aperture hides."""
    photograph = photograph_of(Session())
    camera = SimulatedCamera(SHORT, photograph)
    for index in (0, 20):
        size = (SHORT.width, SHORT.height)
        moved = cv2.warpAffine(photograph, camera.view(index), size, flags=cv2.INTER_AREA)
        right = truth_of(moved, photograph, camera.view(index))
        beside = camera.view(index) + np.array([[0, 0, 4], [0, 0, 0]])
        assert right["information"] > 0.85
        assert truth_of(moved, photograph, beside)["information"] < 0.4


def test_the_photograph_is_shown_at_several_exposures_in_another_light() -> None:
    photograph = photograph_of(Session())
    looks = [Look.of(photograph, seed) for seed in range(3)]
    assert looks[1].reference.mean() < looks[0].reference.mean() < looks[2].reference.mean()
    assert all(look.shown.mean() != look.reference.mean() for look in looks)
    assert np.array_equal(Look.of(photograph, 1).shown, looks[1].shown)


@pytest.mark.long
def test_a_score_that_tells_nothing_still_gives_nearly_the_best_frame(tmp_path: Path) -> None:
    found = compare([watched(seed) for seed in range(3)], ANY, tmp_path)["information"]
    assert found["information"].values.min() > 0.99  # the truth itself
    assert found["rank"].values.min() >= 0.8
    assert found["rank"].values.mean() > found["score"].values.mean() + 0.2


@pytest.mark.slow
def test_a_scorer_that_lets_nothing_through_keeps_nothing(tmp_path: Path) -> None:
    nothing = compare([watched(0)], BestShotOptions(usable=60, good=60), tmp_path)
    assert all(len(one.values) == 0 for ways in nothing.values() for one in ways.values())


@pytest.mark.slow
def test_sessions_are_read_again_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "shots.json"
    path.write_text(json.dumps({"kind": "fthnet-best-shot", "sessions": [watched(0).to_dict()]}))
    (again,) = read_sessions(path)
    assert again == watched(0)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"kind": "other", "sessions": []}', '{"kind": 1}'])
def test_another_file_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "shots.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"shots\.json: expected a file of `fthnet bench best-shot --json`, found"):
        read_sessions(path)


def test_photographs_are_the_best_of_each_patient(tmp_path: Path) -> None:
    rows = ["file_name,meanOpinionScore,split"]
    for name, mos, split in (("a_1", 80, "val"), ("a_2", 90, "val"), ("b_1", 74, "val"), ("c_1", 90, "train")):
        cv2.imwrite(str(tmp_path / f"{name}.png"), photograph_of(Session())[::8, ::8])
        rows.append(f"{name}.png,{mos},{split}")
    (tmp_path / "scores.csv").write_text("\n".join(rows) + "\n")
    assert [name for name, _ in looks_of(tmp_path, "val")] == ["a_2.png"]
    assert [name for name, _ in looks_of(tmp_path, "train")] == ["c_1.png"]


def test_whole_photographs_are_drawn_for_an_interval() -> None:
    values = np.array([1.0] * 50 + [0.0] * 50)
    each = interval(values, [str(number) for number in range(100)])
    two = interval(values, ["a"] * 50 + ["b"] * 50)
    assert 0.38 < each[0] < 0.45
    assert 0.55 < each[1] < 0.62
    assert two == (0, 1)


@pytest.mark.slow
def test_the_command_and_its_frames_once_more(fthnet, tmp_path: Path) -> None:
    path, same = tmp_path / "shots.json", tmp_path / "same.json"
    done = fthnet("bench", "best-shot", "--sessions", "1", "--first-seed", "1", "--seconds", "3", "--json", path)
    assert done.returncode == 0, done.stderr
    assert "chosen by" in done.stdout
    again = fthnet("bench", "best-shot", "--again", path, "--json", same)
    assert again.returncode == 0, again.stderr
    assert json.loads(same.read_text()) == json.loads(path.read_text())
    assert again.stdout == done.stdout
