"""A network camera that misbehaves on command: MJPEG over HTTP on loopback, in a process of its own.

    python -m fthnet_kit.bench.endurance.faulty_camera --fps 30

It plays the kit's photograph, no two frames in a row the same, says its port in one line on stdout, and then
takes one command a line on stdin: ``healthy`` or a fault's name (`FAULTS`). `MisbehavingCamera` starts and commands it,
and adds what a program cannot do to itself: SIGKILL and SIGSTOP.
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import itertools
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from fthnet_kit.edge.formats.read import read_image
from fthnet_kit.edge.image import Image

PICTURE_FAULTS = {
    "truncated": "each JPEG ends after 60 % of its bytes",
    "corrupt": "each JPEG's bytes are noise behind its first 20",
    "resolution": "pictures of another size and shape",
    "frozen": "the same picture for ever",
    "black": "no light",
    "white": "all pixels saturated",
    "no_retina": "a gray room",
}
TRANSPORT_FAULTS = {
    "stall": "stops in the middle of a picture",
    "trickle": "a few bytes at a time",
    "garbage": "noise where a picture should begin",
    "reset": "every connection is reset",
    "mute": "accepts connections and says nothing",
    "http_404": "answers 404",
    "http_500": "answers 500",
}
PROCESS_FAULTS = {
    "kill": "SIGKILL: the port is closed",
    "freeze_process": "SIGSTOP: connections stay open, nothing answers",
}
FAULTS = {**PICTURE_FAULTS, **TRANSPORT_FAULTS, **PROCESS_FAULTS}
HEALTHY = "healthy"
REFUSALS = {"http_404": 404, "http_500": 500}

VARIANTS = 40  # frames of the loop
SEND_BUFFER = 1 << 17  # bytes: a frozen or slow reader must not find old frames in it
STAMP_BITS, STAMP_PIXELS = 32, 12
READY_S = 60.0


class ServedPictures:
    """Encoded frames of every kind.

    Args:
        width, height: of a healthy frame.
        stamped: draw `time.monotonic()` in ms into each healthy frame, for `read_stamp`; costs an encoding a frame.
    """

    def __init__(self, width: int, height: int, *, stamped: bool) -> None:
        photograph = read_image(Path(str(files("fthnet_kit.edge") / "assets" / "retina.jpg")))
        self._stamped = stamped
        self._images = [_shown(photograph, width, height, step) for step in range(VARIANTS)]
        self._healthy = [encode(image) for image in self._images]
        others = [_shown(photograph, width * 5 // 8, height * 3 // 4, step) for step in range(VARIANTS)]
        blank = np.zeros((height, width, 3), np.uint8)
        room = np.random.default_rng(1).integers(90, 140, (8, height // 8, width // 8, 1), np.uint8).repeat(3, axis=3)
        self._others: dict[str, list[bytes]] = {
            "resolution": [encode(image) for image in others],
            "frozen": self._healthy[:1],
            "black": [encode(blank)],
            "white": [encode(blank + np.uint8(255))],
            "no_retina": [encode(cv2.resize(image, (width, height))) for image in room],
        }

    def get(self, mode: str, index: int) -> bytes:
        """Frame `index`, as the camera sends it in this mode."""
        if mode in self._others:
            pictures = self._others[mode]
            return pictures[index % len(pictures)]
        picture = self._healthy[index % VARIANTS]
        if mode == "truncated":
            return picture[: len(picture) * 6 // 10]
        if mode == "corrupt":
            return picture[:20] + np.random.default_rng(index).bytes(len(picture) - 20)
        return encode(stamp(self._images[index % VARIANTS])) if self._stamped else picture


def _shown(photograph: Image, width: int, height: int, step: int) -> Image:
    """The photograph in a frame, held a little differently at each step."""
    scale = 0.9 * height / photograph.shape[0]
    angle = 2 * np.pi * step / VARIANTS
    matrix = np.array([[scale, 0, 0], [0, scale, 0]])
    matrix[:, 2] = (width / 2 + 8 * np.cos(angle), height / 2 + 6 * np.sin(angle))
    matrix[:, 2] -= scale * photograph.shape[0] / 2
    return cv2.warpAffine(photograph, matrix, (width, height), flags=cv2.INTER_AREA)


def encode(image: Image) -> bytes:
    """As JPEG."""
    ok, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])
    assert ok
    return data.tobytes()


def stamp(image: Image) -> Image:
    """A copy with the time now, in ms, as black and white squares down the left edge."""
    value = int(1e3 * time.monotonic()) % 2**STAMP_BITS
    stamped = image.copy()
    for bit in range(STAMP_BITS):
        stamped[STAMP_PIXELS * bit : STAMP_PIXELS * (bit + 1), :STAMP_PIXELS] = 255 * (value >> bit & 1)
    return stamped


def read_stamp(image: Image) -> float:
    """Seconds of the monotonic clock when a stamped frame was made."""
    half = STAMP_PIXELS // 2
    return sum(int(image[STAMP_PIXELS * bit + half, half, 1] > 127) << bit for bit in range(STAMP_BITS)) / 1e3


class Camera:
    """What all connections share: the mode, and how to wait until it changes."""

    def __init__(self, pictures: ServedPictures, fps: float) -> None:
        self.pictures = pictures
        self.fps = fps
        self.mode = HEALTHY
        self.changed = threading.Condition()

    def switch(self, mode: str) -> None:
        """Misbehave, or stop doing so."""
        with self.changed:
            self.mode = mode
            self.changed.notify_all()

    def wait_while(self, mode: str, seconds: float | None = None) -> None:
        """Until the mode changes, or so long."""
        with self.changed:
            self.changed.wait_for(lambda: self.mode != mode, seconds)


def handler_of(camera: Camera) -> type[http.server.BaseHTTPRequestHandler]:
    """The request handler of a camera."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            with contextlib.suppress(OSError):
                self._answer()

        def _answer(self) -> None:
            if camera.mode in REFUSALS:
                self.send_error(REFUSALS[camera.mode])
                return
            if camera.mode == "mute":
                camera.wait_while("mute")
                return
            if camera.mode == "reset":
                self._reset()
                return
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            began = time.monotonic()
            for index in itertools.count():
                late = time.monotonic() - began - index / camera.fps
                if late > 1:  # after a stall it goes on at its rate; it does not catch up
                    began += late
                time.sleep(max(0.0, -late))
                if not self._send(camera.mode, index):
                    return

        def _send(self, mode: str, index: int) -> bool:
            """One frame; False where the connection is over."""
            if mode in REFUSALS or mode == "mute":
                return False
            if mode == "reset":
                self._reset()
                return False
            picture = camera.pictures.get(mode, index)
            head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(picture)
            if mode == "garbage":
                self.wfile.write(os.urandom(len(picture)))
            elif mode in ("stall", "trickle"):
                middle = len(picture) // 2
                self.wfile.write(head + picture[:middle])
                if mode == "stall":
                    camera.wait_while("stall")
                while mode == "trickle" and camera.mode == mode and middle < len(picture):
                    self.wfile.write(picture[middle : middle + 16])
                    middle += 16
                    camera.wait_while(mode, 0.05)
                self.wfile.write(picture[middle:] + b"\r\n")
            else:
                self.wfile.write(head + picture + b"\r\n")
            return True

        def _reset(self) -> None:
            """Close so that the other side gets a reset instead of an end."""
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            os.close(self.connection.detach())

        def finish(self) -> None:
            with contextlib.suppress(OSError, ValueError):
                super().finish()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def shutdown_request(self, request: object) -> None:
        with contextlib.suppress(OSError, AttributeError):  # a reset connection is closed already
            super().shutdown_request(request)  # type: ignore[arg-type]


