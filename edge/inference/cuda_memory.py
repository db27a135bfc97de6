"""The GPU as the TensorRT runtime needs it: its context, a stream, events, and memory in pairs, by pycuda.

TensorRT works in the device's *primary* context. `Gpu` retains it and makes it current only inside ``with gpu:``, on
whatever thread that is, so that nothing stays pushed on a thread that does something else. What is made here is owned
by `Gpu` and released by `close`, the last made first, then the context. Streams and events go with the last
reference to them: drop yours before.
"""

from __future__ import annotations

import threading
import traceback
from contextlib import suppress
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from fthnet_kit.edge.errors import EngineError, MissingExtraError

MIB = 1 << 20


def load_pycuda() -> Any:
    """`pycuda.driver`, initialised.

    Raises:
        MissingExtraError: pycuda is not installed.
        EngineError: there is no CUDA driver, or no GPU.
    """
    try:
        from pycuda import driver
    except ModuleNotFoundError as error:
        raise MissingExtraError("pycuda", "tensorrt", purpose="running TensorRT engines") from error
    except ImportError as error:
        raise EngineError(
            f"pycuda: expected a CUDA driver, found none that loads ({error}); see `fthnet doctor`"
        ) from error
    try:
        driver.init()
        if not driver.Device.count():
            raise EngineError("CUDA: expected a GPU, found none; see `fthnet doctor`")
    except driver.Error as error:
        raise EngineError(f"CUDA: expected a driver that starts, found {error}; see `fthnet doctor`") from error
    return driver


def let_go(error: BaseException | None, outer: BaseException | None) -> None:
    """Clear the variables of the functions that an error came through: they hold streams, events or engines.

    Args:
        error: with all that led to it.
        outer: what was being handled already when the work began; left as it is.
    """
    while error is not None and error is not outer:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


class Pair:
    """One tensor twice: pinned on the host, which lets the GPU copy while the CPU goes on, and on the device.

    Attributes:
        host: array in page-locked memory.
        device: allocation of the same size; `address` is its address.
    """

    def __init__(self, driver: Any, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self.host: npt.NDArray[Any] = driver.pagelocked_empty(shape, dtype)
        try:
            self.device = driver.mem_alloc(self.host.nbytes)
        except driver.Error:
            self.host.base.free()
            raise

    @property
    def address(self) -> int:
        """Device address, as `IExecutionContext.set_tensor_address` takes it."""
        return int(self.device)

    def free(self) -> None:
        """Release both."""
        self.device.free()
        base, self.host = self.host.base, np.empty(0)
        base.free()  # type: ignore[union-attr]


class Gpu:
    """One GPU's primary context and all that was made in it.

    Args:
        index: which GPU.

    Raises:
        MissingExtraError: pycuda is not installed.
        EngineError: no driver, no GPU, or it refuses.
    """

    def __init__(self, index: int = 0) -> None:
        self.driver = load_pycuda()
        self.error: type[Exception] = self.driver.Error
        try:
            self.device = self.driver.Device(index)
            self._context = self.device.retain_primary_context()  # retained, not current
        except self.error as error:
            raise EngineError(f"CUDA: expected GPU {index}, found {error}") from error
        self._owned: list[Any] = []

    @property
    def compute_capability(self) -> str:
        """Such as ``8.7``."""
        major, minor = self.device.compute_capability()
        return f"{major}.{minor}"

    @property
    def name(self) -> str:
        """The GPU's name."""
        return str(self.device.name())

    @property
    def multiprocessors(self) -> int:
        """How many are switched on."""
        return int(self.device.get_attribute(self.driver.device_attribute.MULTIPROCESSOR_COUNT))

    @property
    def cuda_version(self) -> str:
        """CUDA version of the driver, such as ``12.6``."""
        number = int(self.driver.get_driver_version())
        return f"{number // 1000}.{number % 1000 // 10}"

    def free_mib(self) -> int:
        """Free memory of the GPU; call inside ``with gpu:``."""
        return int(self.driver.mem_get_info()[0]) // MIB

    def stream(self) -> Any:
        """A stream; owned by this object, as what the next two return."""
        return self._own(self.driver.Stream())

    def event(self) -> Any:
        """An event that takes times."""
        return self._own(self.driver.Event())

    def pair(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Pair:
        """Pinned and device memory for one tensor."""
        return self._own(Pair(self.driver, shape, dtype))

    def _own(self, thing: Any) -> Any:
        self._owned.append(thing)
        return thing

    def close(self) -> None:
        """Release everything; a second call does nothing. Works in a context that an error has broken, too."""
        context, self._context = self._context, None
        if context is None:
            return
        with suppress(self.error):
            context.push()
            try:
                while self._owned:
                    thing = self._owned.pop()
                    if isinstance(thing, Pair):
                        with suppress(self.error):  # freed with the context, if it is broken
                            thing.free()
                    del thing
            finally:
                self.driver.Context.pop()
        # pycuda only releases a primary context that is current, and leaves it on the driver's stack of that thread
        thread = threading.Thread(target=self._detach, args=(context,))
        thread.start()
        thread.join()

    def _detach(self, context: Any) -> None:
        with suppress(self.error):
            context.push()
            context.detach()

    def __enter__(self) -> Gpu:
        if self._context is None:
            raise EngineError("this GPU context is closed; make a new one")
        self._context.push()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.driver.Context.pop()
