"""Weights of FTHNet on disk: the authors' `.pth` layouts and the kit's safetensors.

The authors' training framework writes ``{"params": state_dict, "params_ema": state_dict}``, sometimes
with a ``module.`` prefix on every key. The kit writes parameters only, with the configuration in the
file's metadata; buffers (shift masks, position indices) follow from the configuration.
"""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fthnet_kit.convert.network.config import FTHNetConfig
from fthnet_kit.convert.network.fthnet import FTHNet
from fthnet_kit.edge.errors import BundleError, MissingExtraError
from fthnet_kit.edge.files import parse_json, write_atomically

try:
    import torch
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save
    from torch import Tensor
except ImportError as error:
    raise MissingExtraError(error.name or "torch", "convert", purpose="reading checkpoints") from error

Pool = Literal["soft", "avg"]
CONFIG_KEY = "fthnet_config"
BUFFER_SUFFIXES = (".attn_mask", ".relative_position_index")
MOST_BYTES = 1 << 31  # bytes of a file; the released model takes 60 MB
SHARED = 4  # tensors of one storage may count so often
NAMED_KEYS = 3  # how many offending keys a message names


@dataclass(frozen=True)
class NetworkCheckpoint:
    """A network with its weights, and where they came from."""

    network: FTHNet
    source: Path

    @property
    def weights_sha256(self) -> str:
        """SHA-256 over names, shapes and float32 bytes of all parameters in the order of their names."""
        digest = hashlib.sha256()
        for name, parameter in sorted(self.network.named_parameters()):
            values = parameter.detach().cpu().numpy().astype("<f4")
            digest.update(f"{name} {values.shape}\n".encode())
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()


def load_checkpoint(path: Path, pool: Pool | None = None) -> NetworkCheckpoint:
    """FTHNet with the weights of a file.

    Args:
        path: `.safetensors`, or a `.pth`/`.pt` in one of the authors' layouts. Code in it is refused, never run.
        pool: pooling variant, which no tensor shows; needed where the file does not say it.

    Raises:
        BundleError: no file, not a checkpoint, pickled code, missing, surplus or misshapen entries, NaN.
    """
    if not path.is_file():
        raise BundleError(f"{path}: expected a checkpoint, found no such file")
    if found := _other_than_a_checkpoint(path):
        raise BundleError(f"{path}: expected a checkpoint (.pth, .pt or .safetensors), found {found}")
    if path.suffix == ".safetensors":
        state, metadata = _read_safetensors(path)
    else:
        state, metadata = _unwrap(_read_pth(path), path), {}
    _refuse_inflated(state, path)
    config = _config(state, metadata, pool, path)
    with torch.device("meta"):  # shapes without memory: a small file may describe a network of terabytes
        expected = FTHNet(config).state_dict()
    _compare(expected, state, path)
    network = FTHNet(config).eval()
    _fill(network, state, path)
    return NetworkCheckpoint(network, path)


