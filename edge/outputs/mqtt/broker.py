"""Which broker, and how to reach it."""

from __future__ import annotations

import logging
import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.files import read_secret, state_folder

LOG = logging.getLogger("fthnet")


PORTS = {"mqtt": 1883, "mqtts": 8883}
LONGEST_NAME = 1000  # characters, of a topic, a user or a password
USER_VARIABLE, PASSWORD_VARIABLE = "FTHNET_MQTT_USER", "FTHNET_MQTT_PASSWORD"


@dataclass(frozen=True)
class MqttOptions:
    """How results go to a broker.

    Attributes:
        topic: what all topics begin with; `{device}` stands for `device`.
        device: name of this device in topics and as client id; None for the host name.
        results_per_s: records a second at most; one whose reason or verdict differs from the last goes always.
        queue: file of what waits; None for `mqtt-queue.sqlite` in the state folder.
        queue_messages, queue_mb: bounds of what waits; beyond them the oldest is dropped.
        user: who logs in; None for the environment's FTHNET_MQTT_USER, or nobody.
        password_file: file with the password; the environment's FTHNET_MQTT_PASSWORD overrides it.
        ca_file: certificates that may vouch for the broker; None for the system's.
        cert_file, key_file: certificate and key with which this device proves who it is.
        insecure_tls: do not check the broker's certificate. For tests only.
        take_eye: a message to the topic `…/eye` says whose eye comes next.
        keepalive_s: silence after which either side asks whether the other is there.
        first_backoff_s, longest_backoff_s: pause before a new attempt to connect, doubled each time.
    """

    topic: str = "fthnet/{device}"
    device: str | None = None
    results_per_s: float = 1.0
    queue: Path | None = None
    queue_messages: int = 100_000
    queue_mb: float = 64.0
    user: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    insecure_tls: bool = False
    take_eye: bool = False
    keepalive_s: int = 30
    first_backoff_s: float = 0.5
    longest_backoff_s: float = 60.0

    def device_name(self) -> str:
        """Name of this device."""
        return self.device or socket.gethostname()

    def base_topic(self) -> str:
        """What all topics begin with.

        Raises:
            InputError: it is no topic that may be published to.
        """
        topic = self.topic.replace("{device}", self.device_name())
        wrong = not topic.strip("/") or topic[0] in "/$" or topic.endswith("/") or {"#", "+", "{", "}"} & set(topic)
        if wrong or not topic.isprintable() or len(topic) > LONGEST_NAME:
            raise InputError(
                f"MQTT topic: expected a name like fthnet/{{device}} of at most {LONGEST_NAME} characters, "
                f"found {topic[:60]!r}"
            )
        return topic

    def queue_file(self) -> Path:
        """File of what waits."""
        return self.queue or state_folder() / "mqtt-queue.sqlite"


@dataclass(frozen=True)
class Broker:
    """Where a broker listens."""

    scheme: str
    host: str
    port: int
    user: str | None = None

    @classmethod
    def parse(cls, url: str) -> Broker:
        """Read `mqtt://host:port` or `mqtts://host:port`, with `user@` if need be.

        Raises:
            InputError: it is something else, or carries a password, which is never repeated.
        """
        shown = url.rpartition("@")[2]
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise InputError(f"MQTT: expected mqtt://HOST or mqtts://HOST:PORT, found …{shown} ({error})") from error
        if parts.scheme not in PORTS or not parts.hostname or parts.path.strip("/") or parts.query or parts.fragment:
            raise InputError(f"MQTT: expected mqtt://HOST or mqtts://HOST:PORT, found {shown!r}")
        if parts.password is not None:
            raise InputError(
                f"MQTT: expected no password in the URL, where every process list shows it; put it into "
                f"mqtt.password_file or {PASSWORD_VARIABLE}"
            )
        return cls(parts.scheme, parts.hostname, port or PORTS[parts.scheme], parts.username)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def credentials(broker: Broker, options: MqttOptions) -> tuple[str | None, str | None]:
    """User and password: the environment's, then the URL's and the options'.

    Raises:
        InputError: the password file cannot be read or is empty, or a password has no user.
    """
    user = os.environ.get(USER_VARIABLE) or options.user or broker.user
    password = os.environ.get(PASSWORD_VARIABLE) or None
    if password is None and options.password_file is not None:
        password = read_secret(options.password_file, "the MQTT password")
    if password is not None and user is None:
        raise InputError(f"MQTT: expected a user for the password, found none; set mqtt.user or {USER_VARIABLE}")
    for what, text in (("user", user), ("password", password)):
        if text is not None and ("\0" in text or len(text) > LONGEST_NAME or not _is_text(text)):
            raise InputError(f"MQTT {what}: expected text of at most {LONGEST_NAME} characters, found something else")
    return user, password


def _is_text(text: str) -> bool:
    """Whether it can be sent."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def tls_context(options: MqttOptions) -> ssl.SSLContext:
    """TLS 1.2 or newer that checks the broker's certificate and name, unless that is asked for loudly.

    Raises:
        InputError: a certificate or key that cannot be used.
    """
    if options.key_file is not None and options.cert_file is None:
        raise InputError("mqtt.key_file: expected mqtt.cert_file beside it, found none")
    context = _checked(options.ca_file, "certificates in PEM", lambda: _context(options.ca_file))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if options.cert_file is not None:
        certificate = options.cert_file
        _checked(
            certificate,
            "a certificate whose unencrypted key is in it or in mqtt.key_file",
            lambda: context.load_cert_chain(certificate, options.key_file, password=lambda: ""),
        )
    if options.insecure_tls:
        LOG.warning("mqtt: INSECURE: mqtt.insecure_tls is set; anyone on the way can read and forge what is sent")
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _context(ca_file: Path | None) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca_file)


def _checked(path: Path | None, expected: str, load: Callable[[], Any]) -> Any:
    """What `load` gives; its errors in our words."""
    try:
        return load()
    except (OSError, ValueError) as error:  # SSLError is an OSError
        found = "no such file" if isinstance(error, FileNotFoundError) else error
        raise InputError(f"{path}: expected {expected}, found: {found}") from error