def main() -> None:
    """Serve until stdin ends; Ctrl-C is for whoever reads."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--fps", type=float, default=30.0)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--stamped", action="store_true")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    camera = Camera(ServedPictures(options.width, options.height, stamped=options.stamped), options.fps)
    server = _Server(("127.0.0.1", options.port), handler_of(camera))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    print(json.dumps({"port": server.server_port}), flush=True)  # noqa: T201  (the parent reads it)
    for line in sys.stdin:
        camera.switch(line.strip())
        print(json.dumps({"mode": camera.mode}), flush=True)  # noqa: T201


class MisbehavingCamera:
    """The server, started and commanded from another process. A context manager.

    Args:
        fps, width, height, stamped: as the server's options.
    """

    def __init__(self, fps: float = 30.0, width: int = 640, height: int = 480, *, stamped: bool = False) -> None:
        self._options = ["--fps", str(fps), "--width", str(width), "--height", str(height)]
        self._options += ["--stamped"] if stamped else []
        self._process: subprocess.Popen[str] | None = None
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        """Where its stream is."""
        return f"http://127.0.0.1:{self.port}/video.mjpg"

    @property
    def pid(self) -> int | None:
        """Its process, None while it is killed."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it, again on the same port; it listens when this returns."""
        command = [
            sys.executable,
            "-m",
            "fthnet_kit.bench.endurance.faulty_camera",
            "--port",
            str(self.port),
            *self._options,
        ]
        self._process = subprocess.Popen(  # noqa: S603  (our own command)
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.port = json.loads(self._reply())["port"]

    def _reply(self) -> str:
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("expected an answer of the camera's process, found that it has ended")
        return line

    def misbehave(self, fault: str) -> None:
        """Begin a fault of `FAULTS`; it is in force when this returns."""
        process = self._process
        assert process is not None and process.stdin is not None and fault in FAULTS
        if fault == "kill":
            self._end()
        elif fault == "freeze_process":
            process.send_signal(signal.SIGSTOP)
        else:
            self._say(fault)

    def behave(self) -> None:
        """End whatever fault is on; it is over when this returns. A camera that has died is started again."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            try:
                self._say(HEALTHY)
                return
            except (OSError, RuntimeError):
                self._end()
        self.start()

    def _say(self, mode: str) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(mode + "\n")
        self._process.stdin.flush()
        self._reply()

    @contextlib.contextmanager
    def fault(self, fault: str) -> Iterator[None]:
        """A fault for the length of a ``with`` block."""
        self.misbehave(fault)
        try:
            yield
        finally:
            self.behave()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def __enter__(self) -> MisbehavingCamera:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()


if __name__ == "__main__":
    main()
