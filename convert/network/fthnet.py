"""FTHNet in PyTorch, state_dict-compatible with the authors' public implementation.

The fundus-image-quality regressor of Gong et al., *Scientific Reports* 2025, doi 10.1038/s41598-025-24423-8.

The path of an image, top to bottom of this file::

    image (N, 3, 384, 384)
      -> PatchEmbed                      tokens (N, 96*96, C)
      -> 4 x Stage of SwinBlock          tokens (N, L, C*2^i), L = 96^2, 48^2, 24^2, 12^2
           each stage is also tapped     -> the target network's input vector (N, 384)
      -> LayerNorm of the last stage     -> the hypernetwork's input (N, 8C, 12, 12)
      -> HyperNetwork                    -> weights and biases of a 5-layer perceptron, per image
      -> target network                  -> raw quality (N,), about [0, 1]; the score is 100 times that

Two pooling variants exist: ``avg`` (the authors' FTHNet3) and ``soft`` (FTHNet4, SoftPool of
Stergiou et al. 2021, arXiv:2101.00440).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fthnet_kit.convert.network.config import MASKED, MLP_RATIO, PATCH_SIZE, TARGET_LAYERS, FTHNetConfig
from fthnet_kit.edge.errors import MissingExtraError

try:
    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn
except ImportError as error:
    raise MissingExtraError("torch", "convert", purpose="FTHNet's definition") from error


HIDDEN_DEVIATION = 1.2  # before a sigmoid of the target network, of an enlivened head
OUTPUT_DEVIATION = 0.15  # the raw quality's, likewise


class SoftPool2d(nn.Module):
    """SoftPool over non-overlapping windows: ``sum(softmax(x) * x)`` inside each window, per channel.

    This is the function of the SoftPool CUDA kernel that the authors trained with. (The CPU fallback of
    that package sums exponentials over channels and is a different function.) Shape:
    (N, C, H, W) -> (N, C, H/k, W/k).
    """

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H/k, W/k)."""
        n, c, h, w = x.shape
        k = self.kernel_size
        windows = x.view(n, c, h // k, k, w // k, k).permute(0, 1, 2, 4, 3, 5).reshape(n, c, h // k, w // k, k * k)
        return (windows.softmax(dim=-1) * windows).sum(dim=-1)


def make_pool(config: FTHNetConfig) -> nn.Module:
    """Pooling with kernel = stride = window: SoftPool (FTHNet4) or average (FTHNet3)."""
    return SoftPool2d(config.window_size) if config.pool == "soft" else nn.AvgPool2d(config.window_size)


def partition_windows(x: Tensor, window: int) -> Tensor:
    """(N, H, W, C) -> (N * windows, window * window, C)."""
    n, h, w, c = x.shape
    x = x.view(n, h // window, window, w // window, window, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, window * window, c)


def merge_windows(windows: Tensor, window: int, size: int) -> Tensor:
    """(N * windows, window * window, C) -> (N, size, size, C): undoes `partition_windows` on a square grid."""
    count, c = size // window, windows.shape[-1]
    x = windows.view(-1, count, count, window, window, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, size, size, c)


def relative_position_index(window: int) -> Tensor:
    """Row of the bias table for each pair of tokens in a window: int64 (window**2, window**2)."""
    axis = torch.arange(window)
    rows, columns = (grid.flatten() for grid in torch.meshgrid(axis, axis, indexing="ij"))
    row_offset = rows[:, None] - rows[None, :] + window - 1
    column_offset = columns[:, None] - columns[None, :] + window - 1
    return row_offset * (2 * window - 1) + column_offset


def shifted_window_mask(size: int, window: int, shift: int) -> Tensor:
    """Additive attention mask after a cyclic shift: float32 (windows, window**2, window**2) of 0 and `MASKED`."""
    band = torch.zeros(size)
    band[-window:] = 1
    band[-shift:] = 2
    region = (3 * band[:, None] + band[None, :]).view(1, size, size, 1)
    labels = partition_windows(region, window).squeeze(-1)  # (windows, window**2)
    return (labels[:, None, :] != labels[:, :, None]).float() * MASKED


def _fused_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Attention (N * windows, heads, L, d) in one kernel; slower than step by step where the bias wants gradients."""
    b, heads, length, _ = q.shape
    groups = len(bias)  # 1, or windows that differ in their mask: these stand beside the heads
    q, k, v = (t.reshape(b // groups, groups * heads, length, -1) for t in (q, k, v))
    bias = bias.reshape(1, groups * heads, length, length).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).reshape(b, heads, length, -1)


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows, with a learned relative position bias (Swin, arXiv:2103.14030)."""

    relative_position_index: Tensor

    def __init__(self, dim: int, window: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", relative_position_index(window))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def position_bias(self) -> Tensor:
        """(heads, window**2, window**2), added to the attention logits."""
        index = self.relative_position_index
        return self.relative_position_bias_table[index.flatten()].view(*index.shape, -1).permute(2, 0, 1)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """`x`: (N * windows, L, C). `bias`: (1 or windows, heads, L, L), position bias plus shift mask."""
        b, length, c = x.shape
        qkv = self.qkv(x).view(b, length, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)  # (N * windows, heads, L, C / heads)
        if not (torch.is_grad_enabled() and (qkv.requires_grad or bias.requires_grad)):
            return self.proj(_fused_attention(q, k, v, bias).transpose(1, 2).reshape(b, length, c))
        logits = (q * self.scale) @ k.transpose(-2, -1)
        bias = bias.to(logits.dtype)  # under autocast a float32 bias would make the largest tensors float32
        logits = (logits.view(-1, *bias.shape) + bias).view(b, self.heads, length, length)
        x = (logits.softmax(dim=-1) @ v).transpose(1, 2).reshape(b, length, c)
        return self.proj(x)


class Mlp(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, MLP_RATIO * dim)
        self.fc2 = nn.Linear(MLP_RATIO * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, C) -> (N, L, C)."""
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """Attention in (every second block: shifted) windows, then an MLP, each with LayerNorm before and a residual."""

    attn_mask: Tensor | None

    def __init__(self, dim: int, size: int, window: int, heads: int, *, shifted: bool) -> None:
        super().__init__()
        self.size = size
        self.window = window
        self.shift = window // 2 if shifted and size > window else 0
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim)
        self.register_buffer("attn_mask", shifted_window_mask(size, window, self.shift) if self.shift else None)

    def attention_bias(self) -> Tensor:
        """(1 or windows, heads, L, L): what is added to the logits; constant once training is over."""
        bias = self.attn.position_bias().unsqueeze(0)
        return bias if self.attn_mask is None else bias + self.attn_mask.unsqueeze(1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, C) -> (N, L, C), L = size**2."""
        n, length, c = x.shape
        grid = self.norm1(x).view(n, self.size, self.size, c)
        if self.shift:
            grid = torch.roll(grid, (-self.shift, -self.shift), dims=(1, 2))
        windows = self.attn(partition_windows(grid, self.window), self.attention_bias())
        grid = merge_windows(windows, self.window, self.size)
        if self.shift:
            grid = torch.roll(grid, (self.shift, self.shift), dims=(1, 2))
        x = x + grid.view(n, length, c)
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    """Halves the grid: 2x2 neighbours side by side (4C), LayerNorm, Linear to 2C."""

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """(N, size**2, C) -> (N, (size/2)**2, 2C). Neighbours in the authors' order: rows first."""
        n, _, c = x.shape
        half = self.size // 2
        grid = x.view(n, half, 2, half, 2, c)  # (N, row, row parity, column, column parity, C)
        return self.reduction(self.norm(grid.permute(0, 1, 3, 4, 2, 5).reshape(n, half * half, 4 * c)))


class Stage(nn.Module):
    """One resolution: patch merging (except in stage 0), then the blocks."""

    def __init__(self, config: FTHNetConfig, stage: int) -> None:
        super().__init__()
        dim, size = config.stage_dim(stage), config.grid(stage)
        self.downsample = PatchMerging(dim // 2, size * 2) if stage else None
        self.blocks = nn.ModuleList(
            SwinBlock(dim, size, config.window_size, config.num_heads[stage], shifted=index % 2 == 1)
            for index in range(config.depths[stage])
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, C) of this stage, or (N, 4L, C/2) of the one before -> (N, L, C)."""
        if self.downsample is not None:
            x = self.downsample(x)
        for block in self.blocks:
            x = block(x)
        return x


class PatchEmbed(nn.Module):
    """4x4 patches to tokens, with LayerNorm: (N, 3, 384, 384) -> (N, 96*96, C)."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, embed_dim, PATCH_SIZE, stride=PATCH_SIZE)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, 384, 384) -> (N, 96*96, C)."""
        return self.norm(self.proj(image).flatten(2).transpose(1, 2))


class Backbone(nn.Module):
    """Swin stages, each tapped for the target network's input ("distortion perception" in the paper)."""

    def __init__(self, config: FTHNetConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config.embed_dim)
        self.layers = nn.ModuleList(Stage(config, stage) for stage in range(4))
        tap_dims = [config.stage_dim(stage) // 8 for stage in range(4)]
        tap_grids = [config.grid(stage) // config.window_size for stage in range(4)]
        tap_outputs = [config.tap_channels] * 3 + [config.target_in - 3 * config.tap_channels]
        self.fcl_merge = nn.ModuleList(
            nn.Sequential(nn.Conv2d(config.stage_dim(stage), tap_dims[stage], 1, bias=False), make_pool(config))
            for stage in range(4)
        )
        self.fcl_fc = nn.ModuleList(
            nn.Linear(tap_dims[stage] * tap_grids[stage] ** 2, tap_outputs[stage]) for stage in range(4)
        )
        self.norm = nn.LayerNorm(config.stage_dim(3))

    def tap(self, tokens: Tensor, stage: int) -> Tensor:
        """Features of one stage for the target network.

        The (N, L, C) tokens are *reinterpreted* as (N, C, H, W) without a transpose, as in the authors'
        code: trained weights depend on it.
        """
        n, _, c = tokens.shape
        size = self.config.grid(stage)
        return self.fcl_fc[stage](self.fcl_merge[stage](tokens.reshape(n, c, size, size)).flatten(1))

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Target network's input (N, 384), and the tokens (N, L, C) of each stage, the last ones normalised."""
        x = self.patch_embed(image)
        taps, tokens = [], []
        for stage, layer in enumerate(self.layers):
            x = layer(x)
            taps.append(self.tap(x, stage))
            tokens.append(x)
        tokens[-1] = self.norm(x)
        return torch.cat(taps, dim=1), tokens


class Parts(NamedTuple):
    """What a forward pass makes on its way.

    Attributes:
        raw: quality (N,).
        tokens: (N, L, C) of each stage.
        vector: the target network's input (N, 384), from the taps.
        generated: weight (N, out, in) and bias (N, out) of each target layer.
        hidden: what goes into the sigmoids of each hidden target layer, (N, out).
    """

    raw: Tensor
    tokens: list[Tensor]
    vector: Tensor
    generated: list[tuple[Tensor, Tensor]]
    hidden: list[Tensor]


def apply_target(
    vector: Tensor, generated: Sequence[tuple[Tensor, Tensor]], own: Tensor | None = None
) -> tuple[Tensor, list[Tensor]]:
    """The target network: raw quality (N,), and what goes into the sigmoids of each hidden layer, (N, out).

    Args:
        vector: (N, 384).
        generated: weight (N, out, in) and bias (N, out) of each layer.
        own: (N,) in [0, 1]: how much of its own weights a sample gets, the rest being the mean over the batch.
            None: all.
    """
    x, hidden = vector.unsqueeze(-1), []
    for layer, (weight, bias) in enumerate(generated):
        x = _mixed(weight, own) @ (torch.sigmoid(x) if layer else x) + _mixed(bias, own).unsqueeze(-1)
        hidden.append(x.squeeze(-1))
    return hidden.pop().flatten(), hidden


def _mixed(generated: Tensor, own: Tensor | None) -> Tensor:
    """What each sample generated, drawn towards the mean over the batch: (N, …)."""
    if own is None:
        return generated
    mean = generated.mean(dim=0, keepdim=True)
    return mean + own.view(-1, *(1,) * (generated.ndim - 1)) * (generated - mean)


class FTHNet(nn.Module):
    """FTHNet: a Swin-style backbone, and a hypernetwork that writes a small quality network for each image.

    ``forward(image)``: float32 (N, 3, 384, 384), RGB, normalised with the ImageNet mean and standard
    deviation -> raw quality float32 (N,), about [0, 1]. The same in training and in evaluation.
    """

    def __init__(self, config: FTHNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or FTHNetConfig()
        self.bbone = Backbone(config)
        last = TARGET_LAYERS - 1
        channels = [config.stage_dim(3), *(config.hyper_width(level) for level in range(TARGET_LAYERS))]
        self.conv1x1 = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels[level], channels[level + 1], 1), nn.GELU())
            for level in range(TARGET_LAYERS)
        )
        self.avgpool = make_pool(config)
        area = config.window_size**2
        flat = config.hyper_width(last) * area
        self.weight_conv = nn.ModuleList(
            nn.Conv2d(config.hyper_width(i), config.target_width(i) * config.target_width(i + 1) // area, 3, padding=1)
            for i in range(last)
        )
        self.bias_conv = nn.ModuleList(
            nn.Linear(config.hyper_width(i), config.target_width(i + 1)) for i in range(last)
        )
        self.weight_conv.append(nn.Linear(flat, config.target_width(last)))
        self.bias_conv.append(nn.Linear(flat, 1))

    def generate(self, tokens: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The hypernetwork: weight (N, out, in) and bias (N, out) of each target layer from (N, 144, 8C) tokens."""
        config, last = self.config, TARGET_LAYERS - 1
        side = config.window_size
        feature = tokens.transpose(1, 2).reshape(-1, config.stage_dim(3), side, side)
        generated = []
        for i in range(last):
            feature = self.conv1x1[i](feature)
            weight = self.weight_conv[i](feature).reshape(-1, config.target_width(i + 1), config.target_width(i))
            generated.append((weight, self.bias_conv[i](self.avgpool(feature).flatten(1))))
        flat = self.conv1x1[last](feature).flatten(1)
        weight = self.weight_conv[last](flat).unsqueeze(1)
        return [*generated, (weight, self.bias_conv[last](flat))]

    def forward_parts(self, image: Tensor, own: Tensor | None = None) -> Parts:
        """Everything between image and raw quality that training and diagnosis look at.

        Args:
            image: normalised RGB (N, 3, 384, 384).
            own: as in `apply_target`.
        """
        vector, tokens = self.bbone(image)
        generated = self.generate(tokens[-1])
        raw, hidden = apply_target(vector, generated, own)
        return Parts(raw, tokens, vector, generated, hidden)

    def forward(self, image: Tensor) -> Tensor:
        """Raw quality (N,) of normalised RGB (N, 3, 384, 384)."""
        return self.forward_parts(image).raw

    @torch.no_grad()
    def initialise(self, mean_quality: float = 0.5) -> None:
        """Weights from which training from scratch moves at once; `enliven` then calibrates the head.

        With the authors' initialisation (sigma 0.02 everywhere) the generated weights start near zero and
        the score hardly depends on the image for hundreds of steps. Here the generators start where the
        target network has weights of sigma 1.5 / sqrt(fan-in), and the output at `mean_quality`.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, WindowAttention):
                nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)
        for level in range(TARGET_LAYERS):
            nn.init.kaiming_normal_(self.conv1x1[level][0].weight, nonlinearity="relu")  # type: ignore[index]
            generator: nn.Conv2d | nn.Linear = self.weight_conv[level]  # type: ignore[assignment]
            spread = 1.5 / self.config.target_width(level) ** 0.5
            nn.init.normal_(generator.weight, std=0.5 * spread / generator.weight[0].numel() ** 0.5)
            assert generator.bias is not None
            nn.init.normal_(generator.bias, std=spread)
        nn.init.constant_(self.bias_conv[-1].bias, mean_quality)  # type: ignore[arg-type]

    @torch.no_grad()
    def enliven(self, images: Tensor, mean_quality: float = 0.5) -> None:
        """New taps, hypernetwork and target network, calibrated on images so that every part is used.

        Drawn with the right spread alone, this head is born dead: one channel of a generator fills 144
        consecutive weights, rows share a sign, every sigmoid saturates, and the bias of the last layer
        becomes a shortcut that leaves no gradient for the rest. So:

        - each tap is standardised over the images, the scale folded into its Linear;
        - the kernels of a generator sum to zero and have no bias, so that rows get no common sign;
        - each generator is scaled until what the *taps* move, under weights averaged over the images, has a
          deviation of `HIDDEN_DEVIATION` before a hidden sigmoid and `OUTPUT_DEVIATION` at the output, and is
          centred by its bias;
        - the generator of the last bias, the shortcut, starts at a constant.

        Args:
            images: at least 16 that differ, float32 (N, 3, 384, 384), normalised as the network's input.
            mean_quality: where the output is centred.
        """
        for module in (*self.bbone.fcl_merge.modules(), *self.bbone.fcl_fc, *self.conv1x1.modules()):
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        parts = [self.forward_parts(part) for part in torch.split(images, 8)]
        vector = self._standardise_taps(torch.cat([part.vector for part in parts]))
        tokens = torch.cat([part.tokens[-1] for part in parts])
        shared = torch.zeros(len(images), device=images.device)
        for level in range(TARGET_LAYERS):
            last = level == TARGET_LAYERS - 1
            generator, bias = self._draw_generator(level)
            raw, hidden = apply_target(vector, self.generate(tokens), shared)
            found = raw.unsqueeze(-1) if last else hidden[level]
            scale = (OUTPUT_DEVIATION if last else HIDDEN_DEVIATION) / found.std(dim=0).mean().clamp(min=1e-6)
            for parameter in generator.parameters():
                parameter.mul_(scale)
            raw, hidden = apply_target(vector, self.generate(tokens), shared)
            bias.bias.sub_((raw.unsqueeze(-1) - mean_quality if last else hidden[level]).mean(dim=0))

    def _standardise_taps(self, vector: Tensor) -> Tensor:
        """Fold mean and deviation of the taps (N, 384) into their Linears, whose biases are 0; the new taps."""
        deviation = vector.std(dim=0)
        deviation = deviation.clamp(min=1e-3 * float(deviation.max()))
        mean = vector.mean(dim=0)
        start = 0
        for tap in self.bbone.fcl_fc:
            assert isinstance(tap, nn.Linear)
            part = slice(start, start := start + tap.out_features)
            tap.weight.div_(deviation[part, None])
            tap.bias.sub_(mean[part] / deviation[part])
        return (vector - mean) / deviation

    def _draw_generator(self, level: int) -> tuple[nn.Conv2d | nn.Linear, nn.Linear]:
        """New generators of a target layer's weight and bias, not yet scaled."""
        generator: nn.Conv2d | nn.Linear = self.weight_conv[level]  # type: ignore[assignment]
        bias: nn.Linear = self.bias_conv[level]  # type: ignore[assignment]
        assert generator.bias is not None
        nn.init.normal_(generator.weight, std=generator.weight[0].numel() ** -0.5)
        nn.init.zeros_(bias.bias)
        if isinstance(generator, nn.Conv2d):
            generator.weight -= generator.weight.mean(dim=(2, 3), keepdim=True)
            nn.init.zeros_(generator.bias)
            nn.init.normal_(bias.weight, std=0.01)
        else:
            nn.init.normal_(generator.bias, std=1.0)
            nn.init.zeros_(bias.weight)
        return generator, bias

    @torch.no_grad()
    def whiten_patches(self, images: Tensor) -> None:
        """Patch embedding that starts as the principal components of 4x4 patches, each scaled to unit variance.

        In a fundus photograph the brightness of a patch varies 100,000 times as much (in variance) as its
        fine detail, so a network that starts from random filters does not see blur for tens of thousands
        of images. After whitening it does within three thousand.

        Args:
            images: float32 (N, 3, 384, 384), normalised as the network's input.
        """
        projection = self.bbone.patch_embed.proj
        patches = (
            F.unfold(images, PATCH_SIZE, stride=PATCH_SIZE).transpose(1, 2).reshape(-1, projection.weight[0].numel())
        )
        mean = patches.mean(dim=0)
        variance, components = torch.linalg.eigh(torch.cov(patches.T))
        kept = min(len(projection.weight), len(variance))
        filters = (components / (variance.clamp(min=0) + 1e-5).sqrt()).T.flip(0)[:kept]
        projection.weight[:kept] = filters.view(kept, *projection.weight.shape[1:])
        assert projection.bias is not None
        projection.bias[:kept] = -filters @ mean
