"""Checks of a bundle and of its engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fthnet_kit.edge.deployment.doctor_findings import Finding, describe_failure
from fthnet_kit.edge.deployment.doctor_machine import check_disk
from fthnet_kit.edge.device.machine import Device
from fthnet_kit.edge.device.sysfs import entries
from fthnet_kit.edge.errors import BundleError, KitError

EngineProblem = Callable[[Path], "str | None"]


def check_bundle(device: Device, folder: Path | None, engine_problem: EngineProblem) -> list[Finding]:
    """The bundle, the disk that it lies on, its precisions and its engines."""
    try:
        from fthnet_kit.edge.model.bundle import Bundle

        bundle = Bundle.open(folder)
    except BundleError as error:
        remedy = "name a bundle with --bundle, or make one with `fthnet export`"
        return [check_disk(folder or Path()), Finding("Bundle", "problem", str(error), remedy)]
    except Exception as error:  # a library that it needs is broken
        remedy = "first mend the libraries that are named here"
        return [check_disk(folder or Path()), Finding("Bundle", "problem", describe_failure(error), remedy)]
    card = bundle.card
    return [
        check_disk(bundle.folder),
        Finding("Bundle", "ok", f"{card.title}, {bundle.folder}"),
        *(check_precision(name, entry) for name, entry in sorted(card.precisions.items())),
        *check_engines(device, bundle.folder, engine_problem),
    ]


def check_precision(name: str, entry: Mapping[str, Any]) -> Finding:
    """What a conversion costs against FP32, as its card says."""
    cost = f"worst {entry['worst']:.2f} points from FP32 on {entry['images']} images"
    if entry["holds"]:
        return Finding(f"Precision {name}", "ok", cost)
    return Finding(f"Precision {name}", "note", f"{cost}: over its budget, not used", "`fthnet quantize` makes it anew")


def check_engines(device: Device, folder: Path, engine_problem: EngineProblem) -> list[Finding]:
    """The TensorRT engines in a bundle."""
    engines = entries(folder / "engines", "*/*.engine")
    if not engines and device.is_jetson:
        return [Finding("Engine", "note", "none in the bundle: scores are computed by ONNX Runtime")]
    findings = []
    for path in engines:
        name = str(path.relative_to(folder))
        problem = engine_problem(path)
        if problem is None:
            findings.append(Finding("Engine", "ok", f"{name}: {proof_of(path)}"))
        else:
            findings.append(
                Finding("Engine", "problem", f"{name}: {problem}", "build the engine again on this machine")
            )
    return findings


def proof_of(path: Path) -> str:
    """What an engine's manifest says that it runs in, or that it has none."""
    from fthnet_kit.edge.inference.engine_manifest import EngineManifest

    try:
        return EngineManifest.read(path.with_suffix(".json")).proof()
    except KitError as error:
        return str(error)


def why_engine_does_not_run(path: Path) -> str | None:
    """What is wrong with an engine file of a bundle, found by loading it; None where it runs here."""
    from fthnet_kit.edge.inference.engine_manifest import engine_path
    from fthnet_kit.edge.inference.open_backend import checked_engine
    from fthnet_kit.edge.inference.tensorrt_engine import TrtBackend
    from fthnet_kit.edge.model.bundle import Bundle

    try:
        bundle, precision = Bundle.open(path.parents[2]), path.stem.partition(".")[2]
        content, tensorrt, target = checked_engine(bundle, precision)
        if engine_path(bundle, precision, target) != path:
            return f"for another GPU or library than this machine's {target.key}"
        TrtBackend(content, tensorrt).close()
    except KitError as error:
        return str(error)
    return None
