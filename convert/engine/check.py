"""`fthnet build --check`: NVIDIA's own parser and builder on every graph of a bundle, on a machine with no GPU.

TensorRT for RTX compiles ahead of time for GPUs that are not there. What it takes is a valid strongly typed network
for TensorRT's parser and builder; it does not show that an engine runs, nor that a Jetson builds it: Orin's compute
capability, 8.7, is not among those it knows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fthnet_kit.convert.engine.build import build_plan, free_memory, workspace_for
from fthnet_kit.convert.engine.layers import Product
from fthnet_kit.edge.errors import BundleError, EngineError
from fthnet_kit.edge.inference.engine_manifest import Target
from fthnet_kit.edge.inference.tensorrt_library import TensorRT
from fthnet_kit.edge.model.bundle import Bundle

CHECKED = ("fp32", "fp16", "int8")
NOT_ON_THIS_GPU = re.compile(r"Cannot compile operation \S+ (for \w+ \(SM\d+\): .*? is not supported)")


@dataclass(frozen=True)
class Checked:
    """One precision for one GPU.

    Attributes:
        precision: ``fp32``, ``fp16`` or ``int8``.
        device: such as ``sm86``.
        layers: layers of the parsed network.
        products: its matrix products.
        engine_bytes: size of the engine.
        seconds: how long parsing and building took.
        unsupported: what this TensorRT cannot do on this GPU, whatever the graph; empty where the engine was built.
    """

    precision: str
    device: str
    layers: int
    products: tuple[Product, ...]
    engine_bytes: int
    seconds: float
    unsupported: str = ""

    @property
    def asked(self) -> dict[str, float]:
        """Share of the MACs that the graph asks to run in each precision."""
        sums: Counter[str] = Counter()
        for product in self.products:
            sums[product.asked] += product.macs
        return {precision: macs / sum(sums.values()) for precision, macs in sorted(sums.items())}


def check_builds(
    bundle: Bundle,
    tensorrt: TensorRT,
    devices: list[str] | None = None,
    report: Callable[[str], None] = lambda what: None,
) -> Iterator[Checked]:
    """Build every precision of a bundle for every GPU that TensorRT for RTX knows; keeps no engine.

    Args:
        bundle: an opened bundle.
        tensorrt: TensorRT for RTX.
        devices: such as ``sm86``; default: all.
        report: hears what is being built.

    Yields:
        One result a build; also where this TensorRT lacks a kernel for a GPU, as for the FP32
        products, of which every precision has some, on Turing (SM75).

    Raises:
        EngineError: a graph is refused, with the node's name, or a build fails.
    """
    known = tensorrt.compute_capabilities()
    wrong = [device for device in devices or () if device not in known]
    if wrong:
        raise EngineError(f"device: expected one of {', '.join(known)}, found {', '.join(wrong)}")
    workspace = workspace_for(free_memory())
    for precision in precisions_of(bundle):
        onnx = bundle.model_path(precision, "tensorrt")  # type: ignore[arg-type]
        for device in devices or known:
            report(f"{precision} for {device}")
            target = Target("tensorrt_rtx", str(tensorrt.version), f"{device[2:-1]}.{device[-1]}")
            try:
                plan = build_plan(tensorrt, onnx, target, workspace)
            except EngineError as error:
                reason = NOT_ON_THIS_GPU.search(str(error))
                if reason is None:
                    raise
                yield Checked(precision, device, 0, (), 0, 0.0, reason[1])
            else:
                yield Checked(precision, device, plan.layers, plan.products, len(plan.content), plan.seconds)


def precisions_of(bundle: Bundle) -> list[str]:
    """Precisions that a bundle has a graph of for TensorRT."""
    present = []
    for precision in CHECKED:
        try:
            bundle.model_path(precision, "tensorrt")  # type: ignore[arg-type]
        except BundleError:
            continue
        present.append(precision)
    return present
