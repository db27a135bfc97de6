"""INT8 for one weighted layer: smoothing, the range of its input, quantised weights, a corrected bias.

Symmetric int8 weights, one scale for each output channel; one range for the input, from the least to the greatest value
that was seen. Biases stay float and carry a correction for the mean error that quantisation leaves (Nagel et al. 2019,
arXiv:1906.04721).

SmoothQuant (Xiao et al. 2023, arXiv:2211.10438) at its middle strength divides input channel j by
``s_j = sqrt(max|x_j| / max|w_j|)`` and multiplies the weights of that channel by the same; exact in floating point.
docs/CONVERSION.md shows the measurements that chose this and nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

FINEST_WEIGHT = np.float16(2.0**-20)  # smallest scale of a weight; finer ones have too few bits in float16
SMOOTHING_LIMIT = 100.0  # how far a channel may be scaled either way
LEAST_PEAK = 1e-6  # peak of a channel that is never used


@dataclass(frozen=True)
class LayerSample:
    """What calibration saw at the input of one layer.

    Attributes:
        rows: float32 (M, in), tokens drawn from all images.
        low, high: float32 (in,), extremes of each channel over all tokens.
    """

    rows: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class LayerCalibration:
    """Everything that makes a layer INT8, besides its weights.

    Attributes:
        smoothing: float32 (in,), divides the input; None where nothing before the layer can take it up.
        low, high: range of the smoothed input; low <= 0 <= high.
        weight_scale: float32 (out,), one for each output channel.
        symmetric_shift, affine_shift: float32 (out,), added to the bias in either form.
        error: energy of the layer's error (symmetric form) against that of its output, on the sample.
    """

    smoothing: Floats | None
    low: float
    high: float
    weight_scale: Floats
    symmetric_shift: Floats
    affine_shift: Floats
    error: float

    def layer(self, weight: Floats, bias: Floats | None, *, affine: bool) -> Int8Layer:
        """The quantised layer.

        Args:
            weight, bias: float32 (in, out) and (out,), with every smoothing folded in.
            affine: input as uint8 with a zero point (ONNX Runtime's CPU kernels), or as symmetric int8 (TensorRT).
        """
        shift = self.affine_shift if affine else self.symmetric_shift
        return Int8Layer(
            quantised(weight, self.weight_scale),
            self.weight_scale,
            (shift if bias is None else bias + shift).astype(np.float32),
            self.low,
            self.high,
        )


@dataclass(frozen=True)
class Int8Layer:
    """A weighted layer in INT8: ``y = (x_q - zero_point) * scale @ (weight * weight_scale) + bias``.

    Attributes:
        weight: int8 (in, out).
        weight_scale: float32 (out,), exact in float16.
        bias: float32 (out,), never quantised.
        low, high: range of the input that quantisation covers; low <= 0 <= high.
    """

    weight: npt.NDArray[np.int8]
    weight_scale: Floats
    bias: Floats
    low: float
    high: float

    def columns(self, chosen: slice) -> Int8Layer:
        """The layer with some of its outputs."""
        return replace(
            self, weight=self.weight[:, chosen], weight_scale=self.weight_scale[chosen], bias=self.bias[chosen]
        )

    def symmetric(self) -> np.float32:
        """Scale of the input as int8 with zero point 0."""
        return half_scale(max(-self.low, self.high) / 127)

    def affine(self) -> tuple[np.float32, np.uint8]:
        """Scale and zero point of the input as uint8."""
        scale = half_scale((self.high - self.low) / 255)
        return scale, np.uint8(np.clip(round(-self.low / scale), 0, 255))

    def output(self, x: Floats, *, affine: bool) -> Floats:
        """float32 (M, in) -> (M, out) as the quantised layer computes it."""
        if affine:
            scale, zero = self.affine()
            x = (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale
        else:
            scale = self.symmetric()
            x = np.clip(np.rint(x / scale), -128, 127) * scale
        return x @ (self.weight * self.weight_scale) + self.bias


def half_scale(scale: float) -> np.float32:
    """A scale that float16 holds exactly and as a normal number, so that every file quantises alike."""
    return np.float32(np.float16(max(scale, 2.0**-14)))


def weight_scales(weight: Floats) -> Floats:
    """Scale of each column of (in, out) that int8 covers whole, exact in float16."""
    peak = np.abs(weight).max(axis=0)
    return np.maximum(np.float16(peak / 127), FINEST_WEIGHT).astype(np.float32)


def quantised(weight: Floats, scale: Floats) -> npt.NDArray[np.int8]:
    """The nearest int8 (in, out)."""
    return np.clip(np.rint(weight / scale), -127, 127).astype(np.int8)


def smoothing_vector(sample: LayerSample, weight: Floats) -> Floats:
    """What each input channel is divided by, float32 (in,), geometric mean 1: afterwards it is as large as its weights.

    Args:
        sample: of the layer's input.
        weight: float32 (in, out).
    """
    peak = np.maximum(np.maximum(-sample.low, sample.high), LEAST_PEAK)
    strength = np.sqrt(peak / np.maximum(np.abs(weight).max(axis=1), LEAST_PEAK))
    strength = strength / np.exp(np.mean(np.log(strength)))
    return np.clip(strength, 1 / SMOOTHING_LIMIT, SMOOTHING_LIMIT).astype(np.float32)


def calibrate_layer(sample: LayerSample, smoothing: Floats | None, weight: Floats) -> LayerCalibration:
    """Range, weight scales and bias corrections of a layer.

    Args:
        sample: of the layer's input, not smoothed.
        smoothing: what divides the input.
        weight: float32 (in, out), with every smoothing folded in.
    """
    s = np.ones(len(weight), np.float32) if smoothing is None else smoothing
    rows, scale = sample.rows / s, weight_scales(weight)
    low, high = min(0.0, float((sample.low / s).min())), max(0.0, float((sample.high / s).max()))
    layer = Int8Layer(quantised(weight, scale), scale, np.zeros(weight.shape[1], np.float32), low, high)
    wanted = rows @ weight
    symmetric, affine = (wanted - layer.output(rows, affine=affine) for affine in (False, True))
    energy = max(float(np.mean(np.square(wanted))), 1e-12)
    return LayerCalibration(
        smoothing,
        low,
        high,
        scale,
        symmetric.mean(axis=0),
        affine.mean(axis=0),
        float(np.mean(np.square(symmetric))) / energy,
    )
