"""The preview in a browser: live picture, score, guidance and best shot, with health and metrics for machines.

A sink of the live loop with a thread of its own. `offer` only notes the newest result; the server's thread looks at
it ten times a second, makes one event and one small picture of it for all viewers, and waits for nobody: a slow
viewer misses what came meanwhile, and one that reads nothing for five seconds is disconnected.

Tornado, because one package without dependencies, with wheels for aarch64, brings streaming with back-pressure and
the limits on headers, bodies and idle connections that a server on a network needs.

Who may ask stands in `access`, what is answered in `board` and `prometheus`, what each path answers in
`handlers`, and the page itself in `assets/preview`, put together by `assets`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import logging
import re
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fthnet_kit.edge.errors import InputError, MissingExtraError
from fthnet_kit.edge.files import warn_if_others_read
from fthnet_kit.edge.guidance.texts import Language, words_in
from fthnet_kit.edge.loop.result import LiveResult, LiveSummary
from fthnet_kit.edge.model.bundle import is_demonstration
from fthnet_kit.edge.model.card import ModelCard
from fthnet_kit.edge.outputs.preview.access import Access, Address, parse_address
from fthnet_kit.edge.outputs.preview.assets import read_assets
from fthnet_kit.edge.outputs.preview.board import CURRENT_S, Board, WaitingShot
from fthnet_kit.edge.outputs.preview.doorman import Sessions, source_of
from fthnet_kit.edge.outputs.preview.feed import Feed
from fthnet_kit.edge.outputs.preview.handlers import make_application
from fthnet_kit.edge.outputs.preview.operations import (
    BOUNDARY,
    PICTURE_PX,
    PICTURE_QUALITY,
    Operations,
    encode,
    field_in,
    read_vitals,
)
from fthnet_kit.edge.outputs.preview.prometheus import Metrics

if TYPE_CHECKING:
    from fthnet_kit.edge.outputs.best_shot.eye_context import EyeContext

try:
    from tornado.httpserver import HTTPServer
    from tornado.iostream import IOStream
    from tornado.netutil import bind_sockets
except ImportError as error:
    raise MissingExtraError("tornado", "serve", purpose="the preview in a browser") from error

LOG = logging.getLogger("fthnet")

EVENT_EVERY_S = 0.1  # at most; pictures too
HEARTBEAT_S = 0.5  # an event at least this often, so that a page can tell silence from a lost connection
DEVICE_EVERY_S = 5.0


MAX_CLIENTS = 8
CONNECTIONS_PER_CLIENT = 6  # what a browser opens to one host
MAX_HEADER_BYTES, MAX_BODY_BYTES = 16 << 10, 4 << 10
MAX_UNREAD_BYTES = 128 << 10  # requests that a connection may send ahead; more ends it
KEPT_SHARE = 4  # one in so many places is kept for who is logged in
IDLE_S, BODY_S = 15.0, 5.0
GONE_S = 10  # a viewer whose network is gone keeps its place for this long


class PreviewServer:
    """Serves the preview page, the live picture, health and metrics; a sink of the live loop.

    Args:
        address: where to listen; port 0 takes any free one, which `address` then names.
        token: asked of every request; may be None on loopback only.
        card: of the model, for its name and its thresholds.
        accept, retake: called with the id of the best shot that the operator decided on, in a thread of the server;
            a KitError or OSError is shown to the operator, as is False, and the decision can be made again.
        set_eye: called with the JSON of `POST /api/eye`, in a thread of the server; without it the page has no form.
        eye: gives whose eye comes next, None where that is unknown.
        summary: of the loop (`loop.summary`), for the metrics.
        language: of the page.
        max_clients: browsers at a time.
        tls: serve HTTPS with this context (`tls_context`).
        open_health: `/healthz` answers everybody whether it is alive; more than that takes the token.
        current_s: a result older than this is not current: `/healthz` says so.

    Raises:
        InputError: the port is taken or must not be used, or the address is open without a token.
        ValueError: the page does not speak this language.

    Example::

        server = PreviewServer(parse_address("8080"), None, scorer.card)
        for result in loop.results():
            server.offer(result, hint="hold still")
    """

    def __init__(
        self,
        address: Address,
        token: str | None,
        card: ModelCard,
        *,
        accept: Callable[[str], object] = lambda shot: None,
        retake: Callable[[str], object] = lambda shot: None,
        summary: LiveSummary | None = None,
        language: Language = "en",
        max_clients: int = MAX_CLIENTS,
        current_s: float = CURRENT_S,
        tls: ssl.SSLContext | None = None,
        open_health: bool = False,
        set_eye: Callable[[bytes], object] | None = None,
        eye: Callable[[], EyeContext | None] = lambda: None,
    ) -> None:
        parse_address(str(address), token)  # refuses an open address without a token
        self._sockets = _listen(address)
        self.address = Address(address.host, self._sockets[0].getsockname()[1])
        self.board = Board(current_s)
        self.events = Feed(max_clients)
        self.pictures = Feed(max_clients)
        self.metrics = Metrics(self.board, card, summary or LiveSummary(), lambda: self.events.readers)
        self._workers = concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix="preview")
        self.operations = Operations(
            access=Access(self.address, token),
            words=words_in(language),
            assets=read_assets(language),
            board=self.board,
            events=self.events,
            pictures=self.pictures,
            metrics=self.metrics,
            decisions={"accept": accept, "retake": retake},
            workers=self._workers,
            open_health=open_health,
            set_eye=set_eye,
            eye=eye,
        )
        self._tls = tls
        origin = self._origin_in_words(card.origin)
        self._preprocessing = card.preprocessing
        self._model = {
            "name": card.name,
            "version": card.version,
            "origin": origin,
            "demonstration": is_demonstration(card),
            **vars(card.thresholds),
        }
        self._device: dict[str, Any] = {}
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running = threading.Event()
        self._thread = threading.Thread(target=self._run, name="preview", daemon=True)
        self._thread.start()
        self._running.wait(5.0)

    def _origin_in_words(self, origin: str) -> str:
        """`ModelCard.origin` in the language of the page."""
        operations = self.operations
        if signed := re.fullmatch(r"signed by (?P<key>.+), release (?P<release>\d+)", origin):
            return operations.words["origin_signed"].format_map(signed.groupdict())
        known = {
            "unsigned": operations.words["origin_unsigned"],
            "intact, unsigned": operations.words["origin_intact"],
            "intact, its signature not checked": operations.words["origin_unchecked"],
        }
        return known.get(origin, origin)

    @property
    def url(self) -> str:
        """The page, as a browser finds it, on another machine too where it is open to others; without the token."""
        return f"{'http' if self._tls is None else 'https'}://{self.address.reachable()}/"

    def offer(self, result: LiveResult, hint: str | None = None, shot: WaitingShot | None = None) -> None:
        """Note a result, what the operator should do, and the best shot that waits for a decision; never blocks."""
        self.board.note(result, hint, shot)
        self.metrics.note(result)

    def close(self) -> None:
        """Let all viewers go and free the port."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended already
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(5.0)
        self._workers.shutdown(wait=False)

    def _run(self) -> None:
        """Thread body."""
        try:
            asyncio.run(self._serve())
        except Exception as error:
            LOG.error("the preview has ended: %s: %s; scoring goes on", type(error).__name__, error)
        finally:
            for listener in self._sockets:
                listener.close()
            self._running.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = self._make_server()
        self._running.set()
        pumps = [asyncio.create_task(pump()) for pump in (self._send_events, self._send_pictures, self._watch_device)]
        stop = asyncio.create_task(self._stop.wait())
        done, _ = await asyncio.wait([stop, *pumps], return_when=asyncio.FIRST_COMPLETED)
        server.stop()
        for task in (stop, *pumps):
            task.cancel()
        for feed in (self.events, self.pictures):
            feed.close()
        await server.close_all_connections()
        for task in done - {stop}:
            task.result()  # what ended a pump

    def _make_server(self) -> LimitedServer:
        """A server with its limits, that listens."""
        server = LimitedServer(
            make_application(self.operations),
            max_header_size=MAX_HEADER_BYTES,
            max_body_size=MAX_BODY_BYTES,
            idle_connection_timeout=IDLE_S,
            body_timeout=BODY_S,
            max_buffer_size=MAX_UNREAD_BYTES,
            ssl_options=self._tls,
        )
        server.sessions = self.operations.access.sessions
        connections = CONNECTIONS_PER_CLIENT * self.events.limit
        one_host = connections if self.address.loopback else max(CONNECTIONS_PER_CLIENT, connections // 2)
        server.limit(connections, one_host)
        server.add_sockets(self._sockets)
        return server

    async def _send_events(self) -> None:
        """Make an event of each new result, ten times a second at most, and of silence."""
        results, said_s = -1, 0.0
        while True:
            await asyncio.sleep(EVENT_EVERY_S)
            now = time.monotonic()
            if self.events.readers and (results != self.board.results or now - said_s >= HEARTBEAT_S):
                results, said_s = self.board.results, now
                state = {**self.board.state(), **self.operations.asked(), "model": self._model, "device": self._device}
                self.events.publish(b"data: " + json.dumps(state, separators=(",", ":")).encode() + b"\n\n")

    async def _send_pictures(self) -> None:
        """Encode each new frame once for all who watch, ten times a second at most."""
        results = -1
        while True:
            await asyncio.sleep(EVENT_EVERY_S)
            frame = self.board.latest.frame if self.board.latest else None
            if not self.pictures.readers or results == self.board.results or frame is None:
                continue
            results = self.board.results
            self.board.field = await self.operations.in_thread(partial(field_in, frame.image, self._preprocessing))
            jpeg = await self.operations.in_thread(partial(encode, frame.image, PICTURE_PX, PICTURE_QUALITY, fast=True))
            head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode()
            self.pictures.publish(head + jpeg + b"\r\n" + BOUNDARY)  # with its end: browsers wait for that

    async def _watch_device(self) -> None:
        while True:
            self._device = await self.operations.in_thread(read_vitals)
            await asyncio.sleep(DEVICE_EVERY_S)


class LimitedServer(HTTPServer):
    """An HTTP server that closes connections beyond a number at once, and those whose other end is gone soon.

    A source is an address, or for IPv6 a /64, as one machine may take any address of it.
    """

    sessions: Sessions

    def limit(self, connections: int, from_one_host: int) -> None:
        """How many connections may be open, in all and from one source; some are kept for who is logged in."""
        self._limit, self._limit_of_host = connections, from_one_host
        kept = 0 if from_one_host == connections else connections // KEPT_SHARE
        self._limit_of_strangers = connections - kept
        self._open: Counter[str] = Counter()

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        """One new connection."""
        host = source_of(address[0])
        limit = self._limit if self.sessions.has_source(host) else self._limit_of_strangers
        if self._open.total() >= limit or self._open[host] >= self._limit_of_host:
            stream.close()
            return
        self._open[host] += 1
        notice_when_gone(stream.socket)
        super().handle_stream(stream, address)

    def on_close(self, server_conn: object) -> None:
        """One connection less."""
        host = source_of(cast(Any, server_conn).context.address[0])
        self._open[host] -= 1
        self._open += Counter()  # forgets those that have none left
        super().on_close(server_conn)


def notice_when_gone(connection: socket.socket) -> None:
    """End a connection whose other end has vanished without a word, as a phone does that leaves the network."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in {"TCP_KEEPIDLE": GONE_S, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3}.items():
        if hasattr(socket, option):  # not everywhere
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def tls_context(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """TLS 1.2 or newer, with the certificate that browsers are shown.

    Args:
        certificate: PEM, with what stands between it and its root.
        key: PEM, unencrypted; None where it stands in the same file.

    Raises:
        InputError: they cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ValueError) as error:  # SSLError is an OSError
        found = error.strerror if isinstance(error, FileNotFoundError) else error
        raise InputError(
            f"--serve-tls: expected a certificate and its unencrypted key in PEM, found in {certificate}: {found}"
        ) from error
    warn_if_others_read(key or certificate, "the key of the page")
    return context


def _listen(address: Address) -> list[socket.socket]:
    try:
        return bind_sockets(address.port, address.host)
    except OSError as error:
        raise InputError(
            f"--serve {address}: expected a port that is free, found {error.strerror or error}; choose another"
        ) from error
