"""The latency bench: what it measures, and that it sees what is wrong."""

from __future__ import annotations

import mmap
import multiprocessing
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from fthnet_kit.bench.speed.comparison import compare_in_turn, comparison, other_of
from fthnet_kit.bench.speed.latency import MeasuringPlan, Pictures, ReplayCamera, encode, measure, simulated_frames
from fthnet_kit.bench.speed.monitor import Monitor
from fthnet_kit.bench.speed.timing import Limit
from fthnet_kit.edge import Bundle, QualityScorer
from fthnet_kit.edge.errors import EngineError, InputError
from fthnet_kit.edge.image import Image
from tests.conftest import fake_scorer

SHORT = MeasuringPlan(Limit(runs=30), capture_s=0.0, idle_s=(), cold_starts=0, period_s=0.05)
STAGES = {"decode", "preprocess", "gate", "infer", "post", "total"}


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    return Pictures(None, width=320, height=240)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open()


def run(
    scorer: QualityScorer, bundle: Bundle, pictures: Pictures, plan: MeasuringPlan = SHORT, **kwargs: object
) -> dict:
    return measure(lambda: scorer, bundle, "auto", pictures, plan, **kwargs)  # type: ignore[arg-type]


def test_every_stage_is_timed_and_they_add_up(bundle: Bundle, pictures: Pictures) -> None:
    found = run(fake_scorer(seconds=0.01), bundle, pictures, MeasuringPlan(Limit(runs=60), 0.0, 30, (), 0))
    stages = found["steady"]["stages_ms"]
    assert set(stages) == STAGES
    assert {len(values) for values in stages.values()} == {60}
    figures = found["steady"]["summary"]
    parts = np.sum([stages[stage] for stage in STAGES - {"total"}], axis=0)
    unseen = np.array(stages["total"]) - parts
    assert unseen.min() > -0.01  # one clock, and no stage is counted twice
    assert np.median(unseen) < 0.05 * figures["total"]["p50"]
    assert figures["infer"]["p50"] >= 10
    settled = stages["total"][found["warm_up"]["samples"] or 0 :]
    assert figures["total"]["p99"] == pytest.approx(np.percentile(settled, 99), abs=1e-5)
    assert found["steady"]["throughput_fps"] == pytest.approx(1000 / figures["total"]["mean"], rel=0.2)


@pytest.mark.slow
def test_the_shipped_model_is_measured_for_real(bundle: Bundle, pictures: Pictures) -> None:
    plan = MeasuringPlan(Limit(runs=3), capture_s=1.0, fps=5, idle_s=(0.05,), cold_starts=0)
    found = measure(QualityScorer.from_bundle, bundle, "auto", pictures, plan)
    assert found["model"]["weights_sha256"] == bundle.card.weights_sha256
    assert found["model"]["backend"]["library"].startswith("onnxruntime")
    assert found["first_ms"] > 0
    assert found["load_ms"] > 0
    assert found["idle"][0]["pause_s"] == 0.05
    assert found["capture"]["scored"] > 0
    assert found["capture"]["scored"] + found["capture"]["dropped"] <= found["capture"]["captured"]
    assert found["capture"]["summary"]["frame age"]["p50"] >= 0
    assert found["unstable"]


def burn(seconds: float) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        pass


def test_a_busy_core_is_seen() -> None:
    other = multiprocessing.get_context("spawn").Process(target=burn, args=(60.0,))
    other.start()
    try:
        time.sleep(1.0)
        with Monitor(0.1) as monitor:
            time.sleep(1.5)
    finally:
        other.kill()
        other.join()
    assert monitor.others_cores is not None
    assert monitor.others_cores > 0.3


def test_own_work_is_not_others() -> None:
    with Monitor(0.1) as monitor:
        burn(0.5)
    assert monitor.others_cores is not None
    assert len(monitor.timeline.seconds) >= 2
    assert monitor.peak_mb is not None
    assert monitor.peak_mb >= 0.99 * monitor.timeline.rss_mb[0]  # the kernel counts both a few pages late


def soak_of_a_process(leaks: bool) -> dict:
    kept = []

    def score(images: Image) -> float:
        time.sleep(0.02)  # so that the rate is the clock's, however busy the machine is
        if leaks:
            kept.append(mmap.mmap(-1, 1_000_000))  # new memory, whatever the process has free
            kept[-1].write(b"x" * 1_000_000)
        return 50.0

    soak = MeasuringPlan(Limit(seconds=4), 0.0, 30, (), 0, soak=True, period_s=0.1)
    return run(fake_scorer(score), Bundle.open(), Pictures(None, width=320, height=240), soak)["soak"]


