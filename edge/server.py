"""The preview in a browser: live picture, score, guidance and best shot, with health and metrics for machines.

A sink of the live loop with a thread of its own. `offer` only notes the newest result; the server's thread looks at
it ten times a second, makes one event and one small picture of it for all viewers, and waits for nobody: a slow
viewer misses what came meanwhile, and one that reads nothing for five seconds is disconnected.

Tornado, because one package without dependencies, with wheels for aarch64, brings streaming with back-pressure and
the limits on headers, bodies and idle connections that a server on a network needs.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import hmac
import http.client
import ipaddress
import json
import logging
import math
import os
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import urlsplit

import cv2

from fthnet_kit.edge.device import ROOT, read_memory_mb, read_temperatures, read_throttling
from fthnet_kit.edge.errors import InputError, KitError, MissingExtraError
from fthnet_kit.edge.live import LiveResult, LiveSummary
from fthnet_kit.edge.model_card import ModelCard
from fthnet_kit.edge.preprocess import Image
from fthnet_kit.edge.score import Verdict

try:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
    from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
    from tornado import httputil, web
    from tornado.http1connection import HTTP1Connection
    from tornado.httpserver import HTTPServer
    from tornado.iostream import IOStream, StreamClosedError
    from tornado.netutil import bind_sockets
except ImportError as error:
    raise MissingExtraError(
        (error.name or "tornado").partition(".")[0], "serve", purpose="the preview in a browser"
    ) from error

if TYPE_CHECKING:
    from fthnet_kit.edge import best_shot

LOG = logging.getLogger("fthnet")

EVENT_EVERY_S = 0.1  # at most; pictures too
HEARTBEAT_S = 0.5  # an event at least this often, so that a page can tell silence from a lost connection
DEVICE_EVERY_S = 5.0
CURRENT_S = 2.0  # health: a result older than this is not current
SLOW_CLIENT_S = 5.0
HISTORY_S, HISTORY_STEP_S = 60.0, 0.5
HISTORY_STEPS = round(HISTORY_S / HISTORY_STEP_S)
RATE_WINDOW_S = 3.0

PICTURE_PX, PICTURE_QUALITY = 960, 75
SHOT_PX, SHOT_QUALITY = 1600, 90
BOUNDARY = b"--frame\r\n"

MAX_CLIENTS = 8
CONNECTIONS_PER_CLIENT = 6  # what a browser opens to one host
MAX_HEADER_BYTES, MAX_BODY_BYTES = 16 << 10, 4 << 10
SEND_BUFFER_BYTES = 128 << 10  # more would only hold old pictures
IDLE_S, BODY_S = 15.0, 5.0

COOKIE = "fthnet_preview"
TOKEN_VARIABLE = "FTHNET_TOKEN"  # noqa: S105  (a name, not a secret)
TOKEN_FORM = re.compile(r"[!-~]{16,256}")
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
ASSETS = {
    "/preview.css": ("preview.css", "text/css; charset=utf-8"),
    "/preview.js": ("preview.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
CAMERA_STATES = {"no_frame": "lost", "stalled": "stalled", "frozen": "frozen"}
STAGE_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

Action = Literal["accept", "retake"]


@dataclass(frozen=True)
class Address:
    """Where to listen."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Only this machine can connect."""
        return ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, token: str | None = None) -> Address:
    """Where to listen: ``8080``, ``127.0.0.1:8080``, ``0.0.0.0:8080`` or ``[::1]:8080``; a port alone is loopback.

    Raises:
        InputError: not of that form, or open to the network without a token.
    """
    found = re.fullmatch(r"(?:(?:\[([^\]]+)\]|([^:]+)):)?([0-9]{1,5})", text.strip(), re.ASCII)
    expected = f"--serve: expected a port or IP-ADDRESS:PORT, such as 8080 or 0.0.0.0:8080, found {text!r}"
    if found is None or int(found[3]) > 65535:
        raise InputError(expected)
    host = found[1] or found[2] or "127.0.0.1"
    host = "127.0.0.1" if host == "localhost" else host
    try:
        ip = ipaddress.ip_address(host)
    except ValueError as error:
        raise InputError(expected) from error
    if (ip.version == 6) != (found[1] is not None):
        raise InputError(expected)
    address = Address(host, int(found[3]))
    if not address.loopback and token is None:
        raise InputError(
            f"--serve {address}: others on the network could see the picture, and a token is missing; give one with "
            f"--serve-token-file FILE or in {TOKEN_VARIABLE}, or serve this machine only: --serve {address.port}"
        )
    return address


