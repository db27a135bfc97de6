"""The stand-in's own functions, for scripts that run on it: what lives, what was called, what shall fail."""

from __future__ import annotations

import ctypes
import itertools

KINDS = ("device_memory", "pinned_memory", "stream", "event", "context", "graph", "executable_graph")

_driver = ctypes.CDLL("libcuda.so.1")
if not hasattr(_driver, "stand_in_count"):
    raise ImportError("libcuda.so.1 is a real driver: run this with tests/cuda_stand_in/rig.py")
_driver.stand_in_count.restype = _driver.stand_in_live.restype = _driver.stand_in_abandoned.restype = ctypes.c_long
_driver.stand_in_call.restype = ctypes.c_char_p
_driver.stand_in_call.argtypes = [ctypes.c_long]
_driver.stand_in_run.argtypes = [ctypes.c_void_p]
_driver.stand_in_holds.argtypes = [ctypes.c_uint64]
_driver.stand_in_kernels_waiting.restype = ctypes.c_long
_driver.stand_in_launch_mean.argtypes = [
    *(ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_float)
]


def count(call: str) -> int:
    """How often a driver call was made, refused ones included: count("cuMemAlloc")."""
    return int(_driver.stand_in_count(call.encode()))


def calls() -> list[str]:
    """Every call since the last reset, in order, without the revision (cuMemAlloc for cuMemAlloc_v2)."""
    names = map(_driver.stand_in_call, itertools.count())
    return [name.decode().partition("_")[0] for name in itertools.takewhile(bool, names)]


def live() -> dict[str, int]:
    """How many objects of each kind exist (of the primary context: references); kinds without any left out."""
    counts = {kind: int(_driver.stand_in_live(kind.encode())) for kind in (*KINDS, "primary_context")}
    return {kind: number for kind, number in counts.items() if number}


def abandoned() -> dict[str, int]:
    """How many objects of each kind nobody had freed when their context went; kinds without any left out."""
    counts = {kind: int(_driver.stand_in_abandoned(kind.encode())) for kind in KINDS}
    return {kind: number for kind, number in counts.items() if number}


def fail(call: str, code: int, skip: int = 0, times: int = 1, sticky: bool = False) -> None:
    """Lets a call fail, after `skip` that succeed; a sticky failure breaks the current context for good."""
    for _ in range(times):
        if _driver.stand_in_fail(call.encode(), skip, code, int(sticky)):
            raise ValueError("too many failures asked for")


def context_depth() -> int:
    """How many contexts the calling thread's stack holds."""
    return int(_driver.stand_in_depth())


def run(stream_handle: int) -> None:
    """Does what a stream still holds back: to be called by a test's own kernel before it touches device memory."""
    if _driver.stand_in_run(stream_handle):
        raise ValueError(f"no stream with handle {stream_handle:#x}")


def launch_mean(stream_handle: int, target: int, source: int, images: int, size: int, factor: float = 1.0) -> int:
    """Launches the stand-in's one kernel, which a capture records: target[i] = factor * mean of image i; the status.

    The images are uint8 of `size` bytes each, the means float32; both in device memory.
    """
    return int(_driver.stand_in_launch_mean(stream_handle, target, source, images, size, factor))


def kernels_waiting() -> int:
    """How many launched kernels no synchronisation has waited for yet."""
    return int(_driver.stand_in_kernels_waiting())


def holds(address: int) -> bool:
    """Whether an address lies in device memory that is allocated."""
    return bool(_driver.stand_in_holds(address))


def reset() -> None:
    """Forgets calls, failures asked for and what was abandoned; objects and contexts stay."""
    _driver.stand_in_reset()
