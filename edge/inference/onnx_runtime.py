"""ONNX Runtime, the embedded default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from fthnet_kit.edge.device.cores import available_cores
from fthnet_kit.edge.errors import EngineError
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
from fthnet_kit.edge.inference.run_limit import RunLimit
from fthnet_kit.edge.model.model_file import ModelFile

if TYPE_CHECKING:
    import onnxruntime as ort

Provider = Literal["cpu", "cuda", "tensorrt"]
PROVIDERS: dict[Provider, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


def session_options(threads: int | None = None) -> ort.SessionOptions:
    """How the kit runs a graph on a CPU; default threads: `available_cores`."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or available_cores()
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leave the cores to the camera
    options.log_severity_level = 3
    return options


def provider_options(provider: Provider, cache: Path | None = None) -> dict[str, str]:
    """Options of an execution provider, by ONNX Runtime's documentation; not yet run on a GPU.

    The TensorRT provider takes the graph's own types, Q/DQ included, as long as its FP16 and INT8 switches are off.
    """
    if provider == "cpu":
        return {}
    if provider == "cuda":
        return {"use_tf32": "0"}  # ten bits of mantissa are not FP32
    caching = {"trt_fp16_enable": "False", "trt_int8_enable": "False"}
    if cache is not None:
        caching |= {
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": str(cache),
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": str(cache),
        }
    return caching


class OnnxBackend:
    """Runs `fthnet.*.onnx` in ONNX Runtime.

    Args:
        model: the graph, its content, or its file; ONNX Runtime gets bytes and never opens a file.
        provider: ``cpu``, ``cuda`` or ``tensorrt``; never replaced by another in silence.
        threads: for one inference on the CPU; default: all cores that the process may use.
        cache: folder in which the TensorRT provider keeps its engines; without one it builds at every start.
        longest_s: seconds that one image may take; ONNX Runtime is stopped then, and the call fails.

    Raises:
        EngineError: the provider is not there, or ONNX Runtime refuses the model.
    """

    def __init__(
        self,
        model: ModelFile | Path | bytes,
        provider: Provider = "cpu",
        threads: int | None = None,
        cache: Path | None = None,
        longest_s: float = LONGEST_S,
    ) -> None:
        import onnxruntime as ort

        if provider not in PROVIDERS:
            raise EngineError(f"provider: expected one of {', '.join(PROVIDERS)}, found {provider!r}")
        wanted = PROVIDERS[provider]
        if wanted not in ort.get_available_providers():
            raise EngineError(
                f"provider {provider}: expected {wanted} in this ONNX Runtime, found "
                f"{', '.join(ort.get_available_providers())}; install an ONNX Runtime built with it, "
                "or use the onnxruntime backend"
            )
        options = session_options(threads)
        graph = ModelFile.of(model)
        try:
            self._session: ort.InferenceSession | None = ort.InferenceSession(
                graph.content,
                options,
                providers=[(wanted, provider_options(provider, cache))],
            )
        except Exception as error:  # ONNX Runtime raises types of its own, without a common base
            raise EngineError(f"{graph.name}: ONNX Runtime refused the model: {one_line(error)}") from error
        if self._session.get_providers()[0] != wanted:
            found = self._session.get_providers()[0]
            raise EngineError(f"provider {provider}: expected {wanted}, ONNX Runtime fell back to {found}; see its log")
        self.batch = self._batch(graph.name)
        self._limit = RunLimit(longest_s * self.batch)
        self._facts = {
            "library": f"onnxruntime {ort.__version__}",
            "provider": wanted,
            "threads": str(options.intra_op_num_threads),
        }

    def _batch(self, model: str) -> int:
        """The graph's batch size; refuses graphs that are not ours."""
        assert self._session is not None
        return graph_batch(model, _tensors(self._session.get_inputs()), _tensors(self._session.get_outputs()))

    def infer(self, images: Image) -> npt.NDArray[np.float32]:
        """RGB uint8 (N, 384, 384, 3) -> score points float32 (N,), in chunks of the graph's batch size.

        Raises:
            EngineError: closed, wrong input, or ONNX Runtime failed.
        """
        if self._session is None:
            raise EngineError("this backend is closed; make a new one")
        check_images(images)
        return in_batches(images, self.batch, self._run)

    def _run(self, chunk: Image) -> npt.NDArray[np.float32]:
        assert self._session is not None
        with self._limit as options:
            try:
                (scores,) = self._session.run([OUTPUT_NAME], {INPUT_NAME: chunk}, options)
            except Exception as error:  # as above
                raise EngineError(f"ONNX Runtime failed while scoring: {one_line(error)}") from error
        return scores

    def stage_ms(self) -> Mapping[str, float]:
        """Nothing: ONNX Runtime runs as a whole."""
        return {}

    def describe(self) -> dict[str, str]:
        """Library, provider and threads."""
        return dict(self._facts)

    def close(self) -> None:
        """Release the session."""
        if self._session is not None:
            self._session = None
            self._limit.close()

    def __enter__(self) -> OnnxBackend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _tensors(declared: Sequence[ort.NodeArg]) -> list[Tensor]:
    """Name, numpy's name of the type, and shape."""
    kinds = {"float": "float32", "double": "float64"}
    found: list[Tensor] = []
    for tensor in declared:
        kind = tensor.type[7:-1]  # the inside of "tensor(…)"
        found.append((tensor.name, kinds.get(kind, kind), tensor.shape))
    return found
