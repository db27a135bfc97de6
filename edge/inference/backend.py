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
        """Milliseconds of the stages of the latest `infer`; empty where they cannot be told apart."""

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


def graph_batch(model: str, inputs: Sequence[tuple[str, str, Sequence[object]]], outputs: Sequence[str]) -> int:
    """The batch size N of a graph ``image: uint8 (N, 384, 384, 3) -> score``.

    Args:
        model: the graph's name, for the message.
        inputs: name, element type (``uint8``) and shape of each input.
        outputs: names of the outputs.

    Raises:
        EngineError: another graph than ours.
    """
    name, kind, shape = inputs[0] if len(inputs) == 1 else ("", "", ())
    ours = (name, kind, list(outputs)) == (INPUT_NAME, "uint8", [OUTPUT_NAME]) and list(shape[1:]) == [INPUT, INPUT, 3]
    if not (ours and isinstance(shape[0], int)):
        found = ", ".join(f"{name} {kind} {list(shape)}" for name, kind, shape in inputs)
        raise EngineError(
            f"{model}: expected one input {INPUT_NAME} uint8 [N, {INPUT}, {INPUT}, 3] and one output {OUTPUT_NAME}, "
            f"found {found}; make the file with `fthnet export`"
        )
    return shape[0]


def one_line(error: BaseException, most: int = 300) -> str:
    """A library's message without line breaks; OpenVINO's can be 60,000 characters long."""
    line = " ".join(str(error).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def in_batches(images: Image, batch: int, run: Callable[[Image], npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """Scores of any number of images from a `run` that takes exactly `batch`; the last image fills up the last one."""
    scores = []
    for start in range(0, len(images), batch):
        chunk = images[start : start + batch]
        short = batch - len(chunk)
        if short:
            chunk = np.concatenate([chunk, np.repeat(chunk[-1:], short, axis=0)])
        scores.append(run(np.ascontiguousarray(chunk))[: batch - short])
    return np.concatenate(scores)
