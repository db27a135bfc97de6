"""A bundle's ONNX graph to a TensorRT engine, with its manifest.

One path for TensorRT 10.3 to 11.x and TensorRT for RTX: a strongly typed network, so that the precision is what the
graph says and nothing else. The engine is built on the device that runs it; only TensorRT for RTX builds for GPUs
that are not there (`fthnet build --device sm86`).
"""

from __future__ import annotations

import gc
import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from fthnet_kit.convert.engine.agreement import engine_agreement
from fthnet_kit.convert.engine.layer_table import from_inspector, from_log
from fthnet_kit.convert.engine.layers import EngineLayers, Wanted, compare, wanted_of
from fthnet_kit.edge.errors import EngineError, InputError
from fthnet_kit.edge.files import write_atomically
from fthnet_kit.edge.inference.engine_manifest import EngineManifest, Target, engine_path, sources
from fthnet_kit.edge.inference.tensorrt_library import TensorRT, errors_of
from fthnet_kit.edge.model.bundle import Bundle
from fthnet_kit.edge.model.model_file import ModelFile

MIB = 1 << 20
SHARE_OF_FREE = 0.5  # share of the free memory that the builder may try kernels with; the others need the rest
MOST_WORKSPACE = 4096  # MiB; this network's kernels never ask for more
LEAST_WORKSPACE = 64

Report = Callable[[str, int, int], None]  # phase, step, steps


@dataclass(frozen=True)
class BuildOptions:
    """What to build.

    Attributes:
        precision: ``fp32``, ``fp16`` or ``int8``.
        batch: N of the engine; default: that of the ONNX file.
        workspace: MiB that a kernel may use; default: half of what is free.
        allow_unproved: install an engine even if TensorRT does not show what its products run in.
    """

    precision: str
    batch: int | None = None
    workspace: int | None = None
    allow_unproved: bool = False


@dataclass(frozen=True)
class BuildPlan:
    """A built engine, not yet written.

    Attributes:
        content: the engine.
        batch: N of its input.
        layers: how many layers the parsed network has.
        wanted: what it asks for.
        table: the engine's layers, as the build's log lists them; empty if it does not.
        seconds: how long the build took.
    """

    content: bytes
    batch: int
    layers: int
    wanted: Wanted
    table: str
    seconds: float


