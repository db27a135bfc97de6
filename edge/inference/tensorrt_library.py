"""The one door to TensorRT: which library is there, whether its version will do, and all that the kit uses of it.

`tensorrt` (JetPack, servers) and `tensorrt_rtx` (TensorRT for RTX) have the same interface. The kit keeps to the
part that is the same from 10.3 to 11.x: strongly typed networks, no precision flags, no calibrators.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from packaging.version import InvalidVersion, Version

from fthnet_kit.edge.errors import EngineError, MissingExtraError

LibraryName = Literal["tensorrt", "tensorrt_rtx"]
LIBRARIES: tuple[LibraryName, ...] = ("tensorrt", "tensorrt_rtx")
KEPT_MESSAGES = 10_000  # the newest; TensorRT may warn at each inference
LAYER_TABLE = "Layers:"  # what the message begins with in which a builder lists the layers of the engine it made
OLDEST = Version("10.3")  # JetPack 6.1; TensorRT for RTX counts its versions from 1.0

# Every attribute that the kit uses, by class; a test looks for each in TensorRT 10.3 to 11.x.
USED = {
    "": ("__version__",),
    "Builder": ("build_serialized_network", "create_builder_config", "create_network"),
    "BuilderFlag": ("TF32",),
    "IBuilderConfig": (
        "clear_flag",
        "create_timing_cache",
        "get_timing_cache",
        "profiling_verbosity",
        "progress_monitor",
        "set_memory_pool_limit",
        "set_timing_cache",
    ),
    "ICudaEngine": (
        "create_engine_inspector",
        "create_execution_context",
        "get_tensor_dtype",
        "get_tensor_mode",
        "get_tensor_name",
        "get_tensor_shape",
        "num_io_tensors",
    ),
    "DataType": ("BF16", "FLOAT", "HALF", "UINT8"),
    "EngineInspector": ("get_engine_information",),
    "IExecutionContext": ("execute_async_v3", "set_tensor_address"),
    "ILayer": ("get_input", "get_output", "name", "num_inputs", "num_outputs", "type"),
    "ILogger": ("ERROR", "WARNING"),
    "INetworkDefinition": ("get_input", "get_layer", "num_layers"),
    "IProgressMonitor": ("phase_finish", "phase_start", "step_complete"),
    "ITensor": ("dtype", "name", "shape"),
    "ITimingCache": ("serialize",),
    "LayerInformationFormat": ("JSON",),
    "LayerType": ("DEQUANTIZE", "MATRIX_MULTIPLY", "SOFTMAX"),
    "MemoryPoolType": ("WORKSPACE",),
    "NetworkDefinitionCreationFlag": ("STRONGLY_TYPED",),
    "OnnxParser": ("get_error", "num_errors", "parse"),
    "ParserError": ("desc", "node", "node_name", "node_operator"),
    "ProfilingVerbosity": ("DETAILED",),
    "Runtime": ("deserialize_cuda_engine",),
    "TensorIOMode": ("INPUT", "OUTPUT"),
}
USED_OF_RTX = {  # TensorRT for RTX alone: it builds for GPUs that are not there, and says what a CUDA graph can hold
    "BuilderFlag": ("REQUIRE_USER_ALLOCATION",),
    "ComputeCapability": ("SM75", "SM80", "SM86", "SM89", "SM120"),
    "IBuilderConfig": ("num_compute_capabilities", "set_compute_capability", "set_flag"),
    "IExecutionContext": ("is_stream_capturable",),
}


@dataclass(frozen=True)
class TensorRT:
    """An imported TensorRT.

    Attributes:
        module: `tensorrt` or `tensorrt_rtx`.
        name: which of them.
        version: as the library states it.
    """

    module: Any
    name: LibraryName
    version: Version

    @property
    def rtx(self) -> bool:
        """Whether this is TensorRT for RTX."""
        return self.name == "tensorrt_rtx"

    def compute_capabilities(self) -> dict[str, Any]:
        """What TensorRT for RTX builds for without a GPU, by name (`sm86`); nothing for `tensorrt`."""
        if not self.rtx:
            return {}
        members = self.module.ComputeCapability.__members__
        return {name.lower(): value for name, value in members.items() if name.startswith("SM")}

    def logger(self) -> Any:
        """A logger that prints nothing: it keeps warnings and errors (`errors_of`) and tables of layers (`tables`)."""

        class KeepingLogger(self.module.ILogger):  # type: ignore[name-defined,misc]
            def __init__(self) -> None:
                super().__init__()
                self.kept: deque[tuple[int, str]] = deque(maxlen=KEPT_MESSAGES)
                self.tables: list[str] = []

            def log(self, severity: Any, message: str) -> None:
                if int(severity) <= int(self.WARNING):
                    self.kept.append((int(severity), message))
                elif message.startswith(LAYER_TABLE):
                    self.tables.append(message)

        return KeepingLogger()


def errors_of(logger: Any) -> list[str]:
    """Error messages that a logger kept, in one line each."""
    return [" ".join(message.split()) for severity, message in logger.kept if severity <= int(logger.ERROR)]


def _version(module: Any) -> Version:
    try:
        return Version(str(module.__version__))
    except InvalidVersion as error:
        raise EngineError(
            f"{module.__name__}: expected a version such as {OLDEST}, found {module.__version__!r}"
        ) from error


def load_tensorrt(wanted: LibraryName | None = None) -> TensorRT:
    """Import TensorRT.

    Args:
        wanted: which library; default: `tensorrt`, otherwise `tensorrt_rtx`.

    Raises:
        MissingExtraError: neither is installed, or not the wanted one.
        EngineError: it cannot be loaded, or is older than 10.3.
    """
    for name in LIBRARIES if wanted is None else (wanted,):
        try:
            module = import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise EngineError(f"{name}: expected a complete installation, found none of {error.name}") from error
            continue
        except (ImportError, OSError, RuntimeError) as error:  # a library that it needs, or its driver
            raise EngineError(
                f"{name}: expected a TensorRT that loads, found {' '.join(str(error).split())}"
            ) from error
        if not hasattr(module, "__version__"):  # a mere folder of that name in the working directory
            continue
        version = _version(module)
        if name == "tensorrt" and version < OLDEST:
            raise EngineError(
                f"tensorrt: expected {OLDEST} or newer, found {version}; JetPack 6.1 is the first that brings it"
            )
        return TensorRT(module, name, version)
    raise MissingExtraError(
        wanted or "tensorrt",
        "tensorrt",
        purpose="building and running engines",
        install="on a Jetson it comes with JetPack (docs/jetson.md), elsewhere pip install "
        + ("tensorrt-rtx-cu13" if wanted == "tensorrt_rtx" else "tensorrt, or tensorrt-rtx-cu13"),
    )
