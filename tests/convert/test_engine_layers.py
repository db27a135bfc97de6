"""The builder's own table of layers is read as it is meant, and products are what the graph asks for."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from fthnet_kit.convert.engine.build import parse
from fthnet_kit.convert.engine.layer_table import from_inspector, from_log, onnx_names
from fthnet_kit.convert.engine.layers import (
    LEAST_PROVED,
    MOST_TOO_WIDE,
    AttentionBlock,
    EngineLayers,
    Product,
    Wanted,
    compare,
    precision_of,
    sums_in_half,
    wanted_of,
)
from fthnet_kit.convert.network.config import FTHNetConfig
from fthnet_kit.convert.network.fthnet import FTHNet
from fthnet_kit.convert.onnx_graph.export import weights_of
from fthnet_kit.convert.onnx_graph.fthnet_graph import Graph, GraphPlan, Weights, write_graph
from fthnet_kit.edge import EngineError, Preprocessing
from fthnet_kit.edge.inference.engine_manifest import fused_of
from fthnet_kit.edge.inference.tensorrt_library import load_tensorrt
from fthnet_kit.edge.model.model_file import ModelFile

pytest.importorskip("tensorrt_rtx")
from tests.golden.layer_tables import make
from tests.golden.layer_tables.make import CONFIGS, NAMES, Recording, read, record

ASKED = {"fp32": {"fp32"}, "fp16": {"fp16", "fp32"}, "int8": {"int8", "fp16", "fp32"}}
BLOCK = "bbone.layers.1.blocks.0"


def inspected(recording: Recording) -> EngineLayers:
    return compare(recording.layers, recording.wanted)


def changed(name: str, **words: str) -> Recording:
    """A recording in whose table words are replaced."""
    recording = read(name)
    table = recording.table
    for old, new in words.items():
        table = table.replace(old, new)
    return Recording(recording.library, table, recording.wanted)


# What TensorRT for RTX made of the graphs


@pytest.mark.parametrize("name", NAMES)
def test_every_product_of_a_recording_is_seen_to_run_as_asked(name: str) -> None:
    precision = name.split("-")[1]
    found = inspected(read(name))
    assert found.proved > 0.999
    assert set(found.macs) == set(found.asked) == ASKED[precision]
    assert found.unknown == 0
    assert found.too_wide == ()
    assert found.half_sums == 0
    found.check(precision)


@pytest.mark.parametrize("name", NAMES)
def test_attention_is_one_kernel_in_every_block_of_a_recording_but_in_fp32(name: str) -> None:
    recording = read(name)
    found = inspected(recording)
    blocks = [f"bbone.layers.{stage}.blocks.{i}" for stage, depth in enumerate((2, 2, 6, 2)) for i in range(depth)]
    assert list(found.attention) == blocks
    assert fused_of(found.attention) == ("0 of 12" if "fp32" in name else "12 of 12")
    assert found.apart == (tuple(blocks) if "fp32" in name else ())
    assert recording.wanted.left_wide == ()


@pytest.mark.parametrize("name", NAMES)
def test_every_row_of_a_recording_is_read(name: str) -> None:
    recording = read(name)
    rows = [line for line in recording.table.split("\n") if line.startswith("Name: ")]
    layers = recording.layers
    assert len(layers) == len(rows) > 200
    for row, layer in zip(rows, layers, strict=True):
        assert row.startswith(f"Name: {layer['Name']}, LayerType: {layer['LayerType']}, ")
        assert row.endswith(layer["Metadata"])
        assert len(layer["Inputs"]) == row.partition("], Constants: ")[0].count("{ Name: ")
    kernels = sum(inspected(recording).kernels.values())
    assert (
        kernels
        == sum(inspected(recording).layers.values())
        == len(rows) - sum(layer["LayerType"] in ("signal", "wait") for layer in layers)
    )


def test_pixels_are_no_int8() -> None:
    assert "int8" not in inspected(read("small-fp16-sm86")).layers  # the first kernel reads UInt8


@pytest.mark.slow
def test_a_recording_can_be_made_again() -> None:
    """Also what fails if another TensorRT makes something else: then look, and record it.

    How many kernels share the work differs from build to build (182 and 185 were seen); what they run in does not.
    """
    name = "small-fp16-sm86"
    old, new = read(name), record(make.graph_of(CONFIGS["small"], "fp16"))
    assert new.library == old.library
    assert new.wanted == old.wanted
    found, expected = (replace(inspected(each), kernels={}, layers={}) for each in (new, old))
    assert found == expected


@pytest.mark.parametrize("name", ["small-fp16-sm86", "small-int8-sm86"])
def test_the_inspector_says_the_same_in_json(name: str) -> None:
    recording = read(name)
    text = json.dumps({"Layers": recording.layers, "Bindings": ["image", "score"]})
    assert compare(from_inspector(text), recording.wanted) == inspected(recording)


# What is not as it should be


def test_a_block_whose_attention_came_apart_is_named() -> None:
    recording = read("small-fp16-sm86")
    block = next(block for block in recording.wanted.attention if block.name == BLOCK)
    softmax = next(f"[ONNX Layer: {node}]" for node in block.nodes if "Softmax" in node)
    row = next(line for line in recording.table.split("\n") if softmax in line)
    alone = row.partition("Metadata: ")[0] + f"Metadata: {softmax}"
    lines = [recording.table.replace(row, row.replace(softmax, "")), alone]
    found = compare(from_log("\n".join(lines)), recording.wanted)
    assert found.apart == (BLOCK,)
    assert fused_of(found.attention) == "11 of 12"


def test_a_table_without_names_proves_nothing_and_refutes_nothing() -> None:
    recording = changed("small-fp16-sm86", **{"[ONNX Layer: ": "["})
    found = inspected(recording)
    assert found.macs == {"unknown": 1.0}
    assert (found.unknown, found.proved, found.too_wide, found.apart) == (1.0, 0.0, (), ())
    assert fused_of(found.attention) == "0 of 12, 12 unknown"
    with pytest.raises(EngineError, match=r"to be seen to run as the graph asks, found 0 %, and 100 % of unknown"):
        found.check("fp16")
    found.check("fp16", allow_unproved=True)


def test_an_engine_in_fp32_is_no_engine_in_fp16() -> None:
    found = inspected(changed("small-fp16-sm86", **{"Datatype: Half": "Datatype: Float"}))
    assert found.macs == {"fp32": 1.0}
    assert found.too_wide_macs > 0.99
    with pytest.raises(EngineError, match=r"runs in fp16, found 99 % of the .* wider type \(first weight_conv"):
        found.check("fp16", allow_unproved=True)


def test_bf16_is_no_fp16() -> None:
    found = inspected(changed("small-fp16-sm86", **{"Datatype: Half": "Datatype: BFloat16"}))
    assert found.macs["bf16"] > 0.99
    assert found.too_wide == ()  # as wide, and yet not what was asked
    assert found.proved < LEAST_PROVED
    with pytest.raises(EngineError, match="allow-unproved"):
        found.check("fp16")


def test_what_one_table_does_not_say_the_other_may() -> None:
    recording, silent = read("small-fp16-sm86"), changed("small-fp16-sm86", **{"Datatype: ": "Datatype: Other"})
    silent = changed("small-fp16-sm86", **{"Half": "?", "Float": "?"})
    assert compare(silent.layers, recording.wanted).proved == 0
    both = compare(silent.layers, recording.wanted, recording.layers)
    assert both.proved > 0.999
    wide = changed("small-fp16-sm86", **{"Datatype: Half": "Datatype: Float"})
    assert compare(wide.layers, recording.wanted, recording.layers).too_wide_macs > 0.99  # the first one's word counts


def test_products_that_run_wider_than_asked_are_named_the_largest_first() -> None:
    recording = read("small-int8-sm86")
    sizes = {product.name: product.macs for product in recording.wanted.products}
    wide = sorted((p for p in recording.wanted.products if p.asked == "fp16"), key=lambda p: -p.macs)
    asked = tuple(Product(p.name, p.macs, "int8") if p in wide else p for p in recording.wanted.products)
    found = compare(recording.layers, Wanted(asked))
    assert set(found.too_wide) == {product.name for product in wide}
    assert [sizes[name] for name in found.too_wide] == sorted((sizes[name] for name in found.too_wide), reverse=True)
    assert found.too_wide_macs > MOST_TOO_WIDE
    with pytest.raises(EngineError, match=found.too_wide[0]):
        found.check("int8")


def one_layer(name: str, **entries: object) -> dict[str, object]:
    return {"Name": name, "LayerType": "gemm", "Metadata": f"[ONNX Layer: {name}]", **entries}


def test_a_tenth_may_run_wider() -> None:
    layers = [one_layer("wide", Inputs=[{"Datatype": "Float"}]), one_layer("rest", Inputs=[{"Datatype": "Half"}])]
    at_the_limit = compare(layers, Wanted((Product("wide", 1, "fp16"), Product("rest", 9, "fp16"))))
    assert at_the_limit.too_wide_macs == MOST_TOO_WIDE
    at_the_limit.check("fp16")
    over = compare(layers, Wanted((Product("wide", 1, "fp16"), Product("rest", 8, "fp16"))))
    with pytest.raises(EngineError, match=r"not installed"):
        over.check("fp16")


def test_running_narrower_than_asked_is_not_as_asked_and_not_too_wide() -> None:
    found = compare([one_layer("a", Inputs=[{"Datatype": "Half"}])], Wanted((Product("a", 1, "fp32"),)))
    assert (found.too_wide, found.proved) == ((), 0.0)


def test_a_product_that_fell_back_is_hidden_by_no_layer_that_only_moves_its_data() -> None:
    moves = {**one_layer("a", Inputs=[{"Datatype": "Int8"}]), "LayerType": "kgen", "TacticName": "__myl_Move_0x1"}
    computes = one_layer("a", Inputs=[{"Datatype": "Half"}])
    for layers in ([moves, computes], [computes, moves]):
        assert compare(layers, Wanted((Product("a", 1, "int8"),))).too_wide == ("a",)


def test_sums_in_fp16_are_told() -> None:
    layers = [
        one_layer("a", TacticName="sm80_xmma_gemm_f16f16_f16f16_f16_nn_n_tilesize64x128x32"),
        one_layer("b", TacticName="sm80_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize64x64x32"),
    ]
    found = compare(layers, Wanted((Product("a", 1, "fp16"), Product("b", 3, "fp16"))))
    assert found.half_sums == 0.25
    found.check("fp16")  # told, not refused: what it costs is for the scores to say


def test_the_manifest_keeps_what_was_found() -> None:
    found = inspected(read("small-int8-sm86"))
    kept = json.loads(json.dumps(found.to_dict()))
    assert kept["macs"] == found.macs
    assert kept["attention"] == found.attention
    assert set(kept) == set(EngineLayers.__dataclass_fields__)


def test_a_network_without_products_has_nothing_to_prove() -> None:
    compare([], Wanted(())).check("fp16")


@pytest.mark.parametrize(
    ("kernel", "precision", "half"),
    [
        ("sm80_xmma_gemm_i8f32_i8i32_f32_tn_n_tilesize32x64x64", "int8", False),
        ("sm80_xmma_gemm_i8i8_i8i32_f32_tn_n_tilesize64x64x64", "int8", False),
        ("sm80_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize64x64x32", "fp16", False),
        ("sm80_xmma_gemm_f16f16_f16f16_f16_nn_n_tilesize64x128x32", "fp16", True),
        ("sm80_xmma_gemm_bf16bf16_bf16f32_f32_tn_n", "bf16", False),
        ("sm80_xmma_gemm_f32f32_tf32f32_f32_nn_n_tilesize64x32x16", "fp32", False),
        ("sm80_xmma_gemm_f32f32_f32f32_f32_nn_n", "fp32", False),
        ("__myl_MulSumAdd_0x9c5f16a2003b7de415e0a8f1667d92b4", "unknown", False),
        ("__myelin_CASK_STUB", "unknown", False),
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
        ("UInt8", "unknown"),
        ("BFloat16", "bf16"),
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
        from_inspector(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
keys = st.sampled_from(["Name", "LayerType", "Inputs", "Outputs", "TacticName", "Metadata", "Format/Datatype"])
layer_values = json_values | st.dictionaries(keys, json_values | st.lists(st.dictionaries(keys, json_values)))


WANTED = Wanted((Product("a", 3, "fp16"), Product("b", 1, "int8")), (AttentionBlock("a", frozenset("ab"), "fp16"),))


@given(layer_values | st.lists(layer_values, max_size=4))
@pytest.mark.slow
def test_whatever_stands_under_layers_is_read_or_refused(layers: object) -> None:
    try:
        read = compare(from_inspector(json.dumps({"Layers": layers})), WANTED)
    except EngineError:
        assert not isinstance(layers, list)
    else:
        assert sum(read.layers.values()) <= len(layers)  # type: ignore[arg-type]
        assert sum(read.macs.values()) == pytest.approx(1)


@given(st.text())
def test_whatever_text_it_is_it_is_read_or_refused(text: str) -> None:
    with pytest.raises(EngineError):
        from_inspector(text)


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
    read = compare(layers, Wanted(tuple(Product(*product) for product in wanted)))
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
    plan = {"fp32": GraphPlan(), "fp16": GraphPlan("fp16")}.get(precision)
    if plan is None:
        from tests.convert.test_engine_build import int8_layers

        plan = GraphPlan("fp16", int8_layers(weights, CONFIG))
    return write_graph(weights, CONFIG, Preprocessing(), batch, plan)


def wanted_by(model: onnx.ModelProto, folder: Path) -> Wanted:
    """What TensorRT for RTX's parser makes of a model."""
    tensorrt = load_tensorrt("tensorrt_rtx")
    logger = tensorrt.logger()
    builder = tensorrt.module.Builder(logger)
    network, _parser = parse(tensorrt, builder, ModelFile.of(model.SerializeToString()), logger)
    return wanted_of(tensorrt, network)


