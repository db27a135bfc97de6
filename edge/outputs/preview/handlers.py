"""The requests that the preview answers: the page, its streams, the operator's decisions, health and metrics."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import math
import re
import socket
from functools import partial
from importlib.metadata import version
from typing import Any, cast

from fthnet_kit.edge.errors import KitError, MissingExtraError
from fthnet_kit.edge.outputs.preview.access import COOKIE, PauseError
from fthnet_kit.edge.outputs.preview.assets import ASSETS, PAGE, TOKEN_PAGE, WAIT_PAGE, WRONG_TOKEN_PAGE
from fthnet_kit.edge.outputs.preview.doorman import SESSION_S, source_of
from fthnet_kit.edge.outputs.preview.feed import Feed
from fthnet_kit.edge.outputs.preview.operations import BOUNDARY, Action, Operations, Refusal

try:
    from tornado import web
    from tornado.http1connection import HTTP1Connection
    from tornado.iostream import IOStream, StreamClosedError
except ImportError as error:
    raise MissingExtraError("tornado", "serve", purpose="the preview in a browser") from error


LOG = logging.getLogger("fthnet")

SLOW_CLIENT_S = 5.0
SEND_BUFFER_BYTES = 128 << 10  # more would only hold old pictures
HTML = "text/html; charset=utf-8"
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Handler(web.RequestHandler):
    """What all requests have in common: who may ask, what each answer says to browsers, and how errors look."""

    PUBLIC = False  # answered without the token

    def initialize(self, operations: Operations) -> None:
        """Tornado's constructor."""
        self.operations = operations

    def set_default_headers(self) -> None:
        """For every answer, errors included."""
        self.clear_header("Server")
        for name, value in SECURITY_HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        """Refuse who must not ask."""
        access = self.operations.access
        if not access.knows_host(self.request.host):
            raise Refusal(403, "this server does not go by that name; use its IP address")
        if not access.same_origin(self.request):
            raise Refusal(403, "another page must not ask")
        if not self.PUBLIC and not self.admitted():
            raise Refusal(
                401,
                "a token is needed: Authorization: Bearer TOKEN, or open /?token=TOKEN once",
                self.operations.words["token_changed"],
            )

    def admitted(self) -> bool:
        """Whether who asks has shown the token, or needs none."""
        try:
            return self.operations.access.admits(self.request)
        except PauseError as pause:
            raise Refusal(429, str(pause), self.operations.words["token_wait"], retry_s=pause.seconds) from pause

    @property
    def stream(self) -> IOStream:
        """The connection."""
        return cast(HTTP1Connection, self.request.connection).stream

    def finish(self, chunk: str | bytes | dict[str, Any] | None = None) -> asyncio.Future[None]:
        """Answer; who does not take the answer within some seconds is disconnected."""
        stream = self.stream
        sent = super().finish(chunk)
        if not sent.done():
            patience = asyncio.get_running_loop().call_later(SLOW_CLIENT_S, stream.close)
            sent.add_done_callback(lambda _: patience.cancel())
        return sent

    def send(self, content: bytes, kind: str) -> None:
        """Answer with a body of a content type."""
        self.set_header("Content-Type", kind)
        self.finish(content)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """One line of JSON; never a traceback."""
        error = kwargs.get("exc_info", (None, None))[1]
        if isinstance(error, Refusal):
            content = {"error": error.words, **({} if error.shown is None else {"shown": error.shown})}
        else:
            content = {"error": http.client.responses.get(status_code, "refused")}
            if status_code >= http.client.INTERNAL_SERVER_ERROR:
                content["shown"] = self.operations.words["internal_error"]
        extra = {401: ("WWW-Authenticate", "Bearer"), 503: ("Retry-After", "5")}.get(status_code)
        if isinstance(error, Refusal) and error.retry_s is not None:
            extra = ("Retry-After", str(math.ceil(error.retry_s)))
        if extra is not None:
            self.set_header(*extra)
        self.finish(content)

    def log_exception(self, *exc_info: Any) -> None:
        """What is our fault, in one line."""
        if not isinstance(exc_info[1], web.HTTPError):
            kind = type(exc_info[1]).__name__
            LOG.warning("preview: %s %s: %s: %s", self.request.method, self.request.path, kind, exc_info[1])


class PageHandler(Handler):
    """The page; or, without the token, the one that asks for it."""

    PUBLIC = True

    def get(self) -> None:
        """`?token=` is exchanged for a cookie; the page takes it out of the address."""
        if self._lets_in_or_asks(self.get_query_argument("token", None)):
            self.send(self.operations.assets[PAGE], HTML)

    def post(self) -> None:
        """The form's token comes in the body, so that no history and no log of addresses keeps it."""
        if self._lets_in_or_asks(self.get_body_argument("token", None)):
            self.redirect("./", status=303)

    def _lets_in_or_asks(self, token: str | None) -> bool:
        """Whether the page may be shown; otherwise the answer is the form, which says what was wrong."""
        try:
            if self._lets_in(token):
                return True
            self._ask_for_token(401, TOKEN_PAGE if token is None else WRONG_TOKEN_PAGE)
        except PauseError as pause:
            self.set_header("Retry-After", str(math.ceil(pause.seconds)))
            self._ask_for_token(429, WAIT_PAGE)
        return False

    def _lets_in(self, token: str | None) -> bool:
        """Whether the page may be shown; the right token begins a session, whose cookie stands for it."""
        access = self.operations.access
        if token is not None and access.needs_token and access.is_token(token, self.request.remote_ip or ""):
            self._begin_session()
            return True
        return access.admits(self.request)

    def _begin_session(self) -> None:
        cookie = self.operations.access.sessions.begin(source_of(self.request.remote_ip or ""))
        secure = self.request.protocol == "https"
        self.set_cookie(COOKIE, cookie, httponly=True, samesite="Strict", secure=secure, max_age=int(SESSION_S))

    def _ask_for_token(self, status: int, page: str) -> None:
        self.set_status(status)
        self.send(self.operations.assets[page], HTML)


