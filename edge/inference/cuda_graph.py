"""A CUDA graph: the work of a stream, recorded once and launched with one call. By ctypes: pycuda has no graphs.

Calls and capture mode as in NVIDIA's CUDA driver API (11.4 or newer) and TensorRT samples (`sampleDevice.h`): what is
recorded must have run once before, so that it no longer allocates, and is never synchronised while it is recorded.
Like all CUDA objects a graph is made, launched and closed in its context.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from fthnet_kit.edge.errors import EngineError

THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: what other threads do with the GPU does not spoil the capture
WITHOUT = "the engine runs without cuda_graph, too"
POINTER, POINTER_TO = ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)
CALLS = {
    "cuStreamBeginCapture_v2": (POINTER, ctypes.c_int),
    "cuStreamEndCapture": (POINTER, POINTER_TO),
    "cuGraphInstantiateWithFlags": (POINTER_TO, POINTER, ctypes.c_ulonglong),
    "cuGraphLaunch": (POINTER, POINTER),
    "cuGraphExecDestroy": (POINTER,),
    "cuGraphDestroy": (POINTER,),
    "cuGetErrorString": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
}


class CudaGraph:
    """What `enqueue` puts into a stream.

    Args:
        stream: handle of the stream.
        enqueue: puts the work into the stream, or raises.

    Raises:
        EngineError: the driver has no graphs, or the work cannot be recorded.
    """

    def __init__(self, stream: int, enqueue: Callable[[], None]) -> None:
        self._stream = stream
        self._graph, self._executable = POINTER(), POINTER()
        try:
            self._driver = ctypes.CDLL("libcuda.so.1")  # the one that pycuda has loaded
            for name, types in CALLS.items():
                getattr(self._driver, name).argtypes = types
        except (OSError, AttributeError) as error:
            raise EngineError(f"CUDA graph: expected CUDA 11.4 or newer, found {error}; {WITHOUT}") from error
        try:
            self._record(enqueue)
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(self._executable), self._graph, 0)
        except BaseException:
            self.close()
            raise

    def _record(self, enqueue: Callable[[], None]) -> None:
        end = ("cuStreamEndCapture", self._stream, ctypes.byref(self._graph))
        self._call("cuStreamBeginCapture_v2", self._stream, THREAD_LOCAL)
        try:
            enqueue()
        except Exception as error:
            with suppress(EngineError):
                self._call(*end)  # a stream that goes on recording is of no use
            raise EngineError(f"CUDA graph: not recorded: {error}; {WITHOUT}") from error
        self._call(*end)

    def launch(self) -> None:
        """Put the recorded work into the stream."""
        self._call("cuGraphLaunch", self._executable, self._stream)

    def close(self) -> None:
        """Release the graph; a second call does nothing. What cannot be released goes with the context."""
        for name, handle in (("cuGraphExecDestroy", self._executable), ("cuGraphDestroy", self._graph)):
            if handle:
                with suppress(EngineError):
                    self._call(name, handle)
        self._graph, self._executable = POINTER(), POINTER()

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorString(code, ctypes.byref(text))
            problem = (text.value or f"error {code}".encode()).decode()
            raise EngineError(f"CUDA graph: {name} failed: {problem}; {WITHOUT}")