def read_token(file: Path | None, environ: Mapping[str, str] = os.environ) -> str | None:
    """The token from a file or, without one, from the environment; None where neither is given.

    Raises:
        InputError: the file cannot be read, or this is no token.
    """
    try:
        token = environ.get(TOKEN_VARIABLE) if file is None else file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--serve-token-file {file}: expected a token, found none that can be read") from error
    if token is None:
        return None
    if not TOKEN_FORM.fullmatch(token.strip()):
        raise InputError(
            f"{file or TOKEN_VARIABLE}: expected a token of 16 to 256 letters, digits and signs without spaces; "
            "`openssl rand -hex 16` makes one"
        )
    return token.strip()


@dataclass(frozen=True)
class Shot:
    """A best shot that waits for the operator to accept it or to take another.

    Attributes:
        id: names it; a decision is refused if a better shot has taken its place meanwhile.
        image: BGR uint8 (H, W, 3).
    """

    id: str
    image: Image
    score: float
    verdict: Verdict | None
    captured_at: datetime

    @classmethod
    def of(cls, shot: best_shot.Shot | None) -> Shot | None:
        """What `BestShot.shot` says, where that waits for a decision."""
        if shot is None or shot.accepted or shot.result.frame is None:
            return None
        return cls(
            id=f"{shot.eye}-{shot.take}-{shot.revision}",
            image=shot.result.frame.image,
            score=shot.value,
            verdict=shot.result.score.verdict,
            captured_at=shot.result.captured_at,
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON; without the picture."""
        return {
            "id": self.id,
            "score": round(self.score, 3),
            "verdict": self.verdict,
            "captured_at": self.captured_at.isoformat(timespec="milliseconds"),
        }


class Board:
    """The newest result and the last minute; written by the scoring thread, read by the server's.

    Args:
        current_s: patience of `health`.
    """

    def __init__(self, current_s: float = CURRENT_S) -> None:
        self.results = 0
        self.latest: LiveResult | None = None
        self._current_s = current_s
        self._lock = threading.Lock()
        self._hint: str | None = None
        self._shot: Shot | None = None
        self._decided: str | None = None  # the last shot that was accepted or sent back
        self._engine = "waiting"
        self._received_s = self._meant_s = -math.inf
        self._scored_s: deque[float] = deque()
        self._history: deque[tuple[int, float, int]] = deque(maxlen=HISTORY_STEPS)  # step, sum, count

    def note(self, result: LiveResult, hint: str | None, shot: Shot | None) -> None:
        """The newest result; what was before is forgotten but for the minute's scores."""
        now = time.monotonic()
        value, reason = result.score.value, result.score.reason
        with self._lock:
            self.results += 1
            self.latest, self._hint, self._shot, self._received_s = result, hint, shot, now
            if value is not None or reason == "no_retina":  # it says something about the picture
                self._meant_s, self._engine = now, "ok"
            elif reason == "engine_fault":
                self._engine = "fault"
            if value is not None:
                self._scored_s.append(now)
                step = int(now / HISTORY_STEP_S)
                _, total, count = self._history.pop() if self._is_last(step) else (step, 0.0, 0)
                self._history.append((step, total + value, count + 1))
            while self._scored_s and now - self._scored_s[0] > RATE_WINDOW_S:
                self._scored_s.popleft()

    def _is_last(self, step: int) -> bool:
        return bool(self._history) and self._history[-1][0] == step

    @property
    def shot(self) -> Shot | None:
        """The shot that waits for a decision."""
        with self._lock:
            return None if self._shot is None or self._shot.id == self._decided else self._shot

    def settle(self, shot: Shot) -> None:
        """A decision was made: do not show this shot again."""
        with self._lock:
            self._decided = shot.id

    def age_s(self) -> float | None:
        """Time since the newest result; None before the first."""
        return None if self.latest is None else time.monotonic() - self._received_s

    def camera(self) -> str:
        """``waiting``, ``reading``, ``lost``, ``stalled`` or ``frozen``."""
        latest = self.latest
        return "waiting" if latest is None else CAMERA_STATES.get(latest.score.reason or "", "reading")

    def score_now(self) -> float:
        """The current score; NaN where there is none."""
        latest, age_s = self.latest, self.age_s()
        if latest is None or age_s is None or age_s > self._current_s or latest.score.value is None:
            return math.nan
        return latest.score.value

    def state(self) -> dict[str, Any]:
        """What a page shows, in the names of the kit's JSON; `results` changes with each result."""
        shot, age_s, camera = self.shot, self.age_s(), self.camera()
        with self._lock:
            now = time.monotonic()
            record = self.latest.to_dict() if self.latest else {}
            recent = [when for when in self._scored_s if now - when <= RATE_WINDOW_S]
            means: list[float | None] = [None] * HISTORY_STEPS
            for step, total, count in self._history:
                place = HISTORY_STEPS - 1 - (int(now / HISTORY_STEP_S) - step)
                if 0 <= place < HISTORY_STEPS:
                    means[place] = round(total / count, 1)
            return {
                "results": self.results,
                "result_age_ms": None if age_s is None else round(1e3 * age_s),
                **{name: record.get(name) for name in ("score", "verdict", "reason", "frame", "age_ms", "latency_ms")},
                "captured": self.latest.captured if self.latest else 0,
                "dropped": self.latest.dropped if self.latest else 0,
                "fps": round((len(recent) - 1) / (recent[-1] - recent[0]), 1) if len(recent) > 2 else 0.0,
                "camera": camera,
                "engine": self._engine,
                "hint": self._hint,
                "history": means,
                "shot": None if shot is None else shot.to_dict(),
            }

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether results are current, and why not.

        Current: within the last two seconds a picture was scored, or found to show no retina. A single
        broken frame is no illness.
        """
        age_s, camera = self.age_s(), self.camera()
        with self._lock:
            meant_age_s = time.monotonic() - self._meant_s
            healthy = meant_age_s <= self._current_s
            reason = None if self.latest is None else self.latest.score.reason
            if healthy:
                why = None
            elif age_s is None:
                why = "waiting for the first result"
            elif age_s > self._current_s or reason is None:
                why = f"no result for {age_s:.1f} s"
            else:
                why = reason
            last_score_s = self._scored_s[-1] if self._scored_s else None
            return healthy, {
                "status": "ok" if healthy else "unavailable",
                "reason": why,
                "result_age_s": None if age_s is None else round(age_s, 3),
                "score_age_s": None if last_score_s is None else round(time.monotonic() - last_score_s, 3),
                "camera": camera,
                "engine": self._engine,
            }


class Metrics(Collector):
    """What Prometheus reads. Counters of the loop are passed on as they stand, the rest is counted here.

    Args:
        summary: of the loop, for reconnects and faults.
        viewers: how many are connected now.
    """

    def __init__(self, board: Board, card: ModelCard, summary: LiveSummary, viewers: Callable[[], int]) -> None:
        self._board = board
        self._summary = summary
        self._registry = registry = CollectorRegistry()
        registry.register(self)
        ProcessCollector(registry=registry)
        self._scored = Counter("fthnet_frames_scored", "Frames that have a score", registry=registry)
        self._without = Counter(
            "fthnet_results_without_score", "Results without a score", ["reason"], registry=registry
        )
        self._scores = Histogram(
            "fthnet_score_points", "Scores, 0 to 100", buckets=[*range(10, 101, 10)], registry=registry
        )
        self._stages = Histogram(
            "fthnet_stage_seconds", "Duration of a stage", ["stage"], buckets=STAGE_BUCKETS_S, registry=registry
        )
        self._age = Histogram(
            "fthnet_frame_age_seconds",
            "Age of a frame when its scoring began",
            buckets=STAGE_BUCKETS_S,
            registry=registry,
        )
        self._latency = Histogram(
            "fthnet_capture_to_score_seconds", "From capture to score", buckets=STAGE_BUCKETS_S, registry=registry
        )
        score = Gauge("fthnet_score", "The current score, 0 to 100; NaN where there is none", registry=registry)
        score.set_function(board.score_now)
        Gauge("fthnet_viewers", "Browsers that are connected", registry=registry).set_function(viewers)
        build = Gauge("fthnet_build_info", "What runs", ["version", "model", "model_version"], registry=registry)
        build.labels(version("fthnet-edge-kit"), card.name, card.version).set(1)

    def note(self, result: LiveResult) -> None:
        """Count one result."""
        if result.score.reason is not None:
            self._without.labels(result.score.reason).inc()
            return
        self._scored.inc()
        self._scores.observe(result.score.value or 0.0)
        for stage, ms in result.score.stage_ms.items():
            self._stages.labels(stage).observe(ms / 1e3)
        if result.age_ms is not None and result.latency_ms is not None:
            self._age.observe(result.age_ms / 1e3)
            self._latency.observe(result.latency_ms / 1e3)

    def collect(self) -> Iterator[Metric]:
        """What others count, as it stands now."""
        latest = self._board.latest
        captured, dropped = (latest.captured, latest.dropped) if latest else (0, 0)
        yield CounterMetricFamily("fthnet_frames_captured", "Frames that the camera gave", value=captured)
        yield CounterMetricFamily("fthnet_frames_dropped", "Frames that newer ones replaced", value=dropped)
        yield CounterMetricFamily("fthnet_camera_reconnects", "Times opened again", value=self._summary.reconnects)
        faults = CounterMetricFamily("fthnet_faults", "Errors that were contained, by where", labels=["where"])
        for where, count in list(self._summary.faults.items()):
            faults.add_metric([where], count)
        yield faults
        warmth = GaugeMetricFamily("fthnet_temperature_celsius", "Temperature by thermal zone", labels=["zone"])
        for zone, celsius in read_temperatures().items():
            warmth.add_metric([zone], celsius)
        yield warmth

    def render(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)


class Feed:
    """The newest item for any number of readers: who is slow misses items and delays nobody."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.readers = 0
        self.number = 0
        self.closed = False
        self._item = b""
        self._changed = asyncio.Event()

    def publish(self, item: bytes) -> None:
        """Replace the item."""
        self.number += 1
        self._item = item
        self._wake()

    def close(self) -> None:
        """Let all readers go."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def newer(self, number: int, patience_s: float = 1.0) -> tuple[int, bytes]:
        """Number and content of an item after `number`; no content where none came in time."""
        if self.number == number and not self.closed:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), patience_s)
        return self.number, self._item if self.number != number else b""


class Access:
    """Who may ask: by the Host and Origin that a browser names, and by the token.

    Args:
        address: where the server listens; on loopback only loopback names are served, so that no page can reach it
            under a name of its own (DNS rebinding); elsewhere IP addresses and this machine's own name.
        token: None: everyone who can connect.
    """

    def __init__(self, address: Address, token: str | None) -> None:
        self._loopback = address.loopback
        self._token = token
        self._session = hmac.digest((token or "").encode(), b"fthnet preview session", "sha256").hex()
        name = socket.gethostname().lower()
        self._names = {"localhost"} if address.loopback else {"localhost", name, f"{name.partition('.')[0]}.local"}

    @property
    def session(self) -> str:
        """What the cookie of a browser that has shown the token holds; the token cannot be found from it."""
        return self._session

    def knows_host(self, host: str) -> bool:
        """Whether a Host header names this server."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
            ip = ipaddress.ip_address(name) if name not in self._names else None
        except ValueError:
            return False
        return ip is None or ip.is_loopback or not self._loopback

    def is_token(self, given: str) -> bool:
        """Whether this is the token."""
        return self._token is not None and hmac.compare_digest(given.encode(), self._token.encode())

    def admits(self, request: httputil.HTTPServerRequest) -> bool:
        """Whether a request carries the token, or the cookie that stands for it, or needs neither."""
        if self._token is None:
            return True
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.is_token(given.strip()):
            return True
        cookie = request.cookies.get(COOKIE)
        return cookie is not None and hmac.compare_digest(cookie.value.encode(), self._session.encode())

    @staticmethod
    def same_origin(request: httputil.HTTPServerRequest) -> bool:
        """Whether the page that asks, if a browser names one, is ours."""
        origin = request.headers.get("Origin")
        if origin is None:
            return True
        scheme, _, place = origin.partition("://")
        return scheme in ("http", "https") and place.lower() == request.host.lower()


class Refusal(web.HTTPError):
    """A request that is not answered, with the words to say so."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(status)
        self.words = words


class PreviewServer:
    """Serves the preview page, the live picture, health and metrics; a sink of the live loop.

    Args:
        address: where to listen; port 0 takes any free one, which `address` then names.
        token: asked of every request; may be None on loopback only.
        card: of the model, for its name and its thresholds.
        accept, retake: called with the id of the best shot that the operator decided on, in a thread of the server;
            a KitError or OSError is shown to the operator, as is False, and the decision can be made again.
        summary: of the loop (`loop.summary`), for the metrics.
        max_clients: browsers at a time.
        current_s: a result older than this is not current: `/healthz` says so.

    Raises:
        InputError: the port is taken or must not be used, or the address is open without a token.

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
        max_clients: int = MAX_CLIENTS,
        current_s: float = CURRENT_S,
    ) -> None:
        parse_address(str(address), token)  # refuses an open address without a token
        try:
            self._sockets = bind_sockets(address.port, address.host)
        except OSError as error:
            raise InputError(
                f"--serve {address}: expected a port that is free, found {error.strerror or error}; choose another"
            ) from error
        self.address = Address(address.host, self._sockets[0].getsockname()[1])
        self.access = Access(self.address, token)
        self.board = Board(current_s)
        self.events = Feed(max_clients)
        self.pictures = Feed(max_clients)
        self.metrics = Metrics(self.board, card, summary or LiveSummary(), lambda: self.events.readers)
        self.assets = {name: _asset(name) for name in ("index.html", "token.html", *(n for n, _ in ASSETS.values()))}
        self._model = {"name": card.name, "version": card.version, **vars(card.thresholds)}
        self._device: dict[str, Any] = {}
        self._decisions: dict[Action, Callable[[str], object]] = {"accept": accept, "retake": retake}
        self._deciding = asyncio.Lock()
        self._shot_jpeg: tuple[str, bytes] = ("", b"")
        self._workers = concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix="preview")
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running = threading.Event()
        self._thread = threading.Thread(target=self._run, name="preview", daemon=True)
        self._thread.start()
        self._running.wait(5.0)

    @property
    def url(self) -> str:
        """The page, as this machine's browser finds it; without the token."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.address.host, self.address.host)  # noqa: S104
        return f"http://{Address(host, self.address.port)}/"

    def offer(self, result: LiveResult, hint: str | None = None, shot: Shot | None = None) -> None:
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
        server = LimitedServer(
            web.Application(
                _routes(self),
                default_handler_class=Unknown,
                default_handler_args={"server": self},
                log_function=lambda handler: None,
            ),
            max_header_size=MAX_HEADER_BYTES,
            max_body_size=MAX_BODY_BYTES,
            idle_connection_timeout=IDLE_S,
            body_timeout=BODY_S,
        )
        server.limit = CONNECTIONS_PER_CLIENT * self.events.limit
        server.add_sockets(self._sockets)
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

    async def _send_events(self) -> None:
        """Make an event of each new result, ten times a second at most, and of silence."""
        results, said_s = -1, 0.0
        while True:
            await asyncio.sleep(EVENT_EVERY_S)
            now = time.monotonic()
            if self.events.readers and (results != self.board.results or now - said_s >= HEARTBEAT_S):
                results, said_s = self.board.results, now
                state = {**self.board.state(), "model": self._model, "device": self._device}
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
            jpeg = await self._in_thread(partial(encode, frame.image, PICTURE_PX, PICTURE_QUALITY, fast=True))
            head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode()
            self.pictures.publish(head + jpeg + b"\r\n" + BOUNDARY)  # with its end: browsers wait for that

    async def _watch_device(self) -> None:
        while True:
            self._device = await self._in_thread(read_vitals)
            await asyncio.sleep(DEVICE_EVERY_S)

    def _in_thread(self, work: Callable[[], Any]) -> Awaitable[Any]:
        return asyncio.get_running_loop().run_in_executor(self._workers, work)

    async def shot_jpeg(self) -> bytes:
        """The best shot as a JPEG; encoded once."""
        shot = self.board.shot
        if shot is None:
            raise Refusal(404, "there is no best shot")
        if self._shot_jpeg[0] != shot.id:
            self._shot_jpeg = (shot.id, await self._in_thread(partial(encode, shot.image, SHOT_PX, SHOT_QUALITY)))
        return self._shot_jpeg[1]

    async def decide(self, action: Action, shot_id: object) -> None:
        """Carry out the operator's decision on the best shot; one at a time, and one for each shot."""
        async with self._deciding:
            shot = self.board.shot
            if shot is None or shot.id != shot_id:
                raise Refusal(409, "this shot has been replaced or decided on already")
            try:
                done = await self._in_thread(partial(self._decisions[action], shot.id))
            except (KitError, OSError) as error:
                raise Refusal(500, str(error)) from error
            if done is False:
                raise Refusal(500, "it could not be done now; try again")
            self.board.settle(shot)


