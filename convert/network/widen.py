"""A wider backbone that sees what a narrower one has learned to see."""

from __future__ import annotations

from dataclasses import replace

from fthnet_kit.convert.network.config import FTHNetConfig
from fthnet_kit.convert.network.fthnet import FTHNet, Stage, SwinBlock
from fthnet_kit.edge.errors import InputError, MissingExtraError

try:
    import torch
    from torch import Tensor, nn
except ImportError as error:
    raise MissingExtraError("torch", "convert", purpose="FTHNet's definition") from error


@torch.no_grad()
def widened(network: FTHNet, config: FTHNetConfig) -> FTHNet:
    """A network of `config` whose stages make the tokens of `network`, each channel several times.

    After Net2WiderNet (arXiv:1511.05641): what a copy contributes to the next layer is drawn, so that copies
    get gradients of their own and part. Taps, hypernetwork and target network are new and need `FTHNet.enliven`: a tap
    reads the tokens in an order that depends on the width.

    Args:
        network: the narrow one.
        config: the same but for pooling, and an `embed_dim` that is a multiple.

    Raises:
        InputError: another architecture.
    """
    old = network.config
    if config.embed_dim % old.embed_dim or replace(config, embed_dim=old.embed_dim, pool=old.pool) != old:
        raise InputError(
            f"expected the weights of a network of {config.embed_dim} channels, or of a part of them and otherwise "
            f"the same, found {old}"
        )
    wide = FTHNet(config)
    wide.initialise()
    times = config.embed_dim // old.embed_dim
    image = torch.arange(3)
    first = _copies(old.embed_dim, times)
    _fill(wide.bbone.patch_embed.proj, network.bbone.patch_embed.proj, first, image)
    _fill_norm(wide.bbone.patch_embed.norm, network.bbone.patch_embed.norm, first)
    for index, (new, narrow) in enumerate(zip(wide.bbone.layers, network.bbone.layers, strict=True)):
        assert isinstance(new, Stage)
        assert isinstance(narrow, Stage)
        _widen_stage(new, narrow, old, index, times)
    _fill_norm(wide.bbone.norm, network.bbone.norm, _copies(old.stage_dim(3), times))
    return wide


def _widen_stage(new: Stage, narrow: Stage, old: FTHNetConfig, index: int, times: int) -> None:
    channels = _copies(old.stage_dim(index), times)
    if new.downsample is not None and narrow.downsample is not None:
        before = old.stage_dim(index - 1)
        neighbours = torch.cat([_copies(before, times) + before * neighbour for neighbour in range(4)])
        _fill_norm(new.downsample.norm, narrow.downsample.norm, neighbours)
        _fill(new.downsample.reduction, narrow.downsample.reduction, channels, neighbours)
    for block, source in zip(new.blocks, narrow.blocks, strict=True):
        assert isinstance(block, SwinBlock)
        assert isinstance(source, SwinBlock)
        _widen_block(block, source, channels, times)


def _widen_block(block: SwinBlock, source: SwinBlock, channels: Tensor, times: int) -> None:
    dim, heads = len(channels) // times, source.attn.heads
    width = dim // heads
    within = torch.cat([_copies(width, times) + width * head for head in range(heads)])  # copies stay in their head
    block.attn.relative_position_bias_table.copy_(source.attn.relative_position_bias_table)
    _fill(block.attn.qkv, source.attn.qkv, torch.cat([within, within + dim, within + 2 * dim]), channels)
    queries = slice(0, len(channels))  # products of queries and keys have `times` as many terms, their scale is less
    block.attn.qkv.weight[queries] *= times**-0.5
    block.attn.qkv.bias[queries] *= times**-0.5
    _fill(block.attn.proj, source.attn.proj, channels, within)
    hidden = _copies(source.mlp.fc1.out_features, times)
    _fill(block.mlp.fc1, source.mlp.fc1, hidden, channels)
    _fill(block.mlp.fc2, source.mlp.fc2, channels, hidden)
    _fill_norm(block.norm1, source.norm1, channels)
    _fill_norm(block.norm2, source.norm2, channels)


def _copies(channels: int, times: int) -> Tensor:
    """Which old channel each new one copies: all in their order, again and again."""
    return torch.arange(channels).repeat(times)


def _fill(new: nn.Linear | nn.Conv2d, old: nn.Linear | nn.Conv2d, rows: Tensor, columns: Tensor) -> None:
    """Weights whose output channel i is that of `rows[i]`, if input channel j holds that of `columns[j]`."""
    share = torch.rand(len(rows), len(columns))
    total = torch.zeros(len(rows), int(columns.max()) + 1).index_add_(1, columns, share)
    share = (share / total[:, columns]).view(*share.shape, *(1,) * (old.weight.ndim - 2))
    new.weight.copy_(old.weight[rows][:, columns] * share)
    if new.bias is not None:
        assert old.bias is not None
        new.bias.copy_(old.bias[rows])


def _fill_norm(new: nn.LayerNorm, old: nn.LayerNorm, channels: Tensor) -> None:
    new.weight.copy_(old.weight[channels])
    new.bias.copy_(old.bias[channels])
