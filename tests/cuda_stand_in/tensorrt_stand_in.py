"""The few calls of TensorRT that TrtBackend makes, on the CUDA stand-in: an "engine" whose score is a mean.

It proves nothing about TensorRT: no network is parsed, built or run, and what the real library accepts is for a machine
with a GPU to say. It proves that TrtBackend keeps to the rules that TensorRT's documentation gives: a CUDA context is
current at every call, addresses are set before the first run, nothing runs while its objects go, and these go in order:
execution context, engine, runtime, and only then the memory that they were given.

    trt = make_tensorrt()
    backend = TrtBackend(plan(batch=3), trt)
    ...
    print(trt.module.violations, trt.module.calls)
"""

from __future__ import annotations

import json
import weakref
from enum import Enum, IntEnum
from typing import Any

import stand_in
from packaging.version import Version

from fthnet_kit.edge.inference.tensorrt_library import TensorRT

SIDE = 384
MAGIC = b"stand-in engine:"


def plan(batch: int = 1, factor: float = 1.0, **changed: object) -> bytes:
    """An "engine": score = factor * mean of the image. `changed` replaces what a tensor is: image=("OUTPUT", …)."""
    tensors = {"image": ("INPUT", "UINT8", (batch, SIDE, SIDE, 3)), "score": ("OUTPUT", "FLOAT", (batch,)), **changed}
    present = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    return MAGIC + json.dumps({"tensors": present, "factor": factor}).encode()


class Module:
    """What `import tensorrt` would give.

    Attributes:
        calls: every call in order, "Runtime" for a construction, "~ICudaEngine" for a destruction.
        violations: rules that were broken.
    """

    DataType = Enum("DataType", "FLOAT HALF INT8 UINT8")
    TensorIOMode = Enum("TensorIOMode", "NONE INPUT OUTPUT")

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.violations: list[str] = []
        self._faults: dict[str, list[Any]] = {}

    def fail(self, call: str, answer: Any = None, skip: int = 0) -> None:
        """Lets a call answer that (an exception: raise it), after `skip` that succeed."""
        self._faults.setdefault(call, []).extend([...] * skip + [answer])

    def enter(self, call: str) -> Any:
        """Opens every call; the answer of a fault, else Ellipsis."""
        self.calls.append(call)
        if not stand_in.context_depth():
            self.violations.append(f"{call}: no current context")
        faults = self._faults.get(call)
        answer = faults.pop(0) if faults else ...
        if isinstance(answer, Exception):
            raise answer
        return answer

    def leave(self, name: str, live_children: weakref.WeakSet[Any]) -> None:
        """Opens every destruction."""
        self.enter(f"~{name}")
        if len(live_children):
            self.violations.append(f"~{name}: before what it made")
        if stand_in.kernels_waiting():
            self.violations.append(f"~{name}: while a kernel runs")

    class ILogger:
        Severity = IntEnum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE", start=0)
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity

        def log(self, severity: Any, message: str) -> None:
            raise NotImplementedError

    def Runtime(self, logger: Any) -> Runtime:  # noqa: N802
        self.enter("Runtime")
        return Runtime(self, logger)


class Runtime:
    def __init__(self, module: Module, logger: Any) -> None:
        self.module = module
        self.logger = weakref.ref(logger)
        self.engines: weakref.WeakSet[Any] = weakref.WeakSet()

    def log(self, message: str) -> None:
        logger = self.logger()
        if logger is None:
            self.module.violations.append("the logger went before the runtime")
        else:
            logger.log(logger.ERROR, message)

    def deserialize_cuda_engine(self, content: bytes) -> ICudaEngine | None:
        answer = self.module.enter("deserialize_cuda_engine")
        if answer is not ...:
            return answer
        if not content.startswith(MAGIC):
            self.log("IRuntime::deserializeCudaEngine: Error Code 1: Serialization\n (magic tag does not match)")
            return None
        engine = ICudaEngine(self, **json.loads(content[len(MAGIC) :]))
        self.engines.add(engine)
        return engine

    def __del__(self) -> None:
        self.module.leave("Runtime", self.engines)
        self.log("the runtime is gone")


class ICudaEngine:
    def __init__(self, runtime: Runtime, tensors: dict[str, Any], factor: float) -> None:
        self.module = runtime.module
        self.runtime = weakref.ref(runtime)
        self.tensors = tensors
        self.factor = factor
        self.contexts: weakref.WeakSet[Any] = weakref.WeakSet()

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return self.module.TensorIOMode[self.tensors[name][0]]

    def get_tensor_dtype(self, name: str) -> Any:
        return self.module.DataType[self.tensors[name][1]]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name][2])

    def create_execution_context(self) -> IExecutionContext | None:
        answer = self.module.enter("create_execution_context")
        if answer is not ...:
            return answer
        context = IExecutionContext(self)
        self.contexts.add(context)
        return context

    def __del__(self) -> None:
        self.module.leave("ICudaEngine", self.contexts)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self.module = engine.module
        self.engine = weakref.ref(engine)
        self.batch = engine.tensors["image"][2][0]
        self.factor = engine.factor
        self.addresses: dict[str, int] = {}

    def set_tensor_address(self, name: str, address: int) -> bool:
        answer = self.module.enter("set_tensor_address")
        self.check_addresses(address)
        self.addresses[name] = address
        return True if answer is ... else answer

    def is_stream_capturable(self, stream_handle: int) -> bool:
        """As TensorRT for RTX; TensorRT itself has no such call."""
        answer = self.module.enter("is_stream_capturable")
        return True if answer is ... else answer

    def execute_async_v3(self, stream_handle: int) -> bool:
        answer = self.module.enter("execute_async_v3")
        if self.engine() is None:
            self.module.violations.append("execute_async_v3: the engine is gone")
        if set(self.addresses) != {"image", "score"}:
            self.module.violations.append("execute_async_v3: before all addresses were set")
        if answer is not ...:
            return answer
        image, score = self.addresses["image"], self.addresses["score"]
        return not stand_in.launch_mean(stream_handle, score, image, self.batch, SIDE * SIDE * 3, self.factor)

    def check_addresses(self, *addresses: int) -> None:
        if not all(map(stand_in.holds, addresses)):
            self.module.violations.append(f"{self.module.calls[-1]}: an address outside of device memory")

    def __del__(self) -> None:
        self.module.leave("IExecutionContext", weakref.WeakSet())
        self.check_addresses(*self.addresses.values())


def make_tensorrt() -> TensorRT:
    """A TensorRT 10.3 of its own: its calls and faults are in `module`."""
    return TensorRT(Module(), "tensorrt", Version("10.3"))
