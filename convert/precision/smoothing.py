"""SmoothQuant folded into FTHNet's weights: what divides a layer's input goes into the layer before it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fthnet_kit.calibration.int8_fit import Floats
from fthnet_kit.convert.onnx_graph.fthnet_graph import Weights

NORMS = {".attn.qkv": ".norm1", ".mlp.fc1": ".norm2", ".downsample.reduction": ".downsample.norm"}
LAST_NORM = {"conv1x1.0.0": "bbone.norm"}


def producer(layer: str) -> str | None:
    """The LayerNorm, or the qkv layer, that can take up a layer's smoothing; None where an activation lies between."""
    if layer in LAST_NORM:
        return LAST_NORM[layer]
    if layer.endswith(".attn.proj"):
        return f"{layer.removesuffix('proj')}qkv"
    for consumer, norm in NORMS.items():
        if layer.endswith(consumer):
            return layer.removesuffix(consumer) + norm
    return None


def smooth(weights: Weights, smoothing: Mapping[str, Floats]) -> dict[str, Floats]:
    """Weights of the same function in which the input of each named layer is divided by its vector.

    Exact in real arithmetic: an attention's output is a weighted sum of its values, channel by channel, so
    dividing the value rows of ``qkv`` divides the input of ``proj``.
    """
    result = dict(weights)
    for layer, s in smoothing.items():
        before = producer(layer)
        if before is None:
            raise ValueError(f"{layer}: nothing before it can take up a smoothing")
        rows = slice(-len(s), None) if before.endswith("qkv") else slice(None)
        for part in ("weight", "bias"):
            values = result[f"{before}.{part}"].copy()
            values[rows] = (values[rows].T / s).T
            result[f"{before}.{part}"] = values
        weight = result[f"{layer}.weight"]
        result[f"{layer}.weight"] = (weight * s.reshape(1, -1, *[1] * (weight.ndim - 2))).astype(np.float32)
    return result
