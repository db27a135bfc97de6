"""MQTT against a real mosquitto; what needs no broker is tested without one."""

from __future__ import annotations

import collections
import json
import logging
import os
import shutil
import signal
import socket
import sqlite3
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("paho", reason="needs the extra [mqtt]")

from fthnet_kit.edge.errors import InputError, MissingExtraError
from fthnet_kit.edge.files import state_folder
from fthnet_kit.edge.loop.result import LiveResult
from fthnet_kit.edge.model.score import Score
from fthnet_kit.edge.outputs.mqtt.broker import Broker, MqttOptions, credentials, tls_context
from fthnet_kit.edge.outputs.mqtt.message_queue import Message, MessageQueue
from fthnet_kit.edge.outputs.mqtt.sink import MqttSink
from fthnet_kit.edge.trust.keys import make_key

SYSTEM_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"
MOSQUITTO = shutil.which("mosquitto", path=SYSTEM_PATH)
MOSQUITTO_PASSWD = shutil.which("mosquitto_passwd", path=SYSTEM_PATH)
OPENSSL = shutil.which("openssl")
needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")


def result(index: int, value: float | None = 50.0, verdict: str = "usable", reason: str = "no_retina") -> LiveResult:
    score = (
        Score(value, raw=value, verdict=verdict, frame_index=index)  # type: ignore[arg-type]
        if value is not None
        else Score(None, reason=reason, frame_index=index)  # type: ignore[arg-type]
    )
    return LiveResult(score, None, None, datetime.now(timezone.utc), 1.0, 2.0, index + 1, 0)


def until(condition: Callable[[], bool], what: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mosquitto:
    """A broker of our own; keeps subscriptions and messages across its death."""

    def __init__(self, folder: Path, *settings: str) -> None:
        self.port = free_port()
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        (folder / "mosquitto.conf").write_text(
            "\n".join(
                [
                    f"listener {self.port} 127.0.0.1",
                    *(settings or ["allow_anonymous true"]),
                    *(["user root"] if os.getuid() == 0 else []),
                    "persistence true",
                    f"persistence_location {folder}/",
                    "autosave_on_changes true",
                    "autosave_interval 1",
                    "max_queued_messages 0",
                ]
            )
            + "\n"
        )

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        assert MOSQUITTO is not None
        with (self.folder / "mosquitto.log").open("ab") as log:
            self.process = subprocess.Popen(
                [MOSQUITTO, "-c", str(self.folder / "mosquitto.conf")], stdout=log, stderr=log
            )

        def answers() -> bool:
            assert self.process is not None and self.process.poll() is None, self.log()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        until(answers, "mosquitto does not answer")

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(10)
            self.process = None

    def log(self) -> str:
        return (self.folder / "mosquitto.log").read_text(errors="replace")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    mosquitto = Mosquitto(tmp_path)
    mosquitto.start()
    yield mosquitto
    mosquitto.kill()


class Listener:
    """Collects what a broker has; keeps its session while either is away."""

    def __init__(self, port: int, topic: str = "#", **tls: object) -> None:
        mqtt = pytest.importorskip("paho.mqtt.client")
        self.seen: list[tuple[str, bytes, bool]] = []
        self.subscribed = False
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="listener", clean_session=False)
        self.client.reconnect_delay_set(1, 1)
        if tls:
            self.client.tls_set(**tls)
        self.client.on_message = lambda _c, _d, m: self.seen.append((m.topic, m.payload, m.retain))
        self.client.on_connect = lambda *_: self.client.subscribe(topic, qos=1)
        self.client.on_subscribe = lambda *_: setattr(self, "subscribed", True)
        self.client.connect("localhost" if tls else "127.0.0.1", port)
        self.client.loop_start()
        until(lambda: self.subscribed, "the listener is not subscribed")

    def frames(self) -> list[int]:
        return [json.loads(payload)["frame"] for topic, payload, _ in self.seen if topic.endswith("/result")]

    def states(self) -> list[bytes]:
        return [payload for topic, payload, _ in self.seen if topic.endswith("/state")]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def listener(broker: Mosquitto) -> Iterator[Listener]:
    listening = Listener(broker.port)
    yield listening
    listening.close()


