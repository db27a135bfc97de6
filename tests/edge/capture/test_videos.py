"""Videos that are whole, cut, or damaged."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fthnet_kit.edge.capture import concealment
from fthnet_kit.edge.capture.concealment import Concealment
from fthnet_kit.edge.capture.open_source import make_source
from fthnet_kit.edge.capture.source import CorruptFrameError
from fthnet_kit.edge.errors import InputError, PictureError
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.loop.live_loop import LiveLoop
from tests.conftest import fake_scorer

PICTURES = 60
H264 = Path(__file__).parents[2] / "golden" / "drift.mp4"  # by make_h264_video.py
CODECS = {"a.avi": "MJPG", "b.avi": "XVID", "c.mp4": "mp4v", "d.mkv": "mp4v", "e.mkv": "MJPG", "f.webm": "VP80"}


def written(path: Path, codec: str, photograph: Image) -> Path:
    """A video of the photograph, which drifts."""
    small = cv2.resize(photograph, (320, 240))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 30, (320, 240))
    if not writer.isOpened():
        pytest.skip(f"this OpenCV writes no {codec}")
    for index in range(PICTURES):
        writer.write(np.roll(small, 3 * index, axis=1))
    writer.release()
    return path


@pytest.fixture(params=[*CODECS, H264.name])
def video(request: pytest.FixtureRequest, tmp_path: Path, photograph: Image) -> Path:
    path = tmp_path / request.param
    if request.param == H264.name:
        return Path(shutil.copy(H264, path))
    return written(path, CODECS[request.param], photograph)


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
        whole, broken, (*made_up, said) = read(video)  # the last picture may lack a part
    assert 20 < whole < PICTURES
    found = (
        "expected 2.0 s, found 1."
        if video.suffix in (".mkv", ".webm")
        else f"expected 60 pictures, found {whole + broken + len(made_up)}"
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


@cache
def pictures_of(path: Path) -> list[Image]:
    """All pictures of a whole video."""
    source = make_source(str(path))
    source.open()
    pictures = []
    while (frame := source.read()) is not None:
        pictures.append(frame.decoded().image)
    source.close()
    return pictures


@pytest.fixture(params=["H.264", "MPEG-4"], scope="module")
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, photograph: Image) -> Path:
    if request.param == "H.264":
        return H264
    return written(tmp_path_factory.mktemp("whole") / "a.mp4", "mp4v", photograph)


def handed_out(path: Path) -> tuple[list[Image], list[str]]:
    """Pictures of a video, and what was said of those that were kept back."""
    source = make_source(str(path))
    source.open()
    pictures, said = [], []
    while not source.ended:
        try:
            frame = source.read()
        except CorruptFrameError as error:
            said.append(str(error))
            continue
        if frame is not None:
            pictures.append(frame.decoded().image)
    source.close()
    return pictures, said


def likeness(picture: Image, others: list[Image]) -> float:
    """Mean difference from the nearest of others, in gray levels."""
    return float(min(np.abs(picture.astype(np.int16) - other).mean() for other in others))


@pytest.mark.parametrize("fill", [bytes, np.random.default_rng(3).bytes], ids=["zeros", "noise"])
@pytest.mark.parametrize("where", [0.2, 0.35, 0.5, 0.65])
def test_no_picture_that_the_decoder_made_up_in_part_is_handed_out(
    whole: Path, tmp_path: Path, where: float, fill: Callable[[int], bytes]
) -> None:
    data = bytearray(whole.read_bytes())
    begin, size = data.index(b"mdat") + 4, int.from_bytes(data[data.index(b"mdat") - 4 :][:4], "big") - 8
    at = begin + int(where * size)
    data[at : at + 60] = fill(60)
    (tmp_path / "a.mp4").write_bytes(data)
    pictures, said = handed_out(tmp_path / "a.mp4")
    assert any("made up" in each or "the video is cut or damaged" in each for each in said)
    assert 1 <= len(pictures) < PICTURES
    originals = pictures_of(whole)
    assert max(likeness(picture, originals) for picture in pictures) < 0.1


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=80))
def test_after_a_report_pictures_are_whole_from_the_first_sure_key_picture_on(steps: list[tuple[bool, bool]]) -> None:
    decoder = Concealment()
    last = None
    cleared = True
    for index, (reported, is_key) in enumerate(steps):
        decoder.tell(reported=reported, is_key=is_key)
        if reported:
            last, cleared = index, False
        elif last is not None and index - last > concealment.HELD_BACK and is_key:
            cleared = True
        assert decoder.is_made_up is not cleared
