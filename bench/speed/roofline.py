"""What a machine could do at most, and how much of it a measured latency uses.

The roofline has two roofs: arithmetic, and moving bytes. Work is counted by formula from the model card; the roofs
come from `jetson_modules.json` for NVIDIA Jetson, and from two measurements on any other CPU.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from fthnet_kit.convert.network.config import IMAGE_SIZE, MLP_RATIO, PATCH_SIZE, TARGET_LAYERS, FTHNetConfig
from fthnet_kit.edge.device.machine import Device
from fthnet_kit.edge.device.sensors import read_memory_mb
from fthnet_kit.edge.device.sysfs import ROOT, entries, line
from fthnet_kit.edge.inference.onnx_runtime import session_options

ESTIMATE = "estimate, not measured"
TABLE = ("Jetson Orin Nano 8GB Super", "Jetson Orin NX 16GB", "Jetson AGX Orin 64GB")
GEMMS = ((9216, 128, 32), (576, 256, 1024), (1024, 1024, 1024))  # rows, in, out; two of FTHNet's and a large one
GEMM_S = 0.12  # for each
COPY_S = 0.4
COPY_MB = (64, 256)  # least and most to copy at once
MB, GIB_MB = 10**6, 2**30 / 10**6
SLACK = 1.01  # clocks are known to one percent
NEAR = 0.5  # share of a roof from which it is what limits


# Work


@dataclass(frozen=True)
class Widths:
    """Bytes of a number: weights and inputs of the layers that INT8 may run, and all others."""

    site: int
    other: int


WIDTHS = {"fp32": Widths(4, 4), "fp16": Widths(2, 2), "int8": Widths(1, 2), "int8-cpu": Widths(1, 4)}


@dataclass(frozen=True)
class Layer:
    """One matrix product for one image, in numbers, not bytes.

    Attributes:
        macs: multiply-accumulates.
        weights: numbers that are the same for every image.
        read, written: numbers of the image's own.
        site: one of `convert.graph`'s layers that may run in INT8.
    """

    macs: int
    weights: int
    read: int
    written: int
    site: bool = False


@dataclass(frozen=True)
class Work:
    """What one inference of one image takes.

    Attributes:
        precision: ``fp32``, ``fp16``, ``int8`` or ``int8-cpu``.
        macs: multiply-accumulates of all matrix products, attention's and the target network's included.
        int8_macs: those of them that run in INT8.
        weight_bytes: all weights, read once; without biases, LayerNorms and position tables (below 2 %).
        activation_bytes: the image, and what every product reads and writes, each once; what lies between
            products (LayerNorm, softmax, GELU, residuals, moves) counts as fused and free.
    """

    precision: str
    macs: int
    int8_macs: int
    weight_bytes: int
    activation_bytes: int

    @property
    def flops(self) -> int:
        """Operations: a multiply-accumulate is two."""
        return 2 * self.macs

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "flops": self.flops}


def model_work(architecture: Mapping[str, Any], precision: str) -> Work:
    """Count the work of one image.

    With INT8, every layer that may run in it is taken to do so, and the rest to run in FP16 (``int8``, on a GPU) or
    FP32 (``int8-cpu``).

    Args:
        architecture: of the model card.
        precision: ``fp32``, ``fp16``, ``int8`` or ``int8-cpu``.
    """
    if precision not in WIDTHS:
        raise ValueError(f"precision: expected one of {', '.join(WIDTHS)}, found {precision!r}")
    layers, widths = list(layers_of(FTHNetConfig(**architecture))), WIDTHS[precision]
    image = 3 * IMAGE_SIZE**2
    return Work(
        precision,
        macs=sum(layer.macs for layer in layers),
        int8_macs=sum(layer.macs for layer in layers if layer.site) if precision.startswith("int8") else 0,
        weight_bytes=sum(layer.weights * (widths.site if layer.site else widths.other) for layer in layers),
        activation_bytes=image
        + sum(
            layer.read * (widths.site if layer.site else widths.other) + layer.written * widths.other
            for layer in layers
        ),
    )


def layers_of(config: FTHNetConfig) -> Iterator[Layer]:
    """All matrix products of the network for one image."""
    yield _product(config.grid(0) ** 2, 3 * PATCH_SIZE**2, config.embed_dim, read=0)  # the image is counted as bytes
    for stage in range(4):
        rows, dim = config.grid(stage) ** 2, config.stage_dim(stage)
        if stage:
            yield _product(rows, 2 * dim, dim, site=True)  # patch merging
        for _ in range(config.depths[stage]):
            yield _product(rows, dim, 3 * dim, site=True)
            yield Layer(2 * rows * config.window_size**2 * dim, 0, 3 * rows * dim, rows * dim)  # logits stay on chip
            yield _product(rows, dim, dim, site=True)
            yield _product(rows, dim, MLP_RATIO * dim, site=True)
            yield _product(rows, MLP_RATIO * dim, dim, site=True)
        yield from _tap(config, stage)
    yield from _hypernetwork(config)
    for layer in range(TARGET_LAYERS):
        width, out = config.target_width(layer), _target_out(config, layer)
        yield Layer(width * out, 0, width * out + width, out)  # its weights are the image's own


def _product(rows: int, inputs: int, outputs: int, *, site: bool = False, read: int | None = None) -> Layer:
    return Layer(
        rows * inputs * outputs, inputs * outputs, rows * inputs if read is None else read, rows * outputs, site
    )


def _tap(config: FTHNetConfig, stage: int) -> Iterator[Layer]:
    rows, dim = config.grid(stage) ** 2, config.stage_dim(stage)
    features = config.tap_channels if stage < 3 else config.target_in - 3 * config.tap_channels
    yield _product(rows, dim, dim // 8)
    yield _product(1, dim // 8 * (config.grid(stage) // config.window_size) ** 2, features)


def _hypernetwork(config: FTHNetConfig) -> Iterator[Layer]:
    area, last = config.window_size**2, TARGET_LAYERS - 1
    for level in range(TARGET_LAYERS):
        before = config.hyper_width(level - 1) if level else config.stage_dim(3)
        width, out = config.hyper_width(level), _target_out(config, level)
        yield _product(area, before, width, site=True)
        if level < last:
            generated = config.target_width(level) * out // area
            yield _product(area, 9 * width, generated, site=True, read=area * width)
            yield _product(1, width, out)
        else:
            yield _product(1, width * area, config.target_width(last))
            yield _product(1, width * area, 1)


def _target_out(config: FTHNetConfig, layer: int) -> int:
    return config.target_width(layer + 1) if layer < TARGET_LAYERS - 1 else 1


# Roofs


@dataclass(frozen=True)
class Peaks:
    """The roofs for one precision.

    Attributes:
        name: whose they are.
        tflops: tera-operations per second of what runs in floating point, dense.
        int8_tops: of what runs in INT8; None where that is not known.
        memory_gb_s: GB of 10⁹ bytes per second, read and written together.
    """

    name: str
    tflops: float
    int8_tops: float | None
    memory_gb_s: float


class Machine(Protocol):
    """Something that has peaks."""

    def peaks(self, precision: str) -> Peaks:
        """The roofs for a precision."""


@dataclass(frozen=True)
class Module:
    """Peaks of the GPU of a Jetson module, from `jetson_modules.json`.

    Attributes:
        name: as NVIDIA names it.
        int8_tops, fp16_tflops, fp32_tflops: dense; None where no figure was found.
        memory_gb_s: GB of 10⁹ bytes per second.
        gpu_mhz, memory_mhz: the clocks that the figures hold for.
        power_modes: the power modes that have these clocks.
        unread: figures whose source nobody here has read.
        notes: what makes the figures doubtful on this device.
    """

    name: str
    int8_tops: float | None
    fp16_tflops: float
    fp32_tflops: float
    memory_gb_s: float
    gpu_mhz: float
    memory_mhz: float
    power_modes: tuple[str, ...]
    unread: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def peaks(self, precision: str) -> Peaks:
        """The roofs for a precision: FP32 runs on the CUDA cores, the others on the Tensor cores."""
        floating = self.fp32_tflops if WIDTHS[precision].other == 4 else self.fp16_tflops
        return Peaks(self.name, floating, self.int8_tops, self.memory_gb_s)

    def at_clocks(self, gpu_mhz: float | None, memory_mhz: float | None) -> Module:
        """The same module where its clocks may not rise as high; None: not known, or no limit."""
        compute, memory = _share(gpu_mhz, self.gpu_mhz), _share(memory_mhz, self.memory_mhz)
        if compute == memory == 1:
            return self
        note = (
            f"scaled to limits of {self.gpu_mhz * compute:.0f} MHz (GPU) and {self.memory_mhz * memory:.0f} MHz "
            "(memory); a power mode that also switches off parts of the GPU lowers the peak further"
        )
        return replace(
            self,
            int8_tops=None if self.int8_tops is None else self.int8_tops * compute,
            fp16_tflops=self.fp16_tflops * compute,
            fp32_tflops=self.fp32_tflops * compute,
            memory_gb_s=self.memory_gb_s * memory,
            gpu_mhz=self.gpu_mhz * compute,
            memory_mhz=self.memory_mhz * memory,
            notes=(*self.notes, note),
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def modules() -> tuple[Module, ...]:
    """All modules of `jetson_modules.json`."""
    return tuple(_module(entry) for entry in _table()["modules"])


def module_of(device: Device) -> Module | None:
    """The Jetson module of a device, its peaks scaled down to the limits that its clocks have at present.

    The name in the device tree is the carrier board's firmware's: it can be wrong, and it does not tell 8 from
    16 GB, so the memory must fit too. Where the power mode is none that the figures hold for, a note says so.
    """
    found = [entry for entry in _table()["modules"] if _matches(entry, device)]
    if not found:
        return None
    least = min(entry["memory_gib"] for entry in found)
    found = [entry for entry in found if entry["memory_gib"] == least]
    exact = [entry for entry in found if device.power_mode in entry["power_modes"]]
    module = _module((exact or found)[0])
    if not exact:
        module = replace(
            module,
            notes=(
                *module.notes,
                f"the figures hold in {' or '.join(module.power_modes)}, "
                f"the power mode is {device.power_mode or 'not known'}",
            ),
        )
    gpu = [clock.maximum_mhz for clock in device.gpu_clocks if clock.maximum_mhz and "nvd" not in clock.name]
    memory = device.memory_clock.maximum_mhz if device.memory_clock else None
    return module.at_clocks(max(gpu, default=None), memory)


def _matches(entry: Mapping[str, Any], device: Device) -> bool:
    named = re.search(entry["model"], device.model or "") is not None
    fits = device.memory_total_mb is not None and device.memory_total_mb <= entry["memory_gib"] * GIB_MB
    return named and fits and (device.soc is None or device.soc in entry["soc"])


def _module(entry: Mapping[str, Any]) -> Module:
    figures = entry["figures"]
    values: dict[str, Any] = {name: None if figure is None else figure["value"] for name, figure in figures.items()}
    return Module(
        entry["name"],
        **values,
        gpu_mhz=entry["gpu_mhz"],
        memory_mhz=entry["memory_mhz"],
        power_modes=tuple(entry["power_modes"]),
        unread=tuple(name for name, figure in figures.items() if figure is not None and not figure["read"]),
        notes=(entry["note"],) if "note" in entry else (),
    )


def _table() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((files(__package__) / "jetson_modules.json").read_text(encoding="utf-8"))
    return content


def _share(limit_mhz: float | None, full_mhz: float) -> float:
    return 1.0 if limit_mhz is None or limit_mhz * SLACK >= full_mhz else limit_mhz / full_mhz


@dataclass(frozen=True)
class Ceilings:
    """What this CPU was measured to do at most.

    Attributes:
        library: whose products they are.
        threads: that it was given, as the kit gives them to a model.
        gflops, int8_gops: 10⁹ operations per second by product, named rows x in x out.
        memory_gb_s: a copy's bytes, read and written, by NumPy in as many threads.
        copied_mb: size of what was copied.
        cache_mb: the last-level cache; None where the system does not tell.
    """

    library: str
    threads: int
    gflops: Mapping[str, float]
    int8_gops: Mapping[str, float]
    memory_gb_s: float
    copied_mb: int
    cache_mb: int | None

    def peaks(self, precision: str) -> Peaks:
        """The roofs for a precision: a CPU runs FP16 as FP32."""
        name = f"this CPU ({self.library}, {self.threads} threads)"
        return Peaks(name, max(self.gflops.values()) / 1e3, max(self.int8_gops.values()) / 1e3, self.memory_gb_s)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def cpu_ceilings(threads: int, root: Path = ROOT) -> Ceilings:
    """Measure this CPU in under 3 s.

    The products are ONNX Runtime's own MatMul and MatMulInteger with constant weights, run as the kit runs a model:
    the ceiling is the library's on this machine, not the silicon's. NumPy's BLAS is another library with its own
    number of threads, so it would be the wrong one.
    """
    import onnxruntime

    cache_mb = last_cache_mb(root)
    copied_mb, memory_gb_s = copy_rate(threads, cache_mb, read_memory_mb(root, "MemAvailable"))
    rates = {
        kind: {"x".join(map(str, shape)): gemm_rate(kind, shape, threads) for shape in GEMMS}
        for kind in ("fp32", "int8")
    }
    library = f"ONNX Runtime {onnxruntime.__version__}"
    return Ceilings(library, threads, rates["fp32"], rates["int8"], memory_gb_s, copied_mb, cache_mb)


def gemm_rate(kind: str, shape: tuple[int, int, int], threads: int, seconds: float = GEMM_S) -> float:
    """10⁹ operations per second of one product in ONNX Runtime, best run."""
    import onnxruntime as ort

    rows, inputs, outputs = shape
    rng = np.random.default_rng(0)
    if kind == "int8":
        x, weight = rng.integers(0, 256, (rows, inputs), np.uint8), rng.integers(-127, 128, (inputs, outputs), np.int8)
    else:
        x, weight = (rng.standard_normal(size, np.float32) for size in ((rows, inputs), (inputs, outputs)))
    session = ort.InferenceSession(gemm_model(x, weight), session_options(threads), providers=["CPUExecutionProvider"])
    return 2e-9 * rows * inputs * outputs / _best(lambda: session.run(["y"], {"x": x}), seconds)


def copy_rate(threads: int, cache_mb: int | None, available_mb: int | None) -> tuple[int, float]:
    """MB that were copied at once, and 10⁹ bytes per second, read and written together, best run.

    Source and target together are larger than the last-level cache, unless that would take too long or too much.
    """
    least, most = COPY_MB
    size = max(least, min(most, (cache_mb or 0) * 5 // 8, (available_mb or 0) // 8))
    source, target = np.ones(size * MB, np.uint8), np.zeros(size * MB, np.uint8)
    parts = list(zip(np.array_split(source, threads), np.array_split(target, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        best = _best(lambda: list(pool.map(lambda part: np.copyto(part[1], part[0]), parts)), COPY_S)
    return size, 2e-9 * source.nbytes / best


def last_cache_mb(root: Path = ROOT) -> int | None:
    """Size of the first core's largest cache; a virtual machine may be told of more than it gets."""
    sizes = (line(folder / "size") for folder in entries(root / "sys/devices/system/cpu/cpu0/cache", "index*"))
    found = [re.fullmatch(r"([0-9]{1,9})K", size or "") for size in sizes]
    return max((int(size[1]) * 1024 // MB for size in found if size), default=None)


def _best(run: Callable[[], object], seconds: float) -> float:
    run()
    best, end = float("inf"), time.perf_counter() + seconds
    while (started := time.perf_counter()) < end or best == float("inf"):
        run()
        best = min(best, time.perf_counter() - started)
    return best


def gemm_model(x: npt.NDArray[Any], weight: npt.NDArray[Any]) -> bytes:
    """An ONNX model ``y = x @ weight`` with a constant weight, byte by byte: a device has no `onnx` package.

    Field numbers are those of onnx.proto: ModelProto ir_version 1, graph 7, opset_import 8; GraphProto node 1, name 2,
    initializer 5, input 11, output 12; NodeProto input 1, output 2, op_type 4; TensorProto dims 1, data_type 2,
    name 8, raw_data 9; ValueInfoProto name 1, type 2.
    """
    types = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6}
    integer = weight.dtype == np.int8
    node = b"".join((_part(1, b"x"), _part(1, b"w"), _part(2, b"y")))
    node += _part(4, b"MatMulInteger" if integer else b"MatMul")
    constant = b"".join(_number(1, size) for size in weight.shape)
    constant += _number(2, types[weight.dtype.name]) + _part(8, b"w") + _part(9, weight.tobytes())

    def value(name: bytes, kind: str, shape: tuple[int, ...]) -> bytes:
        dimensions = b"".join(_part(1, _number(1, size)) for size in shape)
        return _part(1, name) + _part(2, _part(1, _number(1, types[kind]) + _part(2, dimensions)))

    graph = _part(1, node) + _part(2, b"gemm") + _part(5, constant) + _part(11, value(b"x", x.dtype.name, x.shape))
    graph += _part(12, value(b"y", "int32" if integer else "float32", (x.shape[0], weight.shape[1])))
    return _number(1, 8) + _part(7, graph) + _part(8, _part(1, b"") + _number(2, 17))


def _varint(number: int) -> bytes:
    content = bytearray()
    while number > 127:
        content.append(number & 127 | 128)
        number >>= 7
    return bytes((*content, number))


def _number(field: int, number: int) -> bytes:
    return _varint(field << 3) + _varint(number)


def _part(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


# Both together


@dataclass(frozen=True)
class Roofline:
    """The least time that a machine's peaks allow.

    Attributes:
        compute_ms: all arithmetic at the peak rate.
        memory_ms: all bytes at the peak bandwidth. Activations that stay in a cache make it less.
        weights_ms: only the weights.
        intensity: operations per byte.
    """

    compute_ms: float
    memory_ms: float
    weights_ms: float
    intensity: float

    @property
    def floor_ms(self) -> float:
        """The higher roof."""
        return max(self.compute_ms, self.memory_ms)

    @property
    def bound(self) -> Literal["compute", "memory"]:
        """Which of the two it is."""
        return "compute" if self.compute_ms >= self.memory_ms else "memory"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "floor_ms": self.floor_ms, "bound": self.bound}


def estimate(work: Work, peaks: Peaks) -> Roofline:
    """The floor of some work under some peaks; INT8 counts at the floating-point rate where its own is unknown."""
    floating, int8 = work.macs - work.int8_macs, work.int8_macs
    moved = work.weight_bytes + work.activation_bytes
    return Roofline(
        compute_ms=2e-9 * (floating / peaks.tflops + int8 / (peaks.int8_tops or peaks.tflops)),
        memory_ms=1e-6 * moved / peaks.memory_gb_s,
        weights_ms=1e-6 * work.weight_bytes / peaks.memory_gb_s,
        intensity=work.flops / moved,
    )


@dataclass(frozen=True)
class Achieved:
    """A measured latency beside the floor.

    Attributes:
        machine: whose peaks were taken.
        median_ms: of one inference of one image.
        roofline: the floor.
        gflops: 10⁹ operations per second that were reached.
        share: of the floor: 1 is the roof; above 1, activations stayed in a cache or the peaks are too low.
        compute_share: of the arithmetic peak alone.
        sentence: what limits.
    """

    machine: str
    median_ms: float
    roofline: Roofline
    gflops: float
    share: float
    compute_share: float
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "roofline": self.roofline.to_dict()}


