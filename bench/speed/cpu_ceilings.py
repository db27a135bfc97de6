"""What this CPU does at most, measured."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fthnet_kit.bench.speed.jetson_modules import MB
from fthnet_kit.bench.speed.peaks import Peaks
from fthnet_kit.edge.device.sensors import read_memory_mb
from fthnet_kit.edge.device.sysfs import ROOT, entries, line
from fthnet_kit.edge.inference.onnx_runtime import session_options

GEMMS = ((9216, 128, 32), (576, 256, 1024), (1024, 1024, 1024))  # rows, in, out; two of FTHNet's and a large one
GEMM_S = 0.12  # for each
COPY_S = 0.4
COPY_MB = (64, 256)  # least and most to copy at once


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
    """Size of the first core's largest cache; a virtual machine may report more than it gets."""
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