def options(folder: Path, **changes: object) -> MqttOptions:
    return MqttOptions(
        **{  # type: ignore[arg-type]
            "device": "camera-1",
            "queue": folder / "queue.sqlite",
            "results_per_s": 1e9,
            "first_backoff_s": 0.1,
            "longest_backoff_s": 0.3,
            **changes,
        }
    )


@needs_mosquitto
def test_results_best_and_state_are_published(broker: Mosquitto, listener: Listener, tmp_path: Path) -> None:
    sink = MqttSink(broker.url, options(tmp_path))
    for index, value in enumerate((40.0, 70.0, 60.0)):
        sink.offer(result(index, value))
    until(lambda: sink.connected and sink.waiting == 0, "not delivered")
    until(lambda: len(listener.frames()) == 3, "not seen")
    sink.close()
    until(lambda: listener.states() == [b"online", b"offline"], "no goodbye")
    topics = {topic for topic, _, _ in listener.seen}
    assert topics == {f"fthnet/camera-1/{name}" for name in ("result", "best", "state")}
    assert listener.frames() == [0, 1, 2]
    record = json.loads(next(payload for topic, payload, _ in listener.seen if topic.endswith("/result")))
    assert set(record) >= {"score", "verdict", "reason", "frame", "captured_at", "stage_ms"}
    late = Listener(broker.port, "fthnet/+/#") if listener.close() is None else None
    assert late is not None
    until(lambda: len(late.seen) >= 2, "nothing is retained")
    retained = {topic.rpartition("/")[2]: payload for topic, payload, retain in late.seen if retain}
    assert retained["state"] == b"offline"
    assert json.loads(retained["best"])["score"] == 70.0
    late.close()
    assert sink.delivered == 5  # three results; the first best at once, the better one a second later or at the end
    assert (sink.lost, sink.dropped) == (0, 0)