def achieved(work: Work, machine: Machine, median_ms: float) -> Achieved:
    """How much of a machine a measured inference uses.

    Args:
        work: of one image.
        machine: `cpu_ceilings` or `module_of`.
        median_ms: of one inference of one image, without preprocessing.
    """
    if not median_ms > 0:
        raise ValueError(f"median_ms: expected more than 0, found {median_ms}")
    peaks = machine.peaks(work.precision)
    roofline = estimate(work, peaks)
    return Achieved(
        peaks.name,
        median_ms,
        roofline,
        gflops=1e-6 * work.flops / median_ms,
        share=roofline.floor_ms / median_ms,
        compute_share=roofline.compute_ms / median_ms,
        sentence=_sentence(roofline, median_ms),
    )


def _sentence(roofline: Roofline, median_ms: float) -> str:
    share = roofline.floor_ms / median_ms
    floor = f"{share:.0%} of the floor's speed ({roofline.floor_ms:.3g} ms)"
    if share > 1:
        return f"limited by less than was counted: {floor}; activations stayed in a cache, or the peaks are too low"
    if share >= NEAR:
        roof = "arithmetic" if roofline.bound == "compute" else "memory bandwidth"
        return f"limited by {roof}: {floor}"
    return (
        f"limited by neither arithmetic nor memory bandwidth: {floor}; the rest is work between the products, starting "
        "kernels, layers in a wider precision, or clocks below the peak's"
    )