class LimitedServer(HTTPServer):
    """An HTTP server that closes connections beyond a number at once."""

    limit = 0
    _open = 0

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        """One new connection."""
        if self._open >= self.limit:
            stream.close()
            return
        self._open += 1
        super().handle_stream(stream, address)

    def on_close(self, server_conn: object) -> None:
        """One connection less."""
        self._open -= 1
        super().on_close(server_conn)


class Handler(web.RequestHandler):
    """What all requests have in common: who may ask, what each answer says to browsers, and how errors look."""

    PUBLIC = False  # answered without the token

    def initialize(self, server: PreviewServer) -> None:
        """Tornado's constructor."""
        self.server = server

    def set_default_headers(self) -> None:
        """For every answer, errors included."""
        self.clear_header("Server")
        for name, value in SECURITY_HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        """Refuse who must not ask."""
        access = self.server.access
        if not access.knows_host(self.request.host):
            raise Refusal(403, "this server does not go by that name; use its IP address")
        if not access.same_origin(self.request):
            raise Refusal(403, "another page must not ask")
        if not self.PUBLIC and not access.admits(self.request):
            raise Refusal(401, "a token is needed: Authorization: Bearer TOKEN, or open /?token=TOKEN once")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """One line of JSON; never a traceback."""
        error = kwargs.get("exc_info", (None, None))[1]
        words = error.words if isinstance(error, Refusal) else http.client.responses.get(status_code, "refused")
        extra = {401: ("WWW-Authenticate", "Bearer"), 503: ("Retry-After", "5")}.get(status_code)
        if extra is not None:
            self.set_header(*extra)
        self.finish({"error": words})

    def log_exception(self, *exc_info: Any) -> None:
        """What is our fault, in one line."""
        if not isinstance(exc_info[1], web.HTTPError):
            LOG.warning("preview: %s %s: %s: %s", self.request.method, self.request.path, exc_info[0], exc_info[1])

    def send(self, content: bytes, kind: str) -> None:
        """Answer with a body of a content type."""
        self.set_header("Content-Type", kind)
        self.finish(content)


