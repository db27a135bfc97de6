"""Which backend runs a bundle: TensorRT where there is an engine for this GPU, ONNX Runtime anywhere."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from fthnet_kit.edge.errors import EngineError, InputError, KitError
from fthnet_kit.edge.files import make_folder
from fthnet_kit.edge.inference.backend import Backend
from fthnet_kit.edge.inference.cuda_memory import Gpu
from fthnet_kit.edge.inference.engine_manifest import ENGINES, Target, load_engine
from fthnet_kit.edge.inference.onnx_runtime import OnnxBackend, Provider
from fthnet_kit.edge.inference.pick import pick_file, picked
from fthnet_kit.edge.inference.tensorrt_library import LIBRARIES, LibraryName, TensorRT, load_tensorrt
from fthnet_kit.edge.model.bundle import Bundle
from fthnet_kit.edge.model.choices import BACKENDS, BackendName, Precision

PROVIDER_OF: dict[BackendName, Provider] = {
    "onnxruntime": "cpu",
    "onnxruntime-cuda": "cuda",
    "onnxruntime-tensorrt": "tensorrt",
}
logger = logging.getLogger(__name__)


def open_backend(
    bundle: Bundle,
    precision: Precision = "auto",
    backend: BackendName = "auto",
    threads: int | None = None,
    *,
    cuda_graph: bool = False,
    pick: Path | None = None,
) -> Backend:
    """What runs a bundle on this machine.

    Args:
        bundle: an opened bundle.
        precision: ``auto`` is FP16 on TensorRT and FP32 on ONNX Runtime.
        backend: ``auto`` with precision ``auto`` takes what `fthnet bench pick` measured to be the fastest here.
            Otherwise TensorRT where the bundle has an engine of the precision, and else ONNX Runtime on the CPU; an
            engine that must not run here is said in a warning. No other choice is ever replaced.
        threads: of one inference on the CPU; default: `available_cores`.
        cuda_graph: on TensorRT, launch the network as one CUDA graph; nothing to ONNX Runtime.
        pick: file of `fthnet bench pick`; default: the user's (`pick_file`).

    Raises:
        BundleError: the bundle has no graph of that precision.
        EngineError: the backend is not there, or refuses.
        MissingExtraError: TensorRT, pycuda or OpenVINO is asked for and not installed.
    """
    if backend not in BACKENDS:
        raise EngineError(f"backend: expected one of {', '.join(BACKENDS)}, found {backend!r}")
    if backend == precision == "auto":
        backend, precision, threads = as_picked(bundle, threads, pick)
    if backend == "tensorrt":
        return open_tensorrt(bundle, precision, cuda_graph=cuda_graph)
    if backend == "auto":
        if any((bundle.folder / ENGINES).glob(f"*/fthnet.{engine_precision(precision)}.engine")):
            try:
                return open_tensorrt(bundle, precision, cuda_graph=cuda_graph)
            except KitError as error:
                logger.warning("TensorRT is not used: %s", error)
        backend = "onnxruntime"
    if backend == "openvino":
        from fthnet_kit.edge.inference.openvino_runtime import OpenVinoBackend

        return OpenVinoBackend(bundle.model(precision, backend), threads)
    provider = PROVIDER_OF[backend]
    unsigned_cache = provider == "tensorrt" and bundle.signed is None  # nothing vouches for what lies there
    cache = engine_cache(bundle) if unsigned_cache else None
    return OnnxBackend(bundle.model(precision, provider), provider, threads, cache)


def engine_cache(bundle: Bundle) -> Path | None:
    """Where ONNX Runtime keeps the engines that it builds: a private folder of this user's cache, never the bundle.

    Without one, where it cannot be made, they are built at every start.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    folder = Path(base) if base else Path.home() / ".cache"
    folder = folder / "fthnet" / "tensorrt" / bundle.card.weights_sha256[:16]
    try:
        make_folder(folder, private=True)
    except InputError as error:
        logger.warning("TensorRT engines are not kept: %s", error)
        return None
    return folder


def as_picked(bundle: Bundle, threads: int | None, pick: Path | None) -> tuple[BackendName, Precision, int | None]:
    """Backend, precision and threads that were measured to be the fastest here; ``auto`` where nothing was."""
    path = pick_file() if pick is None else pick
    if not path.is_file():
        return "auto", "auto", threads
    choice = picked(bundle, path)
    if choice is None:
        return "auto", "auto", threads
    logger.info("%s: %s", path, choice)
    return choice.backend, choice.precision, threads or choice.threads


def engine_precision(precision: Precision) -> str:
    """The precision of the engine that stands for a precision: FP16 for ``auto``."""
    return "fp16" if precision == "auto" else precision


def open_tensorrt(bundle: Bundle, precision: Precision, *, cuda_graph: bool = False) -> Backend:
    """TensorRT with the bundle's engine for this GPU, or the reason why not."""
    from fthnet_kit.edge.inference.tensorrt_engine import TrtBackend

    content, tensorrt, _ = checked_engine(bundle, engine_precision(precision))
    return TrtBackend(content, tensorrt, cuda_graph=cuda_graph)


def checked_engine(bundle: Bundle, precision: str) -> tuple[bytes, TensorRT, Target]:
    """The bundle's engine for this GPU, the library that reads it, and this machine; raises as `open_backend` does."""
    tensorrt = load_tensorrt(_library_with_engine(bundle, precision))
    target = this_target(tensorrt)
    content, _ = load_engine(bundle, precision, target)
    return content, tensorrt, target


def _library_with_engine(bundle: Bundle, precision: str) -> LibraryName | None:
    """The library whose engines a bundle has; None where it has those of both, or none."""
    folders = [path.parent.name for path in (bundle.folder / ENGINES).glob(f"*/fthnet.{precision}.engine")]
    libraries: set[LibraryName] = {LIBRARIES[1] if name.endswith("-rtx") else LIBRARIES[0] for name in folders}
    return libraries.pop() if len(libraries) == 1 else None


def this_target(tensorrt: TensorRT, gpu: int = 0) -> Target:
    """What an engine's manifest would name this machine.

    Raises:
        MissingExtraError: pycuda is not installed.
        EngineError: no GPU.
    """
    device = Gpu(gpu)
    try:
        return Target(
            tensorrt.name, str(tensorrt.version), device.compute_capability, device.name, device.multiprocessors
        )
    finally:
        device.close()
