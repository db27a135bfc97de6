"""Runs a TensorRT engine: one execution context, one stream, buffers allocated once.

Calls as NVIDIA's documentation gives them (TensorRT 10 and 11, "Perform inference"; pycuda, "Device interface").
Not yet run on a GPU: the tests run the real pycuda on a stand-in for the CUDA driver, and a stand-in for TensorRT.
"""

from __future__ import annotations

import itertools
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from fthnet_kit.edge.backend import INPUT_NAME, OUTPUT_NAME, check_images, in_batches
from fthnet_kit.edge.cuda_memory import Gpu
from fthnet_kit.edge.errors import EngineError
from fthnet_kit.edge.preprocess import INPUT, Image
from fthnet_kit.edge.tensorrt_library import TensorRT, errors_of


class TrtBackend:
    """Runs an engine in TensorRT.

    After a CUDA error the next call makes context and buffers anew, once; after a second error in a row without a
    score between them every call fails at once.

    Args:
        content: the engine, as `engine_manifest.load_engine` has checked it.
        tensorrt: the library that built it.
        gpu: index of the GPU.

    Raises:
        MissingExtraError: pycuda is not installed.
        EngineError: no GPU, or TensorRT refuses the engine.
    """

    def __init__(self, content: bytes, tensorrt: TensorRT, gpu: int = 0) -> None:
        self._content = content
        self._tensorrt = tensorrt
        self._gpu_index = gpu
        self._failures = 0
        self._closed = False
        self._inside: _Inside | None = _Inside(content, tensorrt, gpu)
        self.batch = self._inside.batch
        self._facts = self._inside.facts()
        self._stage_ms: dict[str, float] = {}

    def infer(self, images: Image) -> npt.NDArray[np.float32]:
        """RGB uint8 (N, 384, 384, 3) -> score points float32 (N,), in chunks of the engine's batch size.

        Raises:
            EngineError: closed, wrong input, or CUDA or TensorRT failed.
        """
        if self._closed:
            raise EngineError("this backend is closed; make a new one")
        check_images(images)
        inside = self._recovered()
        self._stage_ms = {}
        try:
            scores = in_batches(images, self.batch, lambda chunk: self._timed(inside, chunk))
        except (inside.gpu.error, EngineError) as error:
            self._failures += 1
            self._inside = None
            traceback.clear_frames(error.__traceback__)  # they hold the stream
            inside.close()
            raise EngineError(f"TensorRT failed while scoring: {' '.join(str(error).split())}") from error
        self._failures = 0
        return scores

    def _recovered(self) -> _Inside:
        if self._inside is None:
            if self._failures > 1:
                raise EngineError("the GPU failed twice in a row; restart the process, or the machine")
            try:
                self._inside = _Inside(self._content, self._tensorrt, self._gpu_index)
            except EngineError:
                self._failures += 1
                raise
        return self._inside

    def _timed(self, inside: _Inside, chunk: Image) -> npt.NDArray[np.float32]:
        scores, stages = inside.run(chunk)
        for name, ms in stages.items():
            self._stage_ms[name] = self._stage_ms.get(name, 0.0) + ms
        return scores

    def stage_ms(self) -> Mapping[str, float]:
        """Milliseconds of the latest `infer`, in trtexec's terms: h2d, gpu_compute, d2h, and enqueue on the host."""
        return dict(self._stage_ms)

    def describe(self) -> dict[str, str]:
        """Library, GPU and batch size."""
        return dict(self._facts)

    def close(self) -> None:
        """Release everything; a second call does nothing."""
        self._closed = True
        inside, self._inside = self._inside, None
        if inside is not None:
            inside.close()

    def __enter__(self) -> TrtBackend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Inside:
    """Engine, execution context, stream and buffers: what is thrown away as a whole after an error."""

    def __init__(self, content: bytes, tensorrt: TensorRT, gpu: int) -> None:
        self.gpu = Gpu(gpu)
        self._tensorrt = tensorrt
        self._logger = tensorrt.logger()
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._stream: Any = None
        self._marks: list[Any] = []
        try:
            with self.gpu:
                self._open(content)
        except self.gpu.error as error:
            self.close()
            raise EngineError(f"CUDA failed while the engine was loaded: {' '.join(str(error).split())}") from error
        except BaseException:
            self.close()
            raise

    def _open(self, content: bytes) -> None:
        trt = self._tensorrt.module
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(content)
        self._check(self._engine, "could not load the engine")
        self.batch = self._check_contract()
        self._context = self._engine.create_execution_context()
        self._check(self._context, "could not make an execution context, often for want of memory")
        self._stream = self.gpu.stream()
        self._marks = [self.gpu.event() for _ in range(4)]
        self._input = self.gpu.pair((self.batch, INPUT, INPUT, 3), np.uint8)
        self._output = self.gpu.pair((self.batch,), np.float32)
        for name, pair in ((INPUT_NAME, self._input), (OUTPUT_NAME, self._output)):
            self._check(self._context.set_tensor_address(name, pair.address) or None, f"took no address for {name}")

    def _check(self, answer: Any, problem: str) -> None:
        if answer is None:
            raise EngineError(f"TensorRT {problem}: {'; '.join(errors_of(self._logger)[-3:]) or 'no reason given'}")

    def _check_contract(self) -> int:
        """The engine's batch size; refuses engines that are not ours."""
        trt, engine = self._tensorrt.module, self._engine
        found = {}
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            mode, dtype = engine.get_tensor_mode(name), engine.get_tensor_dtype(name)
            found[name] = (mode, dtype, tuple(engine.get_tensor_shape(name)))
        batch = (found[INPUT_NAME][2] or (0,))[0] if INPUT_NAME in found else 0
        ours = {
            INPUT_NAME: (trt.TensorIOMode.INPUT, trt.DataType.UINT8, (batch, INPUT, INPUT, 3)),
            OUTPUT_NAME: (trt.TensorIOMode.OUTPUT, trt.DataType.FLOAT, (batch,)),
        }
        if found != ours or batch < 1:
            raise EngineError(
                f"engine: expected image UINT8 [N, {INPUT}, {INPUT}, 3] and score FLOAT [N], found {found}"
            )
        return int(batch)

    def run(self, chunk: Image) -> tuple[npt.NDArray[np.float32], dict[str, float]]:
        """Scores of one batch, and the duration of each stage in ms."""
        driver, stream, marks = self.gpu.driver, self._stream, self._marks
        np.copyto(self._input.host, chunk)
        with self.gpu:
            marks[0].record(stream)
            driver.memcpy_htod_async(self._input.device, self._input.host, stream)
            marks[1].record(stream)
            began = time.perf_counter()
            accepted = self._context.execute_async_v3(stream.handle)
            enqueue = time.perf_counter() - began
            marks[2].record(stream)
            driver.memcpy_dtoh_async(self._output.host, self._output.device, stream)
            marks[3].record(stream)
            stream.synchronize()  # before anything is read, and before an error could free what is in use
            self._check(accepted or None, "refused to run")
            h2d, compute, d2h = (one.time_till(next_) for one, next_ in itertools.pairwise(marks))
        stages = {"h2d": h2d, "gpu_compute": compute, "d2h": d2h, "enqueue": 1e3 * enqueue}
        return self._output.host.copy(), stages

    def facts(self) -> dict[str, str]:
        return {
            "library": f"{self._tensorrt.name} {self._tensorrt.version}",
            "provider": f"{self.gpu.name}, compute capability {self.gpu.compute_capability}",
            "threads": "1",
        }

    def close(self) -> None:
        """TensorRT's objects first, in the context that they live in, then the memory that they were given."""
        with suppress(self.gpu.error, EngineError), self.gpu:
            self._context = None
            self._engine = None
            self._runtime = None
        self._stream, self._marks = None, []
        self.gpu.close()
