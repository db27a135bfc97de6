"""Fixtures that several folders share."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # a core each: pools of threads that wait for the other's take twice the time
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when NumPy and torch are loaded, here and by children

import cv2
import numpy as np
import pytest
from hypothesis import settings

from fthnet_kit.edge import ModelCard, Preprocessing, QualityScorer, Thresholds
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.reporting.json_schema import load_jsonschema

ROOT = Path(__file__).parents[1]
os.environ["XDG_CONFIG_HOME"] = str(ROOT / "build" / "no-config")  # what was picked on this machine decides no test
settings.register_profile("repeatable", derandomize=True, deadline=None)  # the same cases in every run, however slow
settings.load_profile("repeatable")


def restore_signals() -> None:
    """Lets children start with default signals, however the tests were started.

    A child inherits signals that are ignored, as SIGINT is under `make test &` and SIGHUP under nohup; one with a
    handler in Python is a default one after exec. Here a hangup still ends nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, lambda *_: None)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


restore_signals()
load_jsonschema()  # before a test imports it with its grammars


def children_of(pid: int) -> set[int]:
    """Processes below a process; those that have ended do not count."""
    found: set[int] = set()
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, tasks.read_text().split()):
                found |= {child} | children_of(child)
    return found


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


@pytest.fixture(autouse=True)
def _no_child_outlives_its_test() -> Iterator[None]:
    """Ends what a test started and left, also where it failed; what fixtures of a module started goes on."""
    before = children_of(os.getpid())
    yield
    known = {pid for elder in before for pid in {elder} | children_of(elder)}
    for pid in children_of(os.getpid()) - known:
        if "multiprocessing.resource_tracker" not in command_of(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


PROCESSES = {"fthnet", "browser", "broker", "tls_broker", "in_box"}  # fixtures that start others


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs commands, browsers or brokers is none of the tests that answer in seconds."""
    for item in items:
        if PROCESSES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


class FakeBackend:
    """Answers from a function after a pause; real enough for everything around the network."""

    def __init__(self, answer: Callable[[Image], float] = lambda images: 50.0, seconds: float = 0.0) -> None:
        self.answer = answer
        self.seconds = seconds
        self.calls = 0
        self.closed = False

    def infer(self, images: Image) -> np.ndarray:
        self.calls += 1
        time.sleep(self.seconds)
        return np.full(len(images), self.answer(images), np.float32)

    def describe(self) -> dict[str, str]:
        return {"library": "fake 1", "provider": "none", "threads": "1"}

    def stage_ms(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> FakeBackend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def make_card(**changes: object) -> ModelCard:
    content: dict[str, object] = {
        "name": "test",
        "version": "1",
        "manufacturer": "tests",
        "weights_sha256": "0" * 64,
        "architecture": {
            "pool": "soft",
            "embed_dim": 32,
            "depths": [2, 2, 6, 2],
            "num_heads": [2, 4, 8, 16],
            "window_size": 12,
            "tap_channels": 32,
            "target_in": 384,
            "hyper_in": 384,
        },
        "preprocessing": Preprocessing(),
        "thresholds": Thresholds(usable=40, good=60),
        "intended_use": "tests",
        "training_data": "none",
        "accuracy": (),
        "files": {"a.onnx": "0" * 64},
    }
    return ModelCard(**{**content, **changes})  # type: ignore[arg-type]


def fake_scorer(answer: Callable[[Image], float] = lambda images: 50.0, seconds: float = 0.0) -> QualityScorer:
    return QualityScorer(make_card(), FakeBackend(answer, seconds))


@pytest.fixture(scope="session")
def photograph() -> Image:
    image = cv2.imread(str(ROOT / "edge" / "assets" / "retina.jpg"))
    assert image is not None
    return image


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder with development data; tests that need it skip where it is not there."""
    folder = os.environ.get("FTHNET_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("FTHNET_DATA names no folder with development data")
    return Path(folder)


@pytest.fixture(scope="session")
def demo_scorer() -> QualityScorer:
    return QualityScorer.from_bundle()


@pytest.fixture(scope="session")
def fthnet() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the console command in a process of its own, without what a command run in this one told OpenCV."""

    def run(*arguments: object, timeout: float = 300, **kwargs: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fthnet_kit.edge.cli", *map(str, arguments)]
        kwargs.setdefault("env", {k: v for k, v in os.environ.items() if not k.startswith("OPENCV_")})
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, **kwargs)  # type: ignore[call-overload]

    return run