class Page(Handler):
    """The page; or, without the token, the one that asks for it."""

    PUBLIC = True
    HTML = "text/html; charset=utf-8"

    def get(self) -> None:
        """`?token=` is exchanged for a cookie; the page takes it out of the address."""
        given = self.get_query_argument("token", None)
        if given is not None and self.server.access.is_token(given):
            self.set_cookie(COOKIE, self.server.access.session, httponly=True, samesite="Strict")
        elif not self.server.access.admits(self.request):
            self.set_status(401)
            self.send(self.server.assets["token.html"], self.HTML)
            return
        self.send(self.server.assets["index.html"], self.HTML)


class Asset(Handler):
    """A file that the pages need; none holds a secret."""

    PUBLIC = True

    def get(self) -> None:
        """One of the files that were read at the start: no path of a request ever reaches the disk."""
        name, kind = ASSETS[self.request.path]
        self.send(self.server.assets[name], kind)


class Stream(Handler):
    """An answer without an end."""

    async def follow(self, feed: Feed, kind: str, start: bytes) -> None:
        """Send what a feed publishes until the viewer goes or stops reading."""
        if feed.readers >= feed.limit:
            raise Refusal(503, f"{feed.limit} viewers are connected already; close one of them")
        connection = cast(HTTP1Connection, self.request.connection).stream
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
        await self.follow(self.server.events, "text/event-stream; charset=utf-8", b":\n\n")


