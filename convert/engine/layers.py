"""What precision an engine really runs in, by TensorRT's own engine inspector.

A strongly typed graph leaves TensorRT no choice of types, and still an "FP16" engine that ran in FP32 has been shipped
before (roboflow/rf-detr#1453). So after a build every matrix product that the graph asks for is looked up in the
engine: by its ONNX name in a layer's metadata, and by the data types and the kernel of that layer. The share counts
multiply-accumulates (MACs), because a hundred reformatting layers cost less than one product.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from fthnet_kit.edge.errors import EngineError
from fthnet_kit.edge.inference.tensorrt_library import TensorRT

WIDTH = {"int8": 1, "fp16": 2, "fp32": 4}  # bytes
MOST_TOO_WIDE = 0.1  # share of the MACs that may run wider than the graph asks

# Data types of tensors: "Half", "Row major linear FP16 format". Kernels name the types of their operands:
# sm80_xmma_gemm_i8f32_i8i32_f32_… multiplies INT8; sm80_xmma_gemm_f16f16_f16f32_f32_… FP16, adding up in FP32.
# Generated kernels name none.
DATA_TYPES = (
    ("int8", re.compile(r"int8", re.I)),
    ("fp16", re.compile(r"half|fp16|float16", re.I)),
    ("fp32", re.compile(r"float|fp32", re.I)),
)
OPERANDS = re.compile(
    r"(?:gemm|fprop|conv)_(bf16|tf32|f16|f32|i8|s8|u8)[a-z0-9]*_(?:bf16|tf32|f16|f32|i8|s8|u8)(f16|f32|i32)"
)
OPERAND_PRECISION = {"i8": "int8", "s8": "int8", "u8": "int8", "f16": "fp16", "bf16": "fp16"}
PRODUCTS = re.compile(r"gemm|mha|conv|matrixmultiply|fusion", re.I)
ONNX_NAME = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


@dataclass(frozen=True)
class Product:
    """One matrix product of the network.

    Attributes:
        name: its ONNX node.
        macs: multiply-accumulates of one inference.
        asked: ``fp32``, ``fp16`` or ``int8``, by the network's own types.
    """

    name: str
    macs: int
    asked: str


@dataclass(frozen=True)
class EngineLayers:
    """What the inspector says.

    Attributes:
        layers: count of the engine's layers by precision; `unknown` where they state none.
        macs: share of the matrix products' MACs by the precision they run in.
        asked: the same by the precision that the graph asks for.
        too_wide: names of products that run in a wider type than asked, the largest first.
        too_wide_macs: their share of the MACs.
        half_sums: share of the MACs whose kernel also adds up in FP16; the kit's FP16 gate assumes sums in FP32.
    """

    layers: Mapping[str, int]
    macs: Mapping[str, float]
    asked: Mapping[str, float]
    too_wide: tuple[str, ...]
    too_wide_macs: float
    half_sums: float

    def to_dict(self) -> dict[str, Any]:
        """What the manifest keeps."""
        return {
            "layers": dict(self.layers),
            "macs": dict(self.macs),
            "asked": dict(self.asked),
            "too_wide": list(self.too_wide[:20]),
            "too_wide_macs": self.too_wide_macs,
            "half_sums": self.half_sums,
        }

    def check(self, precision: str) -> None:
        """Raises EngineError where the engine does not run in the precision that was asked for."""
        if self.too_wide_macs > MOST_TOO_WIDE:
            raise EngineError(
                f"expected an engine that runs in {precision}, found {100 * self.too_wide_macs:.0f} % of the "
                f"multiply-accumulates in a wider type (first {', '.join(self.too_wide[:3])}); not installed: this "
                "TensorRT has no kernel of that type for this GPU, take another version or precision"
            )

    @property
    def unseen(self) -> float:
        """Share of the MACs whose layer states no type, or is not listed: neither proved nor refuted."""
        return self.macs.get("unknown", 0.0)


def products(tensorrt: TensorRT, network: Any) -> list[Product]:
    """The matrix products of a parsed network.

    Raises:
        EngineError: a product in another type than FP32, FP16 or INT8; its node is named.
    """
    layer_types = tensorrt.module.LayerType
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    dequantised = {layer.get_output(0).name for layer in layers if layer.type == layer_types.DEQUANTIZE}
    return [
        Product(
            layer.name,
            prod(layer.get_output(0).shape) * layer.get_input(0).shape[-1],
            "int8" if layer.get_input(0).name in dequantised else _asked(tensorrt, layer),
        )
        for layer in layers
        if layer.type == layer_types.MATRIX_MULTIPLY
    ]


def _asked(tensorrt: TensorRT, layer: Any) -> str:
    types = {tensorrt.module.DataType.HALF: "fp16", tensorrt.module.DataType.FLOAT: "fp32"}
    dtype = layer.get_input(0).dtype
    if dtype not in types:
        raise EngineError(f"node {layer.name}: expected a matrix product of FP32, FP16 or INT8, found {dtype}")
    return types[dtype]


def inspect(information: str, wanted: Sequence[Product]) -> EngineLayers:
    """Compare an engine with its network.

    Args:
        information: `EngineInspector.get_engine_information(LayerInformationFormat.JSON)` of an engine that was built
            with detailed profiling verbosity.
        wanted: `products` of its network.

    Raises:
        EngineError: the text is none of the inspector's.
    """
    try:
        layers = json.loads(information)["Layers"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EngineError(f"engine inspector: expected JSON with Layers, found something else ({error})") from error
    if not isinstance(layers, list):
        raise EngineError(f"engine inspector: expected a list of Layers, found {type(layers).__name__}")
    counts = Counter(precision_of(layer) for layer in layers)
    found = _computing_layers(layers)
    total = sum(product.macs for product in wanted) or 1
    too_wide = sorted(
        (p for p in wanted if WIDTH.get(found.get(p.name, UNSEEN)[0], 0) > WIDTH[p.asked]), key=lambda p: -p.macs
    )
    return EngineLayers(
        layers=dict(sorted(counts.items())),
        macs=_shares(((found.get(product.name, UNSEEN)[0], product.macs) for product in wanted), total),
        asked=_shares(((product.asked, product.macs) for product in wanted), total),
        too_wide=tuple(product.name for product in too_wide),
        too_wide_macs=round(sum(product.macs for product in too_wide) / total, 6),
        half_sums=round(sum(p.macs for p in wanted if found.get(p.name, UNSEEN)[1]) / total, 6),
    )


UNSEEN = ("unknown", False)


def _computing_layers(layers: Sequence[Any]) -> dict[str, tuple[str, bool]]:
    """Precision, and whether sums are FP16, of what computes each ONNX node.

    Layers that only move or convert a product's data name it too, so a layer with a product's kernel goes first.
    """
    found: dict[str, tuple[str, bool]] = {}
    for layer in sorted(layers, key=_is_product):
        for name in onnx_names(layer):
            found[name] = (precision_of(layer), sums_in_half(layer))
    return found


def _is_product(layer: Any) -> bool:
    return bool(PRODUCTS.search(f"{_text(layer, 'LayerType')} {_text(layer, 'TacticName')}"))


def onnx_names(layer: Any) -> list[str]:
    """ONNX nodes that an engine layer computes, by its metadata."""
    return ONNX_NAME.findall(_text(layer, "Metadata"))


def precision_of(layer: Any) -> str:
    """``int8``, ``fp16``, ``fp32`` or ``unknown``: of the kernel where its name says it, otherwise of the inputs."""
    operands = OPERANDS.search(_text(layer, "TacticName"))
    if operands:
        return OPERAND_PRECISION.get(operands[1], "fp32")
    inputs = " ".join(_input_types(layer))
    return next((precision for precision, pattern in DATA_TYPES if pattern.search(inputs)), "unknown")


def sums_in_half(layer: Any) -> bool:
    """Whether a layer's kernel accumulates in FP16."""
    operands = OPERANDS.search(_text(layer, "TacticName"))
    return bool(operands and operands[2] == "f16")


def _text(layer: Any, key: str) -> str:
    """A layer's entry; empty where it has none, as a layer that is only a name, or another type."""
    value = layer.get(key) if isinstance(layer, dict) else None
    return value if isinstance(value, str) else ""


def _input_types(layer: Any) -> Iterator[str]:
    """Data types of a layer's inputs; TensorRT 11 split `Format/Datatype` in two."""
    tensors = layer.get("Inputs") if isinstance(layer, dict) else None
    for tensor in tensors if isinstance(tensors, list) else ():
        for key in tensor if isinstance(tensor, dict) else ():
            if "datatype" in key.lower().replace(" ", ""):
                yield _text(tensor, key)


def _shares(parts: Iterator[tuple[str, int]], total: int) -> dict[str, float]:
    sums: Counter[str] = Counter()
    for precision, macs in parts:
        sums[precision] += macs
    return {precision: round(macs / total, 6) for precision, macs in sorted(sums.items())}
