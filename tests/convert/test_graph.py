"""The graph written node by node: what PyTorch computes, in every precision, and what its FP16 twin rounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from fthnet_kit.calibration.int8_fit import Int8Layer, quantised, weight_scales
from fthnet_kit.convert.network.config import FTHNetConfig
from fthnet_kit.convert.network.fthnet import FTHNet, partition_windows, relative_position_index, shifted_window_mask
from fthnet_kit.convert.onnx_graph.export import ScoringGraph, weights_of
from fthnet_kit.convert.onnx_graph.fthnet_graph import (
    GraphPlan,
    Weights,
    layer_parameters,
    places,
    relative_positions,
    shift_regions,
    window_order,
    write_graph,
)
from fthnet_kit.convert.precision.fp16_twin import rounded_twin
from fthnet_kit.convert.precision.smoothing import can_smooth, fold_norms, norm_before, smooth
from fthnet_kit.edge import Preprocessing
from fthnet_kit.edge.capture.degradations import degrade
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.inference.onnx_runtime import OnnxBackend
from fthnet_kit.edge.model.preprocess import prepare

SIZES = {"embed_dim": 8, "depths": (1, 2, 1, 1), "num_heads": (1, 2, 4, 8), "target_in": 192, "hyper_in": 64}
CONFIG = FTHNetConfig(**SIZES)
PREPROCESSING = Preprocessing()
FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16}
NUMBERS = st.floats(-300, 300, width=32, allow_subnormal=False)


def make_network(pool: str = "soft") -> FTHNet:
    """Random, with position biases and LayerNorms that matter."""
    torch.manual_seed(5)
    network = FTHNet(FTHNetConfig(pool, **SIZES)).eval()
    network.initialise()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("position_bias_table"):
                parameter.normal_(std=1.0)
            elif "norm" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return network


@pytest.fixture(scope="module", params=["soft", "avg"])
def network(request: pytest.FixtureRequest) -> FTHNet:
    return make_network(request.param)


@pytest.fixture(scope="module")
def expected(network: FTHNet, views: Image) -> np.ndarray:
    return in_pytorch(network, views)


@pytest.fixture(scope="module")
def weights() -> Weights:
    return weights_of(make_network())


@pytest.fixture(scope="module")
def views(photograph: Image) -> Image:
    """A photograph, two that are spoiled, and noise."""
    images = [photograph, degrade(photograph, "defocus", 0.5, 1), degrade(photograph, "under_exposure", 0.8, 2)]
    noise = np.random.default_rng(0).integers(0, 256, (1, 384, 384, 3), np.uint8)
    return np.concatenate([*(prepare(image, PREPROCESSING, 1) for image in images), noise])


@pytest.fixture(scope="module")
def int8_layers(weights: Weights) -> dict[str, Int8Layer]:
    layers = {}
    for site in write_graph(weights, CONFIG, PREPROCESSING).sites:
        weight, bias = layer_parameters(weights, CONFIG, site.layer)
        scale = weight_scales(weight)
        bias = np.zeros(len(scale), np.float32) if bias is None else bias
        layers[site.layer] = Int8Layer(quantised(weight, scale), scale, bias, -4.0, 4.0)
    return layers


def points(model: onnx.ModelProto, images: Image) -> np.ndarray:
    with OnnxBackend(model.SerializeToString()) as backend:
        return backend.infer(images)


def in_pytorch(network: FTHNet, images: Image, preprocessing: Preprocessing = PREPROCESSING) -> np.ndarray:
    with torch.no_grad():
        return ScoringGraph(network, preprocessing).eval()(torch.from_numpy(images)).numpy()


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Type of every tensor of a model."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    infos = [*graph.value_info, *graph.input, *graph.output]
    types = {info.name: info.type.tensor_type.elem_type for info in infos}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


# Windows


@settings(deadline=None)
@given(window=st.integers(1, 6), count=st.integers(1, 5), data=st.data())
def test_window_order_is_the_permutation_of_pytorchs_windows(window: int, count: int, data: st.DataObject) -> None:
    size = window * count
    shift = data.draw(st.integers(0, window - 1))
    order = window_order(size, window, shift)
    np.testing.assert_array_equal(np.sort(order), np.arange(size**2))
    np.testing.assert_array_equal(order[places(order)], np.arange(size**2))
    raster = torch.roll(torch.arange(size**2).view(1, size, size, 1), (-shift, -shift), dims=(1, 2))
    np.testing.assert_array_equal(order, partition_windows(raster, window).flatten().numpy())


@settings(deadline=None)
@given(window=st.integers(2, 6), count=st.integers(2, 4), data=st.data())
def test_tokens_of_other_regions_are_those_that_pytorch_masks(window: int, count: int, data: st.DataObject) -> None:
    shift = data.draw(st.integers(1, window - 1))
    regions = shift_regions(window * count, window, shift)
    masked = shifted_window_mask(window * count, window, shift).numpy() != 0
    np.testing.assert_array_equal(regions[:, None, :] != regions[:, :, None], masked)


@settings(deadline=None)
@given(window=st.integers(1, 8))
def test_relative_positions_are_pytorchs(window: int) -> None:
    np.testing.assert_array_equal(relative_positions(window), relative_position_index(window).flatten().numpy())


# FP32


@pytest.mark.parametrize("kernels", ["standard", "onnxruntime"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.slow
def test_graph_agrees_with_pytorch(
    network: FTHNet, views: Image, expected: np.ndarray, batch: int, kernels: str
) -> None:
    plan = GraphPlan(kernels=kernels)  # type: ignore[arg-type]
    model = write_graph(weights_of(network), network.config, PREPROCESSING, batch, plan).model
    onnx.checker.check_model(model, full_check=True)
    assert np.ptp(expected) > 5
    np.testing.assert_allclose(points(model, views), expected, atol=0.01)


def test_pixels_without_normalisation(network: FTHNet, views: Image, expected: np.ndarray) -> None:
    plain = Preprocessing(normalisation="none")
    unnormalised = in_pytorch(network, views, plain)
    assert np.abs(unnormalised - expected).max() > 1
    for batch in (1, 3):
        model = write_graph(weights_of(network), network.config, plain, batch).model
        np.testing.assert_allclose(points(model, views), unnormalised, atol=0.01)


def test_macs_are_those_of_pytorchs_layers() -> None:
    network = make_network()
    macs: dict[str, int] = {}

    def count(name: str) -> object:
        def hook(module: torch.nn.Module, _: object, output: torch.Tensor) -> None:
            macs[name] = output.numel() * module.weight[0].numel()

        return hook

    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            module.register_forward_hook(count(name))
    in_pytorch(network, np.zeros((1, 384, 384, 3), np.uint8))
    graph = write_graph(weights_of(network), network.config, PREPROCESSING, batch=2)
    sites = {site.layer: site.macs for site in graph.sites}
    assert len(sites) == len(graph.sites)
    assert sites == {name: macs[name] for name in sites}
    assert graph.other_macs == sum(macs.values()) - sum(sites.values())
    inside = {name for name in macs if ".blocks." in name or ".downsample." in name}
    assert inside <= set(sites)


# FP16


@pytest.mark.parametrize("int8", [False, True], ids=["fp16", "int8"])
@pytest.mark.parametrize("batch", [1, 3])
def test_half_graphs_are_strongly_typed(
    weights: Weights, int8_layers: dict[str, Int8Layer], int8: bool, batch: int
) -> None:
    plan = GraphPlan("fp16", int8_layers if int8 else {})
    graph = write_graph(weights, CONFIG, PREPROCESSING, batch, plan)
    onnx.checker.check_model(graph.model, full_check=True)
    types = element_types(graph.model)
    islands = []
    for node in graph.model.graph.node:
        found = {types[name] for name in [*node.input, *node.output] if name} & FLOATS
        if node.op_type == "Cast":
            continue
        assert len(found) <= 1, node.name
        if node.op_type in ("LayerNormalization", "Softmax"):
            islands.append(node.op_type)
            assert found == {TensorProto.FLOAT}
    assert {"LayerNormalization", "Softmax"} == set(islands)
    assert {types[site.input] for site in graph.sites} == {TensorProto.FLOAT16}
    assert [types[value.name] for value in graph.model.graph.output] == [TensorProto.FLOAT]


def test_half_graph_scores_as_the_full_one(weights: Weights, views: Image) -> None:
    full = points(write_graph(weights, CONFIG, PREPROCESSING).model, views)
    half = write_graph(weights, CONFIG, PREPROCESSING, plan=GraphPlan("fp16")).model
    twin = points(rounded_twin(half), views)
    np.testing.assert_allclose(points(half, views), full, atol=2)
    np.testing.assert_allclose(twin, full, atol=2)
    assert np.abs(twin - full).max() > 1e-4


def half_model(*kinds: str, count: int = 2) -> onnx.ModelProto:
    """float32 inputs a, b, c … and output y; between them a chain of FP16 operations: ((a op b) op c) …"""
    names = "abcdefgh"[:count]
    nodes = [helper.make_node("Cast", [name], [f"{name}16"], to=TensorProto.FLOAT16) for name in names]
    last = "a16"
    for index, kind in enumerate(kinds):
        nodes.append(helper.make_node(kind, [last, f"{names[index + 1]}16"], [f"x{index}"]))
        last = f"x{index}"
    nodes.append(helper.make_node("Cast", [last], ["y"], to=TensorProto.FLOAT))
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in names]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])
    graph = helper.make_graph(nodes, "half", inputs, [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def run_model(model: onnx.ModelProto, *values: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y"], dict(zip("abcdefgh", values, strict=False)))[0]


def test_twin_loses_what_a_half_loses() -> None:
    model = half_model("Add", "Sub", count=3)
    values = [np.array([value], np.float32) for value in (0.3, 1024, 1024)]
    assert run_model(rounded_twin(model), *values) == [0]
    values[1][:] = values[2][:] = 1
    half = (np.float16(0.3) + np.float16(1)) - np.float16(1)
    assert run_model(rounded_twin(model), *values) == [np.float32(half)]


TWINS = {
    kinds: rounded_twin(half_model(*kinds, count=len(kinds) + 1))
    for kinds in [("Add",), ("Mul",), ("Sub",), ("Div",), ("Add", "Mul"), ("Mul", "Sub")]
}
OPERATORS = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}


@settings(deadline=None)
@given(
    kinds=st.sampled_from(sorted(TWINS)),
    values=st.integers(1, 9).flatmap(lambda count: hnp.arrays(np.float32, (3, count), elements=NUMBERS)),
)
def test_twin_rounds_as_numpy_rounds_halves(kinds: tuple[str, ...], values: np.ndarray) -> None:
    values = np.where(np.abs(values) < 2**-6, np.float32(1), values)
    with np.errstate(over="ignore"):
        expected = values[0].astype(np.float16)
        for kind, operand in zip(kinds, values[1:], strict=False):
            expected = OPERATORS[kind](expected, operand.astype(np.float16))
    assert expected.dtype == np.float16
    np.testing.assert_array_equal(run_model(TWINS[kinds], *values[: len(kinds) + 1]), expected.astype(np.float32))


def test_twin_of_a_model_without_halves_is_that_model(weights: Weights) -> None:
    model = write_graph(weights, CONFIG, PREPROCESSING).model
    assert rounded_twin(model) == model
    before = half_model("Add").SerializeToString()
    model = onnx.load_from_string(before)
    assert rounded_twin(model) != model
    assert model.SerializeToString() == before


def test_every_half_of_a_graph_is_a_half_in_its_twin(weights: Weights, views: Image) -> None:
    model = write_graph(weights, CONFIG, PREPROCESSING, plan=GraphPlan("fp16")).model
    types = element_types(model)
    halves = [name for node in model.graph.node for name in node.output if types[name] == TensorProto.FLOAT16]
    assert len(halves) > 200
    twin = rounded_twin(model)
    assert TensorProto.FLOAT16 not in {tensor.data_type for tensor in twin.graph.initializer}
    for name in halves:
        twin.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(twin.SerializeToString(), providers=["CPUExecutionProvider"])
    for name, values in zip(halves, session.run(halves, {"image": views[:1]}), strict=True):
        assert values.dtype == np.float32, name
        np.testing.assert_array_equal(values, values.astype(np.float16), err_msg=name)


# INT8


def test_quantised_weights_are_int8_by_column_and_biases_float(
    weights: Weights, int8_layers: dict[str, Int8Layer]
) -> None:
    model = write_graph(weights, CONFIG, PREPROCESSING, plan=GraphPlan("fp16", int8_layers)).model
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found: dict[str, np.ndarray] = {}
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear":
            continue
        assert element_types_of(constants, node) <= {TensorProto.INT8, TensorProto.FLOAT16}
        if node.input[0] not in constants:
            continue
        weight, scale, zero = (numpy_helper.to_array(constants[name]) for name in node.input)
        assert [(a.name, a.i) for a in node.attribute] == [("axis", 1)]
        assert weight.dtype == zero.dtype == np.int8
        assert scale.shape == zero.shape == weight.shape[1:]
        assert not zero.any()
        found[node.input[0].removesuffix(".weight")] = weight
    for name, layer in int8_layers.items():
        parts = [f"{name}.{part}" for part in "qkv"] if name.endswith(".qkv") else [name]
        np.testing.assert_array_equal(np.hstack([found.pop(part) for part in parts]), layer.weight)
        biases = [numpy_helper.to_array(constants[f"{part}.bias"]) for part in parts]
        assert {bias.dtype for bias in biases} == {np.dtype(np.float16)}
        np.testing.assert_array_equal(np.hstack(biases), layer.bias.astype(np.float16))
    assert not found


def element_types_of(constants: dict[str, onnx.TensorProto], node: onnx.NodeProto) -> set[int]:
    return {constants[name].data_type for name in node.input if name in constants}


@pytest.mark.parametrize("batch", [1, 3])
def test_cpu_form_stays_integer_once_loaded(
    weights: Weights, int8_layers: dict[str, Int8Layer], views: Image, batch: int, tmp_path: Path
) -> None:
    model = write_graph(weights, CONFIG, PREPROCESSING, batch, GraphPlan("fp32", int8_layers, "onnxruntime")).model
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "loaded.onnx").graph.node]
    gemms = sum(3 if name.endswith(".qkv") else 1 for name in int8_layers)
    assert kinds.count("MatMulIntegerToFloat") == gemms
    assert "DequantizeLinear" not in kinds
    assert "MultiHeadAttention" in kinds
    full = points(write_graph(weights, CONFIG, PREPROCESSING).model, views)
    assert np.corrcoef(points(model, views), full)[0, 1] > 0.9


def test_both_int8_forms_of_one_layer_score_nearly_the_same(
    weights: Weights, int8_layers: dict[str, Int8Layer], views: Image
) -> None:
    full = points(write_graph(weights, CONFIG, PREPROCESSING).model, views)
    for name in ("bbone.layers.1.blocks.1.attn.qkv", "bbone.layers.2.blocks.0.mlp.fc1"):
        chosen = {name: int8_layers[name]}
        standard, cpu = (
            points(write_graph(weights, CONFIG, PREPROCESSING, plan=plan).model, views)
            for plan in (GraphPlan("fp32", chosen), GraphPlan("fp32", chosen, "onnxruntime"))
        )
        for found in (standard, cpu):
            assert 0 < np.abs(found - full).max() < 1.5


def test_layers_outside_the_plan_keep_their_weights(weights: Weights, int8_layers: dict[str, Int8Layer]) -> None:
    name = "bbone.layers.0.blocks.0.mlp.fc1"
    plain, one = (
        write_graph(weights, CONFIG, PREPROCESSING, plan=GraphPlan(int8=layers))
        for layers in ({}, {name: int8_layers[name]})
    )
    assert [(site.layer, site.macs) for site in plain.sites] == [(site.layer, site.macs) for site in one.sites]
    assert plain.other_macs == one.other_macs
    constants = [
        {t.name: numpy_helper.to_array(t) for t in g.model.graph.initializer if t.name.endswith((".weight", ".bias"))}
        for g in (plain, one)
    ]
    assert {key for key in constants[0] if not np.array_equal(constants[0][key], constants[1][key])} == {
        f"{name}.weight"
    }


# Folding and smoothing


@pytest.fixture(scope="module")
def calm(weights: Weights, views: Image) -> tuple[Weights, np.ndarray]:
    """Weights whose scores lie between 0 and 100 and differ, and those scores."""
    calm = dict(weights)
    scores = points(write_graph(calm, CONFIG, PREPROCESSING).model, views).astype(np.float64)
    factor = 12 / scores.std()
    for name in ("weight_conv.4", "bias_conv.4"):
        for part in ("weight", "bias"):
            calm[f"{name}.{part}"] = (calm[f"{name}.{part}"] * factor).astype(np.float32)
    calm["bias_conv.4.bias"] = (calm["bias_conv.4.bias"] + 0.5 - factor * scores.mean() / 100).astype(np.float32)
    scores = points(write_graph(calm, CONFIG, PREPROCESSING).model, views)
    assert scores.std() == pytest.approx(12, rel=1e-3)
    return calm, scores


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), decades=st.floats(0.1, 1.0))
def test_smoothing_any_layers_leaves_the_score(
    calm: tuple[Weights, np.ndarray], views: Image, seed: int, decades: float
) -> None:
    weights, scores = calm
    rng = np.random.default_rng(seed)
    layers = [site.layer for site in write_graph(weights, CONFIG, PREPROCESSING).sites]
    vectors = {}
    for layer in layers:
        if can_smooth(layer):
            length = weights[f"{layer}.weight"].shape[1]
            vectors[layer] = (10 ** rng.uniform(-decades, decades, length)).astype(np.float32)
    smoothed = smooth(weights, vectors)
    assert all(not np.array_equal(smoothed[f"{layer}.weight"], weights[f"{layer}.weight"]) for layer in vectors)
    assert {values.dtype for values in smoothed.values()} == {np.dtype(np.float32)}
    model = write_graph(smoothed, CONFIG, PREPROCESSING).model
    np.testing.assert_allclose(points(model, views), scores, atol=1e-3)


def test_what_can_be_smoothed(weights: Weights) -> None:
    layers = [site.layer for site in write_graph(weights, CONFIG, PREPROCESSING).sites]
    assert sum(map(can_smooth, layers)) == sum(CONFIG.depths)
    for layer in layers:
        if not can_smooth(layer):
            with pytest.raises(ValueError, match="nothing before it"):
                smooth(weights, {layer: np.ones(weights[f"{layer}.weight"].shape[1], np.float32)})
    untouched = smooth(weights, {})
    assert untouched.keys() == weights.keys()
    assert all(untouched[name] is weights[name] for name in weights)


def test_folded_norms_only_standardise_and_leave_the_score(calm: tuple[Weights, np.ndarray], views: Image) -> None:
    weights, scores = calm
    rng = np.random.default_rng(3)
    norms = {norm_before(site.layer) for site in write_graph(weights, CONFIG, PREPROCESSING).sites} - {None}
    assert len(norms) == 2 * sum(CONFIG.depths) + 4  # two a block, three mergings, the last one
    drawn = dict(weights)  # a fresh network's are 1 and 0
    for norm in norms:
        for part, mean in (("weight", 1.0), ("bias", 0.0)):
            name = f"{norm}.{part}"
            drawn[name] = rng.normal(mean, 0.3, weights[name].shape).astype(np.float32)
    scores = points(write_graph(drawn, CONFIG, PREPROCESSING).model, views)
    folded = fold_norms(drawn)
    for norm in norms:
        assert (folded[f"{norm}.weight"] == 1).all()
        assert (folded[f"{norm}.bias"] == 0).all()
    assert {values.dtype for values in folded.values()} == {np.dtype(np.float32)}
    np.testing.assert_allclose(points(write_graph(folded, CONFIG, PREPROCESSING).model, views), scores, atol=1e-3)
    untouched = "bbone.patch_embed.norm.weight"  # feeds the residual stream, too
    assert folded[untouched] is drawn[untouched]
