"""What identifies a TensorRT engine, and whether it may run here.

An engine belongs to one TensorRT version and one GPU, and to the exact graph that it was built from. Its manifest,
a JSON file beside it, says so; `load_engine` refuses whatever differs *before* a byte of it reaches TensorRT, which
would otherwise run a stale engine or crash on a damaged one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from fthnet_kit.edge.errors import EngineError
from fthnet_kit.edge.files import read_regular
from fthnet_kit.edge.inference.tensorrt_library import LibraryName
from fthnet_kit.edge.model.bundle import RANGES_NAME, REPORTS, Bundle
from fthnet_kit.edge.reporting.json_schema import schema_problem

ENGINES = "engines"
SCHEMA_VERSION = 1
MOST_MANIFEST_BYTES = 1 << 24


@dataclass(frozen=True)
class Target:
    """Where an engine runs.

    Attributes:
        library: `tensorrt` or `tensorrt_rtx`.
        library_version: engines are read by the version that wrote them, and no other.
        compute_capability: such as ``8.7``, Jetson Orin.
        gpu: the GPU's name; None in an engine that TensorRT for RTX built for a GPU that was not there.
        multiprocessors: how many are switched on, which on a Jetson depends on module and power mode; None as above.
    """

    library: LibraryName
    library_version: str
    compute_capability: str
    gpu: str | None = None
    multiprocessors: int | None = None

    @property
    def key(self) -> str:
        """Name of the folder of its engines: ``sm87``, or ``sm86-rtx``."""
        return f"sm{self.compute_capability.replace('.', '')}" + ("-rtx" if self.library == "tensorrt_rtx" else "")


@dataclass(frozen=True)
class EngineManifest:
    """Contents of the JSON file beside an engine, validated against `assets/engine_manifest.schema.json`.

    Attributes:
        engine_sha256, engine_bytes: of the engine file.
        onnx_sha256, card_sha256: of the files that it was built from.
        ranges_sha256: of the ranges file of an INT8 engine; None otherwise.
        precision: ``fp32``, ``fp16`` or ``int8``.
        batch: N of the engine.
        target: where it runs.
        machine: what it was built on: CUDA, driver, JetPack, power mode; for the reader, not compared.
        options: build options.
        layers: what TensorRT's table of layers shows (`convert.engine.layers`).
        agreement: differences from ONNX Runtime's FP32 scores (`convert.engine_agreement`); None without a GPU.
        kit_version, built_at: who built it, and when (ISO 8601, UTC).
    """

    engine_sha256: str
    engine_bytes: int
    onnx_sha256: str
    card_sha256: str
    ranges_sha256: str | None
    precision: str
    batch: int
    target: Target
    machine: Mapping[str, str | None] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    layers: Mapping[str, Any] | None = None
    agreement: Mapping[str, Any] | None = None
    kit_version: str = ""
    built_at: str = ""

    def to_json(self) -> str:
        """Human-readable JSON."""
        return json.dumps({"schema": SCHEMA_VERSION, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def read(cls, path: Path, bundle: Bundle | None = None) -> EngineManifest:
        """Parse and validate; unknown keys are refused.

        Args:
            path: the file.
            bundle: whose signature must cover it, if a key was asked for.

        Raises:
            EngineError: missing, unreadable, or no manifest.
            BundleError: not covered by the bundle's signature.
        """
        try:
            read = read_regular(path, MOST_MANIFEST_BYTES)
            content = json.loads(read)
        except (OSError, ValueError, RecursionError) as error:
            raise EngineError(
                f"{path}: expected an engine's manifest, found none that can be read ({error})"
            ) from error
        if bundle is not None:
            check_signed(bundle, path, read)
        schema = json.loads(
            (files("fthnet_kit.edge") / "assets/engine_manifest.schema.json").read_text(encoding="utf-8")
        )
        problem = schema_problem(content, schema)
        if problem is not None:
            raise EngineError(f"{path}: {_one_line(problem.place or 'the manifest')}: {_one_line(problem.message)}")
        del content["schema"]
        return cls(**{**content, "target": Target(**content["target"])})

    def proof(self) -> str:
        """What TensorRT's table of layers shows of the engine, in words."""
        proved, attention = (self.layers or {}).get("proved"), (self.layers or {}).get("attention")
        if proved is None:
            return "what it runs in was not recorded"
        fused = f", blocks with attention in one kernel: {fused_of(attention)}" if attention else ""
        return f"{100 * proved:.1f} % seen to run as asked{fused}"

    def differences(self, bundle: Bundle, precision: str, target: Target) -> list[str]:
        """What an engine for this bundle, precision and machine would say otherwise; nothing where it fits."""
        here = {
            "precision": precision,
            **sources(bundle, precision),
            **{name: value for name, value in asdict(target).items() if getattr(self.target, name) is not None},
        }
        return [
            f"{name} {_short(_value(self, name))} instead of {_short(value)}"
            for name, value in here.items()
            if _value(self, name) != value
        ]


