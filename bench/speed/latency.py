"""Latency that an engineer can trust: ``python bench/latency.py``, the same as ``fthnet bench latency``.

Measures on nothing but the runtime's dependencies, in trtexec's terms where TensorRT runs: H2D, GPU compute, D2H and
enqueue; and the whole path from a camera's compressed frame to the score. Every figure keeps its raw samples, and the
result says why it may not be trusted.
"""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from fthnet_kit.bench.speed.cpu_ceilings import Ceilings, cpu_ceilings
from fthnet_kit.bench.speed.jetson_modules import Module, module_of
from fthnet_kit.bench.speed.monitor import Monitor, Timeline
from fthnet_kit.bench.speed.roofline import achieved, estimates
from fthnet_kit.bench.speed.stability import Conditions, find_leak, find_step, reasons
from fthnet_kit.bench.speed.timing import Limit, Samples, clock_resolution_ms, sample, summary, warm_up
from fthnet_kit.bench.speed.work import model_work
from fthnet_kit.edge.capture.open_source import make_source
from fthnet_kit.edge.capture.simulated_camera import Session, SimulatedCamera
from fthnet_kit.edge.capture.source import CorruptFrameError, Source
from fthnet_kit.edge.device.machine import Device, read_device
from fthnet_kit.edge.device.sysfs import ROOT, entries, line
from fthnet_kit.edge.errors import EngineError, InputError, PictureError
from fthnet_kit.edge.frame import Frame
from fthnet_kit.edge.inference.scorer import QualityScorer
from fthnet_kit.edge.loop.live_loop import LiveLoop
from fthnet_kit.edge.model.bundle import Bundle
from fthnet_kit.edge.model.choices import Precision, form_of

SCHEMA = "fthnet-latency"
VERSION = 1
FRAMES = 12  # different pictures that are scored in turn
JPEG_QUALITY = 92
IDLE_S = (1.0, 5.0, 30.0)
COLD_STARTS = 3

Scorer = Callable[[], QualityScorer]
Report = Callable[[str], None]


@dataclass(frozen=True)
class MeasuringPlan:
    """What to measure.

    Attributes:
        limit: of the steady state.
        capture_s: seconds of the live loop; 0: not at all.
        fps: of the camera in the live loop.
        idle_s: pauses after which one score is taken.
        cold_starts: processes that are started for it.
        soak: whether the steady state is a soak, with tests for drift and leaks.
        period_s: between two readings of temperature, clocks and memory.
    """

    limit: Limit
    capture_s: float = 10.0
    fps: float = 30.0
    idle_s: tuple[float, ...] = IDLE_S
    cold_starts: int = COLD_STARTS
    soak: bool = False
    period_s: float = 1.0


class Pictures:
    """Frames to score, in turn, as a camera's decoder gives them.

    The default are frames of the simulated camera, compressed as JPEG like a UVC camera's MJPG, so that decoding is
    part of the path. With a source, its own frames are read, and reading is the stage `grab`.
    """

    def __init__(self, source: str | None, width: int = 1920, height: int = 1080) -> None:
        self.source = source
        self.stage = "decode" if source is None else "grab"
        self._jpegs: list[npt.NDArray[np.uint8]] = []
        self._camera: Source | None = None
        if source is None:
            self._jpegs = [encode(frame) for frame in simulated_frames(FRAMES, width, height)]
            self._turn = itertools.cycle(self._jpegs)
            self.size = (width, height)
        else:
            self._camera = make_source(source)
            self._camera.open()
            first = self.next()
            self.size = (first.shape[1], first.shape[0])

    def next(self) -> npt.NDArray[np.uint8]:
        """The next picture, BGR uint8; a file that has ended begins again.

        Raises:
            InputError: the source gives no picture.
        """
        if self._camera is None:
            return np.asarray(cv2.imdecode(next(self._turn), cv2.IMREAD_COLOR))
        for _ in range(100):
            try:
                frame = self._camera.read()
                if frame is not None:
                    return frame.decoded().image
            except (CorruptFrameError, PictureError):
                continue
            self._camera.close()
            self._camera = make_source(self.source or "")
            self._camera.open()
        raise InputError(f"{self.source}: expected pictures, found none")

    def close(self) -> None:
        """Release the source."""
        if self._camera is not None:
            self._camera.close()

    def describe(self) -> dict[str, Any]:
        """Where the pictures come from."""
        what = self.source or f"simulated camera, {FRAMES} frames as JPEG, quality {JPEG_QUALITY}"
        return {"source": what, "width": self.size[0], "height": self.size[1], "stage": self.stage}


