"""Cameras over HTTP, against real servers that speak as cameras do."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import functools
import http.server
import itertools
import shutil
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from fthnet_kit.bench.endurance.faulty_camera import MisbehavingCamera, read_stamp
from fthnet_kit.edge.capture.http_camera import HttpCamera
from fthnet_kit.edge.errors import CameraError, PictureError
from fthnet_kit.edge.frame import EncodedFrame

INTERVAL_S = 0.03
Handler = http.server.BaseHTTPRequestHandler
Answer = Callable[[Handler], None]


@functools.cache
def noise(index: int, size: int) -> bytes:
    return cv2.imencode(".jpg", np.random.default_rng(index).integers(0, 255, (size, size, 3), np.uint8))[1].tobytes()


def picture(index: int = 0, size: int = 64) -> bytes:
    """A JPEG that carries, as a comment, the monotonic time at which it was made."""
    encoded = noise(index, size)
    return encoded[:2] + b"\xff\xfe\x00\x0a" + struct.pack("d", time.monotonic()) + encoded[2:]


def made_s(frame: EncodedFrame) -> float:
    return struct.unpack_from("d", frame.data, 6)[0]


@contextlib.contextmanager
def serving(answer: Answer, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Address of a server that answers every request so."""

    class Camera(Handler):
        def do_GET(self) -> None:  # noqa: N802
            with contextlib.suppress(OSError):
                answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def start(handler: Handler, kind: str = "multipart/x-mixed-replace; boundary=frame", **headers: str) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", kind)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()


def parts(handler: Handler, part: Callable[[bytes], bytes], send: Callable[[bytes], object] | None = None) -> None:
    for index in range(60):
        (send or handler.wfile.write)(part(picture(index)))
        time.sleep(INTERVAL_S)


def with_length(data: bytes) -> bytes:
    return b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%b\r\n" % (len(data), data)


def plain(handler: Handler) -> None:
    start(handler)
    parts(handler, with_length)


def without_length(handler: Handler) -> None:
    start(handler)
    parts(handler, lambda data: b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + data + b"\r\n")


def delimiter_behind(handler: Handler) -> None:
    """The next picture's delimiter comes with this one, as mjpg-streamer has it, and lines end by \\n alone."""
    start(handler)
    handler.wfile.write(b"--frame\n")
    parts(
        handler, lambda data: b"content-type: image/jpeg; x=1\ncontent-length:%d\n\n%b\n--frame\n" % (len(data), data)
    )


def dashes_declared(handler: Handler) -> None:
    start(handler, "multipart/x-mixed-replace;boundary=--frame")
    parts(handler, with_length)


def quoted(handler: Handler) -> None:
    start(handler, 'Multipart/Mixed; Boundary="frame"')
    parts(handler, with_length)


def no_boundary(handler: Handler) -> None:
    start(handler, "multipart/x-mixed-replace")
    parts(handler, with_length)


def chunked(handler: Handler) -> None:
    handler.protocol_version = "HTTP/1.1"
    start(handler, Transfer_Encoding="chunked")
    parts(handler, with_length, lambda data: handler.wfile.write(b"%x\r\n%b\r\n" % (len(data), data)))


def other_parts(handler: Handler) -> None:
    text = b"--frame\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nhigh\r\n"
    start(handler)
    parts(handler, lambda data: text + with_length(data))


def wrong_length(handler: Handler) -> None:
    """Every other picture says that it is shorter than it is."""
    start(handler)
    short = itertools.cycle((0, 100))
    head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%b\r\n"
    parts(handler, lambda data: head % (len(data) - next(short), data))


def stills(handler: Handler) -> None:
    data = picture(int(1e6 * time.monotonic()) % 2**31)
    start(handler, "image/jpeg", Content_Length=str(len(data)))
    handler.wfile.write(data)


def moved(handler: Handler) -> None:
    if handler.path != "/there":
        handler.send_response(302)
        handler.send_header("Location", "/there")
        handler.end_headers()
        return
    plain(handler)


def is_whole(frame: EncodedFrame) -> bool:
    try:
        return frame.decoded().image.shape == (64, 64, 3)
    except PictureError:
        return False


@pytest.mark.parametrize(
    "dialect",
    [
        *(plain, without_length, delimiter_behind, dashes_declared, quoted, no_boundary, chunked, other_parts),
        *(wrong_length, stills, moved),
    ],
)
def test_cameras_of_every_dialect_give_their_pictures_as_they_come(dialect: Answer) -> None:
    with serving(dialect) as place:
        camera = HttpCamera(f"http://{place}/video")
        camera.open()
        frames, late = [], []
        for _ in range(10):
            frame = camera.read()
            assert frame is not None
            frames.append(frame)
            late.append(time.monotonic() - made_s(frame))
        camera.close()
    assert camera.read() is None
    assert [frame.index for frame in frames] == list(range(10))
    assert sum(map(is_whole, frames)) == (5 if dialect is wrong_length else 10)
    assert np.median(late) < INTERVAL_S / 2  # not one picture later
    assert len({frame.data for frame in frames}) == 10
    claimed = np.array([frame.captured_ns / 1e9 - made_s(frame) for frame in frames])
    assert np.median(np.abs(claimed)) < 0.01


