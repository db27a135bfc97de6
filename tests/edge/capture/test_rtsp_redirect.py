"""RTSP cameras that send elsewhere: only to other paths of their own host."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from fthnet_kit.edge.capture.network_stream import NetworkStream
from fthnet_kit.edge.capture.rtsp_redirect import refuse_other_hosts
from fthnet_kit.edge.errors import CameraError

Answer = Callable[[str], str]
OK = "RTSP/1.0 200 OK\r\n\r\n"


@contextmanager
def camera(answer: Answer) -> Iterator[tuple[int, list[str]]]:
    """A camera that answers each request as a function says; its port, and the requests."""
    asked: list[str] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def talk(connection: socket.socket) -> None:
        with connection:
            while text := connection.recv(4096).decode():
                asked.append(text)
                connection.sendall(answer(text).encode())

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1], asked
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def moved(to: str) -> str:
    return f"RTSP/1.0 302 Moved\r\nCSeq: 1\r\nLocation: {to}\r\n\r\n"


@pytest.mark.parametrize(
    "to", ["rtsp://192.0.2.7/live", "rtsp://u:secret@192.0.2.7/x", "http://127.0.0.1/x", "file:///x", "rtsp://[::1"]
)
def test_another_host_or_protocol_is_refused_before_ffmpeg_follows(to: str) -> None:
    with camera(lambda _: moved(to)) as (port, asked), pytest.raises(CameraError, match="sends to") as refused:
        NetworkStream(f"rtsp://127.0.0.1:{port}/live").open()
    assert len(asked) == 1
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_another_path_of_the_same_host_is_followed() -> None:
    with camera(lambda text: OK if "/b " in text else moved("/b")) as (port, asked):
        refuse_other_hosts(f"rtsp://127.0.0.1:{port}/a")
    assert [text.split()[1].rpartition("/")[2] for text in asked] == ["a", "b"]


def test_a_second_redirection_is_looked_at_too() -> None:
    with (
        camera(lambda text: moved("rtsp://192.0.2.7/x") if "/b " in text else moved("/b")) as (port, _),
        pytest.raises(CameraError, match=r"192\.0\.2\.7"),
    ):
        refuse_other_hosts(f"rtsp://127.0.0.1:{port}/a")


def test_redirections_without_end_are_refused() -> None:
    with camera(lambda _: moved("/a")) as (port, asked), pytest.raises(CameraError, match="from path to path"):
        refuse_other_hosts(f"rtsp://127.0.0.1:{port}/a")
    assert len(asked) < 10


def digest(text: str) -> bool:
    """Whether a request is signed by the user as RFC 2617 asks."""
    found = dict(re.findall(r'(\w+)="?([^",]+)"?', text.partition("Digest ")[2]))

    def md5(words: str) -> str:
        return hashlib.md5(words.encode()).hexdigest()

    uri = text.split()[1]
    wanted = md5(
        f"{md5('me:pass word')}:n0nce:{md5(f'DESCRIBE:{uri}')}".replace(md5("me:pass word"), md5("me:cam:pass word"))
    )
    return found.get("response") == wanted


@pytest.mark.parametrize("kind", ["Basic", "Digest"])
def test_a_redirection_behind_the_password_is_found(kind: str) -> None:
    def answer(text: str) -> str:
        signed = "Basic bWU6cGFzcyB3b3Jk" in text if kind == "Basic" else digest(text)
        if signed:
            return moved("rtsp://192.0.2.7/live")
        return f'RTSP/1.0 401 Unauthorized\r\nWWW-Authenticate: {kind} realm="cam", nonce="n0nce"\r\n\r\n'

    with camera(answer) as (port, asked), pytest.raises(CameraError, match=r"192\.0\.2\.7"):
        refuse_other_hosts(f"rtsp://me:pass%20word@127.0.0.1:{port}/live")
    assert "Authorization" not in asked[0]
    assert all("pass" not in text for text in asked)


@pytest.mark.parametrize(
    "answer", ["", "HTTP/1.1 302 Found\r\nLocation: http://x/\r\n\r\n", "RTSP/1.0 x\r\n\r\n", OK, "\x00" * 5000]
)
def test_what_sends_nowhere_is_left_to_ffmpeg(answer: str) -> None:
    with camera(lambda _: answer) as (port, _):
        refuse_other_hosts(f"rtsp://127.0.0.1:{port}/live")


def test_a_camera_that_is_not_there_is_left_to_ffmpeg() -> None:
    refuse_other_hosts("rtsp://127.0.0.1:9/live")