@pytest.mark.slow
def test_a_leaking_scorer_is_flagged_by_the_soak() -> None:
    # A process each: what other tests left in this one, and give back, would hide a leak or look like one.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as processes:
        leaking, tight = processes.map(soak_of_a_process, [True, False], chunksize=1)
    assert leaking["leak"]["mb"] > 3
    assert tight["leak"] is None


@pytest.fixture
def machine_without_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Durations are those of the sleeps, whatever else the machine does."""
    now = [time.perf_counter()]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    def perf_counter() -> float:
        now[0] += 1e-5
        return now[0]

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "perf_counter", perf_counter)


@pytest.mark.usefixtures("machine_without_noise")
@pytest.mark.parametrize("step_s", [0.0, 0.005])
def test_a_planted_step_is_flagged_as_drift(bundle: Bundle, pictures: Pictures, step_s: float) -> None:
    calls = []

    def slower(images: Image) -> float:
        calls.append(0)
        if len(calls) > 200:
            time.sleep(step_s)
        return 50.0

    found = run(fake_scorer(slower, 0.01), bundle, pictures, MeasuringPlan(Limit(runs=300), 0.0, 30, (), 0, soak=True))
    drift = found["soak"]["drift"]
    assert (drift is not None) == (step_s > 0)
    assert any("drifted" in reason for reason in found["unstable"]) == (step_s > 0)
    if drift is not None:
        assert drift["after"] - drift["before"] == pytest.approx(5, abs=0.5)


def test_a_throttled_machine_is_noted(bundle: Bundle, pictures: Pictures, tmp_path: Path) -> None:
    zone = tmp_path / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("cpu-thermal\n")
    (zone / "temp").write_text("97500\n")
    cooling = tmp_path / "sys/class/thermal/cooling_device0"
    cooling.mkdir()
    (cooling / "type").write_text("cpu-throttle-alert\n")
    (cooling / "cur_state").write_text("1\n")
    found = run(fake_scorer(), bundle, pictures, root=tmp_path)
    assert any("98 °C hot" in reason or "97 °C hot" in reason for reason in found["unstable"])
    assert any("slowed by" in reason for reason in found["unstable"])
    assert set(found["timeline"]["hottest_c"]) == {97.5}


def test_a_failing_engine_ends_the_measurement(bundle: Bundle, pictures: Pictures) -> None:
    with pytest.raises(EngineError, match="expected a score, found engine_fault"):
        run(fake_scorer(lambda images: float("nan")), bundle, pictures)


def test_pictures_come_from_a_folder_again_and_again(tmp_path: Path, photograph: Image) -> None:
    for index in range(2):
        cv2.imwrite(str(tmp_path / f"{index}.png"), cv2.resize(photograph, (300 + index, 300)))
    pictures = Pictures(str(tmp_path))
    widths = [pictures.next().shape[1] for _ in range(5)]
    assert set(widths) == {300, 301}
    assert pictures.stage == "grab"
    pictures.close()


def test_a_source_without_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"none")
    with pytest.raises(InputError, match="expected pictures, found none"):
        Pictures(str(tmp_path))


def test_the_replayed_camera_keeps_its_pace_and_loses_what_nobody_reads() -> None:
    camera = ReplayCamera([encode(frame) for frame in simulated_frames(2, 160, 120)], fps=50)
    camera.open()
    first = camera.read()
    began = time.monotonic()
    second = camera.read()
    assert first is not None
    assert second is not None
    assert second.index == first.index + 1
    assert time.monotonic() - began < 0.5
    time.sleep(0.2)
    late = camera.read()
    assert late is not None
    assert late.index >= second.index + 8


def test_a_comparison_with_itself_contains_one() -> None:
    values = 50 + np.random.default_rng(0).gamma(2.0, 0.5, 500)
    found = comparison(["a", "b"], values, values[::-1].copy(), paired=False)
    assert found["ratio"]["low"] <= 1.0 <= found["ratio"]["high"]
    assert found["ratio"]["high"] - found["ratio"]["low"] < 0.05


@pytest.mark.slow
def test_two_scorers_in_turn(pictures: Pictures) -> None:
    five, one = (partial(QualityScorer.from_bundle, None, "fp32", views) for views in (5, 1))
    found = compare_in_turn(five, one, "one view", pictures, Limit(runs=10))
    assert found["ratio"]["low"] > 1.5
    assert found["names"] == ["this", "one view"]


def test_what_compare_may_name() -> None:
    assert other_of("int8") == {"other_precision": "int8"}
    assert other_of("onnxruntime") == {"other_backend": "onnxruntime"}
    with pytest.raises(InputError, match="expected a JSON file"):
        other_of("nonsense.json")