@needs_mosquitto
@pytest.mark.slow
def test_the_head_of_the_records_is_kept_by_the_broker(
    broker: Mosquitto, tmp_path: Path, fthnet: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """A real run: the last signed head is retained, and it is the one that the records end with."""
    pytest.importorskip("cryptography")
    public = make_key(tmp_path / "device")
    records = tmp_path / "r.jsonl"
    arguments = ("--records", records, "--records-key", tmp_path / "device", "--mqtt", broker.url)
    state = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    done = fthnet("run", "--source", "sim:?seconds=1&fps=5&realtime=0", *arguments, env=state)
    assert done.returncode == 0, done.stderr
    late = Listener(broker.port, "fthnet/+/records_head")
    until(lambda: len(late.seen) == 1, "no head is retained")
    (_, payload, retained) = late.seen[0]
    late.close()
    head = json.loads(payload)
    assert (retained, head["kind"]) == (True, "end")
    checked = fthnet("records", "verify", records, "--key", public, "--head", head["chain"])
    assert checked.returncode == 0, checked.stdout + checked.stderr


@needs_mosquitto
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_broker_that_dies_and_comes_back_gets_everything_in_order(
    broker: Mosquitto, listener: Listener, tmp_path: Path, number: signal.Signals
) -> None:
    sink = MqttSink(broker.url, options(tmp_path))
    for index in range(100):
        sink.offer(result(index))
    until(lambda: len(listener.frames()) >= 100, "the first hundred")
    time.sleep(1.2)  # mosquitto saves its sessions once a second
    broker.kill(number)
    for index in range(100, 600):
        sink.offer(result(index))
    until(lambda: not sink.connected and sink.waiting >= 500, "not queued")
    broker.start()
    until(lambda: sink.waiting == 0, f"not delivered: {sink.waiting} wait")
    until(lambda: len(set(listener.frames())) == 600, "not all seen")
    assert list(dict.fromkeys(listener.frames())) == list(range(600))
    assert listener.states()[-1] == b"online"
    sink.close()


CHILD = """
import sys, time
from pathlib import Path
from fthnet_kit.edge.outputs.mqtt.sink import MqttSink
from fthnet_kit.edge.outputs.mqtt.broker import MqttOptions
from tests.edge.test_mqtt import options, result
url, folder, first, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
sink = MqttSink(url, options(folder))
for index in range(first, first + count):
    sink.offer(result(index))
while sink._writer._queue.qsize() or (url.endswith(':1') and sink.waiting < count) or (
    not url.endswith(':1') and not (sink.connected and not sink.waiting)):
    time.sleep(0.02)
print('ready', flush=True)
time.sleep(60)
"""


def killed_child(url: str, folder: Path, first: int, count: int) -> None:
    """A process that sends results and dies by SIGKILL."""
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, url, str(folder), str(first), str(count)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.kill()
    process.wait()
    process.stdout.close()


@needs_mosquitto
def test_the_last_will_tells_of_a_killed_client(broker: Mosquitto, listener: Listener, tmp_path: Path) -> None:
    killed_child(broker.url, tmp_path, 0, 5)
    until(lambda: listener.states() == [b"online", b"offline"], "no last will")
    assert listener.frames() == list(range(5))
    sink = MqttSink(broker.url, options(tmp_path))
    until(lambda: listener.states() == [b"online", b"offline", b"online"], "not back")
    sink.close()


@needs_mosquitto
def test_what_a_killed_client_had_queued_is_delivered_by_the_next(
    broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    killed_child("mqtt://127.0.0.1:1", tmp_path, 0, 200)  # nobody listens on port 1
    sink = MqttSink(broker.url, options(tmp_path))
    sink.offer(result(200))
    until(lambda: len(listener.frames()) >= 201, "not all delivered")
    assert listener.frames() == list(range(201))
    sink.close()


@needs_mosquitto
def test_the_bound_keeps_the_newest(broker: Mosquitto, listener: Listener, tmp_path: Path) -> None:
    broker.kill(signal.SIGTERM)
    sink = MqttSink(broker.url, options(tmp_path, queue_messages=50))
    for index in range(300):
        sink.offer(result(index))
    until(lambda: sink.dropped >= 250, "not dropped")
    assert sink.waiting == 50
    broker.start()
    until(lambda: sink.waiting == 0, "not delivered")
    until(lambda: len(listener.frames()) >= 50 - 1, "not seen")
    assert listener.frames() == list(range(300 - len(listener.frames()), 300))
    sink.close()


@needs_mosquitto
def test_user_and_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    if MOSQUITTO_PASSWD is None:
        pytest.skip("mosquitto_passwd is not installed")
    subprocess.run([MOSQUITTO_PASSWD, "-b", "-c", tmp_path / "users", "eve", "hunter2"], check=True)
    broker = Mosquitto(tmp_path, "allow_anonymous false", f"password_file {tmp_path}/users")
    broker.start()
    secret = tmp_path / "secret"
    secret.write_text("wrong\n")
    secret.chmod(0o600)
    try:
        sink = MqttSink(broker.url, options(tmp_path, user="eve", password_file=secret))
        sink.offer(result(0))
        until(lambda: "the broker refused: Not authorized" in caplog.text, "not refused")
        sink.close()
        assert sink.waiting == 2
        secret.write_text("hunter2\n")
        sink = MqttSink(broker.url, options(tmp_path, user="eve", password_file=secret))
        until(lambda: sink.connected and sink.waiting == 0, "not let in")
        sink.close()
        secret.write_text("wrong\n")
        monkeypatch.setenv("FTHNET_MQTT_PASSWORD", "hunter2")
        sink = MqttSink(broker.url.replace("//", "//eve@"), options(tmp_path, password_file=secret))
        until(lambda: sink.connected, "the environment does not go before the file")
        sink.close()
    finally:
        broker.kill()
    assert "hunter2" not in caplog.text
    assert "the password travels unencrypted to mqtt://127.0.0.1" in caplog.text


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two authorities; one vouches for a broker called localhost and for a device."""
    if OPENSSL is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "names").write_text("subjectAltName=DNS:localhost\n")
    key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    sign = "-CA ca.pem -CAkey ca.key -CAcreateserial -days 2"
    for line in (
        f"req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=ours -days 2",
        f"req -x509 {key} -keyout other.key -out other.pem -subj /CN=others -days 2",
        f"req {key} -keyout server.key -out server.csr -subj /CN=localhost",
        f"x509 -req -in server.csr {sign} -extfile names -out server.pem",
        f"req {key} -keyout device.key -out device.csr -subj /CN=camera-1",
        f"x509 -req -in device.csr {sign} -out device.pem",
    ):
        subprocess.run([OPENSSL, *line.split()], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def tls_broker(certificates: Path, tmp_path: Path) -> Iterator[Mosquitto]:
    mosquitto = Mosquitto(
        tmp_path,
        "allow_anonymous true",
        f"cafile {certificates}/ca.pem",
        f"certfile {certificates}/server.pem",
        f"keyfile {certificates}/server.key",
        "require_certificate true",
    )
    mosquitto.start()
    yield mosquitto
    mosquitto.kill()


@needs_mosquitto
def test_tls_with_certificates_on_both_sides(tls_broker: Mosquitto, certificates: Path, tmp_path: Path) -> None:
    ours = {
        "ca_file": certificates / "ca.pem",
        "cert_file": certificates / "device.pem",
        "key_file": certificates / "device.key",
    }
    listener = Listener(
        tls_broker.port,
        ca_certs=str(ours["ca_file"]),
        certfile=str(ours["cert_file"]),
        keyfile=str(ours["key_file"]),
    )
    sink = MqttSink(f"mqtts://localhost:{tls_broker.port}", options(tmp_path, **ours))
    sink.offer(result(7))
    until(lambda: listener.frames() == [7], "not delivered")
    sink.close()
    listener.close()


@needs_mosquitto
@pytest.mark.parametrize(
    ("host", "ca", "told"),
    [
        ("localhost", "other.pem", "certificate verify failed"),
        ("127.0.0.1", "ca.pem", "IP address mismatch"),  # its certificate is for localhost
        ("localhost", None, "certificate verify failed"),
    ],
)
def test_a_broker_that_cannot_be_trusted_gets_nothing(
    tls_broker: Mosquitto,
    certificates: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    host: str,
    ca: str | None,
    told: str,
) -> None:
    device = {"cert_file": certificates / "device.pem", "key_file": certificates / "device.key"}
    ca_file = None if ca is None else certificates / ca
    url = f"mqtts://{host}:{tls_broker.port}"
    sink = MqttSink(url, options(tmp_path, ca_file=ca_file, **device))
    sink.offer(result(1))
    until(lambda: told in caplog.text, "not refused")
    sink.close()
    assert (sink.delivered, sink.waiting) == (0, 2)
    with caplog.at_level(logging.WARNING):
        loud = MqttSink(url, options(tmp_path, ca_file=ca_file, insecure_tls=True, **device))
    assert "INSECURE" in caplog.text
    until(lambda: loud.connected and loud.waiting == 0, "not even insecurely")
    loud.close()


@needs_mosquitto
def test_a_device_without_a_certificate_is_not_let_in(
    tls_broker: Mosquitto, certificates: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"mqtts://localhost:{tls_broker.port}"
    sink = MqttSink(url, options(tmp_path, ca_file=certificates / "ca.pem"))
    sink.offer(result(1))
    until(lambda: "trying again" in caplog.text, "no complaint")
    sink.close()
    assert (sink.delivered, sink.waiting) == (0, 2)


def test_certificates_that_cannot_be_used(certificates: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no certificate")
    with pytest.raises(InputError, match="text: expected certificates in PEM"):
        tls_context(MqttOptions(ca_file=tmp_path / "text"))
    with pytest.raises(InputError, match="no such file"):
        tls_context(MqttOptions(ca_file=tmp_path / "none"))
    with pytest.raises(InputError, match="expected a certificate whose unencrypted key"):
        tls_context(MqttOptions(cert_file=certificates / "device.pem", key_file=certificates / "other.key"))
    with pytest.raises(InputError, match="expected a certificate whose unencrypted key"):
        tls_context(MqttOptions(cert_file=certificates / "device.pem"))
    with pytest.raises(InputError, match=r"expected mqtt\.cert_file beside it"):
        tls_context(MqttOptions(key_file=certificates / "device.key"))
    assert OPENSSL is not None
    locked = tmp_path / "locked.key"
    subprocess.run(
        [OPENSSL, "ec", "-aes256", "-passout", "pass:x", "-in", certificates / "device.key", "-out", locked],
        check=True,
        capture_output=True,
    )
    with pytest.raises(InputError, match="expected a certificate whose unencrypted key"):  # and no question at a prompt
        tls_context(MqttOptions(cert_file=certificates / "device.pem", key_file=locked))
    context = tls_context(MqttOptions())
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)


def test_offer_never_blocks_where_the_broker_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("paho.mqtt.client")
    monkeypatch.setattr(MqttSink, "LAST_S", 0.2)
    with socket.socket() as mute:  # takes connections and says nothing
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        sink = MqttSink(f"mqtt://127.0.0.1:{mute.getsockname()[1]}", options(tmp_path))
        taken = []
        for index in range(2000):
            began = time.perf_counter()
            sink.offer(result(index))
            taken.append(time.perf_counter() - began)
        assert statistics.median(taken) < 0.001
        assert sum(taken) < 5
        began = time.monotonic()
        sink.close()
        assert time.monotonic() - began < 8
        assert sink.waiting + sink.lost == 2000 + 1
        assert sink.delivered == 0


def test_a_mute_broker_is_given_up_after_the_keepalive(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("paho.mqtt.client")
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        sink = MqttSink(f"mqtt://127.0.0.1:{mute.getsockname()[1]}", options(tmp_path, keepalive_s=1))
        until(lambda: "trying again" in caplog.text, "still waiting for a mute broker")
        sink.close()


class Held:
    """Stands for the writer: keeps what it gets."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def submit(self, message: Message) -> bool:
        self.messages.append(message)
        return True

    def close(self) -> None:
        pass


CONNACK = bytes([0x20, 2, 0, 0])


@pytest.mark.parametrize("answer", [b"", CONNACK], ids=["says nothing", "lets in, acknowledges nothing"])
def test_pauses_before_a_broker_that_hangs_up_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    calls: list[float] = []
    with socket.socket() as door:  # takes each connection, answers and ends it
        door.bind(("127.0.0.1", 0))
        door.listen()
        door.settimeout(30)
        url = f"mqtt://127.0.0.1:{door.getsockname()[1]}"
        sink = MqttSink(url, options(tmp_path, first_backoff_s=0.1, longest_backoff_s=0.8))
        while len(calls) < 6:
            caller, _ = door.accept()
            calls.append(time.monotonic())
            if answer:
                caller.settimeout(30)
                caller.recv(1000)
                caller.sendall(answer)
            caller.close()
        sink.close()
    assert calls[-1] - calls[0] > 1.5  # 0.1, 0.2, 0.4, 0.8 and 0.8 s, each a quarter longer; 0.6 s if none were doubled


def test_the_rate_holds_and_changes_go_always(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("paho.mqtt.client")
    monkeypatch.setattr(MqttSink, "LAST_S", 0.0)
    now = [0.0]
    sink = MqttSink("mqtt://127.0.0.1:1", options(tmp_path, results_per_s=2.0), clock=lambda: now[0])
    held = Held()
    sink._writer = held  # type: ignore[assignment]
    for index in range(100):  # ten a second for ten seconds
        now[0] = index / 10
        verdict = "good" if index == 42 else "usable"
        sink.offer(result(index, 50.0 + index % 3, verdict) if index != 63 else result(index, None))
    frames = [json.loads(m.payload)["frame"] for m in held.messages if m.topic.endswith("/result")]
    assert {42, 43, 63, 64} <= set(frames)
    steady = [frame for frame in frames if frame not in (42, 43, 63, 64)]
    assert 17 <= len(steady) <= 20
    best = [json.loads(m.payload)["score"] for m in held.messages if m.topic.endswith("/best")]
    assert best == [50.0, 52.0]
    assert all(m.retain == m.topic.endswith("/best") for m in held.messages)
    sink.close()


def test_a_rate_of_zero_sends_changes_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("paho.mqtt.client")
    monkeypatch.setattr(MqttSink, "LAST_S", 0.0)
    sink = MqttSink("mqtt://127.0.0.1:1", options(tmp_path, results_per_s=0.0))
    held = Held()
    sink._writer = held  # type: ignore[assignment]
    for index in range(50):
        sink.offer(result(index, None, reason="stalled" if index < 25 else "no_frame"))
    assert [json.loads(m.payload)["frame"] for m in held.messages] == [0, 25]
    sink.close()


def test_the_best_may_be_somebody_elses_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("paho.mqtt.client")
    monkeypatch.setattr(MqttSink, "LAST_S", 0.0)
    sink = MqttSink("mqtt://127.0.0.1:1", options(tmp_path), follow_best=False)
    held = Held()
    sink._writer = held  # type: ignore[assignment]
    for index in range(3):
        sink.offer(result(index, 50.0 + index))
    sink.publish_best(result(1, 51.0))
    sink.close()
    best = [message for message in held.messages if message.topic.endswith("/best")]
    assert [(json.loads(m.payload)["score"], m.retain) for m in best] == [(51.0, True)]


def test_urls() -> None:
    assert Broker.parse("mqtt://host") == Broker("mqtt", "host", 1883)
    assert Broker.parse("mqtts://me@host/") == Broker("mqtts", "host", 8883, "me")
    assert str(Broker.parse("mqtts://me@[::1]:99")) == "mqtts://[::1]:99"
    for wrong in (
        "",
        "host",
        "http://host",
        "mqtt://",
        "mqtt://h:port",
        "mqtt://h:99999",
        "mqtt://h/topic",
        "mqtt://[",
    ):
        with pytest.raises(InputError, match="expected mqtt://HOST"):
            Broker.parse(wrong)
    for wrong in ("mqtt://me:hunter2@h", "mqtt://me:hunter2@h:port", "http://me:hunter2@h"):
        with pytest.raises(InputError) as caught:
            Broker.parse(wrong)
        assert "hunter2" not in str(caught.value)


def test_topics() -> None:
    assert MqttOptions(device="a").base_topic() == "fthnet/a"
    assert MqttOptions(topic="clinic/7/{device}", device="b").base_topic() == "clinic/7/b"
    assert MqttOptions().base_topic() == f"fthnet/{socket.gethostname()}"
    for wrong in ("", "/", "a/+", "#", "$SYS/x", "a/", "/a", "a/{name}", "a\0b"):
        with pytest.raises(InputError, match="expected a name like"):
            MqttOptions(topic=wrong, device="a").base_topic()


def test_credentials(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    host, secret = Broker.parse("mqtt://host"), tmp_path / "secret"
    assert credentials(host, MqttOptions()) == (None, None)
    with pytest.raises(InputError, match="secret: expected a file with the MQTT password"):
        credentials(host, MqttOptions(user="eve", password_file=secret))
    secret.write_text("\n")
    with pytest.raises(InputError, match="found an empty file"):
        credentials(host, MqttOptions(user="eve", password_file=secret))
    secret.write_text("hunter2\n")
    secret.chmod(0o644)
    assert credentials(host, MqttOptions(user="eve", password_file=secret)) == ("eve", "hunter2")
    assert "everybody on this machine can read" in caplog.text
    with pytest.raises(InputError, match="expected a user for the password"):
        credentials(host, MqttOptions(password_file=secret))
    monkeypatch.setenv("FTHNET_MQTT_USER", "adam")
    assert credentials(Broker.parse("mqtt://eve@host"), MqttOptions(user="eve")) == ("adam", None)


def test_state_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/eve")
    assert state_folder() == Path("/home/eve/.local/state/fthnet")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert state_folder() == Path("/state/fthnet")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/fthnet:/var/lib/other")
    assert MqttOptions().queue_file() == Path("/var/lib/fthnet/mqtt-queue.sqlite")


def test_without_paho_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paho.mqtt.enums", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fthnet-edge-kit\[mqtt\]'"):
        MqttSink("mqtt://host", options(tmp_path))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.binary(max_size=40)),
        st.tuples(st.just("remove"), st.integers(1, 5)),
        st.tuples(st.just("reopen"), st.none()),
    ),
    max_size=40,
)


