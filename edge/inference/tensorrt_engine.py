"""Runs a TensorRT engine: one execution context, one stream, buffers allocated once.

Calls as NVIDIA's documentation gives them (TensorRT 10 and 11, "Perform inference"; pycuda, "Device interface").
Not yet run on a GPU: the tests run the real pycuda on a stand-in for the CUDA driver, and a stand-in for TensorRT.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from fthnet_kit.edge.errors import EngineError
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.inference.backend import INPUT_NAME, LONGEST_S, OUTPUT_NAME, check_images, in_batches
from fthnet_kit.edge.inference.cuda_graph import WITHOUT, CudaGraph
from fthnet_kit.edge.inference.cuda_memory import Gpu, let_go
from fthnet_kit.edge.inference.tensorrt_library import TensorRT, errors_of
from fthnet_kit.edge.model.preprocess import INPUT

SPIN_S = 0.02  # a run that takes longer is waited for with pauses
PAUSE_S = 0.0005


class StuckGpuError(EngineError):
    """What runs on the GPU does not end. CUDA cannot stop it; only the end of the process does."""


class TrtBackend:
    """Runs an engine in TensorRT.

    After an error the next call makes context and buffers anew, once; after a second error in a row without a score
    between them every call fails at once.

    Args:
        content: the engine, as `engine_manifest.load_engine` has checked it.
        tensorrt: the library that built it.
        gpu: index of the GPU.
        cuda_graph: launch the network as one CUDA graph, which spares the CPU the launch of each kernel.
        longest_s: seconds that one image may take; the call fails then.

    Raises:
        MissingExtraError: pycuda is not installed.
        EngineError: no GPU, or TensorRT refuses the engine, or CUDA the graph.
    """

    def __init__(
        self,
        content: bytes,
        tensorrt: TensorRT,
        gpu: int = 0,
        cuda_graph: bool = False,
        longest_s: float = LONGEST_S,
    ) -> None:
        self._open = partial(_Inside, content, tensorrt, gpu, cuda_graph, longest_s)
        self._inside: _Inside | None = self._open()
        self.batch = self._inside.batch
        self._facts = self._inside.facts
        self._stage_ms: dict[str, float] = {}
        self._failures = 0
        self._stuck = False
        self._closed = False

    def infer(self, images: Image) -> npt.NDArray[np.float32]:
        """RGB uint8 (N, 384, 384, 3) -> score points float32 (N,), in chunks of the engine's batch size.

        Raises:
            EngineError: closed, wrong input, or CUDA or TensorRT failed.
        """
        if self._closed:
            raise EngineError("this backend is closed; make a new one")
        check_images(images)
        if self._stuck:
            raise EngineError("a run on the GPU did not end; restart the process, or the machine")
        if self._failures > 1:
            raise EngineError("the GPU failed twice in a row; restart the process, or the machine")
        self._stage_ms = {}
        try:
            inside = self._inside = self._inside or self._open()
            with inside.working("scoring"):
                scores = in_batches(images, self.batch, lambda chunk: inside.run(chunk, self._stage_ms))
        except StuckGpuError:
            self._stuck, self._inside = True, None
            raise
        except BaseException:
            self._failures += 1
            self._release()
            raise
        self._failures = 0
        return scores

    def stage_ms(self) -> Mapping[str, float]:
        """Milliseconds of the latest `infer`, in trtexec's terms: h2d, gpu_compute, d2h, and enqueue on the host."""
        return dict(self._stage_ms)

    def describe(self) -> dict[str, str]:
        """Library and GPU."""
        return dict(self._facts)

    def close(self) -> None:
        """Release everything; a second call does nothing."""
        self._closed = True
        self._release()

    def _release(self) -> None:
        inside, self._inside = self._inside, None
        if inside is not None:
            inside.close()

    def __enter__(self) -> TrtBackend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_STUCK: list[_Inside] = []  # kept until the process ends: letting go of their memory would wait for the GPU


