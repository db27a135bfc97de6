"""INT8 for one weighted layer: where its input is clipped, what smoothing it needs, its quantised weights.

Symmetric int8 weights, one scale for each output channel, chosen by weighted squared error; one range for
the input, by min-max, percentile, entropy or mean squared error, whichever leaves the smallest error in the
layer's *output* on the calibration sample. Biases stay float and carry a correction for the mean error
that quantisation leaves (Nagel et al. 2019, arXiv:1906.04721).

SmoothQuant (Xiao et al. 2023, arXiv:2211.10438) divides input channel j by ``s_j = max|x_j|^a / max|w_j|^(1-a)``
and multiplies the weights of that channel by the same; exact in floating point.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

ALPHAS = (0.35, 0.5, 0.65, 0.8)  # of SmoothQuant, besides none
FINEST_WEIGHT = np.float16(2.0**-20)  # smallest scale of a weight; finer ones have too few bits in float16
CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7)  # shares of a weight channel's maximum that are tried
PERCENTILES = (99.9, 99.99, 99.999)
BINS = 2048  # of the entropy method's histogram
LEVELS = 128  # magnitudes of symmetric int8
MSE_STEPS = np.linspace(0.3, 1.0, 29)
SMOOTHING_LIMIT = 100.0  # how far a channel may be scaled either way


@dataclass(frozen=True)
class LayerSample:
    """What calibration saw at the input of one layer.

    Attributes:
        rows: float32 (M, in), tokens drawn from all images.
        low, high: extremes over all tokens; low <= 0 <= high.
        peaks: float32 (in,), largest magnitude of each channel over all tokens.
    """

    rows: Floats
    low: float
    high: float
    peaks: Floats


@dataclass(frozen=True)
class Fit:
    """What was chosen for one layer.

    Attributes:
        alpha: of SmoothQuant; None for none.
        smoothing: float32 (in,), divides the input.
        method: how the range was found.
        low, high: range of the smoothed input.
        error: relative squared error of the layer's output on the sample.
        tried: the error of each (alpha, method) that was tried, as ``alpha/method``.
    """

    alpha: float | None
    smoothing: Floats
    method: str
    low: float
    high: float
    error: float
    tried: dict[str, float]


@dataclass(frozen=True)
class LayerCalibration:
    """Everything that makes a layer INT8, besides its weights.

    Attributes:
        fit: smoothing and range.
        weight_scale: float32 (out,), one for each output channel.
        symmetric_shift, affine_shift: float32 (out,), added to the bias in either form.
    """

    fit: Fit
    weight_scale: Floats
    symmetric_shift: Floats
    affine_shift: Floats

    def layer(self, weight: Floats, bias: Floats | None, *, affine: bool) -> Int8Layer:
        """The quantised layer.

        Args:
            weight, bias: float32 (in, out) and (out,), with every smoothing folded in.
            affine: input as uint8 with a zero point (ONNX Runtime's CPU kernels), or as symmetric int8 (TensorRT).
        """
        shift = self.affine_shift if affine else self.symmetric_shift
        return Int8Layer(
            np.clip(np.rint(weight / self.weight_scale), -127, 127).astype(np.int8),
            self.weight_scale,
            (shift if bias is None else bias + shift).astype(np.float32),
            self.fit.low,
            self.fit.high,
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


def quantise_weight(weight: Floats, importance: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """Symmetric int8 (in, out) and scales (out,): the clip of each column that costs least.

    Args:
        weight: float32 (in, out).
        importance: float32 (in,), mean square of each input channel.
    """
    peak = np.abs(weight).max(axis=0)
    best = np.full(weight.shape[1], np.inf)
    quantised, scales = np.zeros(weight.shape, np.int8), np.zeros(weight.shape[1], np.float32)
    for clip in CLIPS:
        scale = np.maximum(np.float16(peak * (clip / 127)), FINEST_WEIGHT).astype(np.float32)
        tried = np.clip(np.rint(weight / scale), -127, 127)
        error = importance @ np.square(weight - tried * scale)
        better = error < best
        best[better], scales[better] = error[better], scale[better]
        quantised[:, better] = tried[:, better]
    return quantised, scales


def smoothing_vector(alpha: float, peaks: Floats, weight: Floats) -> Floats:
    """What each input channel is divided by, float32 (in,), geometric mean 1."""
    strength = np.maximum(peaks, 1e-6) ** alpha / np.maximum(np.abs(weight).max(axis=1), 1e-6) ** (1 - alpha)
    strength = strength / np.exp(np.mean(np.log(strength)))
    return np.clip(strength, 1 / SMOOTHING_LIMIT, SMOOTHING_LIMIT).astype(np.float32)


def ranges(rows: Floats, low: float, high: float) -> Iterator[tuple[str, float, float]]:
    """Candidate ranges of a layer's input: name, low, high.

    Args:
        rows: the sample.
        low, high: extremes over everything that was seen.
    """
    yield "min-max", low, high
    flat = rows.reshape(-1)
    for percentile in PERCENTILES:
        below, above = np.percentile(flat, (100 - percentile, percentile))
        yield f"percentile {percentile}", min(0.0, float(below)), max(0.0, float(above))
    for name, threshold in (("entropy", entropy_threshold(flat)), ("mse", mse_threshold(rows))):
        yield name, max(low, -threshold), min(high, threshold)


def entropy_threshold(values: Floats) -> float:
    """Magnitude at which clipping loses least information (KL divergence; Migacz, GTC 2017)."""
    magnitude = np.abs(values)
    histogram, edges = np.histogram(magnitude, bins=BINS)
    best, threshold = np.inf, float(edges[-1])
    for stop in range(LEVELS, BINS + 1, LEVELS // 4):
        clipped = histogram[:stop].astype(np.float64)
        clipped[-1] += histogram[stop:].sum()
        divergence = _divergence(clipped, _through_levels(histogram[:stop]))
        if divergence < best:
            best, threshold = divergence, float(edges[stop])
    return threshold


def _through_levels(histogram: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """The histogram as 128 levels can tell it: each level's mass spread over its bins that hold any."""
    level = np.arange(len(histogram)) * LEVELS // len(histogram)
    filled = histogram > 0
    mass = np.bincount(level, histogram, LEVELS)
    count = np.maximum(np.bincount(level, filled, LEVELS), 1)
    return np.where(filled, (mass / count)[level], 0.0)


def _divergence(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64]) -> float:
    p, q = p / p.sum(), q / max(q.sum(), 1e-12)
    seen = p > 0
    return float(np.sum(p[seen] * np.log(p[seen] / np.maximum(q[seen], 1e-9))))