def fused_of(attention: Mapping[str, str]) -> str:
    """Such as ``12 of 12``, with what is unknown; empty for a network without attention."""
    counts = Counter(attention.values())
    unknown = f", {counts['unknown']} unknown" if counts["unknown"] else ""
    return f"{counts['fused']} of {len(attention)}{unknown}" if attention else ""


def _value(manifest: EngineManifest, name: str) -> Any:
    return getattr(manifest, name) if hasattr(manifest, name) else getattr(manifest.target, name)


def _short(value: object) -> str:
    text = _one_line(str(value))
    return f"{text[:12]}…" if len(text) == 64 else text


def _one_line(text: str) -> str:
    return " ".join(text.split())


def sources(bundle: Bundle, precision: str) -> dict[str, str | None]:
    """SHA-256 of the files that an engine of a precision is built from.

    Raises:
        BundleError: the bundle has no graph of that precision.
    """
    ranges = bundle.card.files.get(f"{REPORTS}/{RANGES_NAME}") if precision == "int8" else None
    onnx = bundle.card.files[bundle.model_path(precision, "tensorrt").name]  # type: ignore[arg-type]
    return {"onnx_sha256": onnx, "card_sha256": bundle.card_sha256, "ranges_sha256": ranges}


def engine_path(bundle: Bundle, precision: str, target: Target) -> Path:
    """Where the engine of a precision lies for a GPU; its manifest has the suffix ``.json``."""
    return bundle.folder / ENGINES / target.key / f"fthnet.{precision}.engine"


def build_arguments(bundle: Bundle, precision: str, batch: int = 1) -> list[str]:
    """Arguments of `fthnet` that build an engine anew."""
    arguments = ["build", str(bundle.folder), "--precision", precision]
    return [*arguments, "--batch", str(batch)] if batch > 1 else arguments


def build_command(bundle: Bundle, precision: str, batch: int = 1) -> str:
    """The same as a user types it."""
    return shlex.join(["fthnet", *build_arguments(bundle, precision, batch)])


class EngineRefusedError(EngineError):
    """An engine that is not there or must not run here; `rebuild` holds the arguments of `fthnet` that mend it."""

    def __init__(self, problem: str, bundle: Bundle, precision: str, batch: int = 1) -> None:
        super().__init__(f"{problem}; rebuild: {build_command(bundle, precision, batch)}")
        self.rebuild = build_arguments(bundle, precision, batch)


def load_engine(bundle: Bundle, precision: str, target: Target) -> tuple[bytes, EngineManifest]:
    """A bundle's engine for this machine: whole, untouched, and built for exactly this.

    Args:
        bundle: an opened bundle.
        precision: ``fp32``, ``fp16`` or ``int8``.
        target: this machine.

    Returns:
        The engine's bytes, and its manifest.

    Raises:
        EngineRefusedError: no such engine, or it must not run here; says what differs and how to rebuild it.
        BundleError: the bundle has no graph of that precision; or a key was asked for and its signature does not cover
            the engine.
    """
    path = engine_path(bundle, precision, target)
    if not path.is_file():
        others = sorted(str(found.relative_to(bundle.folder)) for found in (bundle.folder / ENGINES).glob("*/*.engine"))
        found = ", ".join(others) or "none"
        raise EngineRefusedError(f"{path}: expected an engine for {target.key}, found {found}", bundle, precision)
    try:
        manifest = EngineManifest.read(path.with_suffix(".json"), bundle)
    except EngineError as error:
        raise EngineRefusedError(str(error), bundle, precision) from error
    differences = manifest.differences(bundle, precision, target)
    if differences:
        raise EngineRefusedError(f"{path}: built for {', '.join(differences)}", bundle, precision, manifest.batch)
    try:
        content = read_regular(path, manifest.engine_bytes)
    except OSError as error:
        problem = f"{path}: expected an engine, found none that can be read ({error.strerror})"
        if error.errno == errno.EFBIG:
            whole = f"{manifest.engine_bytes} bytes with SHA-256 {manifest.engine_sha256[:12]}…"
            problem = f"{path}: expected {whole}, found {error.strerror}"
        raise EngineRefusedError(problem, bundle, precision, manifest.batch) from error
    if len(content) != manifest.engine_bytes or hashlib.sha256(content).hexdigest() != manifest.engine_sha256:
        problem = (
            f"{path}: expected {manifest.engine_bytes} bytes with SHA-256 {manifest.engine_sha256[:12]}…, found "
            f"{len(content)} bytes with another: the engine was altered, damaged or not finished"
        )
        raise EngineRefusedError(problem, bundle, precision, manifest.batch)
    check_signed(bundle, path, content)
    return content, manifest


def check_signed(bundle: Bundle, path: Path, content: bytes) -> None:
    """Raises BundleError where a key was asked for and the bundle's signature does not cover a file of an engine."""
    if bundle.signed is not None:
        name, sha256 = path.relative_to(bundle.folder).as_posix(), hashlib.sha256(content).hexdigest()
        bundle.signed.compare(bundle.folder, name, len(content), sha256)
