"""Sources of frames: real files, a real HTTP stream, and what is not there."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from fthnet_kit.edge.capture.image_files import ImageFiles, find_images
from fthnet_kit.edge.capture.open_source import make_source
from fthnet_kit.edge.capture.simulated_camera import SimulatedCamera
from fthnet_kit.edge.capture.source import CorruptFrameError
from fthnet_kit.edge.capture.usb_camera import UsbCamera
from fthnet_kit.edge.errors import CameraError, InputError


def write_video(path: Path, frames: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, (160, 120))
    assert writer.isOpened()
    for index in range(frames):
        writer.write(np.full((120, 160, 3), 10 * index % 250, np.uint8))
    writer.release()
    return path


def read_all(uri: str) -> list:
    source = make_source(uri)
    source.open()
    frames = []
    while not source.ended:
        frame = source.read()
        if frame is not None:
            frames.append(frame.decoded())
    source.close()
    return frames


def test_a_video_is_read_in_full(tmp_path: Path) -> None:
    frames = read_all(str(write_video(tmp_path / "a.avi", 17)))
    assert [frame.index for frame in frames] == list(range(17))
    assert frames[3].image.shape == (120, 160, 3)
    assert abs(int(frames[3].image[60, 60, 0]) - 30) < 4


def test_folder_glob_and_single_image(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "c.jpg"):
        cv2.imwrite(str(tmp_path / name), np.full((20, 20, 3), 90, np.uint8))
    (tmp_path / "notes.txt").write_text("no image")
    assert [Path(f.name).name for f in read_all(str(tmp_path))] == ["a.png", "b.png", "c.jpg"]
    assert [Path(f.name).name for f in read_all(str(tmp_path / "*.png"))] == ["a.png", "b.png"]
    assert len(read_all(str(tmp_path / "c.jpg"))) == 1
    assert make_source(str(tmp_path)).live is False


def test_corrupt_image_is_named_and_the_next_is_read(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8))
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:5000])
    cv2.imwrite(str(tmp_path / "c.png"), np.zeros((9, 9, 3), np.uint8))
    source = make_source(str(tmp_path))
    assert source.read().index == 0
    with pytest.raises(CorruptFrameError, match="cut short"):
        source.read()
    assert source.read().index == 2
    assert source.ended


@pytest.fixture
def stream() -> Iterator[str]:
    """An MJPEG camera on loopback."""
    _, jpeg = cv2.imencode(".jpg", np.full((48, 64, 3), 120, np.uint8))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            part = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
            for _ in range(60):
                try:
                    self.wfile.write(part + jpeg.tobytes() + b"\r\n")
                except OSError:
                    return
                time.sleep(0.02)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/video.mjpg"
    server.shutdown()


def test_http_stream(stream: str) -> None:
    source = make_source(stream)
    assert source.live
    source.open()
    frames = [source.read() for _ in range(5)]
    source.close()
    assert all(frame.decoded().image.shape == (48, 64, 3) for frame in frames)
    assert [frame.index for frame in frames] == list(range(5))
    assert source.read() is None


@pytest.mark.parametrize("uri", ["97", "/dev/video97", "rtsp://127.0.0.1:9/none", "http://127.0.0.1:9/none"])
def test_a_camera_that_is_not_there(uri: str) -> None:
    with pytest.raises(CameraError, match="expected a camera or stream, found"):
        make_source(uri).open()


@pytest.mark.parametrize(
    "uri",
    [
        "missing.mp4",
        "0?colour=red",
        "0?fourcc=LONG4",
        "0?fps=fast",
        "0?width=1920",
        "sim:?moon=1",
        "sim:?fps=0",
        "sim:?seconds",
        "sim:?width=9",
    ],
)
def test_wrong_uris_are_one_line(uri: str) -> None:
    with pytest.raises(InputError, match="expected") as caught:
        make_source(uri)
    assert "\n" not in str(caught.value)


def test_uris_choose_the_source(tmp_path: Path) -> None:
    camera = make_source("0?width=1920&height=1080&fps=30&fourcc=MJPG")
    assert isinstance(camera, UsbCamera)
    assert camera.live
    assert isinstance(make_source("/dev/v4l/by-id/usb-camera-video-index0"), UsbCamera)
    assert isinstance(make_source("sim:?seconds=1"), SimulatedCamera)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((5, 5, 3), np.uint8))
    assert isinstance(make_source(str(tmp_path)), ImageFiles)


def test_find_images_takes_named_files_whatever_they_end_in(tmp_path: Path) -> None:
    (tmp_path / "photo.dat").write_bytes(b"x")
    assert find_images([str(tmp_path / "photo.dat")]) == [tmp_path / "photo.dat"]
    with pytest.raises(InputError, match="found none"):
        find_images([str(tmp_path)])
