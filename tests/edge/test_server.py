"""The preview server over loopback: every endpoint, who may ask, limits, and a loop that nobody slows."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import cv2
import numpy as np
import pytest

from fthnet_kit.edge.deployment.run_assembly import Sinks, open_server
from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.frame import Frame
from fthnet_kit.edge.guidance.hint_follower import GuideSink
from fthnet_kit.edge.guidance.hints import Guide
from fthnet_kit.edge.inference.scorer import QualityScorer
from fthnet_kit.edge.loop.live_loop import LiveLoop
from fthnet_kit.edge.loop.result import LiveResult, LiveSummary
from fthnet_kit.edge.model.score import Reason, Score
from fthnet_kit.edge.outputs.preview.access import Access, Address, parse_address, read_token
from fthnet_kit.edge.outputs.preview.board import WaitingShot
from fthnet_kit.edge.outputs.preview.doorman import Guesses, Sessions, source_of
from fthnet_kit.edge.outputs.preview.sink import PageSink
from fthnet_kit.edge.outputs.records.checkpoints import Checkpoint
from tests.conftest import fake_scorer, make_card
from tests.edge.test_live import ScriptedCamera

pytest.importorskip("tornado", reason="needs the extra [serve]")
parser = pytest.importorskip("prometheus_client.parser", reason="needs the extra [serve]")
server_module = pytest.importorskip("fthnet_kit.edge.outputs.preview.server")
handlers_module = pytest.importorskip("fthnet_kit.edge.outputs.preview.handlers")

from fthnet_kit.edge.outputs.preview.operations import encode, read_vitals  # noqa: E402
from fthnet_kit.edge.outputs.preview.server import PreviewServer  # noqa: E402

TOKEN = "0123456789abcdef"  # weak: the constructor takes any
STRONG_TOKEN, OTHER_TOKEN = "0f3a9c5d7e1b24688642d1b5e7c9a3f0", "Zk3vQ8mP1xY7bN5rT2wL9c"
ANYWHERE = Address("0.0.0.0", 0)
LOOPBACK = Address("127.0.0.1", 0)
JSON = {"Content-Type": "application/json"}
ENDED = (OSError, AssertionError, ValueError, AttributeError, http.client.HTTPException)  # how an answer can break off
INTERNAL = {"error": "Internal Server Error", "shown": "an internal error; the device's log says why"}
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def make_result(
    value: float | None = 72.0, reason: Reason | None = None, index: int = 0, size: tuple[int, int] = (1200, 1600)
) -> LiveResult:
    stages = {"preprocess": 2.0, "gate": 0.1, "infer": 30.0, "post": 0.1}
    score = Score(
        value,
        raw=value,
        verdict=None if value is None else make_card().thresholds.verdict(value),
        reason=reason,
        frame_index=index,
        stage_ms=stages,
    )
    frame = None
    if reason not in ("no_frame", "stalled"):
        frame = Frame(np.full((*size, 3), (20, 40, 60 + index % 190), np.uint8), index, time.monotonic_ns())
    seen = frame is not None
    return LiveResult(
        score, frame, None, datetime.now(timezone.utc), 3.0 if seen else None, 35.0 if seen else None, index + 5, 4
    )


class Counts(LiveSummary):
    """A summary whose count of reconnects comes from a function."""

    def __init__(self, count: Callable[[], int]) -> None:
        super().__init__()
        self.count = count

    def __getattribute__(self, name: str) -> Any:
        return object.__getattribute__(self, "count")() if name == "reconnects" else object.__getattribute__(self, name)


def make_shot(name: str = "shot-1") -> WaitingShot:
    return WaitingShot(name, np.full((1200, 1800, 3), 90, np.uint8), 81.0, "good", datetime.now(timezone.utc))


@pytest.fixture
def serve() -> Iterator[Callable[..., PreviewServer]]:
    servers: list[PreviewServer] = []

    def start(address: Address = LOOPBACK, token: str | None = None, **options: Any) -> PreviewServer:
        servers.append(PreviewServer(address, token, make_card(), **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


Answer = tuple[int, dict[str, str], bytes]


def ask(
    server: PreviewServer,
    path: str,
    headers: dict[str, str] | None = None,
    method: str = "GET",
    body: bytes | None = None,
) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", server.address.port, timeout=10)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def raw(server: PreviewServer, content: bytes, enough: int = 1 << 16, seconds: float = 10) -> bytes:
    """What comes back for bytes that no client library would send."""
    with socket.create_connection(("127.0.0.1", server.address.port), timeout=seconds) as connection:
        connection.sendall(content)
        found = b""
        try:
            while len(found) < enough and (part := connection.recv(65536)):
                found += part
        except OSError:  # closed with our bytes unread
            pass
        return found


class Viewer:
    """A connection to an endless answer, read piece by piece."""

    def __init__(self, server: PreviewServer, path: str) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", server.address.port, timeout=10)
        self.connection.request("GET", path)
        self.answer = self.connection.getresponse()
        self.status = self.answer.status

    def __enter__(self) -> Viewer:
        return self

    def __exit__(self, *_: object) -> None:
        self.answer.close()
        self.connection.close()

    def event(self) -> dict[str, Any]:
        while not (line := self.answer.readline()).startswith(b"data: "):
            assert line, "the server ended the events"
        return json.loads(line[6:])

    def picture(self) -> np.ndarray:
        while b"Content-Length" not in (line := self.answer.readline()):
            assert line, "the server ended the pictures"
        self.answer.readline()
        jpeg = self.answer.read(int(line.split(b":")[1]))
        return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)


def decide(server: PreviewServer, action: str, shot: object, **headers: str) -> tuple[int, dict[str, Any]]:
    status, _, body = ask(server, f"/api/best/{action}", {**JSON, **headers}, "POST", json.dumps({"id": shot}).encode())
    return status, json.loads(body)


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ---- where to listen, and with what token


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8080", Address("127.0.0.1", 8080)),
        ("127.0.0.1:8080", Address("127.0.0.1", 8080)),
        ("localhost:80", Address("127.0.0.1", 80)),
        ("[::1]:8080", Address("::1", 8080)),
        ("127.0.0.5:1", Address("127.0.0.5", 1)),
    ],
)
def test_addresses(text: str, expected: Address) -> None:
    assert parse_address(text) == expected
    assert parse_address(str(expected)) == expected
    assert expected.loopback


@pytest.mark.parametrize("text", ["0.0.0.0:8080", "192.168.1.7:8080", "[::]:8080", "[2001:db8::1]:8080"])
def test_an_open_address_needs_a_token(text: str) -> None:
    with pytest.raises(InputError, match=r"--serve-token-file FILE or in FTHNET_TOKEN"):
        parse_address(text)
    assert not parse_address(text, TOKEN).loopback


@pytest.mark.parametrize(
    "text",
    ["", "http", ":8080", "::1:8080", "[127.0.0.1]:80", "8080/", "99999", "1.2.3:80", "example.org:80", "-1", "٣"],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(InputError, match="expected a port or IP-ADDRESS:PORT"):
        parse_address(text, TOKEN)


def test_tokens(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(STRONG_TOKEN + "\n")
    assert read_token(file, {"FTHNET_TOKEN": OTHER_TOKEN}) == STRONG_TOKEN
    assert read_token(None, {"FTHNET_TOKEN": OTHER_TOKEN}) == OTHER_TOKEN
    assert read_token(None, {}) is None
    weak = (TOKEN.encode(), b"x" * 64, b"0123456789" * 3, b"abcdefghijklmnopqrstuvwxyz"[:26], b"Aa1-" * 30)
    for bad in (b"", b"short", b"with a space in it", "é".encode() * 20, b"\xff" * 20, *weak):
        file.write_bytes(bad)
        with pytest.raises(InputError, match=r"expected a (file with a )?token"):
            read_token(file, {})
    with pytest.raises(InputError, match="none: expected a file with a token"):
        read_token(tmp_path / "none", {})


def test_a_token_that_everybody_can_read_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "token"
    file.write_text(STRONG_TOKEN)
    file.chmod(0o640)
    read_token(file, {})
    assert not caplog.messages
    file.chmod(0o644)
    read_token(file, {})
    assert caplog.messages == [f"{file}: everybody on this machine can read a token; chmod 600 helps"]


def test_the_constructor_refuses_an_open_address_without_a_token(serve: Callable[..., PreviewServer]) -> None:
    with pytest.raises(InputError, match="token"):
        serve(ANYWHERE)


def test_a_port_in_use_is_one_line(serve: Callable[..., PreviewServer]) -> None:
    taken = serve().address
    with pytest.raises(InputError, match="in use") as caught:
        serve(taken)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


# ---- what is served


def test_the_page_and_its_files(serve: Callable[..., PreviewServer]) -> None:
    server = serve()
    for path, kind in {
        "/": "text/html",
        "/preview.css": "text/css",
        "/preview.js": "text/javascript",
        "/icon.svg": "image/svg+xml",
    }.items():
        status, headers, body = ask(server, path)
        assert status == 200
        assert headers["content-type"].startswith(kind)
        assert b"http://" not in body.replace(b"http://www.w3.org/", b"")
        assert b"https://" not in body


def test_every_answer_carries_the_security_headers(serve: Callable[..., PreviewServer]) -> None:
    server = serve()
    for path in ("/", "/healthz", "/metrics", "/nothing", "/api/best"):
        _, headers, _ = ask(server, path)
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'self';")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers


@pytest.mark.parametrize(
    ("origin", "shown"),
    [
        ("intact, unsigned", "完整，未签名"),
        ("intact, its signature not checked", "完整，签名未验证"),
        ("signed by 0a1b2c3d, release 7", "由 0a1b2c3d 签名，版本 7"),
        ("something else", "something else"),
    ],
)
def test_whose_the_model_is_is_told_in_the_pages_language(origin: str, shown: str) -> None:
    server = PreviewServer(LOOPBACK, None, make_card(origin=origin), language="zh")
    try:
        with Viewer(server, "/events") as viewer:
            assert viewer.event()["model"]["origin"] == shown
    finally:
        server.close()


def test_events_tell_the_state(serve: Callable[..., PreviewServer]) -> None:
    server = serve()
    with Viewer(server, "/events") as viewer:
        assert viewer.answer.headers["Content-Type"].startswith("text/event-stream")
        first = viewer.event()
        assert (first["results"], first["score"], first["camera"]) == (0, None, "waiting")
        assert first["model"] == {
            "name": "test",
            "version": "1",
            "origin": "unsigned",
            "usable": 40,
            "good": 60,
            "demonstration": False,
        }
        for index in range(10):
            server.offer(make_result(50.0 + index, index=index), hint="hold still", shot=make_shot())
            time.sleep(0.01)
        event = viewer.event()
        while event["results"] < 10:
            event = viewer.event()
        assert (event["score"], event["verdict"], event["reason"]) == (59.0, "usable", None)
        assert (event["hint"], event["shot"]["id"]) == ("hold still", "shot-1")
        assert (event["captured"], event["dropped"], event["age_ms"]) == (14, 4, 3.0)
        assert 0 < event["fps"] < 110
        assert len(event["history"]) == 120
        assert all(50 <= value <= 59 for value in event["history"] if value is not None)
        assert any(value is not None for value in event["history"][-2:])
        server.offer(make_result(None, "no_frame"))
        while event["results"] < 11:
            event = viewer.event()
        assert (event["score"], event["reason"], event["camera"]) == (None, "no_frame", "lost")
        assert (event["hint"], event["shot"]) == (None, None)
        again = viewer.event()  # a heartbeat: the same result, older
        assert again["results"] == 11
        assert again["result_age_ms"] > event["result_age_ms"]


def test_events_are_not_more_than_ten_a_second_however_fast_the_scorer(serve: Callable[..., PreviewServer]) -> None:
    server = serve()
    with Viewer(server, "/events") as viewer:
        viewer.event()
        stop = threading.Event()

        def work() -> None:
            while not stop.wait(0.002):
                server.offer(make_result(size=(8, 8)))

        thread = threading.Thread(target=work)
        thread.start()
        started = time.monotonic()
        counts = [viewer.event()["results"] for _ in range(10)]
        stop.set()
        thread.join()
        assert time.monotonic() - started > 0.8
        assert counts == sorted(set(counts))
        assert server.board.results > 20


def test_pictures_are_small_and_made_only_while_someone_watches(
    serve: Callable[..., PreviewServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def counting(*arguments: Any, **options: Any) -> bytes:
        made.append(1)
        return encode(*arguments, **options)

    monkeypatch.setattr(server_module, "encode", counting)
    server = serve()
    for index in range(5):
        server.offer(make_result(index=index))
        time.sleep(0.05)
    assert not made
    with Viewer(server, "/stream.mjpg") as one, Viewer(server, "/stream.mjpg") as two:
        for index in range(3):
            server.offer(make_result(index=index))
            shapes = {viewer.picture().shape for viewer in (one, two)}
            assert shapes == {(720, 960, 3)}
        assert len(made) <= 4  # once for both
    wait_for(lambda: server.pictures.readers == 0)
    before = len(made)
    server.offer(make_result())
    time.sleep(0.3)
    assert len(made) == before


@pytest.mark.parametrize("fast", [False, True])
def test_pictures_are_reduced_in_proportion(fast: bool, photograph: np.ndarray) -> None:
    large = cv2.resize(photograph, (4000, 3000))
    jpeg = encode(large, 960, 90, fast=fast)
    small = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert small.shape == (720, 960, 3)
    expected = cv2.resize(large, (960, 720), interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - expected).mean() < 3


def test_small_pictures_are_not_enlarged() -> None:
    jpeg = encode(np.zeros((30, 40, 3), np.uint8), 960, 75)
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape == (30, 40, 3)


def test_the_best_shot_is_shown_and_decided_on_once(serve: Callable[..., PreviewServer]) -> None:
    decisions: list[tuple[str, str]] = []
    server = serve(
        accept=lambda shot: decisions.append(("accept", shot)), retake=lambda shot: decisions.append(("retake", shot))
    )
    assert ask(server, "/api/best")[0] == 404
    assert ask(server, "/api/best.jpg")[0] == 404
    assert decide(server, "accept", "shot-1")[0] == 409
    server.offer(make_result(), shot=make_shot())
    status, _, body = ask(server, "/api/best")
    assert status == 200
    assert (json.loads(body)["id"], json.loads(body)["score"]) == ("shot-1", 81.0)
    status, headers, jpeg = ask(server, "/api/best.jpg")
    assert (status, headers["content-type"]) == (200, "image/jpeg")
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape == (1067, 1600, 3)
    assert decide(server, "accept", "an older one")[0] == 409
    assert decide(server, "accept", "shot-1") == (200, {"id": "shot-1", "decision": "accept"})
    assert decide(server, "retake", "shot-1")[0] == 409
    server.offer(make_result(), shot=make_shot())  # the loop has not noticed yet
    assert ask(server, "/api/best")[0] == 404
    server.offer(make_result(), shot=make_shot("shot-2"))
    assert decide(server, "retake", "shot-2")[0] == 200
    assert decisions == [("accept", "shot-1"), ("retake", "shot-2")]


def test_the_best_shot_of_an_eye_waits_until_it_is_decided_on(
    serve: Callable[..., PreviewServer], tmp_path: Path
) -> None:
    """With the sink that takes best shots."""
    best_shot = pytest.importorskip("fthnet_kit.edge.outputs.best_shot.choose")
    best = best_shot.BestShot(tmp_path)
    server = serve(accept=lambda shot: best.accept(), retake=lambda shot: best.retake())

    def look(value: float | None, at_s: float, reason: Reason | None = None) -> None:
        result = make_result(value, reason, index=round(at_s * 10), size=(60, 80))
        assert result.frame is not None
        result = replace(result, frame=replace(result.frame, captured_ns=int(1e9 * at_s)))
        best.offer(result)
        server.offer(result, shot=WaitingShot.of(best.shot))

    for step in range(10):
        look(70.0 + step, step / 10)
    look(10.0, 1.0)
    content = json.loads(ask(server, "/api/best")[2])
    assert (content["id"], content["score"], content["verdict"]) == ("1-1-1", 79.0, "good")
    assert decide(server, "retake", "1-1-1")[0] == 200
    for step in range(11, 20):
        look(70.0, step / 10)
    look(10.0, 2.0)
    content = json.loads(ask(server, "/api/best")[2])
    assert decide(server, "accept", content["id"])[0] == 200
    assert best.shot.accepted
    look(60.0, 2.1)
    assert ask(server, "/api/best")[0] == 404
    best.close()
    assert json.loads((tmp_path / "EYE-000001" / "best.json").read_text())


def test_a_decision_that_fails_is_told_and_can_be_made_again(serve: Callable[..., PreviewServer]) -> None:
    faults = [OSError("no space left on device"), ValueError("a bug with a /secret/path"), None]

    def accept(shot: str) -> bool:
        fault = faults.pop(0) if faults else True
        if isinstance(fault, Exception):
            raise fault
        return bool(fault)

    again = "it could not be done now; try again"
    server = serve(accept=accept)
    server.offer(make_result(), shot=make_shot())
    assert decide(server, "accept", "shot-1") == (500, {"error": "no space left on device"})
    assert decide(server, "accept", "shot-1") == (500, INTERNAL)
    assert decide(server, "accept", "shot-1") == (500, {"error": again, "shown": again})
    assert decide(server, "accept", "shot-1")[0] == 200


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, b'{"id": "shot-1"}', 415),
        ({"Content-Type": "text/plain"}, b'{"id": "shot-1"}', 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, b"id=shot-1", 415),
        (JSON, b"", 400),
        (JSON, b"[]", 400),
        (JSON, b"{}", 400),
        (JSON, b"\xff", 400),
        (JSON, b"[" * 4000, 400),
        (JSON, b'{"id": ["shot-1"]}', 409),
    ],
)
def test_decisions_of_another_form_are_refused(
    serve: Callable[..., PreviewServer], headers: dict[str, str], body: bytes, status: int
) -> None:
    server = serve(accept=lambda shot: pytest.fail("decided"))
    server.offer(make_result(), shot=make_shot())
    assert ask(server, "/api/best/accept", headers, "POST", body)[0] == status


# ---- health and metrics


@pytest.mark.slow
def test_health_follows_the_results(serve: Callable[..., PreviewServer]) -> None:
    server = serve(current_s=1.5)

    def health() -> tuple[int, dict[str, Any]]:
        status, _, body = ask(server, "/healthz")
        return status, json.loads(body)

    status, content = health()
    assert (status, content["reason"], content["engine"]) == (503, "waiting for the first result", "waiting")
    assert content["version"]
    server.offer(make_result())
    status, content = health()
    assert (status, content["status"], content["reason"], content["camera"]) == (200, "ok", None, "reading")
    assert content["score_age_s"] < 1.5
    server.offer(make_result(None, "no_frame"))
    assert health()[0] == 200  # for a moment
    time.sleep(1.6)
    server.offer(make_result(None, "no_frame"))
    status, content = health()
    assert (status, content["reason"], content["camera"]) == (503, "no_frame", "lost")
    assert content["score_age_s"] > 1.5
    server.offer(make_result(None, "no_retina"))  # the camera sees, the network was not asked
    assert health()[0] == 200
    time.sleep(1.6)
    server.offer(make_result(None, "engine_fault"))
    status, content = health()
    assert (status, content["reason"], content["engine"]) == (503, "engine_fault", "fault")
    time.sleep(1.6)
    status, content = health()
    assert status == 503
    assert content["reason"].startswith("no result for ")
    server.offer(make_result())
    assert health()[0] == 200
    assert health()[1]["engine"] == "ok"


def metrics_of(server: PreviewServer) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    status, headers, body = ask(server, "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    families = parser.text_string_to_metric_families(body.decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for f in families for s in f.samples}


def test_metrics_tell_the_last_head_of_the_records_and_no_other(serve: Callable[..., PreviewServer]) -> None:
    server = serve()
    sinks = Sinks(GuideSink(Guide()), 0.0, page=PageSink(server, lambda: None, lambda: None))
    for seq, chain in ((9, "aa"), (19, "bb")):
        sinks.publish_head(Checkpoint(seq, chain, "line", "2026-01-01T00:00:00+00:00"))
    heads = {labels: value for (name, labels), value in metrics_of(server).items() if name == "fthnet_records_head"}
    assert heads == {(("chain", "bb"),): 19}


def test_metrics(serve: Callable[..., PreviewServer]) -> None:
    server = serve(summary=LiveSummary(reconnects=3, faults=Counter(camera=2)), current_s=0.3)
    assert math.isnan(metrics_of(server)[("fthnet_score", ())])
    for index in range(4):
        server.offer(make_result(65.0, index=index))
    found = metrics_of(server)
    assert found[("fthnet_score", ())] == 65.0
    server.offer(make_result(None, "no_retina", index=4))
    server.offer(make_result(None, "no_retina", index=5))
    server.offer(make_result(None, "engine_fault", index=6))
    with Viewer(server, "/events"):
        wait_for(lambda: server.events.readers == 1)
        found = metrics_of(server)
    assert math.isnan(found[("fthnet_score", ())])
    assert found[("fthnet_viewers", ())] == 1
    assert found[("fthnet_frames_scored_total", ())] == 4
    assert found[("fthnet_frames_captured_total", ())] == 11
    assert found[("fthnet_frames_dropped_total", ())] == 4
    assert found[("fthnet_camera_reconnects_total", ())] == 3
    assert found[("fthnet_faults_total", (("where", "camera"),))] == 2
    assert found[("fthnet_results_without_score_total", (("reason", "no_retina"),))] == 2
    assert found[("fthnet_results_without_score_total", (("reason", "engine_fault"),))] == 1
    assert found[("fthnet_score_points_bucket", (("le", "60.0"),))] == 0
    assert found[("fthnet_score_points_bucket", (("le", "70.0"),))] == 4
    assert found[("fthnet_stage_seconds_count", (("stage", "infer"),))] == 4
    assert found[("fthnet_stage_seconds_sum", (("stage", "infer"),))] == pytest.approx(0.12)
    assert found[("fthnet_frame_age_seconds_count", ())] == 4
    assert found[("fthnet_capture_to_score_seconds_sum", ())] == pytest.approx(0.14)
    assert found[("process_resident_memory_bytes", ())] > 1e6
    (build,) = [dict(labels) for name, labels in found if name == "fthnet_build_info"]
    assert set(build) == {"version", "model", "model_version", "origin"}


def test_vitals_from_recorded_files(tmp_path: Path) -> None:
    zone = tmp_path / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("gpu-thermal\n")
    (zone / "temp").write_text("61500\n")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8000000 kB\nMemAvailable: 2000000 kB\n")
    assert read_vitals(tmp_path) == {
        "temperature_c": 61.5,
        "throttling": (),
        "memory_available_mb": 2048,
        "memory_total_mb": 8192,
    }
    assert read_vitals(tmp_path / "none")["temperature_c"] is None


# ---- who may ask


@pytest.mark.parametrize("path", ["/stream.mjpg", "/events", "/api/best", "/healthz", "/metrics", "/nothing"])
def test_nothing_without_the_token(serve: Callable[..., PreviewServer], path: str) -> None:
    server = serve(ANYWHERE, TOKEN)
    for headers in (
        {},
        {"Authorization": TOKEN},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": "Bearer é"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Cookie": f"fthnet_preview={TOKEN}"},
        {"Cookie": "fthnet_preview="},
    ):
        status, answered, body = ask(server, path, {name: value.encode() for name, value in headers.items()})  # type: ignore[misc]
        assert status == 401
        assert answered["www-authenticate"] == "Bearer"
        assert TOKEN.encode() not in body
    assert ask(server, f"{path}?token={TOKEN}")[0] == 401  # only the page takes it from the address


def test_the_token_opens(serve: Callable[..., PreviewServer]) -> None:
    server = serve(ANYWHERE, TOKEN)
    server.offer(make_result(), shot=make_shot())
    assert ask(server, "/healthz", BEARER)[0] == 200
    assert ask(server, "/api/best", {"Authorization": f"bearer {TOKEN}"})[0] == 200
    assert decide(server, "accept", "shot-1")[0] == 401
    assert decide(server, "accept", "shot-1", **BEARER)[0] == 200


def test_the_token_in_the_address_becomes_a_cookie(serve: Callable[..., PreviewServer]) -> None:
    server = serve(ANYWHERE, TOKEN)
    status, headers, body = ask(server, "/")
    assert status == 401
    assert b'name="token"' in body
    assert ask(server, "/preview.css")[0] == 200  # the page that asks needs it
    assert ask(server, "/?token=wrong")[0] == 401
    assert ask(server, "/?token=%ff")[0] in (400, 401)
    status, headers, body = ask(server, f"/?token={TOKEN}")
    assert status == 200
    assert b"gauge" in body
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert TOKEN not in cookie
    session = {"Cookie": cookie.partition(";")[0]}
    assert ask(server, "/", session)[0] == 200
    assert ask(server, "/metrics", session)[0] == 200
    other = serve(ANYWHERE, "fedcba9876543210")
    assert ask(other, "/metrics", session)[0] == 401


def post_token(server: PreviewServer, token: str, **headers: str) -> Answer:
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    return ask(server, "/", {**kind, **headers}, "POST", f"token={token}".encode())


def test_the_form_sends_the_token_in_the_body(serve: Callable[..., PreviewServer]) -> None:
    server = serve(ANYWHERE, TOKEN)
    form = ask(server, "/")[2]
    assert b'method="post"' in form
    status, _, again = post_token(server, "wrong")
    assert status == 401
    assert b'role="alert">That is not the token.' in again
    assert b'role="alert">' not in form
    assert post_token(server, "%ff")[0] in (400, 401)
    assert ask(server, "/", method="POST")[0] == 401
    assert post_token(server, TOKEN, Origin="http://evil.example")[0] == 403
    assert post_token(server, TOKEN, Origin="null")[0] == 403
    too_long = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000
    assert b" 401 " not in raw(server, too_long)
    status, headers, body = post_token(server, TOKEN)
    assert (status, headers["location"], body) == (303, "./", b"")
    session = {"Cookie": headers["set-cookie"].partition(";")[0]}
    assert ask(server, "/", session)[0] == 200
    assert post_token(serve(), "any")[0] == 303  # none is needed


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1", "[", "", "a@b"]
)
def test_other_names_are_refused(serve: Callable[..., PreviewServer], host: str) -> None:
    server = serve()
    for path in ("/", "/healthz", "/stream.mjpg", "/preview.js"):
        assert ask(server, path, {"Host": host})[0] in (400, 403)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9000", "127.0.0.1", "127.0.0.1:9000", "[::1]:80"])
def test_loopback_names_are_served_on_any_port(serve: Callable[..., PreviewServer], host: str) -> None:
    assert ask(serve(), "/", {"Host": host})[0] == 200  # ports are forwarded


def test_on_the_network_addresses_and_the_own_name_are_served() -> None:
    access = Access(Address("0.0.0.0", 80), TOKEN)
    assert all(access.knows_host(host) for host in ("192.168.1.7:8080", "[fd00::7]", "localhost", socket.gethostname()))
    assert not any(access.knows_host(host) for host in ("evil.example", "192.168.1.7.evil.example", ""))


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1.evil.example", "file://", "x"]
)
def test_other_origins_are_refused(serve: Callable[..., PreviewServer], origin: str) -> None:
    server = serve(accept=lambda shot: pytest.fail("decided"))
    server.offer(make_result(), shot=make_shot())
    assert decide(server, "accept", "shot-1", Origin=origin)[0] == 403
    assert ask(server, "/events", {"Origin": origin})[0] == 403


def test_a_machine_without_a_name_has_no_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "")
    access = Access(Address("0.0.0.0", 80), TOKEN)
    assert access.knows_host("localhost")
    assert not any(access.knows_host(host) for host in ("", ".local", ":80"))


@pytest.mark.parametrize(
    ("site", "kind", "answered"),
    [
        ("cross-site", "image", False),
        ("same-site", "empty", False),  # another port of this machine
        ("cross-site", "iframe", False),
        ("cross-site", "script", False),
        ("cross-site", "", False),
        ("cross-site", "document", True),  # somebody follows a link
        ("same-origin", "image", True),
        ("none", "document", True),
    ],
)
def test_other_pages_cannot_take_a_viewers_place(
    serve: Callable[..., PreviewServer], site: str, kind: str, answered: bool
) -> None:
    """Browsers send no Origin with `<img src="http://127.0.0.1:8080/stream.mjpg">`."""
    server = serve()
    server.offer(make_result(), shot=make_shot())
    status = ask(server, "/api/best.jpg", {"Sec-Fetch-Site": site, "Sec-Fetch-Dest": kind})[0]
    assert status == (200 if answered else 403)


def test_the_own_origin_is_served(serve: Callable[..., PreviewServer]) -> None:
    server = serve()
    server.offer(make_result(), shot=make_shot())
    assert decide(server, "accept", "shot-1", Origin=f"http://127.0.0.1:{server.address.port}")[0] == 200


# ---- what must not work


@pytest.mark.parametrize(
    "path",
    [
        "/../pyproject.toml",
        "/..%2f..%2fpyproject.toml",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/assets/../../server.py",
        "/preview/index.html",
        "/index.html",
        "/token.html",
        "//etc/passwd",
        "/preview.js/../../../etc/passwd",
        "/preview.js%00.css",
        "/..\\..\\etc\\passwd",
        "/static/preview.js",
        "/api/best/accept/../retake",
        "http://evil.example/etc/passwd",
    ],
)
def test_no_path_leaves_the_fixed_ones(serve: Callable[..., PreviewServer], path: str) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
    answer = raw(serve(), request)
    assert answer.split(b" ", 2)[1] in (b"400", b"403", b"404")
    assert b"root:" not in answer
    assert b"Traceback" not in answer


def test_other_methods_are_refused(serve: Callable[..., PreviewServer]) -> None:
    server = serve()
    for method, path in [("PUT", "/"), ("PUT", "/preview.js"), ("DELETE", "/api/best"), ("GET", "/api/best/accept")]:
        assert ask(server, path, method=method)[0] == 405


def test_a_bug_in_a_handler_shows_no_traceback(
    serve: Callable[..., PreviewServer], caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(summary=Counts(lambda: 1 // 0))
    status, headers, body = ask(server, "/metrics")
    assert (status, json.loads(body)) == (500, INTERNAL)
    assert "content-security-policy" in headers
    assert "Traceback" not in caplog.text
    assert "/metrics" in caplog.text


def test_large_requests_are_refused(serve: Callable[..., PreviewServer]) -> None:
    server = serve()
    server.offer(make_result(), shot=make_shot())
    assert b" 200 " not in raw(server, b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 70_000 + b"\r\n\r\n")
    post = b"POST /api/best/accept HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    assert b" 200 " not in raw(server, post + b"Content-Length: 5000\r\n\r\n" + b" " * 5000)
    chunk = b"1000\r\n" + b" " * 4096 + b"\r\n"
    assert b" 200 " not in raw(server, post + b"Transfer-Encoding: chunked\r\n\r\n" + 2 * chunk + b"0\r\n\r\n")
    assert ask(server, "/healthz")[0] == 200


@pytest.mark.parametrize("content", [b"", b"GET / HT", b"\x16\x03\x01\x02\x00", b"\r\n\r\n", b"GET /\r\n\r\n"])
def test_half_requests_are_ended(
    serve: Callable[..., PreviewServer], monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(server_module, "IDLE_S", 0.3)
    server = serve()
    started = time.monotonic()
    assert b" 200 " not in raw(server, content)
    assert time.monotonic() - started < 5
    assert ask(server, "/")[0] == 200


def test_too_many_viewers(serve: Callable[..., PreviewServer]) -> None:
    server = serve(max_clients=2)
    with Viewer(server, "/events") as one, Viewer(server, "/events") as two:
        assert (one.status, two.status) == (200, 200)
        status, headers, body = ask(server, "/events")
        assert (status, headers["retry-after"]) == (503, "5")
        words = "2 viewers are connected already; close one of them"
        assert json.loads(body) == {"error": words, "shown": words}
        assert ask(server, "/healthz")[0] == 503  # still answered: no result yet
    wait_for(lambda: server.events.readers == 0)
    with Viewer(server, "/events") as three:
        assert three.status == 200


def test_refusals_speak_the_language_of_the_page_to_it_and_english_to_programs(
    serve: Callable[..., PreviewServer],
) -> None:
    server = serve(language="es", max_clients=1)
    assert b'<html lang="es">' in ask(server, "/")[2]
    with Viewer(server, "/events"):
        assert json.loads(ask(server, "/events")[2]) == {
            "error": "1 viewers are connected already; close one of them",
            "shown": "ya hay 1 páginas conectadas; cierre una",
        }
    status, answer = decide(server, "accept", "shot-1")
    assert (status, answer["shown"]) == (409, "esta toma ya se ha sustituido o decidido")
    assert answer["error"].startswith("this shot has been")


def test_the_run_opens_the_page_in_the_language_of_its_hints() -> None:
    scorer, loop = SimpleNamespace(card=make_card()), SimpleNamespace(summary=LiveSummary())
    server = open_server("0", None, cast(QualityScorer, scorer), None, cast(LiveLoop, loop), "fr")
    try:
        assert b'<html lang="fr">' in ask(server, "/")[2]
    finally:
        server.close()


def test_a_language_that_the_page_does_not_speak(serve: Callable[..., PreviewServer]) -> None:
    with pytest.raises(ValueError, match="language: expected one of en, es, zh, fr, found 'xx'"):
        serve(language="xx")


def test_too_many_connections(serve: Callable[..., PreviewServer]) -> None:
    server = serve(max_clients=1)
    idle = [socket.create_connection(("127.0.0.1", server.address.port)) for _ in range(6)]
    time.sleep(0.2)
    with socket.create_connection(("127.0.0.1", server.address.port), timeout=5) as one_more:
        assert one_more.recv(1) == b""
    for connection in idle:
        connection.close()

    def answers() -> bool:
        try:
            return ask(server, "/")[0] == 200
        except OSError:
            return False

    wait_for(answers)


def connect_from(host: str, server: PreviewServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.address.port), timeout=5, source_address=(host, 0))


def test_one_host_cannot_take_all_connections_of_a_network(serve: Callable[..., PreviewServer]) -> None:
    server = serve(ANYWHERE, TOKEN, max_clients=2)
    taken = [connect_from("127.0.0.2", server) for _ in range(6)]
    time.sleep(0.2)
    with connect_from("127.0.0.2", server) as one_more:
        assert one_more.recv(1) == b""
    assert ask(server, "/")[0] == 401  # from another host
    for connection in taken:
        connection.close()

    def has_room() -> bool:
        with contextlib.suppress(OSError), connect_from("127.0.0.2", server) as again:
            again.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            return b" 401 " in again.recv(100)
        return False

    wait_for(has_room)


def test_on_loopback_where_all_are_one_host_it_may_take_all(serve: Callable[..., PreviewServer]) -> None:
    server = serve(max_clients=2)
    taken = [connect_from("127.0.0.1", server) for _ in range(11)]
    time.sleep(0.2)
    assert ask(server, "/")[0] == 200
    for connection in taken:
        connection.close()


def test_who_vanishes_from_the_network_is_noticed(
    serve: Callable[..., PreviewServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A phone out of reach says no goodbye; while the camera gives nothing, only the kernel can miss it."""
    found: list[bool] = []
    notice = server_module.notice_when_gone

    def look(connection: socket.socket) -> None:
        notice(connection)
        found.append(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0
            and connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 10
        )

    monkeypatch.setattr(server_module, "notice_when_gone", look)
    assert ask(serve(), "/")[0] == 200
    assert found == [True]


