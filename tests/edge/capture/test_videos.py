"""Videos that are whole, cut, or damaged."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

from fthnet_kit.edge.capture.open_source import make_source
from fthnet_kit.edge.capture.source import CorruptFrameError
from fthnet_kit.edge.errors import InputError, PictureError
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.loop.live_loop import LiveLoop
from tests.conftest import fake_scorer

PICTURES = 60
CODECS = {"a.avi": "MJPG", "b.avi": "XVID", "c.mp4": "mp4v", "d.mkv": "mp4v", "e.mkv": "MJPG", "f.webm": "VP80"}


@pytest.fixture(params=CODECS)
def video(request: pytest.FixtureRequest, tmp_path: Path, photograph: Image) -> Path:
    small = cv2.resize(photograph, (320, 240))
    writer = cv2.VideoWriter(
        str(tmp_path / request.param), cv2.VideoWriter.fourcc(*CODECS[request.param]), 30, (320, 240)
    )
    if not writer.isOpened():
        pytest.skip(f"this OpenCV writes no {CODECS[request.param]}")
    for index in range(PICTURES):
        writer.write(np.roll(small, 3 * index, axis=1))
    writer.release()
    return tmp_path / request.param


def read(path: Path) -> tuple[int, int, list[str]]:
    """Pictures that are whole, pictures that are not, and what was said at the end."""
    source = make_source(str(path))
    source.open()
    whole, broken, said = 0, 0, []
    while not source.ended:
        try:
            frame = source.read()
            if frame is not None:
                frame.decoded()
                whole += 1
        except PictureError:
            broken += 1
        except CorruptFrameError as error:
            said.append(str(error))
    source.close()
    return whole, broken, said


def test_a_whole_video_is_read_in_full(video: Path) -> None:
    assert read(video) == (PICTURES, 0, [])


def test_a_video_that_was_cut_says_what_is_missing(video: Path, caplog: pytest.LogCaptureFixture) -> None:
    video.write_bytes(video.read_bytes()[: video.stat().st_size * 6 // 10])
    if video.suffix == ".mp4":  # its table of contents is at the end
        with pytest.raises(InputError, match="expected a whole video"):
            make_source(str(video)).open()
        return
    with caplog.at_level(logging.WARNING, "fthnet"):
        whole, broken, (said,) = read(video)
    assert 20 < whole < PICTURES
    found = (
        "expected 2.0 s, found 1."
        if video.suffix in (".mkv", ".webm")
        else f"expected 60 pictures, found {whole + broken}"
    )
    assert found in said
    assert said in caplog.text


@pytest.mark.parametrize("seed", range(5))
def test_no_damaged_jpeg_of_a_video_is_scored(tmp_path: Path, photograph: Image, seed: int) -> None:
    rng = np.random.default_rng(seed)
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 30, (320, 240))
    for index in range(9):
        writer.write(cv2.resize(np.roll(photograph, 20 * index, axis=1), (320, 240)))
    writer.release()
    data = bytearray((tmp_path / "a.avi").read_bytes())
    at = int(rng.integers(len(data) // 3, len(data) // 2))
    data[at : at + 400] = rng.bytes(400)
    (tmp_path / "a.avi").write_bytes(data)
    results = list(LiveLoop(lambda: make_source(str(tmp_path / "a.avi")), fake_scorer()).results())
    reasons = [result.score.reason for result in results]
    assert "corrupt_frame" in reasons
    assert sum(result.frame is not None for result in results) in (7, 8)
