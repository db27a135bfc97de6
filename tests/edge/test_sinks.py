"""The best frame is kept, and a hanging disk stops nobody; records have tests of their own."""

from __future__ import annotations

import json
import threading
import time
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np
import pytest

from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.frame import Frame
from fthnet_kit.edge.loop.result import LiveResult
from fthnet_kit.edge.loop.sink import BackgroundWorker
from fthnet_kit.edge.model.score import Score
from fthnet_kit.edge.outputs.best_frame import BestFrame


def result(value: float | None, index: int = 0) -> LiveResult:
    score = (
        Score(value, raw=value, verdict="good", frame_index=index)
        if value is not None
        else Score(None, reason="no_frame")
    )
    frame = Frame(np.full((8, 8, 3), index, np.uint8), index, time.monotonic_ns()) if value is not None else None
    return LiveResult(score, frame, None, datetime.now(timezone.utc), 1.0, 2.0, index + 1, 0)


def test_a_hanging_disk_never_blocks_and_close_comes_back() -> None:
    release = threading.Event()
    worker: BackgroundWorker[int] = BackgroundWorker(lambda _: release.wait(30) and None, 3, "hanging")
    worker.CLOSE_TIMEOUT_S = 0.2
    started = time.monotonic()
    accepted = [worker.submit(index) for index in range(50)]
    assert time.monotonic() - started < 1
    assert worker.lost == 50 - sum(accepted) > 0
    assert not worker.close()
    assert time.monotonic() - started < 3
    release.set()


def test_unwritable_places_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected a"):
        BestFrame(tmp_path / "file" / "below")


def test_best_frame_is_the_best(tmp_path: Path) -> None:
    best = BestFrame(tmp_path / "best")
    for index, value in enumerate((40.0, 70.0, None, 65.0)):
        best.offer(result(value, index))
    best.close()
    assert json.loads((tmp_path / "best" / "best.json").read_text())["score"] == 70.0
    assert cv2.imread(str(tmp_path / "best" / "best.png"))[0, 0, 0] == 1
    assert not list((tmp_path / "best").glob(".*"))