def build_engine(
    bundle: Bundle,
    options: BuildOptions,
    tensorrt: TensorRT,
    target: Target,
    machine: dict[str, str | None],
    report: Report = lambda phase, step, steps: None,
) -> tuple[Path, EngineManifest]:
    """Build a bundle's engine and put it and its manifest into the bundle.

    Args:
        bundle: an opened bundle.
        options: what to build.
        tensorrt: the library.
        target: the GPU that it is for; another than this machine's only with TensorRT for RTX.
        machine: CUDA, driver and so on, for the manifest.
        report: hears of each step of the build.

    Returns:
        The engine's file, and its manifest.

    Raises:
        BundleError: no graph of that precision.
        EngineError: TensorRT refuses the graph, the build fails, or the engine does not run in the precision asked
            for, does not show it, or scores otherwise than the FP32 graph; nothing is installed then.
        InputError: the bundle cannot be written.
    """
    onnx = of_batch(bundle.model(options.precision, "tensorrt"), options.batch)  # type: ignore[arg-type]
    path = engine_path(bundle, options.precision, target)
    refuse_read_only(path.parent)
    workspace = options.workspace or workspace_for(free_memory())
    cache = TimingCache(path.parent, tensorrt, machine.get("cuda"))
    plan = build_plan(tensorrt, onnx, target, workspace, cache, report)
    layers = inspect_plan(tensorrt, plan, target)
    layers.check(options.precision, options.allow_unproved)
    agreement = None
    if target.gpu is not None:
        agreement = engine_agreement(bundle, plan.content, tensorrt)
        agreement.check(options.precision)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, plan.content)
        manifest = EngineManifest(
            engine_sha256=hashlib.sha256(plan.content).hexdigest(),
            engine_bytes=len(plan.content),
            **sources(bundle, options.precision),  # type: ignore[arg-type]
            precision=options.precision,
            batch=plan.batch,
            target=target,
            machine=machine,
            options={"workspace_mib": workspace, "tf32": False, "seconds": round(plan.seconds, 1)},
            layers=layers.to_dict(),
            agreement=None if agreement is None else agreement.to_dict(),
            kit_version=version_of("fthnet-edge-kit"),
            built_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        write_atomically(path.with_suffix(".json"), manifest.to_json().encode())
        cache.write()
    except OSError as error:
        raise InputError(
            f"{path}: expected a bundle that can be written, found {error}; copy it to a place of yours"
        ) from error
    return path, manifest


def refuse_read_only(folder: Path) -> None:
    """Raises InputError where a folder is not there and cannot be made: before a build that takes minutes."""
    standing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not standing.is_dir() or not os.access(standing, os.W_OK):
        raise InputError(
            f"{folder}: expected a bundle that can be written, found that {standing} cannot; copy it elsewhere"
        )


def build_plan(
    tensorrt: TensorRT,
    onnx: ModelFile,
    target: Target,
    workspace: int,
    cache: TimingCache | None = None,
    report: Report = lambda phase, step, steps: None,
) -> BuildPlan:
    """Parse a graph and build it.

    Args:
        tensorrt: the library.
        onnx: the graph; TensorRT gets its bytes and never opens a file.
        target: the GPU.
        workspace: MiB that a kernel may use.
        cache: timings of earlier builds.
        report: hears of each step.

    Raises:
        EngineError: the graph is refused, with the node's name; or the build fails, with TensorRT's reason.
    """
    trt = tensorrt.module
    began = time.monotonic()
    logger = tensorrt.logger()
    monitor = _monitor(tensorrt, report)
    with _interruptible(monitor), _without_collection():
        builder = trt.Builder(logger)
        network, parser = parse(tensorrt, builder, onnx, logger)
        wanted = wanted_of(tensorrt, network)
        configuration = builder.create_builder_config()
        configuration.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace * MIB)
        configuration.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the inspector shows types only then
        configuration.clear_flag(trt.BuilderFlag.TF32)  # ten bits of mantissa are not FP32
        if tensorrt.rtx:
            _aim_at(tensorrt, configuration, target)
        timings = cache.use(configuration) if cache else None
        configuration.progress_monitor = monitor
        content = builder.build_serialized_network(network, configuration)
    if content is None:
        raise EngineError(f"{Path(onnx.name).name}: {_reason(errors_of(logger), workspace)}")
    if cache and timings is not None:
        cache.keep(configuration)
    del parser  # it keeps no reference to the network, nor the network to it
    return BuildPlan(
        bytes(memoryview(content)),
        int(network.get_input(0).shape[0]),
        network.num_layers,
        wanted,
        logger.tables[-1] if logger.tables else "",
        time.monotonic() - began,
    )


def parse(tensorrt: TensorRT, builder: Any, onnx: ModelFile, logger: Any) -> tuple[Any, Any]:
    """The strongly typed network of a graph, and its parser, which must live as long.

    Raises:
        EngineError: what TensorRT's parser says of each node that it refuses, in full.
    """
    trt = tensorrt.module
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx.content):
        problems = [_node_error(parser.get_error(index)) for index in range(parser.num_errors)]
        raise EngineError(
            f"{Path(onnx.name).name}: TensorRT's parser refused {'; '.join(problems) or 'it without a reason'}"
        )
    return network, parser


def _node_error(error: Any) -> str:
    description = " ".join(error.desc().split())
    if error.node() < 0:
        return f"the file: {description}"
    return f"node {error.node()} {error.node_name()} ({error.node_operator()}): {description}"


def _reason(errors: list[str], workspace: int) -> str:
    reasons = "; ".join(errors) or "no reason given"
    if any("memory" in error.lower() for error in errors):
        return (
            f"the build ran out of memory with a workspace of {workspace} MiB ({reasons}); close what else runs, pass "
            "a smaller --workspace, or add swap (docs/jetson.md)"
        )
    return f"TensorRT could not build it: {reasons}"


def _aim_at(tensorrt: TensorRT, configuration: Any, target: Target) -> None:
    """Aims TensorRT for RTX at a GPU that is not here; the one that is here it finds, be it on its list or not.

    An engine whose memory is all given to it at once, rather than taken while it runs, can be recorded as a CUDA graph.
    """
    configuration.set_flag(tensorrt.module.BuilderFlag.REQUIRE_USER_ALLOCATION)
    if target.gpu is not None:
        return
    capabilities = tensorrt.compute_capabilities()
    name = f"sm{target.compute_capability.replace('.', '')}"
    if name not in capabilities:
        raise EngineError(f"TensorRT for RTX: expected one of {', '.join(capabilities)}, found {name}")
    configuration.num_compute_capabilities = 1
    configuration.set_compute_capability(capabilities[name], 0)