class Pictures(Stream):
    """The live picture as Motion JPEG."""

    async def get(self) -> None:
        """From the next frame on: what was before is not live."""
        await self.follow(self.server.pictures, "multipart/x-mixed-replace; boundary=frame", BOUNDARY)


class Best(Handler):
    """The best shot that waits for a decision."""

    def get(self) -> None:
        """Its score and id."""
        shot = self.server.board.shot
        if shot is None:
            raise Refusal(404, "there is no best shot")
        self.finish(shot.to_dict())


class BestPicture(Handler):
    """The best shot's picture."""

    async def get(self) -> None:
        """Reduced to 1600 pixels."""
        self.send(await self.server.shot_jpeg(), "image/jpeg")


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
        await self.server.decide(action, shot_id)
        self.finish({"id": shot_id, "decision": action})


class Health(Handler):
    """For watchdogs."""

    def get(self) -> None:
        """200 while results are current, 503 with the reason while not."""
        healthy, content = self.server.board.health()
        self.set_status(200 if healthy else 503)
        self.finish({**content, "version": version("fthnet-edge-kit")})


class MetricsText(Handler):
    """For Prometheus."""

    def get(self) -> None:
        """The text format."""
        self.send(self.server.metrics.render(), CONTENT_TYPE_LATEST)


