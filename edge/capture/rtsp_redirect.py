"""Asks an RTSP camera whether it sends elsewhere, before FFmpeg opens it: FFmpeg follows wherever it is sent."""

from __future__ import annotations

import base64
import socket
import urllib.request
from email.parser import BytesParser
from urllib.parse import unquote, urljoin, urlsplit

from fthnet_kit.edge.capture.http_camera import OneUser
from fthnet_kit.edge.capture.source import without_password
from fthnet_kit.edge.errors import CameraError

PORT = 554
ANSWER_S = 0.5  # a camera that does not answer in that time is left to FFmpeg, which has its own patience
MOST_BYTES = 16 << 10
MOST_STEPS = 4  # from one path of the host to another


def refuse_other_hosts(url: str) -> bool:
    """Follow the redirections of an RTSP address as far as they stay on its host.

    A camera that does not answer, or answers something else, is no matter of this function. What a camera answers
    FFmpeg a moment later cannot be known.

    Returns:
        Whether the camera has answered, and may for a moment be busy with what it prepared for the question.

    Raises:
        CameraError: it sends to another host, or from path to path without end.
    """
    parts = urlsplit(url)
    at = url
    for _ in range(MOST_STEPS):
        try:
            to = _ask(at, parts.username, parts.password)
        except (OSError, ValueError):
            return False
        if to is None:
            return True
        at = _joined(at, to)
        if (urlsplit(at).scheme, urlsplit(at).hostname) != ("rtsp", parts.hostname):
            raise CameraError(
                f"{without_password(url)}: expected the camera itself, found that it sends to "
                f"{without_password(to)[:200]}; name that address if you trust it"
            )
    raise CameraError(f"{without_password(url)}: expected a stream, found a camera that sends from path to path")


def _joined(url: str, to: str) -> str:
    """Where a redirection leads; nowhere where it is no address."""
    try:
        joined = urljoin(url, to)
        urlsplit(joined)
    except ValueError:
        return ""
    return joined


def _ask(url: str, user: str | None, password: str | None) -> str | None:
    """Where a DESCRIBE is sent to; None where it is answered in place."""
    parts = urlsplit(url)
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    with socket.create_connection((parts.hostname or "", parts.port or PORT), ANSWER_S) as camera:
        status, headers = _describe(camera, plain, 1, "")
        if status == 401 and user is not None:
            credentials = _credentials(headers.get("www-authenticate", ""), plain, user, password or "")
            status, headers = _describe(camera, plain, 2, f"Authorization: {credentials}\r\n")
    location = headers.get("location")
    return location if 300 <= status < 400 and location else None


def _describe(camera: socket.socket, url: str, number: int, more: str) -> tuple[int, dict[str, str]]:
    """Status and headers of one answer."""
    text = f"DESCRIBE {url} RTSP/1.0\r\nCSeq: {number}\r\nAccept: application/sdp\r\n{more}\r\n"
    camera.settimeout(ANSWER_S)
    camera.sendall(text.encode())
    answer = b""
    while b"\r\n\r\n" not in answer and len(answer) < MOST_BYTES:
        block = camera.recv(4096)
        if not block:
            break
        answer += block
    first, _, rest = answer.partition(b"\r\n")
    words = first.split()
    if len(words) < 2 or not words[0].startswith(b"RTSP/"):
        raise ValueError("no RTSP")
    headers = BytesParser().parsebytes(rest, headersonly=True)
    return int(words[1]), {name.lower(): " ".join(str(value).split()) for name, value in headers.items()}


def _credentials(challenge: str, url: str, user: str, password: str) -> str:
    """An answer to a challenge: Digest where the camera asks for it, otherwise Basic."""
    kind, _, rest = challenge.partition(" ")
    name, secret = unquote(user), unquote(password)
    if kind.lower() != "digest":
        return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()
    fields = urllib.request.parse_keqv_list(urllib.request.parse_http_list(rest))
    request = urllib.request.Request(url, method="DESCRIBE")  # noqa: S310  (it is signed, and never sent)
    request.selector = url  # RTSP signs the whole address
    answer = urllib.request.HTTPDigestAuthHandler(OneUser(name, secret)).get_authorization(request, fields)
    return f"Digest {answer}"
