"""Is a picture as old as the live loop says? Each picture carries the time at which the camera sent it.

    python -m fthnet_kit.bench.endurance.true_age                     # 12 Mpixel at 15 fps, 3 busy processes
    python -m fthnet_kit.bench.endurance.true_age --width 1920 --height 1080 --fps 60
    python -m fthnet_kit.bench.endurance.true_age --source rtsp://127.0.0.1:8554/live

The kit's own camera writes the time into a comment of each JPEG; a camera that is named draws it into its pictures
(`faulty_camera.stamp`), and its pictures are not scored but held for as long as scoring takes. Both are processes of
their own, or the busy ones would not be in their way. Says, in ms: how old pictures were when their score was there,
and by how much they were said to be younger. Exit code 1 if that was more than 250 ms.
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import json
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from fthnet_kit.bench.endurance.faulty_camera import STAMP_BITS, STAMP_PIXELS, read_stamp
from fthnet_kit.edge.capture.open_source import make_source
from fthnet_kit.edge.formats import jpeg
from fthnet_kit.edge.formats.read import read_image
from fthnet_kit.edge.frame import Frame
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.inference.scorer import QualityScorer
from fthnet_kit.edge.loop.live_loop import LiveLoop
from fthnet_kit.edge.model.score import Score

MOST_MS = 250.0
VARIANTS = 6
COMMENT = b"\xff\xfe\x00\x0a"  # with 8 bytes of text
WARM_UP_S = 3.0
BUSY = "while True: pass"


class Holder:
    """Stands for a scorer with pictures that show no retina."""

    algorithm = None

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def score_frame(self, frame: Frame) -> Score:
        """A score after some time."""
        time.sleep(self._seconds)
        return Score(50.0, raw=50.0, verdict="usable", frame_index=frame.index)


def serve(width: int, height: int, fps: float) -> None:
    """Send pictures at a rate; what cannot be sent in time is left out, as a camera does."""
    photograph = cv2.resize(read_image(Path(str(files("fthnet_kit.edge") / "assets" / "retina.jpg"))), (height, height))
    left = (width - height) // 2
    framed = cv2.copyMakeBorder(photograph, 0, 0, left, width - height - left, cv2.BORDER_CONSTANT)
    noise = np.random.default_rng(0).integers(0, 12, (height, width, 3), np.uint8)
    quality = [cv2.IMWRITE_JPEG_QUALITY, 90]
    shown = [cv2.add(framed, np.roll(noise, 97 * number, axis=1)) for number in range(VARIANTS)]
    pictures = [cv2.imencode(".jpg", image, quality)[1].tobytes() for image in shown]

    class Camera(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            began, index = time.monotonic(), 0
            with contextlib.suppress(OSError):
                while True:
                    index = max(index + 1, int((time.monotonic() - began) * fps))
                    time.sleep(max(0.0, began + index / fps - time.monotonic()))
                    data = pictures[index % VARIANTS]
                    head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % (len(data) + 12)
                    now = struct.pack("d", time.monotonic())
                    self.wfile.write(head + data[:2] + COMMENT + now + data[2:] + b"\r\n")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    server.daemon_threads = True
    print(json.dumps({"port": server.server_port, "bytes": len(pictures[0])}), flush=True)  # noqa: T201
    server.serve_forever()


@contextlib.contextmanager
def processes(*commands: list[str]) -> Iterator[list[subprocess.Popen[str]]]:
    """These, until the end of a ``with`` block."""
    started = [subprocess.Popen([sys.executable, *each], stdout=subprocess.PIPE, text=True) for each in commands]  # noqa: S603
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def carry_comments_over() -> None:
    """From now on a decoded picture shows the time that its file's comment holds."""
    plain = jpeg.decode

    def decode(data: bytes) -> Image:
        image = plain(data)
        if data[2:6] == COMMENT:
            (made_s,) = struct.unpack_from("d", data, 6)
            for bit in range(STAMP_BITS):
                rows = slice(STAMP_PIXELS * bit, STAMP_PIXELS * (bit + 1))
                image[rows, :STAMP_PIXELS] = 255 * (int(1e3 * made_s) >> bit & 1)
        return image

    jpeg.decode = decode


def measure(source: str, scorer: QualityScorer | Holder, seconds: float) -> tuple[int, npt.NDArray[np.float64]]:
    """Captured frames, and (N, 3) in ms of the scored ones: true age with the score, age as it was said, difference."""
    rows: list[tuple[float, float, float]] = []
    loop = LiveLoop(lambda: make_source(source), scorer)  # type: ignore[arg-type]
    began_s = None
    for result in loop.results():
        now_s = time.monotonic()
        began_s = began_s or now_s
        if now_s - began_s > seconds + WARM_UP_S:
            break
        if result.frame is not None and result.score.value is not None and now_s - began_s > WARM_UP_S:
            true_ms, said_ms = 1e3 * (now_s - read_stamp(result.frame.image)), result.latency_ms or 0.0
            rows.append((true_ms, said_ms, true_ms - said_ms))
    return loop.summary.captured, np.array(rows).reshape(-1, 3)


def main() -> None:
    """Measure, and say it as a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=4000)
    parser.add_argument("--height", type=int, default=3000)
    parser.add_argument("--fps", type=float, default=15.0)
    parser.add_argument("--busy", type=int, default=3, help="processes beside, each of which takes a whole core")
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--source", help="a camera that draws the time into its pictures, in place of the kit's own")
    parser.add_argument("--scoring-ms", type=float, default=60.0, help="how long pictures of --source are held")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = [f"--{name}={getattr(options, name)}" for name in ("width", "height", "fps")]
    if options.serve:
        serve(options.width, options.height, options.fps)
    carry_comments_over()
    busy = [["-c", BUSY]] * options.busy
    if options.source:
        with processes(*busy):
            captured, rows = measure(options.source, Holder(options.scoring_ms / 1e3), options.seconds)
    else:
        with processes([__file__, "--serve", *size]) as (camera,), QualityScorer.from_bundle() as scorer:
            assert camera.stdout is not None
            port = json.loads(camera.stdout.readline())["port"]
            with processes(*busy):
                captured, rows = measure(f"http://127.0.0.1:{port}/", scorer, options.seconds)
    if not len(rows):
        sys.exit("expected scored pictures, found none")
    names = ("capture_to_score_ms", "as_said_ms", "true_less_said_ms")
    found = {
        name: {f"p{p}": round(float(np.percentile(rows[:, at], p)), 1) for p in (50, 95, 100)}
        for at, name in enumerate(names)
    }
    print(json.dumps({"captured": captured, "scored": len(rows), **found}))  # noqa: T201
    sys.exit(int(rows[:, 2].max() > MOST_MS))


if __name__ == "__main__":
    main()