@given(STEPS, st.integers(1, 12), st.integers(20, 200))
def test_the_queue_is_a_bounded_queue(steps: list[tuple[str, object]], most: int, most_bytes: int) -> None:
    model: collections.deque[bytes] = collections.deque()
    dropped = 0
    with tempfile.TemporaryDirectory() as folder:
        queue = MessageQueue(Path(folder) / "q", most, most_bytes)
        for step, argument in steps:
            if step == "append":
                assert isinstance(argument, bytes)
                queue.append(Message("té", argument, retain=len(argument) % 2 == 0))
                model.append(argument)
                while len(model) > most or sum(len(payload) + 3 for payload in model) > most_bytes:
                    model.popleft()
                    dropped += 1
                assert queue.dropped == dropped
            elif step == "remove":
                assert isinstance(argument, int)
                taken = queue.after(0, argument)
                queue.remove([message.id for message in taken])
                assert [message.payload for message in taken] == [model.popleft() for _ in taken]
            else:
                queue.close()
                queue = MessageQueue(Path(folder) / "q", most, most_bytes)
                dropped = 0
            waiting = queue.after(0, 100)
            assert [message.payload for message in waiting] == list(model)
            assert all(m.topic == "té" and m.retain == (len(m.payload) % 2 == 0) for m in waiting)
            assert [m.id for m in waiting] == sorted(m.id for m in waiting)
            assert len(queue) == len(model)
            assert queue.bytes == sum(len(payload) + 3 for payload in model)
        queue.close()


