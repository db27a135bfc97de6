"""What runs a model: one method, `infer`, behind a context manager."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fthnet_kit.edge.errors import EngineError
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.model.preprocess import INPUT

INPUT_NAME = "image"
OUTPUT_NAME = "score"
MOST_BATCH = 64  # as `fthnet export` makes them
LONGEST_S = 60.0  # seconds for one image: the slowest processors that the kit runs on take some seconds


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

    def stage_ms(self) -> Mapping[str, float]:
        """Milliseconds of the stages of the latest `infer`; empty where they are not measured apart."""

    def close(self) -> None:
        """Release everything; a second call does nothing."""

    def __enter__(self) -> Backend: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def check_images(images: Image) -> None:
    """Raises EngineError for anything but RGB uint8 (N, 384, 384, 3) with N >= 1."""
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[1:] != (INPUT, INPUT, 3) or not len(images):
        raise EngineError(f"expected uint8 (N, {INPUT}, {INPUT}, 3) with N >= 1, found {images.dtype} {images.shape}")


Tensor = tuple[str, str, Sequence[object]]  # name, element type (``uint8``) and shape of an input or output


def graph_batch(model: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> int:
    """The batch size N of a graph ``image: uint8 (N, 384, 384, 3) -> score: float32 (N,)``.

    Args:
        model: the graph's name, for the message.
        inputs: all inputs of the graph.
        outputs: all outputs of the graph.

    Raises:
        EngineError: another graph than ours, or a batch that no export makes.
    """
    batch = inputs[0][2][0] if len(inputs) == 1 and inputs[0][2] else None
    ours = [(INPUT_NAME, "uint8", [batch, INPUT, INPUT, 3])], [(OUTPUT_NAME, "float32", [batch])]
    found = tuple([(name, kind, list(shape)) for name, kind, shape in tensors] for tensors in (inputs, outputs))
    if found != ours or not isinstance(batch, int) or not 1 <= batch <= MOST_BATCH:
        raise EngineError(
            f"{model}: expected one input {INPUT_NAME} uint8 [N, {INPUT}, {INPUT}, 3] and one output {OUTPUT_NAME} "
            f"float32 [N], N from 1 to {MOST_BATCH}, found {_told(found[0])} and {_told(found[1])}; make the file with "
            "`fthnet export`"
        )
    return batch


def _told(tensors: Sequence[Tensor]) -> str:
    return ", ".join(f"{name} {kind} {list(shape)}" for name, kind, shape in tensors)[:200] or "none"


def one_line(error: BaseException, most: int = 300) -> str:
    """A library's message without line breaks; OpenVINO's can be 60,000 characters long."""
    line = " ".join(str(error).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def in_batches(images: Image, batch: int, run: Callable[[Image], npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """Scores of any number of images from a `run` that takes exactly `batch`; the last image fills up the last one.

    Raises:
        EngineError: `run` gave anything but float32 (batch,), whatever the graph had declared.
    """
    scores = []
    for start in range(0, len(images), batch):
        chunk = images[start : start + batch]
        short = batch - len(chunk)
        if short:
            chunk = np.concatenate([chunk, np.repeat(chunk[-1:], short, axis=0)])
        found = run(np.ascontiguousarray(chunk))
        if found.dtype != np.float32 or found.shape != (batch,):
            raise EngineError(f"expected scores float32 ({batch},), found {found.dtype} {found.shape}")
        scores.append(found[: batch - short])
    return np.concatenate(scores)