@dataclass(frozen=True)
class Row:
    """One line of the table of estimates.

    Attributes:
        module: name.
        precision: of the work.
        tflops: the peak taken, dense; that of INT8 in INT8.
        memory_gb_s: the bandwidth taken.
        roofline: the floor.
        at_20_percent_ms, at_10_percent_ms: at these shares of the arithmetic peak; Swin has been seen at about a tenth.
        unread: figures whose source nobody here has read.
        kind: that nothing of it was measured.
    """

    module: str
    precision: str
    tflops: float
    memory_gb_s: float
    roofline: Roofline
    at_20_percent_ms: float
    at_10_percent_ms: float
    unread: tuple[str, ...]
    kind: str = ESTIMATE

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "roofline": self.roofline.to_dict()}


def estimates(work: Work) -> list[Row]:
    """What the modules that the kit is written for could take, by their peaks alone."""
    known = {module.name: module for module in modules()}
    rows = []
    for name in TABLE:
        peaks = known[name].peaks(work.precision)
        roofline = estimate(work, peaks)
        rows.append(
            Row(
                name,
                work.precision,
                (peaks.int8_tops if work.int8_macs else None) or peaks.tflops,
                peaks.memory_gb_s,
                roofline,
                at_20_percent_ms=roofline.compute_ms / 0.2,
                at_10_percent_ms=roofline.compute_ms / 0.1,
                unread=known[name].unread,
            )
        )
    return rows
