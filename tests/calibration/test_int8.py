"""INT8 of one layer: scales that float16 holds, errors of half a step, ranges, smoothing, bias correction."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from fthnet_kit.calibration.int8_fit import (
    SMOOTHING_LIMIT,
    Int8Layer,
    LayerSample,
    calibrate_layer,
    half_scale,
    quantised,
    smoothing_vector,
    weight_scales,
)
from fthnet_kit.calibration.int8_observe import observe
from fthnet_kit.calibration.int8_photographs import Photograph
from fthnet_kit.calibration.int8_ranges_file import ranges_file
from fthnet_kit.calibration.precision_gate import BUDGETS, LEAST_INT8, cost, shortfalls
from fthnet_kit.edge import Thresholds
from fthnet_kit.edge.model.choices import FP16_BUDGET, INT8_BUDGET
from tests.conftest import make_card

SEEDS = st.integers(0, 2**32 - 1)
KINDS = ("gaussian", "heavy", "positive", "negative", "constant", "zero", "outlier channel", "tiny", "large")
LOWS = st.floats(-50, 0, allow_subnormal=False)
HIGHS = st.floats(0.05, 50)  # a step below 2**-14 would not be a normal number of float16
ALWAYS = settings(deadline=None)
FEW = settings(deadline=None, max_examples=25)


def make_rows(kind: str, seed: int, count: int = 64, width: int = 12) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count, width))
    if kind == "heavy":
        rows = rng.standard_t(2, (count, width))
    elif kind in ("positive", "negative"):
        rows = np.abs(rows) * (1 if kind == "positive" else -1)
    elif kind == "constant":
        rows = np.full_like(rows, rng.normal())
    elif kind == "zero":
        rows = np.zeros_like(rows)
    elif kind == "outlier channel":
        rows[:, rng.integers(width)] *= 60
    elif kind in ("tiny", "large"):
        rows = rows * (1e-6 if kind == "tiny" else 1e4)
    return rows.astype(np.float32)


def make_sample(rows: np.ndarray) -> LayerSample:
    return LayerSample(rows, rows.min(axis=0), rows.max(axis=0))


def make_weight(seed: int, inputs: int = 12, outputs: int = 10, scale: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng([seed, 1])
    return (scale * rng.standard_normal((inputs, outputs)) * rng.uniform(0.1, 3, outputs)).astype(np.float32)


def in_half(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float32).astype(np.float16).astype(np.float32)


# Scales


@ALWAYS
@given(scale=st.floats(0, 60_000, allow_subnormal=False))
def test_half_scale_is_exact_in_float16(scale: float) -> None:
    found = half_scale(scale)
    assert found.dtype == np.float32
    assert np.float16(found) == found
    assert found >= np.finfo(np.float16).smallest_normal
    if scale > np.finfo(np.float16).smallest_normal:
        assert found == pytest.approx(scale, rel=2**-11)


@ALWAYS
@given(seed=SEEDS, exponent=st.integers(-7, 3))
def test_weights_are_covered_whole_and_off_by_half_a_step(seed: int, exponent: int) -> None:
    weight = make_weight(seed, 40, 8, 10.0**exponent)
    weight[:, 0] = 0
    weight[3, 1] *= 30
    scales = weight_scales(weight)
    found = quantised(weight, scales)
    assert found.dtype == np.int8
    assert scales.dtype == np.float32
    assert np.abs(found.astype(int)).max() <= 127
    np.testing.assert_array_equal(in_half(scales), scales)
    assert (scales > 0).all()
    rounding = np.abs(weight).max(axis=0) * 2.0**-11 + 127 * 2.0**-25  # of the scale to float16, normal or not
    assert (np.abs(found * scales - weight) <= 0.5 * scales * (1 + 1e-3) + rounding).all()


# What a quantised layer computes


@ALWAYS
@given(seed=SEEDS, low=LOWS, high=HIGHS, affine=st.booleans())
def test_error_of_what_is_in_range_is_half_a_step(seed: int, low: float, high: float, affine: bool) -> None:
    rng = np.random.default_rng(seed)
    identity = Int8Layer(np.eye(6, dtype=np.int8), np.ones(6, np.float32), np.zeros(6, np.float32), low, high)
    if affine:
        step, zero = identity.affine()
        covered = (0.0 - zero) * step, (255.0 - zero) * step
        assert abs(low - covered[0]) <= 0.63 * step  # the zero point moves the range by up to half a step
        assert abs(high - covered[1]) <= 0.63 * step
        low, high = max(low, covered[0]), min(high, covered[1])
    else:
        step = identity.symmetric()
        assert np.float16(step) == step
    x = rng.uniform(low, high, (20, 6)).astype(np.float32)
    x[0] = 0
    x[1], x[2] = low, high
    assert np.abs(identity.output(x, affine=affine) - x).max() <= 0.5 * step * (1 + 1e-4)
    np.testing.assert_array_equal(identity.output(x[:1], affine=affine), 0)
    quantised, scale = rng.integers(-127, 128, (6, 4)).astype(np.int8), rng.uniform(0.01, 1, 4).astype(np.float32)
    bias = rng.standard_normal(4).astype(np.float32)
    layer = Int8Layer(quantised, scale, bias, identity.low, identity.high)
    weight = layer.weight * layer.weight_scale
    error = np.abs(layer.output(x, affine=affine) - (x @ weight + layer.bias))
    assert (error <= 0.5 * step * np.abs(weight).sum(axis=0) * (1 + 1e-3) + 1e-3).all()


@ALWAYS
@given(low=LOWS, high=HIGHS, affine=st.booleans())
def test_what_is_out_of_range_is_clipped(low: float, high: float, affine: bool) -> None:
    identity = Int8Layer(np.eye(2, dtype=np.int8), np.ones(2, np.float32), np.zeros(2, np.float32), low, high)
    found = identity.output(np.array([[-1e6, 1e6]], np.float32), affine=affine)[0]
    step = identity.affine()[0] if affine else identity.symmetric()
    wanted = (low, high) if affine else (-max(-low, high), max(-low, high))
    np.testing.assert_allclose(found, wanted, atol=1.1 * step)


def test_columns_of_a_layer_are_a_layer() -> None:
    weight, rows = make_weight(3), make_rows("gaussian", 3)
    scale = weight_scales(weight)
    layer = Int8Layer(quantised(weight, scale), scale, np.arange(10, dtype=np.float32), -2.0, 3.0)
    for affine in (False, True):
        parts = [layer.columns(slice(start, start + 5)).output(rows, affine=affine) for start in (0, 5)]
        np.testing.assert_allclose(np.hstack(parts), layer.output(rows, affine=affine), rtol=1e-6, atol=1e-6)


def onnx_layer(layer: Int8Layer, *, affine: bool) -> onnx.ModelProto:
    """The layer as ONNX Runtime sees it: MatMulIntegerToFloat, or Q/DQ around MatMul."""
    constants: dict[str, np.ndarray] = {"weight": layer.weight, "weight_scale": layer.weight_scale, "bias": layer.bias}
    if affine:
        constants["scale"], constants["zero"] = (np.asarray(value) for value in layer.affine())
        names = ["q", "weight", "scale", "weight_scale", "zero", "", "bias"]
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            helper.make_node("MatMulIntegerToFloat", names, ["y"], domain="com.microsoft"),
        ]
    else:
        constants["scale"], constants["zero"] = np.asarray(layer.symmetric()), np.asarray(np.int8(0))
        constants["weight_zero"] = np.zeros(len(layer.bias), np.int8)
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
            helper.make_node("DequantizeLinear", ["weight", "weight_scale", "weight_zero"], ["w"], axis=1),
            helper.make_node("MatMul", ["d", "w"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["y"]),
        ]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", len(layer.weight)])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", len(layer.bias)])],
        initializer=[numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


@FEW
@given(seed=SEEDS, kind=st.sampled_from(KINDS), affine=st.booleans())
def test_layer_computes_what_onnx_runtime_computes(seed: int, kind: str, affine: bool) -> None:
    rng = np.random.default_rng(seed)
    rows = make_rows(kind, seed, width=48)
    # up to 64: two products fit 16 bits, where processors without VNNI add them up
    weight = rng.integers(-64, 65, (48, 20)).astype(np.int8)
    scale = in_half(rng.uniform(1e-3, 1e-2, 20))
    low, high = 0.8 * min(0.0, float(rows.min())), 0.8 * max(0.0, float(rows.max()))
    layer = Int8Layer(weight, scale, rng.standard_normal(20).astype(np.float32), low, high)
    model = onnx_layer(layer, affine=affine).SerializeToString()
    (found,) = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(["y"], {"x": rows})
    wanted = layer.output(rows, affine=affine)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * max(1.0, float(np.abs(wanted).max())))


# Choices for a layer


@ALWAYS
@given(seed=SEEDS, kind=st.sampled_from(KINDS), smoothed=st.booleans())
def test_the_range_covers_all_that_was_seen_and_zero(seed: int, kind: str, smoothed: bool) -> None:
    rows, weight = make_rows(kind, seed), make_weight(seed)
    sample = make_sample(rows)
    s = smoothing_vector(sample, weight) if smoothed else np.ones(len(weight), np.float32)
    found = calibrate_layer(sample, s if smoothed else None, weight * s[:, None])
    np.testing.assert_allclose(found.low, min(0.0, float((rows / s).min())), rtol=1e-6)
    np.testing.assert_allclose(found.high, max(0.0, float((rows / s).max())), rtol=1e-6)


@ALWAYS
@given(seed=SEEDS, kind=st.sampled_from(KINDS))
def test_smoothing_makes_each_channel_as_large_as_its_weights(seed: int, kind: str) -> None:
    sample, weight = make_sample(make_rows(kind, seed)), make_weight(seed)
    s = smoothing_vector(sample, weight)
    assert s.shape == (len(weight),)
    assert s.dtype == np.float32
    assert (s >= np.float32(1 / SMOOTHING_LIMIT)).all()
    assert (s <= SMOOTHING_LIMIT).all()
    if np.abs(np.log(s)).max() < 0.99 * np.log(SMOOTHING_LIMIT) and kind not in ("zero", "tiny"):
        assert np.exp(np.mean(np.log(s))) == pytest.approx(1, rel=1e-4)
        ratio = (np.abs(sample.rows / s).max(axis=0)) / np.abs(weight * s[:, None]).max(axis=1)
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)


def test_smoothing_helps_a_layer_with_an_outlier_channel() -> None:
    sample, weight = make_sample(make_rows("outlier channel", 4, 2000, 32)), make_weight(4, 32, 16)
    s = smoothing_vector(sample, weight)
    plain, smoothed = calibrate_layer(sample, None, weight), calibrate_layer(sample, s, weight * s[:, None])
    assert smoothed.error < 0.2 * plain.error
    assert np.argmax(s) == np.argmax(np.abs(sample.rows).max(axis=0))


@FEW
@given(seed=SEEDS, kind=st.sampled_from(KINDS), biased=st.booleans(), affine=st.booleans())
def test_bias_correction_removes_the_mean_error(seed: int, kind: str, biased: bool, affine: bool) -> None:
    rows, weight = make_rows(kind, seed), make_weight(seed)
    sample = make_sample(rows)
    s = smoothing_vector(sample, weight)
    smoothed = weight * s[:, None]
    bias = np.arange(weight.shape[1], dtype=np.float32) if biased else None
    layer = calibrate_layer(sample, s, smoothed).layer(smoothed, bias, affine=affine)
    wanted = (rows.astype(np.float64) @ weight + (0 if bias is None else bias)).mean(axis=0)
    found = layer.output(rows / s, affine=affine).astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(found, wanted, atol=1e-5 * max(1.0, float(np.abs(rows).max())))
    assert layer.weight.dtype == np.int8
    assert {layer.weight_scale.dtype, layer.bias.dtype} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(in_half(layer.weight_scale), layer.weight_scale)


# What activations look like


def tokens_model() -> bytes:
    """Score = the mean pixel; tokens = every pixel's three values, less 100."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["score"], keepdims=0),
        helper.make_node("Reshape", ["float", "shape"], ["flat"]),
        helper.make_node("Sub", ["flat", "hundred"], ["tokens"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tokens",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 384, 384, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("score", "tokens")],
        initializer=[
            numpy_helper.from_array(np.array([1, 2, 3]), "axes"),
            numpy_helper.from_array(np.array([-1, 3]), "shape"),
            numpy_helper.from_array(np.float32(100).reshape(1), "hundred"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9).SerializeToString()


def test_observed_extremes_are_of_all_tokens_and_the_sample_of_all_images() -> None:
    views = [np.full((384, 384, 3), 10 * index, np.uint8) for index in range(8)]
    views[5][7, 7] = (255, 0, 3)
    done: list[int] = []
    samples, scores = observe(tokens_model(), {"a": "tokens", "b": "tokens"}, views, done.append)
    assert done == list(range(1, 9))
    np.testing.assert_allclose(scores, [view.mean() for view in views], atol=1e-2)
    sample = samples["a"]
    np.testing.assert_array_equal(sample.low, [-100, -100, -100])
    np.testing.assert_array_equal(sample.high, [155, -30, -30])
    assert sample.rows.shape == (4096, 3)
    levels, counts = np.unique(sample.rows[:, 1], return_counts=True)
    assert set(levels) >= {10.0 * index - 100 for index in range(8)}
    assert counts.max() <= 4096 / 8
    again, _ = observe(tokens_model(), {"a": "tokens"}, views, done.append)
    np.testing.assert_array_equal(again["a"].rows, sample.rows)


# The ranges file


def make_photographs(count: int = 3) -> list[Photograph]:
    view = np.zeros((384, 384, 3), np.uint8)
    return [Photograph(Path("folder") / f"{index}.png", None, view, f"{index:064}") for index in range(count)]


def test_the_ranges_file_says_what_was_chosen_and_from_what() -> None:
    sample, weight = make_sample(make_rows("gaussian", 0)), make_weight(0)
    s = smoothing_vector(sample, weight)
    layers = {"b": calibrate_layer(sample, s, weight), "a": calibrate_layer(sample, None, weight)}
    content = ranges_file(make_card(), make_photographs(), layers)
    assert b"folder" not in content
    found = json.loads(content)
    assert list(found["layers"]) == ["a", "b"]
    assert found["layers"]["a"]["smoothing"] is None
    np.testing.assert_array_equal(np.array(found["layers"]["b"]["smoothing"], np.float32), s)
    assert found["images"] == [{"name": f"{index}.png", "sha256": f"{index:064}"} for index in range(3)]
    assert content == ranges_file(make_card(), make_photographs(), dict(reversed(layers.items())))
    others = [
        ranges_file(make_card(weights_sha256="1" * 64), make_photographs(), layers),
        ranges_file(make_card(), make_photographs()[::-1], layers),
    ]
    assert content not in others


# The gate


REFERENCE = np.linspace(5, 95, 64)
THRESHOLDS = Thresholds(usable=40, good=60)


@ALWAYS
@given(seed=SEEDS, spread=st.floats(0, 3, allow_subnormal=False), shift=st.floats(-3, 3, allow_subnormal=False))
def test_cost_is_what_the_differences_say(seed: int, spread: float, shift: float) -> None:
    difference = np.random.default_rng(seed).normal(shift, spread, 64)
    found = cost(REFERENCE, REFERENCE + difference, THRESHOLDS)
    size = np.abs(difference)
    assert found.images == 64
    assert found.mean == pytest.approx(size.mean(), abs=1e-9)
    assert found.worst == pytest.approx(size.max(), abs=1e-9)
    assert found.shift == pytest.approx(difference.mean(), abs=1e-9)
    assert found.p99 <= found.worst + 1e-9
    assert bool(found.shortfalls(FP16_BUDGET)) == (found.mean > 0.1 or found.worst > 0.5)
    assert bool(found.shortfalls(INT8_BUDGET)) == (found.mean > 0.5 or found.p99 > 2.0 or found.srcc < 0.998)
    if not found.shortfalls(INT8_BUDGET.tightened(0.8)):
        assert not found.shortfalls(INT8_BUDGET)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("precision", BUDGETS)
def test_one_score_that_is_no_number_fails_every_gate(precision: str, value: float) -> None:
    scores = REFERENCE.copy()
    assert not shortfalls(precision, cost(REFERENCE, scores, THRESHOLDS), 1.0)
    scores[11] = value
    with np.errstate(invalid="ignore"):
        found = cost(REFERENCE, scores, THRESHOLDS)
    assert shortfalls(precision, found, 1.0)
    assert shortfalls(precision, dataclasses.replace(found, mean=np.nan, p99=0, worst=0, srcc=1), 1.0)


def test_little_int8_is_no_int8() -> None:
    same = cost(REFERENCE, REFERENCE, THRESHOLDS)
    for precision in ("int8", "int8-cpu"):
        assert not shortfalls(precision, same, LEAST_INT8)
        assert "0.79" in shortfalls(precision, same, 0.79)[0]
    assert not shortfalls("fp16", same, 0.0)


def test_verdicts_that_changed_are_counted() -> None:
    scores = np.array([39.9, 40.1, 59.9, 60.1, 120, -20])
    found = cost(scores, np.array([40.1, 40.2, 60.1, 59.9, 100, 0]), THRESHOLDS)
    assert found.flips == 3
    assert all(not isinstance(value, np.generic) for value in found.to_dict().values())