def simulated_frames(count: int, width: int, height: int) -> list[npt.NDArray[np.uint8]]:
    """Frames of the simulated camera with the eye in view, BGR uint8."""
    camera = SimulatedCamera(Session(seconds=60, fps=4, seed=3, width=width, height=height, realtime=False))
    camera.open()
    frames: list[npt.NDArray[np.uint8]] = []
    while len(frames) < count and not camera.ended:
        frame = camera.read()
        if frame is not None and frame.truth and frame.truth["eye_in_view"]:
            frames.append(frame.image)
    camera.close()
    return frames


def encode(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A JPEG file in memory."""
    return np.asarray(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1])


class ReplayCamera:
    """A live camera that plays JPEG frames at a frame rate; drawing them is over before anything is measured."""

    live = True
    ended = False

    def __init__(self, jpegs: Sequence[npt.NDArray[np.uint8]], fps: float) -> None:
        self.fps: float | None = fps
        self._jpegs = jpegs
        self._index = 0
        self._due_s = 0.0

    def open(self) -> None:
        """Start the clock."""
        self._due_s = time.monotonic()

    def read(self) -> Frame | None:
        """The next frame when it is due; frames that nobody waited for are lost, as in a camera."""
        assert self.fps
        self._due_s += 1 / self.fps
        late = time.monotonic() - self._due_s
        if late > 1 / self.fps:
            lost = int(late * self.fps)
            self._due_s += lost / self.fps
            self._index += lost
        time.sleep(max(0.0, self._due_s - time.monotonic()))
        captured_ns = time.monotonic_ns()
        image = np.asarray(cv2.imdecode(self._jpegs[self._index % len(self._jpegs)], cv2.IMREAD_COLOR))
        self._index += 1
        return Frame(image, self._index - 1, captured_ns)

    def close(self) -> None:
        """Nothing to release."""


def score_once(scorer: QualityScorer, pictures: Pictures) -> dict[str, float] | None:
    """One picture, from its compressed form to the score: the stages in ms; None where it shows no retina.

    Raises:
        EngineError: the backend failed.
    """
    started = time.perf_counter()
    image = pictures.next()
    decoded = time.perf_counter()
    score = scorer.score(image)
    if score.reason == "engine_fault":
        raise EngineError("expected a score, found engine_fault; `fthnet doctor` looks for the reason")
    if score.value is None:
        return None
    return {pictures.stage: 1e3 * (decoded - started), **score.stage_ms}


def measure(
    make_scorer: Scorer,
    bundle: Bundle,
    precision: Precision,
    pictures: Pictures,
    plan: MeasuringPlan,
    report: Report = lambda what: None,
    root: Path = ROOT,
) -> dict[str, Any]:
    """Measure everything of a plan; the result is what `bench/results/latency.schema.json` describes.

    Args:
        make_scorer: opens the model; called once, and timed.
        bundle: what it opens.
        precision: as it was asked for.
        pictures: what to score.
        plan: what to measure.
        report: hears what is being measured.
        root: where the machine's file system is mounted.
    """
    before = read_device(root)
    report("first inference")
    began = time.perf_counter()
    scorer = make_scorer()
    loaded = time.perf_counter()
    with scorer:
        first = score_once(scorer, pictures)
        first_ms = 1e3 * (time.perf_counter() - loaded)
        report("steady state")
        with Monitor(plan.period_s, root) as monitor:
            samples = sample(lambda: score_once(scorer, pictures), plan.limit)
        idle = [measure_idle(scorer, pictures, pause, report) for pause in plan.idle_s]
        capture = measure_capture(scorer, plan, report) if plan.capture_s else None
        facts = scorer.backend.describe()
        views = scorer.views
    discarded = warm_up(samples.total.tolist())
    steady = samples.after(discarded or 0)
    after = read_device(root)
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "kit_version": version("fthnet-edge-kit"),
        "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "model": {**model_facts(bundle, precision, facts, views), "form": running(precision, facts)},
        "pictures": pictures.describe(),
        "device": before.to_dict(),
        "device_after": after.to_dict(),
        "clock": {"name": "time.perf_counter", "resolution_ms": clock_resolution_ms(), "garbage_collection": "off"},
        "load_ms": 1e3 * (loaded - began),
        "first_ms": first_ms,
        "first_stages_ms": first or {},
        "warm_up": {
            "samples": discarded,
            "settled": discarded is not None,
            "rule": "median of 20 within the settled quartiles",
        },
        "steady": steady_facts(samples, steady),
        "idle": idle,
        "capture": capture,
        "cold_start": None,
        "memory": {"peak_mb": monitor.peak_mb, "others_cores": monitor.others_cores},
        "timeline": monitor.timeline.to_dict(),
        "roofline": roofline_facts(bundle, running(precision, facts), facts, before, median_inference(steady) / views),
        "comparison": None,
        "soak": soak_facts(samples, monitor.timeline) if plan.soak else None,
        "unstable": reasons(
            steady.started_s, steady.total.tolist(), conditions(before, after, monitor, discarded is not None)
        ),
    }


def model_facts(bundle: Bundle, precision: Precision, facts: dict[str, str], views: int) -> dict[str, Any]:
    """Which model ran, and what ran it."""
    card = bundle.card
    return {
        "name": card.name,
        "version": card.version,
        "manufacturer": card.manufacturer,
        "weights_sha256": card.weights_sha256,
        "precision": precision,
        "views": views,
        "backend": dict(facts),
    }


def running(precision: Precision, facts: Mapping[str, str]) -> str:
    """The precision that `auto` stands for, and the form of INT8 that a backend takes."""
    if precision == "auto" and facts["library"].startswith("tensorrt"):
        return "fp16"
    return form_of(precision, onnxruntime_cpu=facts["provider"] == "CPUExecutionProvider").name


def median_inference(steady: Samples) -> float:
    """Milliseconds of the median inference; on a GPU its computing alone."""
    return float(np.median(steady.stages.get("gpu_compute", steady.stages["infer"])))


def roofline_facts(
    bundle: Bundle, precision: str, facts: Mapping[str, str], device: Device, median_ms: float
) -> dict[str, Any] | None:
    """How much of the machine one inference of one image uses; None on a GPU whose peaks are not known."""
    work = model_work(bundle.card.architecture, precision)
    machine: Module | Ceilings | None = module_of(device)
    if facts["provider"] == "CPUExecutionProvider":
        machine = cpu_ceilings(int(facts["threads"]))
    if machine is None or median_ms <= 0:
        return None
    return {
        "work": work.to_dict(),
        "machine": machine.to_dict(),
        "achieved": achieved(work, machine, median_ms).to_dict(),
        "estimates": [row.to_dict() for row in estimates(model_work(bundle.card.architecture, "fp16"))],
    }


def steady_facts(samples: Samples, steady: Samples) -> dict[str, Any]:
    """Raw samples with the warm-up, and the figures without it."""
    seconds = steady.started_s[-1] - steady.started_s[0] + steady.total[-1] / 1e3
    return {
        "stages_ms": {stage: [round(ms, 6) for ms in values] for stage, values in samples.stages.items()},
        "started_s": [round(at, 6) for at in samples.started_s],
        "summary": {stage: summary(values) for stage, values in steady.stages.items()},
        "throughput_fps": len(steady.started_s) / seconds,
        "without_score": samples.skipped,
    }


def measure_idle(scorer: QualityScorer, pictures: Pictures, pause_s: float, report: Report) -> dict[str, Any]:
    """One score after a pause, a few times: what the operator waits for after a break."""
    report(f"after {pause_s:g} s idle")
    totals = []
    for _ in range(3 if pause_s < 2 else 2 if pause_s < 10 else 1):
        time.sleep(pause_s)
        started = time.perf_counter()
        score_once(scorer, pictures)
        totals.append(1e3 * (time.perf_counter() - started))
    return {"pause_s": pause_s, "total_ms": totals, "median_ms": statistics.median(totals)}


def measure_capture(scorer: QualityScorer, plan: MeasuringPlan, report: Report) -> dict[str, Any]:
    """The real live loop on a camera that plays frames: frame age, capture to score, drops."""
    report(f"live loop at {plan.fps:g} fps")
    jpegs = [encode(frame) for frame in simulated_frames(FRAMES, 1920, 1080)]
    loop = LiveLoop(lambda: ReplayCamera(jpegs, plan.fps), scorer)
    age, latency, stages = [], [], []
    ends = time.monotonic() + plan.capture_s
    for result in loop.results():
        if result.age_ms is not None and result.latency_ms is not None:
            age.append(result.age_ms)
            latency.append(result.latency_ms)
            stages.append(result.score.total_ms)
        if time.monotonic() >= ends:
            break
    found = loop.summary
    if not latency:
        raise EngineError(f"live loop: expected scores within {plan.capture_s:g} s, found {dict(found.reasons)}")
    overhead = [late - old - own for late, old, own in zip(latency, age, stages, strict=True)]
    return {
        "fps": plan.fps,
        "seconds": found.seconds,
        "captured": found.captured,
        "scored": len(latency),
        "dropped": found.dropped,
        "age_ms": [round(ms, 4) for ms in age],
        "latency_ms": [round(ms, 4) for ms in latency],
        "summary": {
            "frame age": summary(age),
            "capture to score": summary(latency),
            "loop overhead": summary(overhead),
        },
    }


COLD = """
import sys
from fthnet_kit.edge import QualityScorer
from fthnet_kit.edge.formats.read import read_image
from pathlib import Path
bundle, precision, backend, threads, picture = sys.argv[1:]
with QualityScorer.from_bundle(bundle, precision, None, backend, int(threads) or None) as scorer:
    print(scorer.score(read_image(Path(picture))).value, flush=True)
"""


def measure_cold_start(arguments: Sequence[str], picture: Path, starts: int, report: Report) -> dict[str, Any]:
    """From the start of a process to its first score, imports and loading included.

    Args:
        arguments: bundle, precision, backend and threads, as text.
        picture: an image file.
        starts: how often; the first one also reads the files from the disk.
        report: hears what is being measured.
    """
    totals = []
    for index in range(starts):
        report(f"cold start {index + 1} of {starts}")
        began = time.perf_counter()
        done = subprocess.run(  # noqa: S603  (this interpreter)
            [sys.executable, "-c", COLD, *arguments, str(picture)], capture_output=True, text=True, check=False
        )
        if done.returncode or not done.stdout.strip():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise EngineError(f"cold start: expected a score from a new process, found {last}")
        totals.append(1e3 * (time.perf_counter() - began))
    return {"total_ms": totals, "median_ms": statistics.median(totals)}


def conditions(before: Device, after: Device, monitor: Monitor, settled: bool) -> Conditions:
    """What the machine did while it was measured."""
    heat = [c for c in monitor.timeline.hottest_c if c is not None]
    slowed = {part for parts in monitor.timeline.throttling for part in parts} | set(after.throttling)
    return Conditions(
        others_cores=monitor.others_cores,
        governor=before.governor,
        frequencies_mhz=tuple(mhz for mhz in monitor.timeline.cpu_mhz if mhz is not None),
        hottest_c=max(heat, default=None),
        throttling=tuple(sorted(slowed)),
        clocks_locked=before.clocks_locked if before.is_jetson else None,
        battery=on_battery(),
        clock_resolution_ms=clock_resolution_ms(),
        settled=settled,
    )


def on_battery(folder: Path = Path("/sys/class/power_supply")) -> bool | None:
    """Whether a battery is being emptied; None without one."""
    states = [line(supply / "status") for supply in entries(folder) if line(supply / "type") == "Battery"]
    return any(state == "Discharging" for state in states) if states else None


def soak_facts(samples: Samples, timeline: Timeline) -> dict[str, Any]:
    """Whether latency drifted and memory leaked over a long run."""
    step = find_step(samples.started_s, samples.total.tolist())
    leak = find_leak(timeline.seconds, timeline.rss_mb)
    return {
        "seconds": samples.started_s[-1],
        "frames": len(samples.started_s),
        "drift": None if step is None else vars(step),
        "leak": None if leak is None else vars(leak),
        "rss_mb": {"first": timeline.rss_mb[0], "last": timeline.rss_mb[-1]},
    }


if __name__ == "__main__":
    from fthnet_kit.edge.cli.main import main

    main(["bench", "latency", *sys.argv[1:]])
