"""Fixtures that several folders share."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import settings

from fthnet_kit.edge import ModelCard, Preprocessing, QualityScorer, Thresholds
from fthnet_kit.edge.image import Image

ROOT = Path(__file__).parents[1]
os.environ["XDG_CONFIG_HOME"] = str(ROOT / "build" / "no-config")  # what was picked on this machine decides no test
settings.register_profile("repeatable", derandomize=True, deadline=None)  # the same cases in every run, however slow
settings.load_profile("repeatable")


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
    """Runs the console command in a process of its own."""

    def run(*arguments: object, timeout: float = 300, **kwargs: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fthnet_kit.edge.cli", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, **kwargs)  # type: ignore[call-overload]

    return run
