"""What a machine has and lacks for this kit: findings in plain words, each problem with its remedy."""

from __future__ import annotations

import sys
from pathlib import Path

from fthnet_kit.edge.deployment.doctor_bundle import EngineProblem, check_bundle, why_engine_does_not_run
from fthnet_kit.edge.deployment.doctor_findings import (
    Report,
)
from fthnet_kit.edge.deployment.doctor_machine import (
    check_cameras,
    check_heat,
    check_jetpack,
    check_memory,
    check_speed,
)
from fthnet_kit.edge.deployment.doctor_software import (
    EXTRAS,
    check_cuda,
    check_extra,
    check_onnxruntime,
    check_opencv,
    check_pycuda,
    check_python,
    check_tensorrt,
)
from fthnet_kit.edge.device.machine import Run, read_device, run_command
from fthnet_kit.edge.device.sysfs import ROOT


def examine(
    bundle: Path | None = None,
    *,
    root: Path = ROOT,
    run: Run = run_command,
    engine_problem: EngineProblem | None = None,
) -> Report:
    """Look at everything that the kit needs or can use.

    Args:
        bundle: folder of the bundle; default: the demonstration bundle that the kit ships.
        root: where the machine's file system is mounted.
        run: runs a command and returns its output, None where it cannot.
        engine_problem: says what is wrong with a TensorRT engine file; default: `why_engine_does_not_run`.
    """
    device = read_device(root, run)
    findings = (
        check_python(sys.version_info[:3]),
        check_jetpack(device),
        *check_tensorrt(device),
        *check_cuda(device, root, run),
        check_pycuda(device),
        *check_opencv(),
        *check_cameras(root, run),
        check_onnxruntime(),
        *check_speed(device),
        *check_heat(device),
        check_memory(device),
        *check_bundle(device, bundle, engine_problem or why_engine_does_not_run),
        *map(check_extra, EXTRAS),
    )
    return Report(device, findings)
