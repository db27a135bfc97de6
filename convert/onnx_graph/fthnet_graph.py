"""FTHNet as an ONNX graph, written node by node from the weights.

It computes what `fthnet.FTHNet` computes, arranged for inference:

- tokens stay in window order through a stage, so that partitioning and merging windows cost nothing; where
  windows shift, and where stages meet, one Gather moves whole tokens;
- normalisation, the attention's scale and the factor 100 are folded into weights;
- every weighted layer of the backbone is one GEMM over (tokens, channels); with Q/DQ, over (images, tokens, channels),
  where OpenVINO lets a LayerNorm write INT8.

One description serves every precision; `GraphPlan` says how it is emitted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from fthnet_kit.calibration.int8_fit import Int8Layer
from fthnet_kit.convert.network.config import PATCH_SIZE, TARGET_LAYERS, FTHNetConfig
from fthnet_kit.convert.onnx_graph.writer import CONTRIB, Arithmetic, GraphWriter
from fthnet_kit.edge.errors import MissingExtraError
from fthnet_kit.edge.inference.backend import INPUT_NAME, OUTPUT_NAME
from fthnet_kit.edge.model.preprocess import IMAGENET_MEAN, IMAGENET_STD, INPUT, Preprocessing

try:
    from onnx import ModelProto, TensorProto
except ImportError as error:
    raise MissingExtraError("onnx", "convert", purpose="writing ONNX") from error

Weights = Mapping[str, npt.NDArray[np.float32]]  # by the names of the authors' state_dict
Order = npt.NDArray[np.int64]  # raster index of each token
EPSILON = 1e-5  # every LayerNorm's
MASKED = -60.0  # the authors' -100 makes attention weights of 1e-44: denormals, which take a CPU a third of all time


@dataclass(frozen=True)
class GraphPlan:
    """How the graph is emitted.

    Attributes:
        arithmetic: of everything outside FP32 islands (LayerNorm, softmax, SoftPool, the target network).
        int8: weighted layers that run in INT8, by name.
        kernels: ``standard`` (ONNX operators, Q/DQ; any runtime) or ``onnxruntime`` (its fused operators).
    """

    arithmetic: Arithmetic = "fp32"
    int8: Mapping[str, Int8Layer] = field(default_factory=dict)
    kernels: Literal["standard", "onnxruntime"] = "standard"


@dataclass(frozen=True)
class Site:
    """One weighted layer of the graph that may run in INT8.

    Attributes:
        layer: its name in the state_dict, without ``.weight``.
        input: name of the tensor that enters it, float (…, in).
        macs: multiply-accumulates for one image.
    """

    layer: str
    input: str
    macs: int


@dataclass(frozen=True)
class Graph:
    """A model, and its weighted layers that may run in INT8."""

    model: ModelProto
    sites: tuple[Site, ...]
    other_macs: int  # weighted layers that stay in floating point, for one image


def write_graph(
    weights: Weights, config: FTHNetConfig, preprocessing: Preprocessing, batch: int = 1, plan: GraphPlan | None = None
) -> Graph:
    """``image: uint8 (N, 384, 384, 3) RGB -> score: float32 (N,)``, points, not clipped.

    Args:
        weights: float32, by the names of the authors' state_dict.
        config: the architecture.
        preprocessing: its normalisation goes into the graph.
        batch: N.
        plan: default: FP32, standard operators.
    """
    return _FTHNetGraph(weights, config, preprocessing, batch, plan or GraphPlan()).write()


def window_order(size: int, window: int, shift: int = 0) -> Order:
    """Raster index of each token of a size x size grid, window by window, after a cyclic shift."""
    raster = np.roll(np.arange(size * size).reshape(size, size), (-shift, -shift), axis=(0, 1))
    count = size // window
    return raster.reshape(count, window, count, window).transpose(0, 2, 1, 3).reshape(-1)


def places(order: Order) -> Order:
    """Where each raster token stands in an order: the inverse permutation."""
    return np.argsort(order)


def shift_regions(size: int, window: int, shift: int) -> npt.NDArray[np.int32]:
    """Which tokens a cyclic shift left neighbours: the region of each, (windows, window**2)."""
    band = np.zeros(size, np.int32)
    band[-window:] = 1
    band[-shift:] = 2
    return (3 * band[:, None] + band[None, :]).reshape(-1)[window_order(size, window)].reshape(-1, window**2)


def relative_positions(window: int) -> npt.NDArray[np.int64]:
    """Row of the position-bias table for each pair of tokens of a window, (window**4,)."""
    row, column = np.divmod(np.arange(window**2), window)
    index = (row[:, None] - row + window - 1) * (2 * window - 1) + column[:, None] - column + window - 1
    return index.reshape(-1)


def layer_parameters(
    weights: Weights, config: FTHNetConfig, layer: str
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    """Weight (in, out) and bias (out,) of a layer as the graph multiplies them: attention's scale is in the query."""
    weight, bias = weights[f"{layer}.weight"], weights.get(f"{layer}.bias")
    if weight.ndim == 4:  # a convolution's (out, in, rows, columns), over gathered neighbours
        weight = weight.transpose(0, 2, 3, 1).reshape(len(weight), -1)
    if not layer.endswith(".qkv"):
        return weight.T, bias
    dim, stage = weight.shape[1], int(layer.split(".")[2])
    scale = np.ones(3 * dim, np.float32)
    scale[:dim] = (dim // config.num_heads[stage]) ** -0.5
    return weight.T * scale, None if bias is None else bias * scale


class _FTHNetGraph:
    def __init__(
        self, weights: Weights, config: FTHNetConfig, preprocessing: Preprocessing, batch: int, plan: GraphPlan
    ) -> None:
        self.weights = weights
        self.config = config
        self.preprocessing = preprocessing
        self.batch = batch
        self.plan = plan
        self.g = GraphWriter(plan.arithmetic)
        self.sites: list[Site] = []
        self.other_macs = 0

    def write(self) -> Graph:
        config, g = self.config, self.g
        x, order = self.patch_embed()
        taps = []
        for stage in range(4):
            x, order = self.stage(x, order, stage)
            taps.append(self.tap(x, order, stage))
        vector = g.op("Concat", *taps, axis=1)
        x = self.layer_norm(self.gather(x, order, np.arange(config.grid(3) ** 2), config.stage_dim(3)), "bbone.norm")
        score = self.target_network(vector, self.hypernetwork(x))
        g.op("Reshape", score, g.literal(np.array([-1], np.int64)), name=OUTPUT_NAME)
        model = g.model(
            {INPUT_NAME: (TensorProto.UINT8, (self.batch, INPUT, INPUT, 3))},
            {OUTPUT_NAME: (TensorProto.FLOAT, (self.batch,))},
            {
                "fthnet.architecture": json.dumps(config.to_dict()),
                "fthnet.preprocessing": json.dumps(self.preprocessing.to_dict()),
            },
        )
        return Graph(model, tuple(self.sites), self.other_macs)

    # Layers

    def tokens(self, x: str, rows: int, channels: int) -> str:
        """Tokens as the weighted layers take them: (N * rows, channels), with Q/DQ (N, rows, channels)."""
        return self.g.reshape(x, *((-1, rows) if self.has_qdq else (-1,)), channels)

    @property
    def has_qdq(self) -> bool:
        return bool(self.plan.int8) and self.plan.kernels == "standard"

    def linear(self, x: str, layer: str, rows: int) -> str:
        """Tokens (…, in) -> (…, out): a weighted layer that may run in INT8; `rows` of an image."""
        (y,) = self.linears(x, layer, rows, {"": slice(None)})
        return y

    def linears(self, x: str, layer: str, rows: int, parts: Mapping[str, slice]) -> list[str]:
        """A weighted layer as several GEMMs, each of some of its outputs."""
        weight, bias = layer_parameters(self.weights, self.config, layer)
        self.sites.append(Site(layer, x, rows * weight.size))
        int8 = self.plan.int8.get(layer)
        if int8 is not None:
            return [self.int8_linear(x, layer + part, int8.columns(columns)) for part, columns in parts.items()]
        return [
            self.gemm(x, layer + part, weight[:, columns], None if bias is None else bias[columns])
            for part, columns in parts.items()
        ]

    def gemm(self, x: str, layer: str, weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32] | None) -> str:
        """X @ weight + bias in the graph's arithmetic."""
        g = self.g
        inputs = [x, g.constant(weight, f"{layer}.weight")]
        if self.has_qdq:  # an operator of two axes
            product = g.op("MatMul", *inputs, name=f"{layer}.gemm")
            return product if bias is None else g.op("Add", product, g.constant(bias, f"{layer}.bias"))
        if bias is not None:
            inputs.append(g.constant(bias, f"{layer}.bias"))
        return g.op("Gemm", *inputs, name=f"{layer}.gemm")

    def int8_linear(self, x: str, layer: str, int8: Int8Layer) -> str:
        """The same with the input and the weights in INT8."""
        g = self.g
        weight = g.literal(int8.weight, f"{layer}.weight")
        if self.plan.kernels == "onnxruntime":
            scale, zero = (g.literal(value) for value in int8.affine())
            quantised = g.op("QuantizeLinear", x, scale, zero, name=f"{layer}.quantised")
            return g.op(
                "MatMulIntegerToFloat",
                *(quantised, weight, scale, g.literal(int8.weight_scale), zero, "", g.literal(int8.bias)),
                name=f"{layer}.gemm",
                domain=CONTRIB,
            )
        scale, zero = g.constant(int8.symmetric()), g.literal(np.int8(0))
        quantised = g.op("QuantizeLinear", x, scale, zero, name=f"{layer}.quantised")
        x = g.op("DequantizeLinear", quantised, scale, zero)
        zeros = g.literal(np.zeros(int8.weight.shape[1], np.int8))
        weight = g.op("DequantizeLinear", weight, g.constant(int8.weight_scale), zeros, axis=1)
        return g.op("Add", g.op("MatMul", x, weight), g.constant(int8.bias, f"{layer}.bias"))

    def layer_norm(self, x: str, layer: str) -> str:
        """LayerNorm over channels, an FP32 island."""
        g = self.g
        scale, bias = (g.literal(self.weights[f"{layer}.{part}"], f"{layer}.{part}") for part in ("weight", "bias"))
        return g.narrow(
            g.op("LayerNormalization", g.widen(x), scale, bias, axis=-1, epsilon=EPSILON, name=f"{layer}.output")
        )

    def gelu(self, x: str) -> str:
        """X * (1 + erf(x / sqrt 2)) / 2, in the form that runtimes recognise."""
        g = self.g
        erf = g.op("Erf", g.op("Div", x, g.constant(np.sqrt(2))))
        return g.op("Mul", g.op("Mul", x, g.op("Add", erf, g.constant(1))), g.constant(0.5))

    def gather(self, x: str, order: Order, wanted: Order, channels: int) -> str:
        """Tokens of one order in another; the wanted one may be of another shape and repeat tokens."""
        g = self.g
        index = places(order)[wanted.reshape(-1)]
        if np.array_equal(index, np.arange(len(order))):
            return x
        x = g.op("Gather", g.reshape(x, -1, len(order), channels), g.literal(index), axis=1)
        return self.tokens(x, len(index), channels)

    # From the pixels down

    def patch_embed(self) -> tuple[str, Order]:
        """4x4 patches to tokens; the image's normalisation is part of the weights."""
        g, config = self.g, self.config
        layer, dim, window = "bbone.patch_embed.proj", config.embed_dim, config.window_size
        imagenet = self.preprocessing.normalisation == "imagenet"
        mean, std = (
            np.array(v, np.float64) for v in ((IMAGENET_MEAN, IMAGENET_STD) if imagenet else ((0,) * 3, (1,) * 3))
        )
        weight = self.weights[f"{layer}.weight"].astype(np.float64)  # (C, 3, 4, 4)
        bias = self.weights[f"{layer}.bias"] - (weight * (mean / std)[:, None, None]).sum(axis=(1, 2, 3))
        weight = (weight / (255 * std)[:, None, None]).transpose(2, 3, 1, 0).reshape(-1, dim)
        count = config.grid(0) // window
        image = g.op("Cast", INPUT_NAME, to=TensorProto.FLOAT)
        image = g.reshape(image, -1, count, window, PATCH_SIZE, count, window, PATCH_SIZE * 3)
        patches = g.reshape(g.transpose(image, 0, 1, 4, 2, 5, 3, 6), -1, len(weight))
        self.other_macs += config.grid(0) ** 2 * weight.size
        x = g.op(
            "Gemm", patches, g.literal(weight.astype(np.float32)), g.literal(bias.astype(np.float32))
        )  # FP32 island
        x = g.narrow(x)
        x = self.tokens(x, config.grid(0) ** 2, dim) if self.has_qdq else x
        return self.layer_norm(x, "bbone.patch_embed.norm"), window_order(config.grid(0), window)

    def stage(self, x: str, order: Order, stage: int) -> tuple[str, Order]:
        """Patch merging (except in stage 0), then the blocks; returns the order that the tokens are left in."""
        config = self.config
        size, window = config.grid(stage), config.window_size
        if stage:
            x, order = self.merge(x, order, stage)
        for block in range(config.depths[stage]):
            shift = window // 2 if block % 2 and size > window else 0
            wanted = window_order(size, window, shift)
            x, order = self.gather(x, order, wanted, config.stage_dim(stage)), wanted
            x = self.block(x, f"bbone.layers.{stage}.blocks.{block}.", stage, shift)
        return x, order

    def merge(self, x: str, order: Order, stage: int) -> tuple[str, Order]:
        """2x2 neighbours side by side (4C), LayerNorm, Linear to 2C, in the authors' order: rows first."""
        config = self.config
        size, dim = config.grid(stage - 1), config.stage_dim(stage - 1)
        half = np.arange(size * size).reshape(size // 2, 2, size // 2, 2).transpose(0, 2, 3, 1).reshape(-1, 4)
        wanted = window_order(size // 2, config.window_size)
        x = self.tokens(self.gather(x, order, half[wanted], dim), len(wanted), 4 * dim)
        prefix = f"bbone.layers.{stage}.downsample."
        return self.linear(self.layer_norm(x, f"{prefix}norm"), f"{prefix}reduction", len(wanted)), wanted

    def block(self, x: str, prefix: str, stage: int, shift: int) -> str:
        """Attention inside windows, then an MLP, each with LayerNorm before and a residual."""
        g, rows = self.g, self.config.grid(stage) ** 2
        g.scope = prefix
        attended = self.attention(self.layer_norm(x, f"{prefix}norm1"), f"{prefix}attn.", stage, shift)
        x = g.op("Add", x, self.linear(attended, f"{prefix}attn.proj", rows))
        hidden = self.gelu(self.linear(self.layer_norm(x, f"{prefix}norm2"), f"{prefix}mlp.fc1", rows))
        x = g.op("Add", x, self.linear(hidden, f"{prefix}mlp.fc2", rows))
        g.scope = ""
        return x

    def attention(self, x: str, prefix: str, stage: int, shift: int) -> str:
        """Tokens (…, C) before the projection: softmax(q k^T / sqrt d + bias) v in each window."""
        config = self.config
        dim, length = config.stage_dim(stage), config.window_size**2
        windows = config.grid(stage) ** 2 // length
        thirds = {f".{part}": slice(index * dim, (index + 1) * dim) for index, part in enumerate("qkv")}
        qkv = self.linears(x, f"{prefix}qkv", windows * length, thirds)  # three GEMMs: splitting one would copy
        bias = self.attention_bias(f"{prefix}relative_position_bias_table", stage, shift)
        heads, own = config.num_heads[stage], windows if shift else 1  # windows that have a bias of their own
        if self.plan.kernels == "onnxruntime":
            attended = self.fused_attention(qkv, bias, windows, heads, dim)
        else:
            attended = self.standard_attention(qkv, bias, own, heads, dim)
        return self.tokens(attended, windows * length, dim)

    def attention_bias(self, table: str, stage: int, shift: int) -> str:
        """What is added to the logits, (1 or windows, heads, L, L).

        Made from small constants: runtimes fold it when they load the graph, and the file stays half as large.
        """
        g, config = self.g, self.config
        length = config.window_size**2
        rows = g.op(
            "Gather", g.constant(self.weights[table], table), g.literal(relative_positions(config.window_size)), axis=0
        )
        bias = g.transpose(g.reshape(rows, 1, length, length, config.num_heads[stage]), 0, 3, 1, 2)
        if not shift:
            return bias
        region = g.literal(shift_regions(config.grid(stage), config.window_size, shift))
        same = g.op("Equal", g.reshape(region, -1, 1, length, 1), g.reshape(region, -1, 1, 1, length))
        return g.op("Add", bias, g.op("Where", same, g.constant(0), g.constant(MASKED)))

    def standard_attention(self, qkv: list[str], bias: str, own: int, heads: int, dim: int) -> str:
        """Attention in ONNX operators: four axes, and only bias and softmax between the products, so runtimes fuse it.

        Where windows have a bias of their own, they and the heads share an axis, and the images of a batch have one.
        """
        g, length, channels = self.g, self.config.window_size**2, dim // heads
        each = (own,) if own > 1 else ()
        kept, (token, head, channel) = range(1 + len(each)), range(1 + len(each), 4 + len(each))
        by_head, across = (*kept, head, token, channel), (*kept, head, channel, token)
        split = [g.reshape(part, -1, *each, length, heads, channels) for part in qkv]
        q, v = (g.reshape(g.transpose(part, *by_head), -1, own * heads, length, channels) for part in split[::2])
        k = g.reshape(g.transpose(split[1], *across), -1, own * heads, channels, length)
        logits = g.op("Add", g.op("MatMul", q, k), g.reshape(bias, 1, own * heads, length, length))
        mixed = g.op("MatMul", g.narrow(g.op("Softmax", g.widen(logits), axis=-1)), v)
        return g.transpose(g.reshape(mixed, -1, *each, heads, length, channels), *by_head)

    def fused_attention(self, qkv: list[str], bias: str, windows: int, heads: int, dim: int) -> str:
        """Attention in ONNX Runtime's own operator."""
        g, length = self.g, self.config.window_size**2
        if self.batch > 1:  # the operator wants one bias for all windows, or one for each of the batch
            shape = g.literal(np.array([windows, heads, length, length], np.int64))
            bias = g.op("Concat", *[g.op("Expand", bias, shape)] * self.batch, axis=0)
        parts = (g.reshape(part, -1, length, dim) for part in qkv)
        return g.op("MultiHeadAttention", *parts, "", "", bias, num_heads=heads, scale=1.0, domain=CONTRIB)

    def pool(self, x: str, channels: int, grid: int) -> str:
        """(N, C, grid, grid) -> (N, C * (grid / window)**2), an FP32 island: SoftPool or the mean of each window."""
        g, window = self.g, self.config.window_size
        count = grid // window
        x = g.reshape(g.widen(x), -1, channels, count, window, count, window)
        x = g.reshape(g.transpose(x, 0, 1, 2, 4, 3, 5), -1, channels * count**2, window**2)
        axis = g.literal(np.array([2], np.int64))
        if self.config.pool == "avg":
            return g.op("ReduceMean", x, axis, keepdims=0)
        return g.op(
            "ReduceSum", g.op("Mul", x, g.op("Softmax", x, axis=-1)), g.literal(np.array([2], np.int64)), keepdims=0
        )

    def tap(self, x: str, order: Order, stage: int) -> str:
        """A stage's features for the target network, float32 (N, features).

        The (N, L, C) tokens are *reinterpreted* as (N, C, H, W), as in the authors' code.
        """
        g, config = self.g, self.config
        dim, grid = config.stage_dim(stage), config.grid(stage)
        weight = self.weights[f"bbone.fcl_merge.{stage}.0.weight"][:, :, 0, 0]
        x = self.gather(x, order, np.arange(grid**2), dim)
        merged = g.op("MatMul", g.constant(weight), g.reshape(x, -1, dim, grid**2))
        pooled = self.pool(merged, len(weight), grid)
        layer = f"bbone.fcl_fc.{stage}"
        self.other_macs += grid**2 * weight.size
        return self.wide_gemm(pooled, layer)

    def wide_gemm(self, x: str, layer: str) -> str:
        """A small weighted layer in FP32."""
        g = self.g
        weight, bias = self.weights[f"{layer}.weight"].T, self.weights[f"{layer}.bias"]
        self.other_macs += weight.size
        return g.op("Gemm", x, g.literal(weight, f"{layer}.weight"), g.literal(bias, f"{layer}.bias"))

    def hypernetwork(self, x: str) -> list[tuple[str, str]]:
        """Weight (N, out, in) and bias (N, out, 1) of each target layer, float32, from (…, 8C) tokens."""
        g, config, last = self.g, self.config, TARGET_LAYERS - 1
        area, generated = config.window_size**2, []
        for level in range(last):
            width, layer = config.hyper_width(level), f"weight_conv.{level}"
            x = self.gelu(self.linear(x, f"conv1x1.{level}.0", area))
            weight = self.by_channel(self.conv3x3(x, layer, width), len(self.weights[f"{layer}.weight"]))
            weight = g.reshape(weight, -1, config.target_width(level + 1), config.target_width(level))
            pooled = self.pool(self.by_channel(x, width), width, config.window_size)
            bias = self.wide_gemm(pooled, f"bias_conv.{level}")
            generated.append((weight, g.reshape(bias, -1, config.target_width(level + 1), 1)))
        width = config.hyper_width(last)
        x = self.by_channel(self.gelu(self.linear(x, f"conv1x1.{last}.0", area)), width)
        x = g.reshape(x, -1, width * area)
        weight = g.reshape(self.wide_gemm(x, f"weight_conv.{last}"), -1, 1, config.target_width(last))
        bias = g.reshape(self.wide_gemm(x, f"bias_conv.{last}"), -1, 1, 1)
        return [*generated, (weight, bias)]

    def by_channel(self, x: str, channels: int) -> str:
        """Tokens (…, C) -> float32 (N, C, 144)."""
        x = self.g.reshape(self.g.widen(x), -1, self.config.window_size**2, channels)
        return self.g.transpose(x, 0, 2, 1)

    def conv3x3(self, x: str, layer: str, channels: int) -> str:
        """A 3x3 convolution with zero padding on the last grid, as a GEMM: tokens (…, in) -> (…, out)."""
        g, size = self.g, self.config.window_size
        area = size * size
        padded = np.pad(np.arange(area).reshape(size, size), 1, constant_values=area)
        index = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).reshape(-1)
        one_row_more = g.literal(np.array([0, 0, 0, 0, 1, 0], np.int64))
        x = g.op("Pad", g.reshape(x, -1, area, channels), one_row_more, g.constant(0))
        x = g.op("Gather", x, g.literal(index), axis=1)
        return self.linear(self.tokens(x, area, 9 * channels), layer, area)

    def target_network(self, vector: str, layers: list[tuple[str, str]]) -> str:
        """The five-layer perceptron that the hypernetwork wrote, in FP32; points (N, 1, 1)."""
        g = self.g
        x = g.reshape(vector, -1, self.config.target_in, 1)
        for index, (weight, bias) in enumerate(layers):
            x = g.op("Add", g.op("MatMul", weight, g.op("Sigmoid", x) if index else x), bias)
        return g.op("Mul", x, g.literal(np.float32(100)))
