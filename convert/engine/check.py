"""`fthnet build --check`: NVIDIA's own parser and builder on every graph of a bundle, on a machine with no GPU.

TensorRT for RTX compiles ahead of time for GPUs that are not there. What it takes is a valid strongly typed network
for TensorRT's parser and builder; its log lists the layers of the engine, which tell what each product runs in and
whether attention is one kernel. It does not show that an engine runs, nor that a Jetson builds it: Orin's compute
capability, 8.7, is not among those it knows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from fthnet_kit.convert.engine.build import build_plan, free_memory, workspace_for
from fthnet_kit.convert.engine.layer_table import from_log
from fthnet_kit.convert.engine.layers import LEAST_PROVED, EngineLayers, Wanted, compare
from fthnet_kit.edge.errors import BundleError, EngineError
from fthnet_kit.edge.inference.engine_manifest import Target
from fthnet_kit.edge.inference.tensorrt_library import TensorRT
from fthnet_kit.edge.model.bundle import Bundle
from fthnet_kit.edge.model.choices import NAMED_PRECISIONS

NAMED = 3  # blocks or nodes in one message
NOT_ON_THIS_GPU = re.compile(r"Cannot compile operation \S+ (for \w+ \(SM\d+\): .*? is not supported)")


@dataclass(frozen=True)
class CheckedEngine:
    """One precision for one GPU.

    Attributes:
        precision: ``fp32``, ``fp16`` or ``int8``.
        device: such as ``sm86``.
        layers: layers of the parsed network.
        wanted: what it asks for.
        found: what the engine's layers do; None where none was built.
        engine_bytes: size of the engine.
        seconds: how long parsing and building took.
        unsupported: what this TensorRT cannot do on this GPU, whatever the graph; empty where the engine was built.
    """

    precision: str
    device: str
    layers: int
    wanted: Wanted
    found: EngineLayers | None
    engine_bytes: int
    seconds: float
    unsupported: str = ""

    def faults(self) -> list[str]:
        """What the engine does not do although it should, in words, with the names of blocks and nodes.

        Attention in FP32 is never one kernel; neither that nor what this TensorRT lacks is held against a graph.
        """
        if self.found is None:
            return []
        narrow = {block.name for block in self.wanted.attention if block.asked != "fp32"}
        apart = [block for block in self.found.apart if block in narrow]
        faults = [f"attention of {_names(apart)} is no longer one kernel"] if apart else []
        if self.wanted.left_wide:
            faults.append(f"the graph leaves {_names(self.wanted.left_wide)} in FP32")
        if self.found.too_wide:
            faults.append(f"the engine runs {_names(self.found.too_wide)} in a wider type than the graph asks for")
        if self.found.proved < LEAST_PROVED:
            faults.append(f"{100 * self.found.proved:.0f} % of the multiply-accumulates are seen to run as asked")
        return [f"{self.precision} for {self.device}: {fault}" for fault in faults]


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def check_builds(
    bundle: Bundle,
    tensorrt: TensorRT,
    devices: list[str] | None = None,
    report: Callable[[str], None] = lambda what: None,
) -> Iterator[CheckedEngine]:
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
        onnx = bundle.model(precision, "tensorrt")  # type: ignore[arg-type]
        for device in devices or known:
            report(f"{precision} for {device}")
            target = Target("tensorrt_rtx", str(tensorrt.version), f"{device[2:-1]}.{device[-1]}")
            try:
                plan = build_plan(tensorrt, onnx, target, workspace)
            except EngineError as error:
                reason = NOT_ON_THIS_GPU.search(str(error))
                if reason is None:
                    raise
                yield CheckedEngine(precision, device, 0, Wanted(()), None, 0, 0.0, reason[1])
            else:
                found = compare(from_log(plan.table), plan.wanted)
                yield CheckedEngine(precision, device, plan.layers, plan.wanted, found, len(plan.content), plan.seconds)


def precisions_of(bundle: Bundle) -> list[str]:
    """Precisions that a bundle has a graph of for TensorRT."""
    present: list[str] = []
    for precision in NAMED_PRECISIONS:
        try:
            bundle.model_path(precision, "tensorrt")
        except BundleError:
            continue
        present.append(precision)
    return present
