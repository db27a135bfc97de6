"""What `fthnet bench pick` has measured to be the fastest on this machine; ``auto`` follows it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fthnet_kit.edge.device.cores import available_cores
from fthnet_kit.edge.device.machine import read_cpu_model
from fthnet_kit.edge.errors import BundleError, InputError
from fthnet_kit.edge.files import parse_json, write_atomically
from fthnet_kit.edge.model.bundle import Bundle
from fthnet_kit.edge.model.choices import BACKENDS, NAMED_PRECISIONS, BackendName, Precision

SCHEMA = "fthnet-pick"
VERSION = 1
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """What runs a model. `threads` are those of one inference on a CPU; None: as many as there are."""

    backend: BackendName
    precision: Precision
    threads: int | None = None

    def __str__(self) -> str:
        return f"{self.backend} {self.precision}, {self.threads or 'all'} threads"


@dataclass(frozen=True)
class Circumstances:
    """Under what a measurement was made: it says nothing of another model, processor, share of it, or library."""

    model: str
    cpu: str | None
    cores: int
    library: str

    @classmethod
    def now(cls, bundle: Bundle, choice: Choice) -> Circumstances:
        """The circumstances of a choice on this machine, in this process."""
        path = bundle.model_path(choice.precision, _provider(choice.backend))
        return cls(bundle.card.files[path.name], read_cpu_model(), available_cores(), _library(choice.backend))


def pick_file(config: Path | None = None) -> Path:
    """Where a pick lies: beside a configuration, or among the user's (``XDG_CONFIG_HOME``, ``~/.config``).

    Args:
        config: the configuration of a run; None where there is none.
    """
    if config is not None:
        return config.with_name(f"{config.stem}.pick.json")
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "fthnet" / "pick.json"


def write_pick(path: Path, bundle: Bundle, choice: Choice, evidence: Mapping[str, Any]) -> None:
    """Keep a choice with what it was made from.

    Raises:
        InputError: the file cannot be written.
    """
    content = {
        "schema": SCHEMA,
        "version": VERSION,
        "choice": asdict(choice),
        "circumstances": asdict(Circumstances.now(bundle, choice)),
        **evidence,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())
    except OSError as error:
        raise InputError(f"{path}: expected a file that can be written, found {error.strerror}") from error


def picked(bundle: Bundle, path: Path) -> Choice | None:
    """The choice that was measured for this bundle on this machine; None, with a warning, where it was for another."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning("%s: not followed: expected JSON of `fthnet bench pick`, found %s", path, error)
        return None
    try:
        choice, measured = _read(content)
    except (KeyError, TypeError, ValueError) as error:
        logger.warning("%s: not followed: expected a file of `fthnet bench pick`, found %r", path, error)
        return None
    try:
        now = Circumstances.now(bundle, choice)
    except BundleError as error:
        logger.warning("%s: not followed: %s", path, error)
        return None
    if now != measured:
        what = [name for name, value in asdict(now).items() if value != getattr(measured, name)]
        logger.warning(
            "%s: not followed: measured with another %s; `fthnet bench pick` measures again", path, ", ".join(what)
        )
        return None
    return choice


def _read(content: Any) -> tuple[Choice, Circumstances]:
    if (content["schema"], content["version"]) != (SCHEMA, VERSION):
        raise ValueError(f"{content['schema']} {content['version']}")
    choice = Choice(**content["choice"])
    threads = choice.threads
    if choice.backend not in BACKENDS[1:] or choice.precision not in NAMED_PRECISIONS:
        raise ValueError(f"{choice.backend} {choice.precision}")
    if threads is not None and (type(threads) is not int or threads < 1):
        raise ValueError(f"threads {threads!r}")
    return choice, Circumstances(**content["circumstances"])


def _provider(backend: BackendName) -> str:
    return {"onnxruntime": "cpu", "onnxruntime-cuda": "cuda", "onnxruntime-tensorrt": "tensorrt"}.get(backend, backend)


def _library(backend: BackendName) -> str:
    """Name and version of the installed library that a backend loads."""
    name = backend.split("-", maxsplit=1)[0]
    names = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino") if name == "onnxruntime" else (name,)
    for package in names:
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    return f"{name} of unknown version"