# ---- nobody slows the loop


def noise(index: int) -> np.ndarray:
    """A picture that a JPEG cannot make small."""
    image = np.random.default_rng(index).integers(0, 40, (480, 640, 3), np.uint8)
    image[:, :, 2] += 150
    return image


@contextlib.contextmanager
def sleeper(server: PreviewServer, path: str) -> Iterator[socket.socket]:
    """A viewer that asks and then reads nothing."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.address.port))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        yield connection


@pytest.mark.parametrize("path", ["/stream.mjpg", "/events"])
def test_a_client_that_reads_nothing_slows_nobody(
    serve: Callable[..., PreviewServer], monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """While one viewer sleeps, whom the server tolerates here, the loop runs to its end and another viewer reads on."""
    monkeypatch.setattr(handlers_module, "SLOW_CLIENT_S", 600)
    monkeypatch.setattr(handlers_module, "SEND_BUFFER_BYTES", 4096)
    monkeypatch.setattr(server_module, "EVENT_EVERY_S", 0.01)
    server = serve()
    seen: list[int] = []
    with sleeper(server, path), Viewer(server, path) as reader:
        feed = server.events if path == "/events" else server.pictures
        wait_for(lambda: feed.readers == 2)

        def read() -> None:
            with contextlib.suppress(*ENDED):
                while True:
                    _ = reader.event() if path == "/events" else reader.picture()
                    seen.append(1)

        threading.Thread(target=read, daemon=True).start()
        loop = LiveLoop(lambda: ScriptedCamera(noise, fps=50, live=False, frames=60), fake_scorer())
        for result in loop.results():
            server.offer(result)
        assert loop.summary.scored == server.board.results == 60
        wait_for(lambda: server.offer(make_result()) or len(seen) >= 30, 60)
        assert feed.readers == 2
        assert feed.number >= 30


def test_a_client_that_reads_nothing_is_disconnected(
    serve: Callable[..., PreviewServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers_module, "SLOW_CLIENT_S", 0.3)
    monkeypatch.setattr(handlers_module, "SEND_BUFFER_BYTES", 4096)
    server = serve()
    shown = make_result()
    assert shown.frame is not None
    shown = replace(shown, frame=replace(shown.frame, image=noise(0)))
    with sleeper(server, "/stream.mjpg"):
        wait_for(lambda: server.pictures.readers == 1)
        wait_for(lambda: server.offer(shown) or server.pictures.readers == 0, 30)


def test_who_asks_and_never_reads_the_answers_is_disconnected(
    serve: Callable[..., PreviewServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a token, requests in a row whose answers nobody takes: they must not hold a connection."""
    monkeypatch.setattr(handlers_module, "SLOW_CLIENT_S", 0.3)
    server = serve(ANYWHERE, TOKEN)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.address.port))
        connection.settimeout(10)
        with pytest.raises(ConnectionError):
            while True:  # until the server has ended it; without that, until our own time is over
                connection.sendall(b"GET /preview.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 100)
    assert ask(server, "/preview.js")[0] == 200


def test_offer_does_not_wait_for_a_server_that_hangs(serve: Callable[..., PreviewServer]) -> None:
    release = threading.Event()
    server = serve(summary=Counts(lambda: int(release.wait(20))))
    asking = threading.Thread(target=lambda: ask(server, "/metrics"), daemon=True)
    asking.start()
    time.sleep(0.2)
    for index in range(1000):
        server.offer(make_result(index=index, size=(8, 8)))
    assert not release.is_set()  # it still hangs
    release.set()
    asking.join(10)
    assert metrics_of(server)[("fthnet_frames_scored_total", ())] == 1000


def test_closing_ends_the_viewers_and_frees_the_port(serve: Callable[..., PreviewServer]) -> None:
    server = serve()
    with Viewer(server, "/events") as viewer, Viewer(server, "/stream.mjpg"):
        viewer.event()
        started = time.monotonic()
        server.close()
        server.close()
        assert time.monotonic() - started < 3
        with pytest.raises(ENDED):
            while True:
                viewer.event()
    assert not [thread for thread in threading.enumerate() if thread.name == "preview"]
    again = serve(server.address)
    assert ask(again, "/")[0] == 200
    server.offer(make_result())  # nobody listens any more; no harm


# ---- guesses, sessions, TLS and places


def test_guesses_are_few_and_logged(serve: Callable[..., PreviewServer], caplog: pytest.LogCaptureFixture) -> None:
    server = serve(ANYWHERE, TOKEN)
    wrong = {"Authorization": "Bearer wrong"}
    session = {"Cookie": post_token(server, TOKEN)[1]["set-cookie"].partition(";")[0]}
    answers = [ask(server, "/healthz", wrong)[0] for _ in range(12)]
    answers += [ask(server, f"/?token={number}")[0] for number in range(3)]
    assert answers == [401] * 10 + [429] * 5
    status, headers, body = ask(server, "/healthz", BEARER)
    assert status == 429  # nor is the right one looked at, or guessing would go on
    assert 0 < int(headers["retry-after"]) <= 60
    assert b"too many wrong tokens" in body
    assert b'role="status">Too many wrong tokens' in ask(server, f"/?token={TOKEN}")[2]
    assert ask(server, "/metrics", session)[0] == 200  # who is logged in stays so
    told = [message for message in caplog.messages if "wrong token from 127.0.0.1" in message]
    assert len(told) == 10
    assert "no token is looked at for 60 s" in caplog.text
    assert "Bearer" not in caplog.text


def test_the_pause_doubles_and_the_right_token_ends_the_count() -> None:
    now = 0.0
    guesses = Guesses(lambda: now)
    tried = 0
    pauses = []
    while now < 3600:
        if pause := guesses.pause_s("a"):
            pauses.append(pause)
            now += pause
            continue
        guesses.note("a")
        tried += 1
    assert pauses[:5] == [60, 120, 240, 480, 900]
    assert tried <= 70
    assert not guesses.pause_s("b")
    for _ in range(9):
        guesses.note("b")
    guesses.forget("b")
    guesses.note("b")
    assert not guesses.pause_s("b")


def test_the_memory_of_guesses_is_bounded() -> None:
    guesses = Guesses()
    for number in range(5000):
        guesses.note(str(number))
    assert len(guesses._wrong_s) == 4096


def test_sessions_are_random_expire_and_can_be_ended(serve: Callable[..., PreviewServer]) -> None:
    now = 0.0
    sessions = Sessions(lambda: now)
    first, second = sessions.begin("a"), sessions.begin("a")
    assert first != second
    assert len(first) >= 43
    assert sessions.holds(first)
    assert sessions.has_source("a")
    now = 12 * 3600.0
    assert not sessions.holds(first)
    assert not sessions.has_source("a")
    last = [sessions.begin("a") for _ in range(65)]
    assert [sessions.holds(each) for each in last[:2]] == [False, True]

    server = serve(ANYWHERE, TOKEN)
    one, other = ({"Cookie": post_token(server, TOKEN)[1]["set-cookie"].partition(";")[0]} for _ in range(2))
    assert one != other
    status, headers, _ = ask(server, "/logout", one, "POST")
    assert (status, headers["location"]) == (303, "./")
    assert ask(server, "/metrics", one)[0] == 401
    assert ask(server, "/metrics", other)[0] == 200


def test_health_may_say_alive_or_not_and_nothing_else(serve: Callable[..., PreviewServer]) -> None:
    server = serve(ANYWHERE, TOKEN, open_health=True)
    assert ask(server, "/healthz")[::2] == (503, b'{"status": "unavailable"}')
    server.offer(make_result())
    assert ask(server, "/healthz")[::2] == (200, b'{"status": "ok"}')
    assert b"camera" in ask(server, "/healthz", BEARER)[2]
    assert ask(server, "/metrics")[0] == 401


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 and its key, in one file."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("needs openssl")
    path = tmp_path_factory.mktemp("tls") / "page.pem"
    made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=page", "-addext", "subjectAltName=IP:127.0.0.1"]
    key, crt = path.with_suffix(".key"), path.with_suffix(".crt")
    subprocess.run([program, *made, *names, "-keyout", key, "-out", crt], check=True, capture_output=True)
    path.write_bytes(key.read_bytes() + crt.read_bytes())
    path.chmod(0o600)
    return path


def test_tls_and_a_secure_cookie(serve: Callable[..., PreviewServer], certificate: Path) -> None:
    server = serve(LOOPBACK, TOKEN, tls=server_module.tls_context(certificate, None))
    assert server.url.startswith("https://127.0.0.1:")
    trusting = ssl.create_default_context(cafile=str(certificate))
    connection = http.client.HTTPSConnection("127.0.0.1", server.address.port, timeout=10, context=trusting)
    connection.request("POST", "/", f"token={TOKEN}", {"Content-Type": "application/x-www-form-urlencoded"})
    answer = connection.getresponse()
    assert answer.status == 303
    assert "; Secure" in (answer.headers["Set-Cookie"] or "")
    connection.close()
    with pytest.raises((OSError, http.client.HTTPException)):
        ask(server, "/")  # without TLS
    assert "Secure" not in post_token(serve(LOOPBACK, TOKEN), TOKEN)[1]["set-cookie"]


def test_certificates_that_cannot_be_used_are_one_line(tmp_path: Path, certificate: Path) -> None:
    (tmp_path / "x.pem").write_text("no certificate")
    for given in ((tmp_path / "x.pem", None), (tmp_path / "none", None), (certificate.with_suffix(".crt"), None)):
        with pytest.raises(InputError, match="--serve-tls: expected a certificate and its unencrypted key"):
            server_module.tls_context(*given)


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_a_source_is_an_address_or_a_64(address: str, source: str) -> None:
    assert source_of(address) == source


def test_one_64_does_not_take_all_places_and_some_are_kept_for_who_is_logged_in(
    serve: Callable[..., PreviewServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "source_of", lambda address: address.rpartition(".")[0])  # 127.0.1.x is one
    monkeypatch.setattr(handlers_module, "source_of", lambda address: address.rpartition(".")[0])
    server = serve(ANYWHERE, TOKEN, max_clients=2)  # 12 places, 6 of one source, 3 kept
    post_token(server, TOKEN)
    time.sleep(0.3)  # until its own place is free again
    taken = [connect_from(f"127.0.1.{number}", server) for number in range(1, 7)]
    taken += [connect_from(f"127.0.2.{number}", server) for number in range(1, 4)]
    time.sleep(0.2)
    for stranger in ("127.0.1.99", "127.0.2.99", "127.0.3.1"):
        with connect_from(stranger, server) as refused:
            assert refused.recv(1) == b""
    assert ask(server, "/")[0] == 401  # from where somebody is logged in
    for connection in taken:
        connection.close()


def test_requests_that_are_sent_ahead_are_bounded(serve: Callable[..., PreviewServer]) -> None:
    server = serve()
    with socket.create_connection(("127.0.0.1", server.address.port), timeout=10) as connection:
        connection.sendall(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        connection.recv(100)
        sent = 0
        with pytest.raises(OSError):
            while sent < 64 << 20:
                connection.sendall(b"GET /preview.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 100)
                sent += 5000
    assert sent < 32 << 20
    assert ask(server, "/")[0] == 200


def test_the_printed_address_is_one_that_others_can_use(serve: Callable[..., PreviewServer]) -> None:
    assert serve().url.startswith("http://127.0.0.1:")
    own = ANYWHERE.reachable().host
    assert own != "0.0.0.0"
    assert serve(ANYWHERE, TOKEN).url.startswith(f"http://{own}:")
    assert Address("::1", 80).reachable() == Address("::1", 80)
