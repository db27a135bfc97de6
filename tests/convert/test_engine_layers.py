"""The engine inspector's JSON is read as it is meant, whatever its form, and products are what the graph asks for."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from fthnet_kit.convert.engine.build import parse
from fthnet_kit.convert.engine.layers import (
    MOST_TOO_WIDE,
    EngineLayers,
    Product,
    inspect,
    onnx_names,
    precision_of,
    products,
    sums_in_half,
)
from fthnet_kit.convert.network.config import FTHNetConfig
from fthnet_kit.convert.network.fthnet import FTHNet
from fthnet_kit.convert.onnx_graph.export import weights_of
from fthnet_kit.convert.onnx_graph.fthnet_graph import Graph, Plan, Weights, write_graph
from fthnet_kit.edge import EngineError, Preprocessing
from fthnet_kit.edge.inference.tensorrt_library import load_tensorrt
from tests.conftest import ROOT

INSPECTOR = ROOT / "tests" / "golden" / "inspector"
BLOCK = "bbone.layers.1.blocks.0"
ATTENTION = (f"{BLOCK}.MatMul_129", f"{BLOCK}.MatMul_136")
FP16 = (
    *(f"{BLOCK}.attn.qkv.{part}.gemm" for part in "qkv"),
    *ATTENTION,
    f"{BLOCK}.attn.proj.gemm",
    f"{BLOCK}.mlp.fc1.gemm",
    f"{BLOCK}.mlp.fc2.gemm",
)
IN_FP32 = ("Gemm_4", "MatMul_723")
INT8 = (f"{BLOCK}.MatMul_172", f"{BLOCK}.MatMul_177", "conv_stem")
FELL_BACK = f"{BLOCK}.MatMul_182"


def golden(name: str) -> str:
    return (INSPECTOR / f"{name}.json").read_text()


def run_as(name: str, products: dict[str, str], macs: int = 100) -> EngineLayers:
    """What a recorded engine says of products, given by name with what the graph asks for."""
    return inspect(golden(name), [Product(product, macs, asked) for product, asked in products.items()])


def found(name: str, product: str) -> str:
    """The precision that a product runs in."""
    (precision,) = run_as(name, {product: "fp16"}).macs
    return precision


# Recorded forms


@pytest.mark.parametrize("product", FP16)
def test_fp16_products_are_seen_as_such(product: str) -> None:
    assert found("tensorrt-10-fp16", product) == "fp16"


@pytest.mark.parametrize("product", IN_FP32)  # MatMul_723's kernel has a hash with "f16" in it
def test_fp32_products_are_seen_as_such(product: str) -> None:
    assert found("tensorrt-10-fp16", product) == "fp32"


@pytest.mark.parametrize(
    ("product", "precision"),
    [*((name, "int8") for name in INT8), ("conv_side", "int8"), (FELL_BACK, "fp16"), ("Gemm_4", "fp32")],
)
def test_int8_products_are_seen_as_such(product: str, precision: str) -> None:
    assert found("tensorrt-10-int8", product) == precision


@pytest.mark.parametrize("product", [*FP16, "Gemm_4"])
def test_tensorrt_11_says_the_same_in_other_words(product: str) -> None:
    assert found("tensorrt-11-fp16", product) == found("tensorrt-10-fp16", product)


@pytest.mark.parametrize("name", ["tensorrt-10-names-only", "tensorrt-8-foreign-node"])
def test_what_states_no_types_proves_and_refutes_nothing(name: str) -> None:
    layers = run_as(name, dict.fromkeys([*FP16, *IN_FP32], "fp16"))
    assert layers.macs == {"unknown": 1.0}
    assert layers.unseen == 1.0
    assert layers.too_wide == ()
    layers.check("fp16")


def test_layers_are_counted_by_precision() -> None:
    assert run_as("tensorrt-10-fp16", {}).layers == {"fp16": 6, "fp32": 3, "unknown": 1}
    assert run_as("tensorrt-10-int8", {}).layers["int8"] == 5
    assert run_as("tensorrt-10-names-only", {}).layers == {"unknown": 3}
    assert run_as("tensorrt-8-foreign-node", {}).layers == {"fp16": 1}


def test_shares_are_those_of_the_macs() -> None:
    wanted = [Product("Gemm_4", 25, "fp32"), Product(FP16[0], 50, "fp16"), Product("nowhere", 25, "fp16")]
    layers = inspect(golden("tensorrt-10-fp16"), wanted)
    assert layers.macs == {"fp16": 0.5, "fp32": 0.25, "unknown": 0.25}
    assert layers.asked == {"fp16": 0.75, "fp32": 0.25}
    assert layers.unseen == 0.25
    assert layers.too_wide_macs == 0


def test_sums_in_fp16_are_told() -> None:
    wanted = dict.fromkeys(FP16, "fp16")
    layers = run_as("tensorrt-10-fp16", wanted)
    assert layers.half_sums == pytest.approx(2 / len(wanted))  # fc1 and fc2
    layers.check("fp16")  # told, not refused: what it costs is for the scores to say
    assert run_as("tensorrt-10-int8", dict.fromkeys(INT8, "int8")).half_sums == 0


def test_products_that_run_wider_than_asked_are_refused_by_name() -> None:
    layers = run_as("tensorrt-10-fp16", {**dict.fromkeys(FP16, "fp16"), **dict.fromkeys(IN_FP32, "fp16")})
    assert set(layers.too_wide) == set(IN_FP32)
    assert layers.too_wide_macs == 0.2
    with pytest.raises(EngineError, match=r"runs in fp16, found 20 % of the .*Gemm_4, MatMul_723"):
        layers.check("fp16")


def test_a_product_that_fell_back_is_hidden_by_no_layer_that_only_moves_its_data() -> None:
    layers = run_as("tensorrt-10-int8", dict.fromkeys([*INT8, FELL_BACK], "int8"))
    assert layers.too_wide == (FELL_BACK,)
    with pytest.raises(EngineError, match=FELL_BACK):
        layers.check("int8")


def test_a_tenth_may_run_wider_and_the_largest_is_named_first() -> None:
    def layers(wide: int, rest: int) -> EngineLayers:
        wanted = [Product("Gemm_4", wide, "fp16"), Product("MatMul_723", 2 * wide, "fp16")]
        return inspect(golden("tensorrt-10-fp16"), [*wanted, Product(FP16[0], rest, "fp16")])

    at_the_limit = layers(1, 27)
    assert at_the_limit.too_wide_macs == MOST_TOO_WIDE
    at_the_limit.check("fp16")
    over = layers(1, 26)
    assert over.too_wide == ("MatMul_723", "Gemm_4")
    with pytest.raises(EngineError, match=r"not installed"):
        over.check("fp16")


def test_running_narrower_than_asked_is_no_fault_of_the_width() -> None:
    layers = run_as("tensorrt-10-fp16", dict.fromkeys(FP16, "fp32"))
    assert layers.too_wide == ()
    assert layers.asked == {"fp32": 1.0}


def test_the_manifest_keeps_what_was_found() -> None:
    layers = run_as("tensorrt-10-fp16", {**dict.fromkeys(FP16, "fp16"), **dict.fromkeys(IN_FP32, "fp16")})
    kept = json.loads(json.dumps(layers.to_dict()))
    assert kept["macs"] == layers.macs
    assert kept["too_wide"] == list(layers.too_wide)
    assert set(kept) == {"layers", "macs", "asked", "too_wide", "too_wide_macs", "half_sums"}


@pytest.mark.parametrize(
    ("kernel", "precision", "half"),
    [
        ("sm80_xmma_gemm_i8f32_i8i32_f32_tn_n_tilesize32x64x64", "int8", False),
        ("sm80_xmma_gemm_i8i8_i8i32_f32_tn_n_tilesize64x64x64", "int8", False),
        ("sm80_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize64x64x32", "fp16", False),
        ("sm80_xmma_gemm_f16f16_f16f16_f16_nn_n_tilesize64x128x32", "fp16", True),
        ("sm80_xmma_gemm_bf16bf16_bf16f32_f32_tn_n", "fp16", False),
        ("sm80_xmma_gemm_f32f32_tf32f32_f32_nn_n_tilesize64x32x16", "fp32", False),
        ("sm80_xmma_gemm_f32f32_f32f32_f32_nn_n", "fp32", False),
        ("__myl_MulSumAdd_0x9c5f16a2003b7de415e0a8f1667d92b4", "unknown", False),
        ("", "unknown", False),
    ],
)
def test_kernels_name_their_operands(kernel: str, precision: str, half: bool) -> None:
    layer = {"Name": "a", "LayerType": "gemm", "TacticName": kernel}
    assert precision_of(layer) == precision
    assert sums_in_half(layer) == half


@pytest.mark.parametrize(
    ("said", "precision"),
    [
        ("Half", "fp16"),
        ("Float", "fp32"),
        ("Int8", "int8"),
        ("BFloat16", "fp16"),
        ("Row major linear FP16 format", "fp16"),
        ("Row major linear FP32", "fp32"),
        ("Thirty-two wide channel vectorized row major Int8 format", "int8"),
        ("Int32", "unknown"),
        ("Unknown format", "unknown"),
    ],
)
@pytest.mark.parametrize("key", ["Format/Datatype", "Datatype", "DataType", "Data Type"])
def test_data_types_have_many_names(said: str, precision: str, key: str) -> None:
    assert precision_of({"Inputs": [{"Name": "x", key: said}]}) == precision


@pytest.mark.parametrize("separator", ["\x1e", "\x1f", ""])
def test_names_are_found_whatever_stands_between_them(separator: str) -> None:
    names = ["a.b", "c/d 1", "e'"]
    assert onnx_names({"Metadata": separator.join(f"[ONNX Layer: {name}]" for name in names)}) == names


@given(st.text("0123456789abcdef", min_size=32, max_size=32))
@example("f16f16_f16f16_f16".replace("_", "").ljust(32, "0"))
def test_a_hash_says_nothing(digits: str) -> None:
    layer = {"TacticName": f"_gemm_mha_v2_0x{digits}", "Inputs": [{"Format/Datatype": "Half"}]}
    assert precision_of(layer) == "fp16"
    assert not sums_in_half(layer)


# What is none of the inspector's


@pytest.mark.parametrize(
    "text", ["", "no json", "null", "[]", "{}", '"Layers"', '{"Layers": null}', '{"Layers": {"a": 1}}', "[" * 100_000]
)
def test_what_is_none_of_the_inspectors_is_refused(text: str) -> None:
    with pytest.raises(EngineError, match=r"engine inspector: expected "):
        inspect(text, [])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
keys = st.sampled_from(["Name", "LayerType", "Inputs", "Outputs", "TacticName", "Metadata", "Format/Datatype"])
layer_values = json_values | st.dictionaries(keys, json_values | st.lists(st.dictionaries(keys, json_values)))


@given(layer_values | st.lists(layer_values, max_size=4))
def test_whatever_stands_under_layers_is_read_or_refused(layers: object) -> None:
    try:
        read = inspect(json.dumps({"Layers": layers}), [Product("a", 3, "fp16"), Product("b", 1, "int8")])
    except EngineError:
        assert not isinstance(layers, list)
    else:
        assert sum(read.layers.values()) == len(layers)  # type: ignore[arg-type]
        assert sum(read.macs.values()) == pytest.approx(1)


@given(st.text())
def test_whatever_text_it_is_it_is_read_or_refused(text: str) -> None:
    with pytest.raises(EngineError):
        inspect(text, [])


names = st.sampled_from(["a", "b", "c"])


@given(
    st.lists(
        st.tuples(names, st.integers(1, 1000), st.sampled_from(["fp32", "fp16", "int8"])), unique_by=lambda p: p[0]
    ),
    st.dictionaries(names, st.sampled_from(["Float", "Half", "Int8", "Int32"])),
)
def test_shares_add_up(wanted: list[tuple[str, int, str]], run: dict[str, str]) -> None:
    layers = [
        {"LayerType": "gemm", "Metadata": f"[ONNX Layer: {name}]", "Inputs": [{"Format/Datatype": kind}]}
        for name, kind in run.items()
    ]
    read = inspect(json.dumps({"Layers": layers}), [Product(*product) for product in wanted])
    width = {"Float": 4, "Half": 2, "Int8": 1}
    total = sum(macs for _, macs, _ in wanted)
    wide = {
        name: macs
        for name, macs, asked in wanted
        if width.get(run.get(name, ""), 0) > {"fp32": 4, "fp16": 2, "int8": 1}[asked]
    }
    assert set(read.too_wide) == set(wide)
    assert read.too_wide_macs == pytest.approx(sum(wide.values()) / (total or 1), abs=1e-6)
    for shares in (read.macs, read.asked):
        assert sum(shares.values()) == pytest.approx(1.0 if wanted else 0.0, abs=1e-5)


# Products of networks that TensorRT has parsed

CONFIG = FTHNetConfig(embed_dim=8, depths=(1, 2, 1, 1), num_heads=(1, 2, 4, 8), target_in=192, hyper_in=32)


@pytest.fixture(scope="module")
def weights() -> Weights:
    torch.manual_seed(0)
    network = FTHNet(CONFIG)
    network.initialise()
    return weights_of(network)


def graph_of(weights: Weights, precision: str, batch: int = 1) -> Graph:
    plan = {"fp32": Plan(), "fp16": Plan("fp16")}.get(precision)
    if plan is None:
        from tests.convert.test_engine_build import int8_layers

        plan = Plan("fp16", int8_layers(weights, CONFIG))
    return write_graph(weights, CONFIG, Preprocessing(), batch, plan)


def products_of(model: onnx.ModelProto, folder: Path) -> list[Product]:
    """What TensorRT for RTX's parser makes of a model's products."""
    pytest.importorskip("tensorrt_rtx")
    tensorrt = load_tensorrt("tensorrt_rtx")
    (folder / "graph.onnx").write_bytes(model.SerializeToString())
    logger = tensorrt.logger()
    builder = tensorrt.module.Builder(logger)
    network, _parser = parse(tensorrt, builder, folder / "graph.onnx", logger)
    return products(tensorrt, network)


def attention_macs() -> int:
    """Of q k^T and of the product with v, which are no weighted layers."""
    length = CONFIG.window_size**2
    return sum(2 * depth * CONFIG.grid(i) ** 2 * length * CONFIG.stage_dim(i) for i, depth in enumerate(CONFIG.depths))


def target_macs() -> int:
    """Of the perceptron that the hypernetwork writes."""
    return sum(CONFIG.target_width(i) * CONFIG.target_width(i + 1) for i in range(4)) + CONFIG.target_width(4)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_products_are_those_of_the_graph(weights: Weights, precision: str, tmp_path: Path) -> None:
    graph = graph_of(weights, precision)
    found = products_of(graph.model, tmp_path)
    nodes = [node.name for node in graph.model.graph.node if node.op_type in ("MatMul", "Gemm")]
    assert [product.name for product in found] == nodes
    weighted = sum(site.macs for site in graph.sites) + graph.other_macs
    assert sum(product.macs for product in found) == weighted + attention_macs() + target_macs()
    asked: Counter[str] = Counter()
    for product in found:
        asked[product.asked] += product.macs
    if precision == "fp32":
        assert set(asked) == {"fp32"}
    else:
        assert asked["fp16"] > asked["fp32"] > 0  # islands of FP32
        assert (asked["int8"] > 0) == (precision == "int8")
    if precision == "int8":
        assert asked["int8"] == sum(site.macs for site in graph.sites)


def test_products_grow_with_the_batch(weights: Weights, tmp_path: Path) -> None:
    one, three = (products_of(graph_of(weights, "fp16", batch).model, tmp_path) for batch in (1, 3))
    assert [(product.name, 3 * product.macs, product.asked) for product in one] == [
        (product.name, product.macs, product.asked) for product in three
    ]


def test_a_product_of_another_type_is_refused_by_name(tmp_path: Path) -> None:
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 384, 384, 3])
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, [1, 384, 384, 2])
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], name="narrow", to=TensorProto.BFLOAT16),
        helper.make_node("MatMul", ["x", "w"], ["y"], name="brain_product"),
        helper.make_node("Cast", ["y"], ["score"], name="widen", to=TensorProto.FLOAT),
    ]
    weight = numpy_helper.from_array(np.ones((3, 2), np.float32), "w")
    weight = helper.make_tensor("w", TensorProto.BFLOAT16, [3, 2], numpy_helper.to_array(weight).ravel())
    model = helper.make_model(
        helper.make_graph(nodes, "g", [image], [score], [weight]),
        opset_imports=[helper.make_opsetid("", 19)],
        ir_version=9,
    )
    with pytest.raises(EngineError, match=r"node brain_product: expected a matrix product of FP32, FP16 or INT8"):
        products_of(model, tmp_path)