@pytest.mark.parametrize("size", [64, 1024], ids=["small", "large"])
def test_no_picture_is_said_to_be_younger_than_it_is(size: int) -> None:
    """Whoever reads late finds pictures in the buffers of the kernel and of the sender; both are some megabytes."""

    def answer(handler: Handler) -> None:
        start(handler)
        for _ in range(300):
            handler.wfile.write(with_length(picture(0, size)))
            time.sleep(0.01)

    with serving(answer) as place:
        camera = HttpCamera(f"http://{place}/video")
        camera.open()
        flattered = []
        for index in range(200):
            if index in (10, 100):
                time.sleep(0.7)
            frame = camera.read()
            assert frame is not None
            flattered.append(frame.captured_ns / 1e9 - made_s(frame))
        camera.close()
    assert max(flattered) < 0.1
    assert np.median(np.abs(flattered[-40:])) < 0.05  # and again as they come, once the buffers are empty


@pytest.mark.parametrize(("fps", "count"), [(10, 30), (2, 12)], ids=["several_meanwhile", "one_meanwhile"])
def test_a_reader_that_the_interpreter_keeps_waiting_knows_when_pictures_came(fps: int, count: int) -> None:
    """The camera is a process of its own."""
    keep_waiting = ctypes.PyDLL(None).usleep  # it keeps the interpreter's lock
    flattered: list[float] = []
    with MisbehavingCamera(fps=fps, width=320, height=400, stamped=True) as stamped:
        camera = HttpCamera(stamped.url)
        camera.open()

        def read() -> None:
            while len(flattered) < count:
                frame = camera.read()
                assert frame is not None
                flattered.append(frame.captured_ns / 1e9 - read_stamp(frame.decoded().image))

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        while reader.is_alive():
            time.sleep(0.11)
            keep_waiting(350_000)
        camera.close()
    assert len(flattered) == count
    assert max(flattered) < 0.12


@pytest.mark.parametrize("kind", ["basic", "digest"])
def test_a_user_is_named_as_the_camera_asks_for_it(kind: str) -> None:
    asked = []

    def answer(handler: Handler) -> None:
        given = handler.headers.get("Authorization", "")
        asked.append(given)
        expected = base64.b64encode(b"eye:p@ss/w").decode() if kind == "basic" else 'username="eye"'
        if expected in given:
            plain(handler)
            return
        handler.send_response(401)
        digest = 'Digest realm="cam", nonce="n1", qop="auth", algorithm=MD5'
        handler.send_header("WWW-Authenticate", 'Basic realm="cam"' if kind == "basic" else digest)
        handler.end_headers()

    with serving(answer) as place:
        camera = HttpCamera(f"http://eye:p%40ss%2Fw@{place}/video")
        camera.open()
        assert camera.read() is not None
        camera.close()
        assert asked[0] == ""
        with pytest.raises(CameraError, match=r"answers 401.*USER:PASSWORD"):
            HttpCamera(f"http://{place}/video").open()
        with pytest.raises(CameraError, match="expected a camera or stream, found") as caught:
            HttpCamera(f"http://eve:secret@{place}/video?pwd=secret").open()
    assert "secret" not in str(caught.value)


def test_an_encrypted_camera_must_be_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [program, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=camera"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with serving(plain, tls) as place:
        camera = HttpCamera(f"https://{place}/video")
        with pytest.raises(CameraError, match="SSL_CERT_FILE"):
            camera.open()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        camera.open()
        late = []
        for _ in range(10):
            frame = camera.read()
            assert frame is not None
            assert is_whole(frame)
            late.append(time.monotonic() - made_s(frame))
        camera.close()
    assert np.median(late) < INTERVAL_S / 2


def test_another_host_is_not_followed() -> None:
    reached = []

    def elsewhere(handler: Handler) -> None:
        reached.append(handler.headers)
        plain(handler)

    def answer(handler: Handler) -> None:
        handler.send_response(302)
        handler.send_header("Location", f"http://{other.replace('127.0.0.1', 'localhost')}/video")
        handler.end_headers()

    expected = pytest.raises(CameraError, match="it sends to http://localhost")
    with serving(elsewhere) as other, serving(answer) as place, expected:
        HttpCamera(f"http://eye:secret@{place}/video").open()
    assert reached == []


def test_a_page_is_no_camera() -> None:
    def answer(handler: Handler) -> None:
        start(handler, "text/html")
        handler.wfile.write(b"<html>")

    with serving(answer) as place, pytest.raises(CameraError, match=r"expected MJPEG.*found text/html"):
        HttpCamera(f"http://{place}/").open()


def trickle(handler: Handler) -> None:
    start(handler)
    data = with_length(picture())
    for at in range(0, len(data), 16):
        handler.wfile.write(data[at : at + 16])
        time.sleep(0.05)


def garbage(handler: Handler) -> None:
    start(handler)
    for index in range(300):
        handler.wfile.write(np.random.default_rng(index).bytes(10_000))
        time.sleep(0.01)


def huge(handler: Handler) -> None:
    start(handler)
    handler.wfile.write(b"--frame\r\nContent-Length: 99999999999\r\n\r\n")
    time.sleep(3)


def cut_off(handler: Handler) -> None:
    start(handler)
    handler.wfile.write(with_length(picture())[:-500])


@pytest.mark.parametrize("answer", [trickle, garbage, huge, cut_off])
def test_a_connection_that_gives_no_picture_is_given_up_in_time(answer: Answer) -> None:
    with serving(answer) as place:
        camera = HttpCamera(f"http://{place}/video")
        camera.open()
        began = time.monotonic()
        assert camera.read() is None
        assert time.monotonic() - began < 5
        camera.close()
