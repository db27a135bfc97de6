"""OpenVINO on a CPU: the kit's FP32 and INT8 graphs, in the arithmetic that they name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fthnet_kit.edge.device.cores import available_cores
from fthnet_kit.edge.errors import EngineError, MissingExtraError
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.inference.backend import (
    INPUT_NAME,
    LONGEST_S,
    OUTPUT_NAME,
    Tensor,
    check_images,
    graph_batch,
    in_batches,
    one_line,
)
from fthnet_kit.edge.model.model_file import ModelFile

if TYPE_CHECKING:
    import openvino

PRODUCTS = ("FullyConnected", "MatMul", "Convolution")  # OpenVINO's names of layers that multiply matrices
SHORT = {"i8": "int8", "u8": "int8", "f32": "fp32", "bf16": "bf16", "f16": "fp16"}


def compile_settings(threads: int | None = None, cache: Path | None = None) -> dict[str, Any]:
    """How the kit compiles a graph for a CPU.

    The precision is named because OpenVINO otherwise computes in bfloat16 where the processor has it, which moves
    scores by more than a point. Threads are not pinned to cores, which the camera and the page use too.
    """
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads or available_cores(),
        "ENABLE_CPU_PINNING": False,
    }
    return settings | ({} if cache is None else {"CACHE_DIR": str(cache)})


class OpenVinoBackend:
    """Runs `fthnet.fp32.onnx` and `fthnet.int8.onnx` in OpenVINO on the CPU.

    Args:
        model: the graph, its content, or its file; OpenVINO gets bytes and never opens a file.
        threads: for one inference; default: the processors that this process may use.
        cache: folder in which OpenVINO keeps compiled models, about 45 MB each, which shortens the next start by half
            a second; nothing checks what lies there, so there is none unless it is asked for.
        longest_s: seconds that one image may take; OpenVINO is stopped then, and the call fails.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        EngineError: OpenVINO refuses the model, or would compute in another precision than was asked for.
    """

    def __init__(
        self,
        model: ModelFile | Path | bytes,
        threads: int | None = None,
        cache: Path | None = None,
        longest_s: float = LONGEST_S,
    ) -> None:
        try:
            import openvino
        except ImportError as error:
            raise MissingExtraError("openvino", "openvino", purpose="the openvino backend") from error
        source = ModelFile.of(model)
        name = source.name
        core = openvino.Core()
        try:
            graph = core.read_model(source.content)
            _refuse_loops(name, graph)
            self.batch = graph_batch(name, _tensors(graph.inputs), _tensors(graph.outputs))  # before memory is taken
            compiled = core.compile_model(graph, "CPU", compile_settings(threads, cache))
        except RuntimeError as error:
            raise EngineError(f"{name}: OpenVINO refused the model: {one_line(error)}") from error
        self._limit_ms = round(1e3 * longest_s * self.batch)
        products = _products(compiled)
        if unasked := set(products) - {"fp32", "int8"}:
            raise EngineError(f"{name}: expected OpenVINO to compute in fp32 and int8, found {', '.join(unasked)}")
        self._facts = {
            "library": f"openvino {openvino.__version__.split('-', maxsplit=1)[0]}",
            "provider": "CPU",
            "threads": str(compiled.get_property("INFERENCE_NUM_THREADS")),
            "products": ", ".join(f"{products[kind]} {kind}" for kind in sorted(products)),
        }
        self._request: openvino.InferRequest | None = compiled.create_infer_request()

    def infer(self, images: Image) -> npt.NDArray[np.float32]:
        """RGB uint8 (N, 384, 384, 3) -> score points float32 (N,), in chunks of the graph's batch size.

        Raises:
            EngineError: closed, wrong input, or OpenVINO failed.
        """
        if self._request is None:
            raise EngineError("this backend is closed; make a new one")
        check_images(images)
        return in_batches(images, self.batch, self._run)

    def _run(self, chunk: Image) -> npt.NDArray[np.float32]:
        assert self._request is not None
        try:
            self._request.start_async({INPUT_NAME: chunk}, share_inputs=True)
            if not self._request.wait_for(self._limit_ms):
                self._request.cancel()
                raise EngineError(
                    f"OpenVINO was stopped after {self._limit_ms / 1e3:g} s of one inference; the graph or the machine "
                    "is not fit for live scoring"
                )
            self._request.wait()
            return np.array(self._request.results[OUTPUT_NAME])  # a copy: the request writes there again
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed while scoring: {one_line(error)}") from error

    def stage_ms(self) -> Mapping[str, float]:
        """Nothing: OpenVINO runs as a whole."""
        return {}

    def describe(self) -> dict[str, str]:
        """Library, device, threads, and the number of matrix products that were compiled in each precision."""
        return dict(self._facts)

    def close(self) -> None:
        """Release the compiled model."""
        self._request = None

    def __enter__(self) -> OpenVinoBackend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _refuse_loops(name: str, graph: openvino.Model) -> None:
    """Raises EngineError for a graph with loops, in which OpenVINO cannot be stopped; FTHNet has none."""
    kinds = {operator.get_type_name() for operator in graph.get_ops()}
    if found := kinds & {"Loop", "TensorIterator"}:
        raise EngineError(f"{name}: expected a graph without loops, found {', '.join(sorted(found))}")


def _tensors(declared: Sequence[openvino.Output]) -> list[Tensor]:
    """Name, numpy's name of the type, and shape; axes without a fixed length as text."""
    found: list[Tensor] = []
    for tensor in declared:
        shape = [axis.get_length() if axis.is_static else str(axis) for axis in tensor.partial_shape]
        found.append((tensor.any_name, tensor.element_type.to_dtype().name, shape))
    return found


def _products(compiled: openvino.CompiledModel) -> Counter[str]:
    """Number of matrix products by the precision in which they run."""
    found: Counter[str] = Counter()
    for layer in compiled.get_runtime_model().get_ops():
        facts = layer.get_rt_info()
        if "layerType" in facts and facts["layerType"].astype(str) in PRODUCTS:
            precision = facts["runtimePrecision"].astype(str)
            found[SHORT.get(precision, precision)] += 1
    return found