class Unknown(Handler):
    """Everything else."""

    def prepare(self) -> None:
        """Not found, once it is clear that they may ask."""
        super().prepare()
        raise Refusal(404, "there is nothing here")


def _routes(server: PreviewServer) -> list[tuple[str, type[Handler], dict[str, PreviewServer]]]:
    """Fixed paths, without any parameter."""
    handlers: dict[str, type[Handler]] = {
        "/": Page,
        **dict.fromkeys(ASSETS, Asset),
        "/events": Events,
        "/stream.mjpg": Pictures,
        "/api/best": Best,
        "/api/best.jpg": BestPicture,
        "/api/best/accept": Decision,
        "/api/best/retake": Decision,
        "/healthz": Health,
        "/metrics": MetricsText,
    }
    return [(re.escape(path), handler, {"server": server}) for path, handler in handlers.items()]


def encode(image: Image, longest_px: int, quality: int, *, fast: bool = False) -> bytes:
    """JPEG of a picture (BGR uint8, H x W x 3), reduced so that its longer side fits.

    `fast` makes each pixel of a large picture from four of its own: enough for a live view, in a fifth of the time.
    """
    scale = longest_px / max(image.shape[:2])
    if scale < 1:
        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        if fast and scale < 0.5:
            image = cv2.resize(image, (2 * width, 2 * height), interpolation=cv2.INTER_NEAREST)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def read_vitals(root: Path = ROOT) -> dict[str, Any]:
    """What the page shows of the device: its hottest part, its free memory, and what is slowed down for heat."""
    temperatures = read_temperatures(root)
    return {
        "temperature_c": max(temperatures.values(), default=None),
        "throttling": read_throttling(root),
        "memory_available_mb": read_memory_mb(root, "MemAvailable"),
        "memory_total_mb": read_memory_mb(root, "MemTotal"),
    }


def _asset(name: str) -> bytes:
    return (files("fthnet_kit.edge") / "assets" / "preview" / name).read_bytes()