def _other_than_a_checkpoint(path: Path) -> str | None:
    """What a file is that people take for a checkpoint; None where it may be one."""
    if path.suffix.lower() == ".onnx":
        return "an ONNX graph; the kit exports from the weights that the graph was made of"
    with path.open("rb") as file:
        head = file.read(12)
    if not head:
        return "an empty file"
    if head.startswith((b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*", b"GIF8")):
        return "a picture; `fthnet score` scores one"
    return None


def save_checkpoint(network: FTHNet, path: Path, *, half: bool = False) -> None:
    """Write parameters and configuration as safetensors; `half` stores float16, half the size.

    The file appears whole or not at all.
    """
    dtype = torch.float16 if half else torch.float32
    state = {name: parameter.detach().cpu().to(dtype).contiguous() for name, parameter in network.named_parameters()}
    write_atomically(path, save(state, metadata={CONFIG_KEY: json.dumps(network.config.to_dict())}))


@torch.no_grad()
def round_to_half(network: FTHNet) -> None:
    """Round every parameter to a float16 value, so that a float16 file loses nothing more."""
    for parameter in network.parameters():
        parameter.copy_(parameter.half().float())


def infer_config(state: Mapping[str, Tensor], pool: Pool) -> FTHNetConfig:
    """Architecture from the shapes of a state_dict; `pool` is what shapes do not show.

    Raises:
        KeyError, ValueError: not the shapes of an FTHNet.
    """
    depths, heads = [], []
    for stage in range(4):
        prefix = f"bbone.layers.{stage}.blocks."
        blocks = {int(key[len(prefix) :].split(".")[0]) for key in state if key.startswith(prefix)}
        if blocks != set(range(len(blocks))):
            raise ValueError(f"stage {stage}: expected blocks numbered from 0, found {sorted(blocks)[-3:]}")
        depths.append(len(blocks))
        heads.append(state[f"{prefix}0.attn.relative_position_bias_table"].shape[1])
    table = state["bbone.layers.0.blocks.0.attn.relative_position_bias_table"]
    tap_channels = state["bbone.fcl_fc.0.weight"].shape[0]
    return FTHNetConfig(
        pool=pool,
        embed_dim=state["bbone.patch_embed.proj.weight"].shape[0],
        depths=tuple(depths),
        num_heads=tuple(heads),
        window_size=(math.isqrt(table.shape[0]) + 1) // 2,
        tap_channels=tap_channels,
        target_in=3 * tap_channels + state["bbone.fcl_fc.3.weight"].shape[0],
        hyper_in=state["conv1x1.0.0.weight"].shape[0],
    )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{path}: expected a safetensors file, found something else ({error})") from error


def _read_pth(path: Path) -> Any:
    _refuse_bomb(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error) or "GLOBAL" in str(error):
            raise BundleError(
                f"{path}: refused: the file holds pickled code besides tensors, which loading would run; "
                "save the state_dict alone"
            ) from error
        raise BundleError(f"{path}: expected a PyTorch checkpoint, found something else") from error
    except Exception as error:  # torch.load raises many types on files that are not its own
        raise BundleError(f"{path}: expected a PyTorch checkpoint, found something else") from error


def _refuse_bomb(path: Path) -> None:
    """PyTorch writes tensors as they are, so that a checkpoint unpacks to no more than its own size."""
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise BundleError(f"{path}: expected a checkpoint of at most {MOST_BYTES} bytes, found {size}")
    try:
        with zipfile.ZipFile(path) as file:
            unpacked = sum(entry.file_size for entry in file.infolist())
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):  # an older layout, or none
        return
    if unpacked > size:
        raise BundleError(f"{path}: expected tensors as PyTorch writes them, found {unpacked} bytes packed into {size}")


def _refuse_inflated(state: Mapping[str, Tensor], path: Path) -> None:
    """A tensor may repeat its bytes, or be of a kind that stands for many more; weights do neither."""
    size = path.stat().st_size
    for key, value in state.items():
        plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
        if not plain or value.is_complex() or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise BundleError(f"{path}: {key}: expected a plain tensor, found another kind")
    held = sum(value.numel() * value.element_size() for value in state.values())
    if held > SHARED * size:
        raise BundleError(f"{path}: expected at most {SHARED * size} bytes of tensors in {size}, found {held}")


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    """The state_dict inside the authors' layouts; the moving average where there is one."""
    for key in ("params_ema", "params", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not all(type(v) is Tensor for v in content.values()) or not all_text(content):
        raise BundleError(f"{path}: expected a state_dict (under params_ema, params or at the top), found none")
    return {key.removeprefix("module."): value for key, value in content.items()}


def all_text(content: Mapping[Any, object]) -> bool:
    """Whether there are keys, and all of them are text."""
    return bool(content) and all(isinstance(key, str) for key in content)


def _config(state: Mapping[str, Tensor], metadata: Mapping[str, str], pool: Pool | None, path: Path) -> FTHNetConfig:
    stored = _stored_config(metadata, path)
    stated = stored.pool if stored else metadata.get("pool")
    if pool and stated and pool != stated:
        raise BundleError(f"{path}: expected pooling {pool} as asked for, the file says {stated}")
    found = pool or stated
    if found not in ("soft", "avg"):
        raise BundleError(
            f"{path}: weights do not show how FTHNet pools; say --pool soft (FTHNet4) or --pool avg (FTHNet3)"
        )
    try:
        config = infer_config(state, found)  # type: ignore[arg-type]
    except (KeyError, ValueError, IndexError, ArithmeticError) as error:
        raise BundleError(f"{path}: expected the weights of an FTHNet, found others ({error})") from error
    if stored is not None and stored != config:
        raise BundleError(f"{path}: its metadata and its tensors disagree: {stored} against {config}")
    return config


def _stored_config(metadata: Mapping[str, str], path: Path) -> FTHNetConfig | None:
    if CONFIG_KEY not in metadata:
        return None
    try:
        return FTHNetConfig(**parse_json(metadata[CONFIG_KEY]))
    except (ValueError, TypeError, ArithmeticError) as error:
        raise BundleError(f"{path}: {CONFIG_KEY}: expected an FTHNet configuration, found {error}") from error


def _compare(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path) -> None:
    """Names and shapes.

    Raises:
        BundleError: missing, surplus or misshapen entries.
    """
    missing = [key for key in expected if key not in state and not key.endswith(BUFFER_SUFFIXES)]
    surplus = [key for key in state if key not in expected]
    for what, keys in (("missing", missing), ("surplus", surplus)):
        if keys:
            more = f" and {len(keys) - NAMED_KEYS} more" if len(keys) > NAMED_KEYS else ""
            raise BundleError(f"{path}: {what} entries: {', '.join(keys[:NAMED_KEYS])}{more}")
    for key, value in state.items():
        if value.shape != expected[key].shape:
            raise BundleError(f"{path}: {key}: expected shape {tuple(expected[key].shape)}, found {tuple(value.shape)}")


def _fill(network: FTHNet, state: Mapping[str, Tensor], path: Path) -> None:
    expected = network.state_dict()
    for key, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise BundleError(f"{path}: {key}: expected finite values, found NaN or infinity")
        if key.endswith(BUFFER_SUFFIXES) and not torch.equal(value.to(expected[key].dtype), expected[key]):
            raise BundleError(f"{path}: {key}: expected the values that the architecture makes, found others")
    network.load_state_dict(
        {**expected, **{key: value.float() if value.is_floating_point() else value for key, value in state.items()}}
    )
