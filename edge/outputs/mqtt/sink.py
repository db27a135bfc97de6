"""Results to an MQTT broker, for fleets of cameras: nothing blocks scoring, nothing is lost while the net is away.

Topics: `…/result` (records), `…/best` (the best record so far, retained), `…/records_head` (the last signed checkpoint
of the record files, retained), `…/state` (`online` or `offline`, retained; the broker says `offline` where the process
died). Records go through a bounded queue on disk and are delivered in
order, at least once: after a broken connection the last few may come twice, with equal `frame` and `captured_at`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fthnet_kit.edge.errors import KitError, MissingExtraError
from fthnet_kit.edge.loop.result import LiveResult
from fthnet_kit.edge.loop.sink import BackgroundWorker
from fthnet_kit.edge.outputs.mqtt.broker import Broker, MqttOptions, credentials, tls_context
from fthnet_kit.edge.outputs.mqtt.message_queue import Message, MessageQueue

if TYPE_CHECKING:
    from paho.mqtt.client import Client

LOG = logging.getLogger("fthnet")
ONLINE, OFFLINE = b"online", b"offline"


@dataclass
class Link:
    """What one connection has sent so far; `sent` maps paho's message number to the queue's.

    `confirmed`: the broker has acknowledged a message, be it only that this camera is online.
    """

    accepted: bool = False
    confirmed: bool = False
    refused: str | None = None
    last_id: int = 0
    sent: dict[int, int] = field(default_factory=dict)
    delivered: list[int] = field(default_factory=list)
    state_sent: int | None = None


class MqttSink:
    """Publishes results; never blocks, and never ends a run because of the network.

    A record goes to the queue on disk first and leaves it when the broker has confirmed it, so that neither
    a broker that is away nor a killed process loses it.

    Attributes:
        on_eye: called with each message to `…/eye`, where the options ask for them.

    Args:
        url: `mqtt://host:port` or `mqtts://host:port`.
        options: topics, rates, bounds, credentials.
        follow_best: publish each record that beats all before it as the best; False where `publish_best` is
            called instead, for example with each best shot.
        clock: seconds, for the rate.

    Raises:
        InputError: an option, certificate, key, password or queue file that cannot be used.
        MissingExtraError: paho-mqtt is not installed.

    Example::

        sink = MqttSink("mqtts://broker.local", MqttOptions(ca_file=Path("ca.pem")))
        sink.offer(result)
        sink.close()
    """

    CAPACITY = 1000  # records on their way to the disk
    IN_FLIGHT = 20  # messages that wait for a confirmation
    BEST_EVERY_S = 1.0
    POLL_S = 0.05
    CONNECT_S = 5.0
    LAST_S = 3.0  # for what is still to be delivered when the sink is closed

    def __init__(
        self,
        url: str,
        options: MqttOptions | None = None,
        *,
        follow_best: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options = options or MqttOptions()
        self.broker = Broker.parse(url)
        self.topic = self.options.base_topic()
        self.delivered = 0
        self.on_eye: Callable[[bytes], object] | None = None
        self.connected = False
        self._require_paho()
        self._tls = tls_context(self.options) if self.broker.scheme == "mqtts" else None
        self._user, self._password = credentials(self.broker, self.options)
        if self._password is not None and self._tls is None:
            LOG.warning("mqtt: the password travels unencrypted to %s; mqtts:// would hide it", self.broker)
        self._clock = clock
        self._follow_best = follow_best
        self._kind: tuple[str | None, str | None] | None = None
        self._result_s = self._best_s = -math.inf
        self._best_value = -math.inf
        self._next_best: Message | None = None
        self._complaint = ""
        self._closing = threading.Event()
        self._give_up_s = math.inf
        self._queue = MessageQueue(
            self.options.queue_file(), self.options.queue_messages, int(self.options.queue_mb * 1e6)
        )
        self._writer: BackgroundWorker[Message] = BackgroundWorker(self._queue.append, self.CAPACITY, "mqtt queue")
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Messages on disk that no broker has confirmed."""
        return len(self._queue)

    @property
    def dropped(self) -> int:
        """Messages that the bounds of the queue cost."""
        return self._queue.dropped

    @property
    def lost(self) -> int:
        """Messages that could not be written to the disk."""
        return self._writer.lost

    @property
    def shortfall(self) -> str | None:
        """How many messages could not be queued, and why; None where all were."""
        if not self.lost:
            return None
        return f"{self.lost} messages are not in {self._queue.path}: {self._writer.complaint}"

    def offer(self, result: LiveResult) -> None:
        """Queue one record if its turn has come, or if it says something else than the last."""
        now = self._clock()
        kind = (result.score.reason, result.score.verdict)
        rate = self.options.results_per_s
        if kind != self._kind or (rate > 0 and now - self._result_s >= 1 / rate):
            self._kind, self._result_s = kind, now
            self._writer.submit(Message(f"{self.topic}/result", payload_of(result)))
        value = result.score.value
        if self._follow_best and value is not None and value > self._best_value:
            self._best_value = value
            self._next_best = self._best(result)
        if now - self._best_s >= self.BEST_EVERY_S:
            self._submit_best(now)

    def publish_best(self, result: LiveResult) -> None:
        """Queue a record as the best, now; like `offer`, it never blocks."""
        self._writer.submit(self._best(result))

    def publish_head(self, content: bytes) -> None:
        """Queue the signed head of the records, retained; like `offer`, it never blocks."""
        self._writer.submit(Message(f"{self.topic}/records_head", content, retain=True))

    def _best(self, result: LiveResult) -> Message:
        return Message(f"{self.topic}/best", payload_of(result), retain=True)

    def _submit_best(self, now: float) -> None:
        if self._next_best is not None:
            self._writer.submit(self._next_best)
            self._next_best, self._best_s = None, now

    def close(self) -> None:
        """Everything to disk, and for a few seconds to the broker; what it does not take waits for the next run."""
        self._submit_best(self._clock())
        self._writer.close()
        self._give_up_s = time.monotonic() + self.LAST_S
        self._closing.set()
        self._thread.join(self.LAST_S + 1)
        if not self._thread.is_alive():
            self._queue.close()

    @staticmethod
    def _require_paho() -> None:
        try:
            import paho.mqtt.enums  # noqa: F401  (of version 2)
        except ImportError as error:
            raise MissingExtraError("paho-mqtt 2", "mqtt", purpose="sending results over MQTT") from error

    def _run(self) -> None:
        """Thread body: one connection after the other."""
        backoff = self.options.first_backoff_s
        while True:
            confirmed = self._talk()
            if self._closing.is_set():
                return
            backoff = self.options.first_backoff_s if confirmed else backoff
            if self._closing.wait(backoff * random.uniform(0.75, 1.25)):  # noqa: S311  (a fleet comes back in turns)
                return
            backoff = min(2 * backoff, self.options.longest_backoff_s)

    def _talk(self) -> bool:
        """One connection from begin to end; whether the broker acknowledged a message on it."""
        link = Link()
        try:
            client = self._client(link)
            client.connect(self.broker.host, self.broker.port, self.options.keepalive_s)
            why = self._serve(client, link)
        except Exception as error:  # whatever the net or a peer does, scoring goes on
            why = str(error) or type(error).__name__
        self.connected = False
        self._forget(link)
        if why and why != self._complaint:
            LOG.warning("mqtt: %s: %s; %d messages wait, trying again", self.broker, why, self.waiting)
            self._complaint = why
        return link.confirmed

    def _client(self, link: Link) -> Client:
        """A client without a past: what it has to repeat comes from our queue."""
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=self.topic.replace("/", "-"),  # the same each time: a broker then ends the old connection first
            clean_session=True,
            reconnect_on_failure=False,
        )
        client.connect_timeout = self.CONNECT_S
        client.max_inflight_messages_set(self.IN_FLIGHT + 1)
        client.will_set(f"{self.topic}/state", OFFLINE, qos=1, retain=True)
        if self._user is not None:
            client.username_pw_set(self._user, self._password)
        if self._tls is not None:
            client.tls_set_context(self._tls)

        def on_connect(_client: Client, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
            link.accepted = not code.is_failure
            link.refused = str(code) if code.is_failure else None
            if link.accepted and self.options.take_eye:
                client.subscribe(f"{self.topic}/eye", qos=1)

        def on_publish(_client: Client, _data: Any, number: int, code: Any, _properties: Any) -> None:
            link.confirmed = link.confirmed or not code.is_failure
            if number == link.state_sent:
                link.state_sent = None
            elif number in link.sent:
                link.delivered.append(link.sent.pop(number))

        def on_message(_client: Client, _data: Any, message: Any) -> None:
            if not message.retain:  # what was kept may be of yesterday
                self._take_eye(message.payload)

        client.on_connect = on_connect
        client.on_message = on_message
        client.on_publish = on_publish
        return client

    def _take_eye(self, payload: bytes) -> None:
        """Whose eye comes next; what cannot be read says that nobody knows."""
        if self.on_eye is None:
            return
        try:
            self.on_eye(payload)
        except KitError as error:
            LOG.warning("mqtt: %s/eye: not taken, the eye is unknown: %s", self.topic, error)
            self.on_eye(b"{}")

    def _serve(self, client: Client, link: Link) -> str:
        """Publish until the connection or the sink ends; why the connection ended, empty where we ended it."""
        from paho.mqtt.client import error_string
        from paho.mqtt.enums import MQTTErrorCode

        code = MQTTErrorCode.MQTT_ERR_SUCCESS
        while not code and link.refused is None:
            code = client.loop(self.POLL_S)
            if link.accepted and not self.connected:
                self._greet(client, link)
            if link.accepted:
                self._forget(link)
                self._publish_waiting(client, link)
            if self._closing.is_set() and (
                time.monotonic() >= self._give_up_s or (link.accepted and not link.sent and not self.waiting)
            ):
                return self._leave(client, link)
        return f"the broker refused: {link.refused}" if link.refused else error_string(code)

    def _greet(self, client: Client, link: Link) -> None:
        self.connected = True
        link.state_sent = client.publish(f"{self.topic}/state", ONLINE, qos=1, retain=True).mid
        if self._complaint:
            LOG.warning("mqtt: %s: connected; %d messages waited", self.broker, self.waiting)
            self._complaint = ""

    def _publish_waiting(self, client: Client, link: Link) -> None:
        """Hand over the next messages, up to the number that may wait for a confirmation."""
        room = self.IN_FLIGHT - len(link.sent)
        if room <= 0 or link.last_id >= self._queue.newest:
            return
        for message in self._queue.after(link.last_id, room):
            number = client.publish(message.topic, message.payload, qos=1, retain=message.retain).mid
            link.sent[number] = link.last_id = message.id

    def _forget(self, link: Link) -> None:
        """Remove what the broker has confirmed; what a full disk keeps goes the next time."""
        if link.delivered:
            with contextlib.suppress(OSError):
                self._queue.remove(link.delivered)
                self.delivered += len(link.delivered)
                link.delivered.clear()

    def _leave(self, client: Client, link: Link) -> str:
        """Say that we go; a last will speaks only for those who did not."""
        if link.accepted:
            link.state_sent = client.publish(f"{self.topic}/state", OFFLINE, qos=1, retain=True).mid
            last_s = time.monotonic() + 1
            while link.state_sent is not None and time.monotonic() < last_s and not client.loop(self.POLL_S):
                pass
            client.disconnect()
        return ""


def payload_of(result: LiveResult) -> bytes:
    """A result as JSON."""
    return json.dumps(result.to_dict(), separators=(",", ":")).encode()
