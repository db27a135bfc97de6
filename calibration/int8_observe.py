"""What the inputs of a graph's layers look like on photographs: samples for ranges and smoothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from fthnet_kit.calibration.int8_fit import LayerSample
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.inference.backend import INPUT_NAME, OUTPUT_NAME
from fthnet_kit.edge.inference.onnx_runtime import session_options

ROWS = 4096  # tokens kept of each layer, over all photographs


def observe(
    model: bytes, inputs: Mapping[str, str], views: Sequence[Image], report: Callable[[int], None]
) -> tuple[dict[str, LayerSample], npt.NDArray[np.float32]]:
    """Sample of each layer's input, and the scores, over photographs.

    Args:
        model: FP32 graph whose outputs include the tensors named in `inputs`.
        inputs: tensor that enters each layer, float32 (tokens, in).
        views: RGB uint8 (384, 384, 3) each.
        report: called with the number of photographs done.
    """
    import onnxruntime as ort

    session = ort.InferenceSession(model, session_options(), providers=["CPUExecutionProvider"])
    tensors = sorted(set(inputs.values()))
    gathered = {tensor: _Gatherer(-(-ROWS // len(views))) for tensor in tensors}
    scores = []
    for index, view in enumerate(views):
        score, *values = session.run([OUTPUT_NAME, *tensors], {INPUT_NAME: view[np.newaxis]})
        scores.append(score[0])
        for number, (tensor, x) in enumerate(zip(tensors, values, strict=True)):
            gathered[tensor].add(x, np.random.default_rng([index, number]))
        report(index + 1)
    samples = {tensor: gatherer.sample() for tensor, gatherer in gathered.items()}
    return {layer: samples[tensor] for layer, tensor in inputs.items()}, np.array(scores)


class _Gatherer:
    def __init__(self, rows_per_image: int) -> None:
        self.rows_per_image = rows_per_image
        self.rows: list[npt.NDArray[np.float32]] = []
        self.low: npt.NDArray[np.float32] | float = np.inf
        self.high: npt.NDArray[np.float32] | float = -np.inf

    def add(self, x: npt.NDArray[np.float32], rng: np.random.Generator) -> None:
        """Rows (tokens, in) of one photograph."""
        self.low, self.high = np.minimum(self.low, x.min(axis=0)), np.maximum(self.high, x.max(axis=0))
        self.rows.append(x[np.sort(rng.choice(len(x), min(self.rows_per_image, len(x)), replace=False))])

    def sample(self) -> LayerSample:
        return LayerSample(np.concatenate(self.rows), np.asarray(self.low), np.asarray(self.high))
