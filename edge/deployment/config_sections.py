"""What can be configured: each section of the file is a dataclass whose fields know default, bounds and explanation.

A setting is defined here and nowhere else: `config_file` makes the key of the file and its comment of it, and
`edge/cli/settings.py` the option of the command line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from fthnet_kit.edge.guidance.texts import Language
from fthnet_kit.edge.loop.options import LiveOptions
from fthnet_kit.edge.model.choices import BackendName, Precision
from fthnet_kit.edge.outputs.mqtt.broker import Broker, MqttOptions
from fthnet_kit.edge.outputs.preview.access import Address

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Options = TypeVar("Options", bound="DataclassInstance")


def about(
    explanation: str,
    *,
    example: Any = None,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    check: Callable[[str], object] | None = None,
    option: str | None = None,
    flag: str | None = None,
    metavar: str | None = None,
    unset: str | None = None,
    must_exist: bool = False,
) -> Mapping[str, Any]:
    """What a field knows of itself.

    Args:
        explanation: one line, the comment in the file and the help of the option.
        example: shown where the default is None, which means "not set".
        least, most, above: bounds of a number; `above` itself is too small.
        check: raises InputError or ValueError for text that cannot be used.
        option: parameter of `fthnet run` whose default the key becomes; None where there is none.
        flag: the option's name, if it is not that of the parameter with dashes.
        metavar: what stands for the value in the help.
        unset: what holds if a key whose default is None is not set.
        must_exist: a file or folder that has to be there before a run.
    """
    return {
        "explanation": explanation,
        "example": example,
        "least": least,
        "most": most,
        "above": above,
        "check": check,
        "option": option,
        "flag": flag,
        "metavar": metavar,
        "unset": unset,
        "must_exist": must_exist,
    }


def _check_topic(text: str) -> None:
    MqttOptions(topic=text, device="device").base_topic()


def _check_device(text: str) -> None:
    if not re.fullmatch(r"[\w.-]+", text):
        raise ValueError("expected letters, digits, dots, dashes and underscores")


@dataclass(frozen=True)
class CameraSection:
    """`[camera]`: where pictures come from."""

    source: str | None = field(
        default=None,
        metadata=about(
            "0, /dev/video0?width=1920&height=1080, csi://0 (Jetson), gst:PIPELINE, rtsp://HOST/PATH, "
            "http://HOST/PATH, a video, a folder or glob of images, or sim:?seconds=20&fps=15&seed=3",
            example="/dev/video0?width=1920&height=1080",
            option="source",
            metavar="URI",
        ),
    )
    password_file: Path | None = field(
        default=None,
        metadata=about(
            "File with the password of a network camera, whose address then names the user: rtsp://USER@HOST/PATH",
            example="/etc/fthnet/camera-password",
            option="source_password_file",
            must_exist=True,
        ),
    )


@dataclass(frozen=True)
class ModelSection:
    """`[model]`: what scores them."""

    bundle: Path | None = field(
        default=None,
        metadata=about(
            "Bundle folder",
            unset="the kit's demonstration bundle",
            example="/var/lib/fthnet/bundle",
            option="bundle",
            must_exist=True,
        ),
    )
    require_signature: Path | None = field(
        default=None,
        metadata=about(
            "Public key that must have signed the bundle; unsigned, altered and older ones are refused",
            example="/etc/fthnet/maker.pub",
            option="require_signature",
            must_exist=True,
        ),
    )
    precision: Precision = field(default="auto", metadata=about("Number format of the network", option="precision"))
    backend: BackendName = field(
        default="auto",
        metadata=about(
            "auto: with precision auto what `fthnet bench pick` found the fastest here; otherwise TensorRT if the "
            "bundle has an engine for this GPU, else ONNX Runtime on the CPU",
            option="backend",
        ),
    )
    views: Literal[1, 5, 20] | None = field(
        default=None, metadata=about("Number of views averaged", unset="the model card's", example=1, option="views")
    )
    threads: int | None = field(
        default=None,
        metadata=about("Threads of one inference", unset="all cores", example=4, least=1, option="threads"),
    )
    cuda_graph: bool = field(
        default=False, metadata=about("On TensorRT: launch the network as one CUDA graph", option="cuda_graph")
    )


@dataclass(frozen=True)
class RecordsSection:
    """`[records]`: one JSON record a result."""

    path: Path | None = field(
        default=None,
        metadata=about(
            "File to which one JSON record a result is appended; see `fthnet records`",
            example="/var/lib/fthnet/records.jsonl",
            option="records",
        ),
    )
    key: Path | None = field(
        default=None,
        metadata=about(
            "Private key of this device: signs the records every minute or thousand lines, and at the end",
            example="/etc/fthnet/device",
            option="records_key",
        ),
    )
    rotate_mb: float = field(
        default=64.0,
        metadata=about("Start a new file at this size (MB)", above=0, option="rotate_mb", flag="--records-rotate-mb"),
    )
    budget_mb: float = field(
        default=1024.0,
        metadata=about(
            "Delete the oldest files beyond this total (MB)", above=0, option="budget_mb", flag="--records-budget-mb"
        ),
    )


@dataclass(frozen=True)
class BestShotSection:
    """`[best_shot]`: the best picture of each eye."""

    folder: Path | None = field(
        default=None,
        metadata=about("Folder for the best frame of each eye", example="/var/lib/fthnet/best", option="best_shot"),
    )
    dicom: Path | None = field(
        default=None,
        metadata=about(
            "Write best shots as DICOM too, with the camera of this JSON file, and with its patient for the first eye",
            example="/etc/fthnet/dicom.json",
            option="dicom",
            must_exist=True,
        ),
    )
    eye_file: Path | None = field(
        default=None,
        metadata=about(
            "Watch this file for whose eye comes next; `fthnet eye` writes it",
            example="/var/lib/fthnet/eye.json",
            option="eye_file",
        ),
    )


@dataclass(frozen=True)
class GuidanceSection:
    """`[guidance]`: what the operator is asked to do."""

    language: Language = field(
        default="en",
        metadata=about("Language of hints, page and terminal", option="language"),
    )
    mirror: bool = field(
        default=False, metadata=about("The picture is mirrored: hints to move swap left and right", option="mirror")
    )


@dataclass(frozen=True)
class ServeSection:
    """`[serve]`: the page for a browser, and metrics."""

    address: str | None = field(
        default=None,
        metadata=about(
            "Port, or IP-ADDRESS:PORT, of the browser page and of /metrics; beyond this machine it asks for a token",
            example="8080",
            check=Address.parse,
            option="serve",
            metavar="[ADDRESS:]PORT",
        ),
    )
    token_file: Path | None = field(
        default=None,
        metadata=about(
            "File with the page's token",
            unset="the environment's FTHNET_TOKEN",
            example="/etc/fthnet/token",
            option="serve_token_file",
            must_exist=True,
        ),
    )
    tls_certificate: Path | None = field(
        default=None,
        metadata=about(
            "Certificate with which the page is served over HTTPS",
            example="/etc/fthnet/page.pem",
            option="serve_tls",
            must_exist=True,
        ),
    )
    tls_key: Path | None = field(
        default=None,
        metadata=about(
            "Key of the page's certificate, unencrypted",
            unset="in the certificate's file",
            example="/etc/fthnet/page.key",
            option="serve_tls_key",
            must_exist=True,
        ),
    )
    open_health: bool = field(
        default=False,
        metadata=about("true: /healthz answers everybody whether the kit is alive, and nothing else without the token"),
    )


@dataclass(frozen=True)
class MqttSection:
    """`[mqtt]`: results to a broker."""

    url: str | None = field(
        default=None,
        metadata=about(
            "Send results to mqtt://HOST[:1883] or mqtts://HOST[:8883]; no password in it",
            example="mqtts://broker.example:8883",
            check=Broker.parse,
            option="mqtt",
            metavar="URL",
        ),
    )
    topic: str = field(
        default=MqttOptions.topic,
        metadata=about("Start of all topics; below it: result, best, state", check=_check_topic),
    )
    device: str | None = field(
        default=MqttOptions.device,
        metadata=about("Name of this device", unset="the host's", example="camera-1", check=_check_device),
    )
    results_per_s: float = field(
        default=MqttOptions.results_per_s,
        metadata=about("Most records a second; a change of verdict or reason is always sent", least=0, most=1000),
    )
    queue: Path | None = field(
        default=MqttOptions.queue,
        metadata=about("File of the messages that wait for the broker", example="/var/lib/fthnet/mqtt-queue.sqlite"),
    )
    queue_messages: int = field(
        default=MqttOptions.queue_messages,
        metadata=about("Most messages that wait; beyond it the oldest are dropped", least=1, most=10_000_000),
    )
    queue_mb: float = field(
        default=MqttOptions.queue_mb,
        metadata=about("Most megabytes that wait; beyond it the oldest are dropped", above=0, most=100_000),
    )
    user: str | None = field(
        default=MqttOptions.user,
        metadata=about("User name; the environment's FTHNET_MQTT_USER overrides it", example="camera"),
    )
    password_file: Path | None = field(
        default=MqttOptions.password_file,
        metadata=about(
            "File with the password; the environment's FTHNET_MQTT_PASSWORD overrides it",
            example="/etc/fthnet/mqtt-password",
            must_exist=True,
        ),
    )
    ca_file: Path | None = field(
        default=MqttOptions.ca_file,
        metadata=about(
            "Certificates that may vouch for the broker",
            unset="the system's",
            example="/etc/fthnet/ca.pem",
            must_exist=True,
        ),
    )
    cert_file: Path | None = field(
        default=MqttOptions.cert_file,
        metadata=about("Certificate of this device", example="/etc/fthnet/device.pem", must_exist=True),
    )
    key_file: Path | None = field(
        default=MqttOptions.key_file,
        metadata=about(
            "Key of this device's certificate, unencrypted", example="/etc/fthnet/device.key", must_exist=True
        ),
    )
    insecure_tls: bool = field(
        default=MqttOptions.insecure_tls,
        metadata=about("INSECURE: true takes any certificate from the broker; for tests only"),
    )
    take_eye: bool = field(
        default=MqttOptions.take_eye,
        metadata=about("true: a message to TOPIC/eye says whose eye comes next, as JSON"),
    )
    keepalive_s: int = field(
        default=MqttOptions.keepalive_s,
        metadata=about("Seconds of silence after which either side asks for the other", least=1, most=65535),
    )
    first_backoff_s: float = field(
        default=MqttOptions.first_backoff_s, metadata=about("Seconds before the first new attempt to connect", above=0)
    )
    longest_backoff_s: float = field(
        default=MqttOptions.longest_backoff_s, metadata=about("Most seconds between attempts to connect", above=0)
    )

    def options(self) -> MqttOptions:
        """The options of the sink."""
        return _copy(self, MqttOptions)


@dataclass(frozen=True)
class LiveSection:
    """`[live]`: patience of the live loop."""

    stall_s: float = field(
        default=LiveOptions.stall_s,
        metadata=about("Seconds without a frame after which there is no current score", above=0),
    )
    abandon_s: float = field(
        default=LiveOptions.abandon_s,
        metadata=about("Seconds after which a read that hangs is given up and a new thread takes over", above=0),
    )
    abandon_open_s: float = field(
        default=LiveOptions.abandon_open_s,
        metadata=about("Seconds after which an attempt to open the camera is given up", above=0),
    )
    first_open_s: float = field(
        default=LiveOptions.first_open_s,
        metadata=about(
            "Seconds after which the first attempt to open the camera is given up, which ends the run", above=0
        ),
    )
    frozen_s: float = field(
        default=LiveOptions.frozen_s,
        metadata=about("Seconds of identical pictures after which the camera counts as frozen", above=0),
    )
    useless_s: float = field(
        default=LiveOptions.useless_s,
        metadata=about("Seconds of frozen or broken pictures after which the camera is opened again", above=0),
    )
    first_backoff_s: float = field(
        default=LiveOptions.first_backoff_s,
        metadata=about("Seconds before the first attempt to open a camera again", above=0),
    )
    longest_backoff_s: float = field(
        default=LiveOptions.longest_backoff_s, metadata=about("Most seconds between attempts to open a camera", above=0)
    )

    def options(self) -> LiveOptions:
        """The options of the loop."""
        return _copy(self, LiveOptions)


@dataclass(frozen=True)
class Config:
    """Contents of the file.

    Attributes:
        path: of the file; None for the defaults alone.
        keys_set: the keys that the file sets, as `section.key`.
    """

    camera: CameraSection = CameraSection()
    model: ModelSection = ModelSection()
    records: RecordsSection = RecordsSection()
    best_shot: BestShotSection = BestShotSection()
    guidance: GuidanceSection = GuidanceSection()
    serve: ServeSection = ServeSection()
    mqtt: MqttSection = MqttSection()
    live: LiveSection = LiveSection()
    path: Path | None = field(default=None, compare=False)
    keys_set: frozenset[str] = field(default=frozenset(), compare=False)

    def sections(self) -> dict[str, DataclassInstance]:
        """The sections by their name in the file."""
        return {f.name: getattr(self, f.name) for f in fields(self) if is_dataclass(f.default)}


@dataclass(frozen=True)
class Key:
    """A key, as the file's reader and the checks see it."""

    section: str
    name: str
    kind: Any
    default: Any
    metadata: Mapping[str, Any]

    @property
    def full_name(self) -> str:
        """`section.key`."""
        return f"{self.section}.{self.name}"

    @property
    def choices(self) -> tuple[Any, ...]:
        """The only values that can be used; empty where there are others."""
        return get_args(self.kind)

    def explained(self, unset: str) -> str:
        """The explanation as sentences; `unset` introduces what holds if the key is not set."""
        text = f"{self.metadata['explanation']}."
        return text if self.metadata["unset"] is None else f"{text} {unset}: {self.metadata['unset']}."


@lru_cache(maxsize=1)
def known_keys() -> dict[str, Key]:
    """Every key, by `section.key`, in the order of the file."""
    keys = [
        Key(section, f.name, _kind(hint), f.default, f.metadata)
        for section, value in Config().sections().items()
        for f, hint in zip(fields(value), _hints(type(value), value), strict=True)
    ]
    return {each.full_name: each for each in keys}


def _hints(section: type, value: DataclassInstance) -> list[Any]:
    hints = get_type_hints(section)
    return [hints[f.name] for f in fields(value)]


def _kind(hint: Any) -> Any:
    """The type of a value that is set."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    return hint if get_origin(hint) is Literal or not kinds else kinds[0]


def _copy(section: DataclassInstance, options: type[Options]) -> Options:
    """The options whose names a section has."""
    names = {f.name for f in fields(section)}
    return options(**{f.name: getattr(section, f.name) for f in fields(options) if f.name in names})