def test_the_file_stays_within_its_bound(tmp_path: Path) -> None:
    queue = MessageQueue(tmp_path / "q", 10**9, 500_000)
    for index in range(3000):
        queue.append(Message("t", f"{index:04}".encode() * 250))
    assert 450_000 < queue.bytes <= 500_000
    assert queue.after(0, 1)[0].payload[:4] == f"{3000 - len(queue):04}".encode()
    queue.close()
    assert (tmp_path / "q").stat().st_size < 1_000_000


def test_ids_never_repeat_even_when_the_queue_was_empty(tmp_path: Path) -> None:
    seen = []
    for _ in range(3):
        queue = MessageQueue(tmp_path / "q", 10, 1000)
        queue.append(Message("t", b"x"))
        (message,) = queue.after(0, 9)
        seen.append(message.id)
        queue.remove([message.id])
        queue.close()
    assert seen == sorted(set(seen))


def test_queue_files_of_others_are_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("notes, long enough to be read as the header of a database: " + "x" * 100)
    before = (tmp_path / "notes.txt").read_bytes()
    with pytest.raises(InputError, match="not a database"):
        MessageQueue(tmp_path / "notes.txt", 10, 1000)
    assert (tmp_path / "notes.txt").read_bytes() == before
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE mine (x)")
    other.close()
    before = (tmp_path / "other.db").read_bytes()
    with pytest.raises(InputError, match="another program's database"):
        MessageQueue(tmp_path / "other.db", 10, 1000)
    assert (tmp_path / "other.db").read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected a folder that can be written"):
        MessageQueue(tmp_path / "file" / "below", 10, 1000)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    queue = MessageQueue(tmp_path / "q", 10, 1000)
    with pytest.raises(InputError, match="another process uses it"):
        MessageQueue(tmp_path / "q", 10, 1000)
    queue.close()
    MessageQueue(tmp_path / "q", 10, 1000).close()