def products_of(model: onnx.ModelProto, folder: Path) -> tuple[Product, ...]:
    return wanted_by(model, folder).products


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


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_attention_blocks_are_those_of_the_graph(weights: Weights, precision: str, tmp_path: Path) -> None:
    """And none of the softmaxes of SoftPool, nor the products of the target network."""
    wanted = wanted_by(graph_of(weights, precision).model, tmp_path)
    blocks = [f"bbone.layers.{stage}.blocks.{i}" for stage, depth in enumerate(CONFIG.depths) for i in range(depth)]
    assert [block.name for block in wanted.attention] == blocks
    for block in wanted.attention:
        kinds = sorted(node.removeprefix(f"{block.name}.").partition("_")[0] for node in block.nodes)
        assert kinds == ["MatMul", "MatMul", "Softmax"]
        assert block.asked == ("fp32" if precision == "fp32" else "fp16")
    assert wanted.left_wide == ()


def product_of(kind: int, folder: Path) -> tuple[Product, ...]:
    """The product of a graph that multiplies in one type."""
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 384, 384, 3])
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, [1, 384, 384, 2])
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], name="narrow", to=kind),
        helper.make_node("MatMul", ["x", "w"], ["y"], name="only_product"),
        helper.make_node("Cast", ["y"], ["score"], name="widen", to=TensorProto.FLOAT),
    ]
    weight = helper.make_tensor("w", kind, [3, 2], np.ones(6))
    model = helper.make_model(
        helper.make_graph(nodes, "g", [image], [score], [weight]),
        opset_imports=[helper.make_opsetid("", 19)],
        ir_version=9,
    )
    return products_of(model, folder)


def test_bf16_is_known(tmp_path: Path) -> None:
    assert product_of(TensorProto.BFLOAT16, tmp_path) == (Product("only_product", 384 * 384 * 6, "bf16"),)


def test_a_product_of_another_type_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"only_product"):
        product_of(TensorProto.INT32, tmp_path)
