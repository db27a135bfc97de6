"""Multiplications and bytes of FTHNet, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fthnet_kit.convert.network.config import IMAGE_SIZE, MLP_RATIO, PATCH_SIZE, TARGET_LAYERS, FTHNetConfig
from fthnet_kit.edge.model.choices import FORMS


@dataclass(frozen=True)
class Widths:
    """Bytes of a number: weights and inputs of the layers that INT8 may run, and all others."""

    site: int
    other: int


WIDTHS = {name: Widths(form.site_bytes, form.other_bytes) for name, form in FORMS.items()}


@dataclass(frozen=True)
class Layer:
    """One matrix product for one image, in numbers, not bytes.

    Attributes:
        macs: multiply-accumulates.
        weights: numbers that are the same for every image.
        read, written: numbers of the image's own.
        site: one of `convert.graph`'s layers that may run in INT8.
    """

    macs: int
    weights: int
    read: int
    written: int
    site: bool = False


@dataclass(frozen=True)
class Work:
    """What one inference of one image takes.

    Attributes:
        precision: ``fp32``, ``fp16``, ``int8`` or ``int8-cpu``.
        macs: multiply-accumulates of all matrix products, attention's and the target network's included.
        int8_macs: those of them that run in INT8.
        weight_bytes: all weights, read once; without biases, LayerNorms and position tables (below 2 %).
        activation_bytes: the image, and what every product reads and writes, each once; what lies between
            products (LayerNorm, softmax, GELU, residuals, moves) counts as fused and free.
    """

    precision: str
    macs: int
    int8_macs: int
    weight_bytes: int
    activation_bytes: int

    @property
    def flops(self) -> int:
        """Operations: a multiply-accumulate is two."""
        return 2 * self.macs

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "flops": self.flops}


def model_work(architecture: Mapping[str, Any], precision: str) -> Work:
    """Count the work of one image.

    With INT8, every layer that may run in it is taken to do so, and the rest to run in FP16 (``int8``, on a GPU) or
    FP32 (``int8-cpu``).

    Args:
        architecture: of the model card.
        precision: ``fp32``, ``fp16``, ``int8`` or ``int8-cpu``.
    """
    if precision not in WIDTHS:
        raise ValueError(f"precision: expected one of {', '.join(WIDTHS)}, found {precision!r}")
    layers, widths = list(layers_of(FTHNetConfig(**architecture))), WIDTHS[precision]
    image = 3 * IMAGE_SIZE**2
    return Work(
        precision,
        macs=sum(layer.macs for layer in layers),
        int8_macs=sum(layer.macs for layer in layers if layer.site) if precision.startswith("int8") else 0,
        weight_bytes=sum(layer.weights * (widths.site if layer.site else widths.other) for layer in layers),
        activation_bytes=image
        + sum(
            layer.read * (widths.site if layer.site else widths.other) + layer.written * widths.other
            for layer in layers
        ),
    )


def layers_of(config: FTHNetConfig) -> Iterator[Layer]:
    """All matrix products of the network for one image."""
    yield _product(config.grid(0) ** 2, 3 * PATCH_SIZE**2, config.embed_dim, read=0)  # the image is counted as bytes
    for stage in range(4):
        rows, dim = config.grid(stage) ** 2, config.stage_dim(stage)
        if stage:
            yield _product(rows, 2 * dim, dim, site=True)  # patch merging
        for _ in range(config.depths[stage]):
            yield _product(rows, dim, 3 * dim, site=True)
            yield Layer(2 * rows * config.window_size**2 * dim, 0, 3 * rows * dim, rows * dim)  # logits stay on chip
            yield _product(rows, dim, dim, site=True)
            yield _product(rows, dim, MLP_RATIO * dim, site=True)
            yield _product(rows, MLP_RATIO * dim, dim, site=True)
        yield from _tap(config, stage)
    yield from _hypernetwork(config)
    for layer in range(TARGET_LAYERS):
        width, out = config.target_width(layer), _target_out(config, layer)
        yield Layer(width * out, 0, width * out + width, out)  # its weights are the image's own


def _product(rows: int, inputs: int, outputs: int, *, site: bool = False, read: int | None = None) -> Layer:
    return Layer(
        rows * inputs * outputs, inputs * outputs, rows * inputs if read is None else read, rows * outputs, site
    )


def _tap(config: FTHNetConfig, stage: int) -> Iterator[Layer]:
    rows, dim = config.grid(stage) ** 2, config.stage_dim(stage)
    features = config.tap_channels if stage < 3 else config.target_in - 3 * config.tap_channels
    yield _product(rows, dim, dim // 8)
    yield _product(1, dim // 8 * (config.grid(stage) // config.window_size) ** 2, features)


def _hypernetwork(config: FTHNetConfig) -> Iterator[Layer]:
    area, last = config.window_size**2, TARGET_LAYERS - 1
    for level in range(TARGET_LAYERS):
        before = config.hyper_width(level - 1) if level else config.stage_dim(3)
        width, out = config.hyper_width(level), _target_out(config, level)
        yield _product(area, before, width, site=True)
        if level < last:
            generated = config.target_width(level) * out // area
            yield _product(area, 9 * width, generated, site=True, read=area * width)
            yield _product(1, width, out)
        else:
            yield _product(1, width * area, config.target_width(last))
            yield _product(1, width * area, 1)


def _target_out(config: FTHNetConfig, layer: int) -> int:
    return config.target_width(layer + 1) if layer < TARGET_LAYERS - 1 else 1
