"""What precision an engine really runs in, and whether its attention is fused, by TensorRT's own table of layers.

A strongly typed graph leaves TensorRT no choice of types, and still an "FP16" engine that ran in FP32 has been shipped
before (roboflow/rf-detr#1453). So after a build every matrix product that the graph asks for is looked up in the
engine: by its ONNX name in a layer's metadata, and by the data types and the kernel of that layer. The share counts
multiply-accumulates (MACs), because a hundred reformatting layers cost less than one product. A product whose layer
states no type is `unknown`: it proves nothing, and it counts as nothing proved.

Attention that TensorRT fuses is one kernel from the first product to the second, softmax included. Where something
stands between them that it cannot fuse, each window's weights go through memory: 4.3 times the time in one network
(Stability-AI/stable-audio-3#79). TensorRT never fuses products in FP32.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from fthnet_kit.convert.engine.layer_table import Layer, entry, input_types, onnx_names
from fthnet_kit.edge.errors import EngineError
from fthnet_kit.edge.inference.tensorrt_library import TensorRT

WIDTH = {"int8": 1, "fp16": 2, "bf16": 2, "fp32": 4}  # bytes
MOST_TOO_WIDE = 0.1  # share of the MACs that may run wider than the graph asks
LEAST_PROVED = 0.9  # share of the MACs that must be seen to run as the graph asks

# Data types of tensors: "Half", "Row major linear FP16 format". Kernels name the types of their operands:
# sm80_xmma_gemm_i8f32_i8i32_f32_… multiplies INT8; sm80_xmma_gemm_f16f16_f16f32_f32_… FP16, adding up in FP32.
# Generated kernels name none.
DATA_TYPES = (
    ("int8", re.compile(r"(?<!u)int8", re.I)),
    ("bf16", re.compile(r"bfloat16|bf16", re.I)),
    ("fp16", re.compile(r"half|fp16|float16", re.I)),
    ("fp32", re.compile(r"float|fp32", re.I)),
)
OPERANDS = re.compile(
    r"(?:gemm|fprop|conv)_(bf16|tf32|f16|f32|i8|s8|u8)[a-z0-9]*_(?:bf16|tf32|f16|f32|i8|s8|u8)(f16|f32|i32)"
)
OPERAND_PRECISION = {"i8": "int8", "s8": "int8", "u8": "int8", "f16": "fp16", "bf16": "bf16"}
PRODUCTS = re.compile(r"gemm|mha|conv|matrixmultiply|fusion", re.I)
NO_KERNEL = ("signal", "wait")  # entries of the table by which streams wait for each other


@dataclass(frozen=True)
class Product:
    """One matrix product of the network.

    Attributes:
        name: its ONNX node.
        macs: multiply-accumulates of one inference.
        asked: ``fp32``, ``fp16``, ``bf16`` or ``int8``, by the network's own types.
    """

    name: str
    macs: int
    asked: str


@dataclass(frozen=True)
class AttentionBlock:
    """The attention of one transformer block.

    Attributes:
        name: what its ONNX nodes' names begin with, such as ``bbone.layers.2.blocks.0``.
        nodes: the softmax and the two products around it.
        asked: precision of the products, the wider if they differ.
    """

    name: str
    nodes: frozenset[str]
    asked: str


@dataclass(frozen=True)
class Wanted:
    """What a parsed network asks of its engine."""

    products: tuple[Product, ...]
    attention: tuple[AttentionBlock, ...] = ()

    @property
    def asked(self) -> dict[str, float]:
        """Share of the MACs by the precision that the graph asks for."""
        return _shares((product.asked, product.macs) for product in self.products)

    @property
    def left_wide(self) -> tuple[str, ...]:
        """Products of a transformer block that the graph leaves in FP32 although its attention is narrower."""
        narrow = tuple(f"{block.name}." for block in self.attention if WIDTH[block.asked] < WIDTH["fp32"])
        return tuple(p.name for p in self.products if p.asked == "fp32" and p.name.startswith(narrow)) if narrow else ()


@dataclass(frozen=True)
class EngineLayers:
    """What the table of layers says.

    Attributes:
        kernels: count of the engine's kernels by kind: ``gemm``, ``kgen`` (generated), and so on.
        layers: the same by precision; `unknown` where they state none.
        macs: share of the matrix products' MACs by the precision they run in.
        asked: the same by the precision that the graph asks for.
        proved: share of the MACs that are seen to run exactly as asked.
        too_wide: names of products that run in a wider type than asked, the largest first.
        too_wide_macs: their share of the MACs.
        half_sums: share of the MACs whose kernel also adds up in FP16; the kit's FP16 gate assumes sums in FP32.
        attention: ``fused``, ``apart`` or ``unknown`` (no layer names its softmax), by block.
    """

    kernels: Mapping[str, int]
    layers: Mapping[str, int]
    macs: Mapping[str, float]
    asked: Mapping[str, float]
    proved: float
    too_wide: tuple[str, ...]
    too_wide_macs: float
    half_sums: float
    attention: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """What the manifest keeps."""
        return {
            "kernels": dict(self.kernels),
            "layers": dict(self.layers),
            "macs": dict(self.macs),
            "asked": dict(self.asked),
            "proved": self.proved,
            "too_wide": list(self.too_wide[:20]),
            "too_wide_macs": self.too_wide_macs,
            "half_sums": self.half_sums,
            "attention": dict(self.attention),
        }

    def check(self, precision: str, allow_unproved: bool = False) -> None:
        """Raises EngineError where the engine does not run in the precision asked for, or does not show it."""
        if self.too_wide_macs > MOST_TOO_WIDE:
            raise EngineError(
                f"expected an engine that runs in {precision}, found {100 * self.too_wide_macs:.0f} % of the "
                f"multiply-accumulates in a wider type (first {', '.join(self.too_wide[:3])}); not installed: this "
                "TensorRT has no kernel of that type for this GPU, take another version or precision"
            )
        if self.proved < LEAST_PROVED and not allow_unproved:
            raise EngineError(
                f"expected {100 * LEAST_PROVED:.0f} % of the multiply-accumulates to be seen to run as the graph asks, "
                f"found {100 * self.proved:.0f} %, and {100 * self.unknown:.0f} % of unknown type; not installed: "
                "TensorRT's table of layers does not show it; --allow-unproved installs the engine all the same"
            )

    @property
    def unknown(self) -> float:
        """Share of the MACs whose layer states no type, or is not listed: neither proved nor refuted."""
        return self.macs.get("unknown", 0.0)

    @property
    def apart(self) -> tuple[str, ...]:
        """Blocks whose attention is more than one kernel."""
        return tuple(block for block, state in self.attention.items() if state == "apart")


def wanted_of(tensorrt: TensorRT, network: Any) -> Wanted:
    """What a parsed network asks for: its matrix products, and its attention.

    Raises:
        EngineError: a product in another type than FP32, FP16, BF16 or INT8; its node is named.
    """
    layer_types = tensorrt.module.LayerType
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    found = tuple(_products(tensorrt, layers))
    computed = _of_computed(layer_types, layers)
    softmaxes = [layer.name for layer in layers if layer.type == layer_types.SOFTMAX]
    return Wanted(found, tuple(_attention(softmaxes, [product for product in found if product.name in computed])))


def _products(tensorrt: TensorRT, layers: Sequence[Any]) -> Iterator[Product]:
    layer_types = tensorrt.module.LayerType
    dequantised = {layer.get_output(0).name for layer in layers if layer.type == layer_types.DEQUANTIZE}
    for layer in layers:
        if layer.type == layer_types.MATRIX_MULTIPLY:
            asked = "int8" if layer.get_input(0).name in dequantised else _asked(tensorrt, layer)
            yield Product(layer.name, prod(layer.get_output(0).shape) * layer.get_input(0).shape[-1], asked)


def _asked(tensorrt: TensorRT, layer: Any) -> str:
    data_types = tensorrt.module.DataType
    types = {data_types.HALF: "fp16", data_types.BF16: "bf16", data_types.FLOAT: "fp32"}
    dtype = layer.get_input(0).dtype
    if dtype not in types:
        raise EngineError(f"node {layer.name}: expected a matrix product of FP32, FP16, BF16 or INT8, found {dtype}")
    return types[dtype]


def _of_computed(layer_types: Any, layers: Sequence[Any]) -> set[str]:
    """Names of products that multiply two computed tensors, where a weighted layer has a constant one."""
    constant: set[str] = set()
    found = set()
    for layer in layers:  # in the order of computation
        inputs = [layer.get_input(index) for index in range(layer.num_inputs)]
        known = [tensor.name in constant for tensor in inputs if tensor is not None]
        if all(known):
            constant.update(layer.get_output(index).name for index in range(layer.num_outputs))
        elif layer.type == layer_types.MATRIX_MULTIPLY and not any(known):
            found.add(layer.name)
    return found


def _attention(softmaxes: Sequence[str], found: Sequence[Product]) -> Iterator[AttentionBlock]:
    """Attention blocks: a softmax and two products of computed tensors whose names begin alike."""
    for softmax in softmaxes:
        block = softmax.rpartition(".")[0]
        around = [product for product in found if block and product.name.rpartition(".")[0] == block]
        if len(around) == 2:
            asked = max((product.asked for product in around), key=WIDTH.__getitem__)
            yield AttentionBlock(block, frozenset([softmax, *(product.name for product in around)]), asked)


def compare(layers: Sequence[Layer], wanted: Wanted, otherwise: Sequence[Layer] = ()) -> EngineLayers:
    """Compare an engine's layers with what its network asks for.

    Args:
        layers: as `layer_table` reads them.
        wanted: of the network.
        otherwise: the layers in a second table, for what the first does not say.
    """
    kernels = [layer for layer in layers if entry(layer, "LayerType") not in NO_KERNEL]
    found = {**_computing_layers(otherwise), **_computing_layers(kernels)}
    attention = {**_fusion(otherwise, wanted.attention), **_fusion(kernels, wanted.attention)}
    total = sum(product.macs for product in wanted.products) or 1

    def runs_in(product: Product) -> str:
        return found.get(product.name, UNSEEN)[0]

    def share(products: Iterator[Product]) -> float:
        return round(sum(product.macs for product in products) / total, 6)

    too_wide = sorted(
        (p for p in wanted.products if WIDTH.get(runs_in(p), 0) > WIDTH[p.asked]), key=lambda product: -product.macs
    )
    return EngineLayers(
        kernels=_counts(entry(layer, "LayerType") or "unknown" for layer in kernels),
        layers=_counts(precision_of(layer) for layer in kernels),
        macs=_shares((runs_in(product), product.macs) for product in wanted.products),
        asked=wanted.asked,
        proved=share(p for p in wanted.products if runs_in(p) == p.asked) if wanted.products else 1.0,
        too_wide=tuple(product.name for product in too_wide),
        too_wide_macs=share(iter(too_wide)),
        half_sums=share(p for p in wanted.products if found.get(p.name, UNSEEN)[1]),
        attention={block.name: attention.get(block.name, "unknown") for block in wanted.attention},
    )


UNSEEN = ("unknown", False)


def _computing_layers(layers: Sequence[Layer]) -> dict[str, tuple[str, bool]]:
    """Precision, and whether sums are FP16, of what computes each ONNX node; without those that state no type.

    Layers that only move or convert a product's data name it too, so a layer with a product's kernel goes first.
    """
    found: dict[str, tuple[str, bool]] = {}
    for layer in sorted(layers, key=_is_product):
        for name in onnx_names(layer):
            found[name] = (precision_of(layer), sums_in_half(layer))
    return {name: what for name, what in found.items() if what[0] != "unknown"}


def _is_product(layer: Layer) -> bool:
    return bool(PRODUCTS.search(f"{entry(layer, 'LayerType')} {entry(layer, 'TacticName')}"))


def _fusion(layers: Sequence[Layer], blocks: Sequence[AttentionBlock]) -> dict[str, str]:
    """``fused`` or ``apart`` for each block of which a layer names any part."""
    names = [frozenset(onnx_names(layer)) for layer in layers]
    named = frozenset[str]().union(*names)
    return {
        block.name: "fused" if any(block.nodes <= one for one in names) else "apart"
        for block in blocks
        if block.nodes & named
    }


def precision_of(layer: Layer) -> str:
    """``int8``, ``fp16``, ``bf16``, ``fp32`` or ``unknown``: by the kernel's name if it says it, else by the inputs."""
    operands = OPERANDS.search(entry(layer, "TacticName"))
    if operands:
        return OPERAND_PRECISION.get(operands[1], "fp32")
    inputs = " ".join(input_types(layer))
    return next((precision for precision, pattern in DATA_TYPES if pattern.search(inputs)), "unknown")


def sums_in_half(layer: Layer) -> bool:
    """Whether a layer's kernel accumulates in FP16."""
    operands = OPERANDS.search(entry(layer, "TacticName"))
    return bool(operands and operands[2] == "f16")


def _counts(kinds: Iterator[str]) -> dict[str, int]:
    return dict(sorted(Counter(kinds).items()))


def _shares(parts: Iterator[tuple[str, int]]) -> dict[str, float]:
    sums: Counter[str] = Counter()
    for precision, macs in parts:
        sums[precision] += macs
    total = sum(sums.values()) or 1
    return {precision: round(macs / total, 6) for precision, macs in sorted(sums.items())}