def test_a_damaged_queue_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    queue = MessageQueue(tmp_path / "q", 1000, 10**6)
    for _ in range(200):
        queue.append(Message("t", b"x" * 500))
    queue.close()
    content = bytearray((tmp_path / "q").read_bytes())
    content[4096:] = b"\xaa" * (len(content) - 4096)
    (tmp_path / "q").write_bytes(content)
    queue = MessageQueue(tmp_path / "q", 1000, 10**6)
    assert len(queue) == 0
    queue.append(Message("t", b"x"))
    assert len(queue) == 1
    queue.close()
    assert (tmp_path / "q.damaged").read_bytes()[4096:] == bytes(content[4096:])
    assert "set aside as q.damaged" in caplog.text


def test_a_full_disk_costs_messages_and_nothing_else(tmp_path: Path) -> None:
    queue = MessageQueue(tmp_path / "q", 1000, 10**6)
    queue.append(Message("t", b"first"))
    (pages,) = queue._database.execute("PRAGMA page_count").fetchone()
    queue._database.execute(f"PRAGMA max_page_count = {pages + 1}")  # what SQLite reports as a full disk
    with pytest.raises(OSError, match="full"):
        queue.append(Message("t", b"x" * 100_000))
    assert len(queue) == 1
    queue.append(Message("t", b"second"))
    assert [message.payload for message in queue.after(0, 9)] == [b"first", b"second"]
    queue.close()
    with pytest.raises(OSError, match="closed"):
        queue.append(Message("t", b"third"))
