"""What stands before a layer and makes its input hard to quantise, moved into FTHNet's weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fthnet_kit.calibration.int8_fit import Floats
from fthnet_kit.convert.onnx_graph.fthnet_graph import Weights

NORMS = {".attn.qkv": ".norm1", ".mlp.fc1": ".norm2", ".downsample.reduction": ".downsample.norm"}
LAST_NORM = {"conv1x1.0.0": "bbone.norm"}


def norm_before(layer: str) -> str | None:
    """The LayerNorm that alone feeds a layer; None where there is none."""
    if layer in LAST_NORM:
        return LAST_NORM[layer]
    ending = next((ending for ending in NORMS if layer.endswith(ending)), None)
    return None if ending is None else layer.removesuffix(ending) + NORMS[ending]


def fold_norms(weights: Weights) -> dict[str, Floats]:
    """Weights of the same function whose LayerNorms before a layer only standardise: scale 1, shift 0.

    The layer behind takes both up. Its input then has one range for all channels, and OpenVINO writes it in INT8 from
    the kernel that standardises, which it does not where each channel has a scale.
    """
    result = dict(weights)
    for layer in [name.removesuffix(".weight") for name in weights if name.endswith(".weight")]:
        norm = norm_before(layer)
        if norm is None:
            continue
        weight, scale, shift = (result[name] for name in (f"{layer}.weight", f"{norm}.weight", f"{norm}.bias"))
        moved = weight.reshape(len(weight), -1).astype(np.float64) @ shift
        result[f"{layer}.bias"] = (result.get(f"{layer}.bias", 0) + moved).astype(np.float32)
        result[f"{layer}.weight"] = weight * scale.reshape(1, -1, *[1] * (weight.ndim - 2))
        result[f"{norm}.weight"], result[f"{norm}.bias"] = np.ones_like(scale), np.zeros_like(shift)
    return result


def can_smooth(layer: str) -> bool:
    """Whether something before a layer can take up its smoothing: the value rows of an attention."""
    return layer.endswith(".attn.proj")


def smooth(weights: Weights, smoothing: Mapping[str, Floats]) -> dict[str, Floats]:
    """Weights of the same function in which the input of each named layer is divided by its vector (SmoothQuant).

    Exact in real arithmetic: an attention's output is a weighted sum of its values, channel by channel, so
    dividing the value rows of ``qkv`` divides the input of ``proj``.
    """
    result = dict(weights)
    for layer, s in smoothing.items():
        if not can_smooth(layer):
            raise ValueError(f"{layer}: nothing before it can take up a smoothing")
        values = slice(-len(s), None)
        for part in ("weight", "bias"):
            name = f"{layer.removesuffix('proj')}qkv.{part}"
            result[name] = result[name].copy()
            result[name][values] = (result[name][values].T / s).T
        result[f"{layer}.weight"] = (result[f"{layer}.weight"] * s).astype(np.float32)
    return result
