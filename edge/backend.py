"""What runs a model: one method, `infer`, behind a context manager."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fthnet_kit.edge.preprocess import Image


class Backend(Protocol):
    """Runs one model; `infer` belongs to one thread at a time."""

    def infer(self, images: Image) -> npt.NDArray[np.float32]:
        """Scores of network input.

        Args:
            images: RGB uint8 (N, 384, 384, 3), any N >= 1.

        Returns:
            float32 (N,), score points, not clipped.

        Raises:
            EngineError: the engine failed.
        """

    def describe(self) -> dict[str, str]:
        """Library, version, provider and threads, as reports show them."""

    def close(self) -> None:
        """Release everything; a second call does nothing."""

    def __enter__(self) -> Backend: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