class Logout(Handler):
    """Ends a session."""

    PUBLIC = True

    def post(self) -> None:
        """The cookie is worth nothing from now on, wherever a copy of it lies."""
        cookie = self.request.cookies.get(COOKIE)
        if cookie is not None:
            self.operations.access.sessions.end(cookie.value)
        self.clear_cookie(COOKIE)
        self.redirect("./", status=303)


class Asset(Handler):
    """A file that the pages need; none holds a secret."""

    PUBLIC = True

    def get(self) -> None:
        """One of the files that were read at the start: no path of a request ever reaches the disk."""
        name, kind = ASSETS[self.request.path]
        self.send(self.operations.assets[name], kind)


class Stream(Handler):
    """An answer without an end."""

    async def follow(self, feed: Feed, kind: str, start: bytes) -> None:
        """Send what a feed publishes until the viewer goes or stops reading."""
        if feed.readers >= feed.limit:
            raise self.operations.refusal(503, "too_many_viewers", limit=feed.limit)
        connection = self.stream
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self.set_header("Content-Type", kind)
        feed.readers += 1
        number, item = feed.number, start
        try:
            while not connection.closed() and not feed.closed:
                if item:
                    self.write(item)
                    await asyncio.wait_for(self.flush(), SLOW_CLIENT_S)
                number, item = await feed.newer(number)
        except StreamClosedError:
            pass
        except asyncio.TimeoutError:
            connection.close()
        finally:
            feed.readers -= 1


class Events(Stream):
    """Server-sent events: the state of everything, as JSON."""

    async def get(self) -> None:
        """Starts with a comment, so that a browser sees the connection at once."""
        await self.follow(self.operations.events, "text/event-stream; charset=utf-8", b":\n\n")


class PictureStream(Stream):
    """The live picture as Motion JPEG."""

    async def get(self) -> None:
        """From the next frame on: what was before is not live."""
        await self.follow(self.operations.pictures, "multipart/x-mixed-replace; boundary=frame", BOUNDARY)


class Best(Handler):
    """The best shot that waits for a decision."""

    def get(self) -> None:
        """Its score and id."""
        shot = self.operations.board.shot
        if shot is None:
            raise Refusal(404, "there is no best shot")
        self.finish(shot.to_dict())


class BestPicture(Handler):
    """The best shot's picture."""

    async def get(self) -> None:
        """Reduced to 1600 pixels."""
        jpeg = await self.operations.shot_jpeg()
        if jpeg is None:
            raise Refusal(404, "there is no best shot")
        self.send(jpeg, "image/jpeg")


class Decision(Handler):
    """The operator's decision on the best shot."""

    async def post(self) -> None:
        """JSON with the shot's id; no form of another site can send that."""
        if self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refusal(415, 'expected application/json: {"id": "..."}')
        try:
            content = json.loads(self.request.body)
            shot_id = content["id"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise Refusal(400, 'expected {"id": "..."}') from error
        action: Action = "accept" if self.request.path.endswith("accept") else "retake"
        await self.operations.decide(action, shot_id)
        self.finish({"id": shot_id, "decision": action})


class Eye(Handler):
    """Whose eye comes next."""

    async def post(self) -> None:
        """JSON, as `eye_context.schema.json` describes it; no form of another site can send that."""
        if self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refusal(415, "expected application/json")
        set_eye = self.operations.set_eye
        if set_eye is None:
            raise Refusal(409, "no shots are kept in this run")
        try:
            await self.operations.in_thread(partial(set_eye, self.request.body))
        except KitError as error:
            raise Refusal(400, str(error), self.operations.words["eye_refused"]) from error
        self.finish({"eye": "set"})


class Health(Handler):
    """For watchdogs."""

    def prepare(self) -> None:
        """If the option says so, everybody may ask whether it is alive, and nothing else."""
        self.PUBLIC = self.operations.open_health
        super().prepare()

    def get(self) -> None:
        """200 while results are current, 503 with the reason while not."""
        healthy, content = self.operations.board.health()
        self.set_status(200 if healthy else 503)
        if self.operations.open_health and not self.admitted():
            self.finish({"status": content["status"]})
        else:
            self.finish({**content, "version": version("fthnet-edge-kit")})


class MetricsText(Handler):
    """For Prometheus."""

    def get(self) -> None:
        """The text format."""
        metrics = self.operations.metrics
        self.send(metrics.render(), metrics.CONTENT_TYPE)


class Unknown(Handler):
    """Everything else."""

    def prepare(self) -> None:
        """Not found, once it is clear that they may ask."""
        super().prepare()
        raise Refusal(404, "there is nothing here")


def make_application(operations: Operations) -> web.Application:
    """All paths, each fixed and without any parameter."""
    handlers: dict[str, type[Handler]] = {
        "/": PageHandler,
        "/logout": Logout,
        **dict.fromkeys(ASSETS, Asset),
        "/events": Events,
        "/stream.mjpg": PictureStream,
        "/api/best": Best,
        "/api/best.jpg": BestPicture,
        "/api/best/accept": Decision,
        "/api/best/retake": Decision,
        "/api/eye": Eye,
        "/healthz": Health,
        "/metrics": MetricsText,
    }
    context = {"operations": operations}
    return web.Application(
        [(re.escape(path), handler, context) for path, handler in handlers.items()],
        default_handler_class=Unknown,
        default_handler_args=context,
        log_function=lambda handler: None,
    )