def mse_threshold(rows: Floats) -> float:
    """Magnitude at which clipping and rounding together leave the smallest squared error, from (M, in) rows."""
    peak = float(np.abs(rows).max()) or 1.0
    sample = rows[:: max(1, rows.size // 200_000)]

    def error(threshold: float) -> float:
        scale = threshold / 127
        return float(np.mean(np.square(sample - np.clip(np.rint(sample / scale), -128, 127) * scale)))

    return min((share * peak for share in MSE_STEPS), key=error)


def fit_layer(sample: LayerSample, weight: Floats, *, smoothable: bool) -> Fit:
    """Smoothing and range with the smallest error in the layer's output.

    Args:
        sample: of the layer's input, not smoothed.
        weight: float32 (in, out).
        smoothable: whether something before the layer can take the smoothing up.
    """
    wanted = sample.rows @ weight
    energy = max(float(np.mean(np.square(wanted))), 1e-12)
    zero = np.zeros(weight.shape[1], np.float32)
    best: Fit | None = None
    tried: dict[str, float] = {}
    for alpha in (None, *ALPHAS) if smoothable else (None,):
        s = np.ones(len(weight), np.float32) if alpha is None else smoothing_vector(alpha, sample.peaks, weight)
        rows = sample.rows / s
        quantised, scales = quantise_weight(weight * s[:, None], np.mean(np.square(rows), axis=0))
        low, high = (sample.low, sample.high) if alpha is None else _smoothed_extremes(sample, rows, s)
        for method, below, above in ranges(rows, low, high):
            layer = Int8Layer(quantised, scales, zero, below, above)
            error = float(np.mean(np.square(layer.output(rows, affine=False) - wanted))) / energy
            tried[f"{alpha or 'none'}/{method}"] = error
            if best is None or error < best.error:
                best = Fit(alpha, s, method, below, above, error, tried)
    assert best is not None
    return best


def _smoothed_extremes(sample: LayerSample, rows: Floats, s: Floats) -> tuple[float, float]:
    """Extremes after smoothing: what the channels' peaks allow, on the sides that the sample shows."""
    peak = float((sample.peaks / s).max())
    return (-peak if rows.min() < 0 else 0.0), (peak if rows.max() > 0 else 0.0)


def finish_layer(fit: Fit, sample: LayerSample, weight: Floats) -> LayerCalibration:
    """Weight scales and bias corrections of a layer whose smoothing and range are chosen.

    Args:
        fit: what was chosen.
        sample: of the layer's input, not smoothed.
        weight: float32 (in, out), with every smoothing folded in.
    """
    rows = sample.rows / fit.smoothing
    quantised, scales = quantise_weight(weight, np.mean(np.square(rows), axis=0))
    layer = Int8Layer(quantised, scales, np.zeros(weight.shape[1], np.float32), fit.low, fit.high)
    wanted = rows @ weight
    shifts = [np.mean(wanted - layer.output(rows, affine=affine), axis=0) for affine in (False, True)]
    return LayerCalibration(fit, scales, *shifts)