@contextmanager
def _without_collection() -> Iterator[None]:
    """No garbage collection: it may release an earlier build's objects inside TensorRT's logger, which dead-locks."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _monitor(tensorrt: TensorRT, report: Report) -> Any:
    """An IProgressMonitor that hands on the steps of every phase, and ends the build where `report` raises.

    TensorRT swallows an exception in a callback, and may call from threads of its own.
    """

    class Monitor(tensorrt.module.IProgressMonitor):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}
            self.failure: BaseException | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.tell(phase_name, step + 1, self.steps.get(phase_name, 0))
            return self.failure is None

        def phase_finish(self, phase_name: str) -> None:  # may come before the last step
            steps = self.steps.pop(phase_name, 0)
            self.tell(phase_name, steps, steps)

        def tell(self, phase: str, step: int, steps: int) -> None:
            if self.failure is None:
                try:
                    report(phase, step, steps)
                except BaseException as error:  # raised again on the building thread
                    self.failure = error

    return Monitor()


@contextmanager
def _interruptible(monitor: Any) -> Iterator[None]:
    """Ctrl-C ends the build at its next step, and is raised at the end, whatever else came of the build.

    Python would raise KeyboardInterrupt in whatever callback comes next, the logger's mostly, where it is swallowed.
    """
    ours = threading.current_thread() is threading.main_thread()
    ours = ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def interrupt(*_: object) -> None:
        monitor.failure = KeyboardInterrupt()

    if ours:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if monitor.failure is not None:
            raise monitor.failure


class TimingCache:
    """Kernel timings of earlier builds, beside the engines; a rebuild with it takes a fraction of the time.

    One file for each GPU (the folder), CUDA and TensorRT version, to which the timings belong. TensorRT for RTX has
    none. A damaged file is an empty one: TensorRT times again.
    """

    def __init__(self, folder: Path, tensorrt: TensorRT, cuda: str | None) -> None:
        self.path = folder / f"timings-cuda{cuda or '-unknown'}-{tensorrt.name}{tensorrt.version}.cache"
        self._rtx = tensorrt.rtx
        self._content: bytes | None = None

    def use(self, configuration: Any) -> Any:
        """Give the timings to a build; what it returns must live until the build ends."""
        if self._rtx:
            return None
        try:
            content = self.path.read_bytes()
        except OSError:
            content = b""
        timings = configuration.create_timing_cache(content)
        configuration.set_timing_cache(timings, ignore_mismatch=False)
        return timings

    def keep(self, configuration: Any) -> None:
        """Remember what the build has timed."""
        self._content = bytes(memoryview(configuration.get_timing_cache().serialize()))

    def write(self) -> None:
        """Write what is remembered, whole or not at all."""
        if self._content is not None:
            write_atomically(self.path, self._content)


def inspect_plan(tensorrt: TensorRT, plan: BuildPlan, target: Target) -> EngineLayers:
    """What a built engine does: by the engine inspector where its GPU is here, and by the build's log.

    Raises:
        EngineError: TensorRT cannot load what it has just built.
    """
    if target.gpu is None:
        return compare(from_log(plan.table), plan.wanted)
    trt = tensorrt.module
    logger = tensorrt.logger()
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan.content)
    if engine is None:
        raise EngineError(f"TensorRT cannot load the engine it has built: {'; '.join(errors_of(logger))}")
    information = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return compare(from_inspector(information), plan.wanted, from_log(plan.table))


def workspace_for(free: int) -> int:
    """Workspace in MiB for so many MiB of free memory, which on a Jetson the GPU shares."""
    return max(LEAST_WORKSPACE, min(MOST_WORKSPACE, int(free * SHARE_OF_FREE)))


def free_memory(meminfo: Path = Path("/proc/meminfo")) -> int:
    """MiB of memory that is available; on a machine that does not say, a cautious guess."""
    try:
        lines = meminfo.read_text().splitlines()
        return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return 2048


def of_batch(onnx: ModelFile, batch: int | None) -> ModelFile:
    """The graph itself, or the same of the batch size asked for."""
    if batch is None:
        return onnx
    from fthnet_kit.convert.onnx_graph.rebatch import with_batch

    return ModelFile(onnx.name, with_batch(onnx, batch).SerializeToString())
