"""Network cameras over HTTP: MJPEG (multipart), or one JPEG a request, which is asked for again and again.

Pictures are taken off the wire as they come, with the time at which they began to come, and are not decoded here.
"""

from __future__ import annotations

import http.client
import io
import ssl
import time
import urllib.request
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit, urlunsplit

from fthnet_kit.edge.capture.multipart import LARGEST_PICTURE, Multipart
from fthnet_kit.edge.capture.patience import READ_TIMEOUT_S, Patience
from fthnet_kit.edge.capture.reachable import what_was_met
from fthnet_kit.edge.capture.source import without_password
from fthnet_kit.edge.capture.wire import Wire
from fthnet_kit.edge.errors import CameraError
from fthnet_kit.edge.frame import EncodedFrame

POLL_S = 0.2  # between two requests for a still: well within the second after which a camera is said to stall
LOST = (OSError, http.client.HTTPException, ValueError, EOFError, CameraError)  # reading: nothing more will come


class HttpCamera:
    """A camera that sends JPEG pictures.

    User names in the address are used as the camera asks for it (Basic or Digest). Redirections lead to other paths
    of the same host only.

    Args:
        url: ``http://…`` or ``https://…``.
    """

    def __init__(self, url: str) -> None:
        self.name = without_password(url)
        self.live = True
        self.fps: float | None = None
        self.ended = False
        self._url, self._opener = _opener(url)
        self._patience = Patience()
        self._answer: Answer | None = None
        self._parts: Multipart | None = None
        self._asked_ns = 0
        self._index = 0

    def open(self) -> None:
        """Open, or open again after `close`.

        Raises:
            CameraError: nothing answers in time, or what answers gives no JPEG pictures.
        """
        with self._patience.attempt():
            answer = self._answer = self._ask(self._patience.timeout_s)
        kind = answer.headers.get_content_type()
        if kind.startswith("multipart/"):
            self._parts = Multipart(answer, answer.wire, answer.headers.get_boundary())
        elif kind not in ("image/jpeg", "image/jpg"):
            self.close()
            raise CameraError(
                f"{self.name}: expected MJPEG (multipart/x-mixed-replace) or one JPEG a request, found {kind}; "
                "is the path of the address right?"
            )

    def read(self) -> EncodedFrame | None:
        """The next picture, or None where none comes in time."""
        if self._answer is None:
            return None
        try:
            data, arrived_ns = self._next_part(self._parts) if self._parts else self._next_still()
        except LOST:
            return None
        index, self._index = self._index, self._index + 1
        return EncodedFrame(data, index, arrived_ns)

    def close(self) -> None:
        """End the connection."""
        answer, self._answer, self._parts = self._answer, None, None
        if answer is not None:
            answer.close()

    def _next_part(self, parts: Multipart) -> tuple[bytes, int]:
        assert self._answer is not None
        self._answer.wire.deadline_s = time.monotonic() + READ_TIMEOUT_S
        return parts.next()

    def _next_still(self) -> tuple[bytes, int]:
        """A picture, and when it was asked for: no later moment is sure to be before it was taken."""
        if self._answer is None or self._answer.isclosed():
            time.sleep(max(0.0, POLL_S - (time.monotonic_ns() - self._asked_ns) / 1e9))
            self._answer = self._ask(READ_TIMEOUT_S)
        with self._answer as answer:
            answer.wire.deadline_s = self._asked_ns / 1e9 + READ_TIMEOUT_S
            data = answer.read(LARGEST_PICTURE)
        return data, self._asked_ns

    def _ask(self, timeout_s: float) -> Answer:
        """The camera's answer, of which nothing but the head has been read.

        Raises:
            CameraError: there is none, or it is a refusal.
        """
        self._asked_ns = time.monotonic_ns()
        try:
            answer = self._opener.open(self._url, timeout=timeout_s)
            assert isinstance(answer, Answer)
            return answer
        except HTTPError as error:
            error.close()
            hint = "; write http://USER:PASSWORD@… with a user who may watch" if error.code in (401, 403) else ""
            raise CameraError(
                f"{self.name}: expected a camera or stream, found none: it answers {error.code} {error.reason}{hint}"
            ) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise CameraError(f"{self.name}: expected a camera or stream, found {_met(self._url, error)}") from error


class Answer(http.client.HTTPResponse):
    """An HTTP answer that is read from a `Wire`."""

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.wire = Wire(sock)
        self.fp.close()
        self.fp = io.BufferedReader(self.wire)


class _Connection(http.client.HTTPConnection):
    response_class = Answer


class _EncryptedConnection(http.client.HTTPSConnection):
    response_class = Answer


class _Plain(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, req)


class _Encrypted(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_EncryptedConnection, req, context=ssl.create_default_context())


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Redirections to the named host, and never from an encrypted connection to one that is not."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        before, after = urlsplit(req.full_url), urlsplit(newurl)
        if before.hostname != after.hostname or after.scheme not in ("https", before.scheme):
            raise URLError(f"it sends to {after.scheme}://{after.hostname}, name that address if you trust it")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class OneUser(urllib.request.HTTPPasswordMgrWithDefaultRealm):
    """One user, who is named to nobody but the host of the address."""

    def __init__(self, user: str, password: str) -> None:
        super().__init__()
        self._user, self._secret = user, password

    def find_user_password(self, realm: str | None, authuri: str) -> tuple[str, str]:
        """Whatever is asked for."""
        return self._user, self._secret


def _opener(url: str) -> tuple[str, urllib.request.OpenerDirector]:
    """The address without its user, and what opens it. No proxy: cameras are near."""
    parts = urlsplit(url)
    opener = urllib.request.OpenerDirector()
    handlers: list[urllib.request.BaseHandler] = [_Plain(), _Encrypted(), _SameHost()]
    handlers += [urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPErrorProcessor()]
    if parts.username is not None:
        password = OneUser(unquote(parts.username), unquote(parts.password or ""))
        handlers += [urllib.request.HTTPDigestAuthHandler(password), urllib.request.HTTPBasicAuthHandler(password)]
    for handler in handlers:
        opener.add_handler(handler)
    plain = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, parts.query, ""))
    return plain, opener


def _met(url: str, error: Exception) -> str:
    """What was found instead of a camera, and what to do."""
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return "one whose certificate is not trusted: name a file with it in the environment variable SSL_CERT_FILE"
    if isinstance(reason, str):
        return f"none: {reason}"
    return what_was_met(url, reason)
