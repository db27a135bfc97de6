"""The architecture of an FTHNet as numbers; needs nothing but Python."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

IMAGE_SIZE = 384
PATCH_SIZE = 4
MLP_RATIO = 4
TARGET_LAYERS = 5
MASKED = -100.0  # added to the attention logits of tokens that only the cyclic shift made neighbours


@dataclass(frozen=True)
class FTHNetConfig:
    """Architecture of one FTHNet. The defaults are the released model's: 14.88 M parameters.

    Attributes:
        pool: ``soft`` (FTHNet4) or ``avg`` (FTHNet3).
        embed_dim: channels after the patch embedding; stage i has ``embed_dim * 2**i``.
        depths: Swin blocks in each of the four stages.
        num_heads: attention heads in each of the four stages.
        window_size: side of an attention window, in tokens; also the kernel of every pooling.
        tap_channels: features that each of the first three taps gives to the target network.
        target_in: length of the target network's input vector.
        hyper_in: channels at the top of the hypernetwork's 1x1 chain.
    """

    pool: Literal["soft", "avg"] = "soft"
    embed_dim: int = 64
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (2, 4, 8, 16)
    window_size: int = 12
    tap_channels: int = 32
    target_in: int = 384
    hyper_in: int = 384

    def __post_init__(self) -> None:
        object.__setattr__(self, "depths", tuple(self.depths))
        object.__setattr__(self, "num_heads", tuple(self.num_heads))
        if self.pool not in ("soft", "avg"):
            raise ValueError(f"pool: expected 'soft' or 'avg', found {self.pool!r}")
        if len(self.depths) != 4 or len(self.num_heads) != 4:
            raise ValueError(f"expected four depths and four num_heads, found {self.depths} and {self.num_heads}")
        if self.embed_dim % 8:
            raise ValueError(f"embed_dim: expected a multiple of 8 (the taps divide it by 8), found {self.embed_dim}")
        for stage, heads in enumerate(self.num_heads):
            dim = self.stage_dim(stage)
            if heads < 1 or dim % heads:
                raise ValueError(f"num_heads: {heads} does not divide the {dim} channels of stage {stage}")
        if self.grid(3) != self.window_size:
            raise ValueError(
                f"window_size: expected {self.grid(3)}, the grid of the last stage at {IMAGE_SIZE} pixels, "
                f"found {self.window_size}"
            )

    def stage_dim(self, stage: int) -> int:
        """Channels of a token in stage 0-3."""
        return self.embed_dim * 2**stage

    def grid(self, stage: int) -> int:
        """Side of the token grid in stage 0-3: 96, 48, 24, 12."""
        return IMAGE_SIZE // PATCH_SIZE // 2**stage

    def target_width(self, layer: int) -> int:
        """Width of the target network before layer 0-4: 384, 192, 96, 48, 24."""
        return self.target_in // 2**layer

    def hyper_width(self, level: int) -> int:
        """Channels of the hypernetwork's 1x1 chain at level 0-4: 384, 192, 96, 48, 24."""
        return self.hyper_in // 2**level

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, as stored in the model card and in safetensors metadata."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