class _Inside:
    """Engine, execution context, stream and buffers. Any error in it releases all of it."""

    def __init__(self, content: bytes, tensorrt: TensorRT, gpu: int, cuda_graph: bool, longest_s: float) -> None:
        self.gpu = Gpu(gpu)
        self._longest_s = longest_s
        self._trt = tensorrt.module
        self._logger = tensorrt.logger()
        nothing: Any = None
        self._runtime = self._engine = self._context = self._stream = nothing
        self._graph: CudaGraph | None = None
        self._marks: list[Any] = []
        with self.working("loading the engine"):
            self._load(content)
            if cuda_graph:
                self._graph = self._record()
            provider = f"{self.gpu.name}, compute capability {self.gpu.compute_capability}"
            provider += ", CUDA graph" if cuda_graph else ""
            self.facts = {"library": f"{tensorrt.name} {tensorrt.version}", "provider": provider, "threads": "1"}

    @contextmanager
    def working(self, what: str) -> Iterator[None]:
        """In the GPU's context; an error becomes an EngineError once everything is released."""
        outer = sys.exc_info()[1]
        try:
            with self.gpu:
                yield
        except StuckGpuError:
            _STUCK.append(self)
            raise
        except BaseException as error:
            let_go(error, outer)
            self.close()
            if isinstance(error, EngineError) or not isinstance(error, Exception):
                raise
            failed = "CUDA" if isinstance(error, self.gpu.error) else "TensorRT"
            raise EngineError(f"{failed} failed while {what}: {' '.join(str(error).split())}") from error

    def _load(self, content: bytes) -> None:
        self._runtime = self._trt.Runtime(self._logger)
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
        trt, engine = self._trt, self._engine
        found = {
            name: (engine.get_tensor_mode(name), engine.get_tensor_dtype(name), tuple(engine.get_tensor_shape(name)))
            for name in map(engine.get_tensor_name, range(engine.num_io_tensors))
        }
        batch = (found[INPUT_NAME][2] or (0,))[0] if INPUT_NAME in found else 0
        ours = {
            INPUT_NAME: (trt.TensorIOMode.INPUT, trt.DataType.UINT8, (batch, INPUT, INPUT, 3)),
            OUTPUT_NAME: (trt.TensorIOMode.OUTPUT, trt.DataType.FLOAT, (batch,)),
        }
        if found != ours or batch < 1:
            raise EngineError(f"engine: expected image UINT8 [N, {INPUT}, {INPUT}, 3], score FLOAT [N]; found {found}")
        return int(batch)

    def _record(self) -> CudaGraph:
        """The network as a CUDA graph. TensorRT for RTX can be asked whether it can be one, TensorRT cannot."""
        capturable = getattr(self._context, "is_stream_capturable", None)
        if capturable is not None and not capturable(self._stream.handle):
            raise EngineError(
                "CUDA graph: TensorRT says that this engine cannot be recorded, for it takes memory while it runs; "
                f"build it anew with `fthnet build`; {WITHOUT}"
            )
        self._enqueue()  # TensorRT allocates what it needs in its first run
        self._stream.synchronize()
        return CudaGraph(self._stream.handle, self._enqueue)

    def _enqueue(self) -> None:
        self._check(self._context.execute_async_v3(self._stream.handle) or None, "refused to run")

    def run(self, chunk: Image, stage_ms: dict[str, float]) -> npt.NDArray[np.float32]:
        """Scores of one batch, inside `working`; adds the duration of each stage."""
        driver, stream, marks = self.gpu.driver, self._stream, self._marks
        np.copyto(self._input.host, chunk)
        marks[0].record(stream)
        driver.memcpy_htod_async(self._input.device, self._input.host, stream)
        marks[1].record(stream)
        began = time.perf_counter()
        if self._graph is None:
            self._enqueue()
        else:
            self._graph.launch()
        enqueue = 1e3 * (time.perf_counter() - began)
        marks[2].record(stream)
        driver.memcpy_dtoh_async(self._output.host, self._output.device, stream)
        marks[3].record(stream)
        self._wait_for(marks[3])
        stream.synchronize()
        on_gpu = (one.time_till(next_) for one, next_ in itertools.pairwise(marks))
        for name, ms in zip(("h2d", "gpu_compute", "d2h", "enqueue"), (*on_gpu, enqueue), strict=True):
            stage_ms[name] = stage_ms.get(name, 0.0) + ms
        return self._output.host.copy()

    def _wait_for(self, mark: Any) -> None:
        """Wait until the GPU has come to a mark; at once again for what is fast, then with pauses."""
        longest_s = self._longest_s * self.batch
        began = time.monotonic()
        while not mark.query():
            waited = time.monotonic() - began
            if waited > longest_s:
                raise StuckGpuError(
                    f"TensorRT did not end within {longest_s:g} s of one inference; the engine or the GPU is not fit "
                    "for live scoring; restart the process"
                )
            time.sleep(0.0 if waited < SPIN_S else PAUSE_S)

    def close(self) -> None:
        """Release everything, in its context: nothing runs any more, then TensorRT's objects, then their memory."""
        with suppress(self.gpu.error, EngineError), self.gpu:
            if self._stream is not None:
                with suppress(self.gpu.error):
                    self._stream.synchronize()
            if self._graph is not None:
                self._graph.close()
            self._graph = self._context = self._engine = self._runtime = None
        self._stream, self._marks = None, []
        self.gpu.close()
