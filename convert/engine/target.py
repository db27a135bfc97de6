"""What an engine is built for, and with what: this machine, or a GPU that is named."""

from __future__ import annotations

import re

from fthnet_kit.edge.device.machine import read_device, read_driver
from fthnet_kit.edge.errors import EngineError
from fthnet_kit.edge.inference.cuda_memory import Gpu
from fthnet_kit.edge.inference.engine_manifest import Target
from fthnet_kit.edge.inference.tensorrt_library import TensorRT, load_tensorrt

UNBOUNDED = 1 << 20  # MiB


def build_target(device: str | None) -> tuple[TensorRT, Target, dict[str, str | None], int]:
    """Library, target, facts for the manifest, and MiB that are free on the GPU.

    Args:
        device: such as ``sm86``, for TensorRT for RTX to build for; default: this machine's GPU.

    Raises:
        MissingExtraError: no TensorRT, or for this machine's GPU no pycuda.
        EngineError: no GPU, or a device that TensorRT for RTX does not know.
    """
    if device is not None:
        tensorrt = load_tensorrt("tensorrt_rtx")
        known = tensorrt.compute_capabilities()
        if device not in known:
            raise EngineError(
                f"--device: expected one of {', '.join(known)}, which TensorRT for RTX builds for, found {device!r}; "
                "for a Jetson build on the Jetson, without --device"
            )
        major, minor = re.fullmatch(r"sm(\d+)(\d)", device).groups()  # type: ignore[union-attr]
        return tensorrt, Target("tensorrt_rtx", str(tensorrt.version), f"{major}.{minor}"), {}, UNBOUNDED
    tensorrt = load_tensorrt()
    gpu = Gpu()
    try:
        target = Target(tensorrt.name, str(tensorrt.version), gpu.compute_capability, gpu.name, gpu.multiprocessors)
        with gpu:
            free = gpu.free_mib()
        return tensorrt, target, machine_facts(gpu.cuda_version), free
    finally:
        gpu.close()


def machine_facts(cuda: str) -> dict[str, str | None]:
    """What else a reader of the manifest wants to know of the machine."""
    device = read_device()
    return {
        "cuda": cuda,
        "driver": read_driver(),
        "machine": device.model,
        "jetpack": device.jetpack,
        "l4t": device.l4t,
        "power_mode": device.power_mode,
    }
