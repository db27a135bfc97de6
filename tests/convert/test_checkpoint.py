"""Checkpoints: the authors' layouts and ours are read, everything else is refused in one line."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fthnet_kit.convert.network.checkpoint import load_checkpoint, save_checkpoint
from fthnet_kit.convert.network.config import FTHNetConfig
from fthnet_kit.convert.network.fthnet import FTHNet
from fthnet_kit.edge.errors import BundleError

CONFIGS = [
    FTHNetConfig("soft", 8, (2, 2, 2, 2), (1, 2, 4, 8)),
    FTHNetConfig("avg", 16, (2, 2, 4, 2), (2, 4, 8, 16)),
    FTHNetConfig("soft", 24, (1, 2, 1, 2), (3, 6, 12, 24)),
]
TINY = CONFIGS[0]


def network(config: FTHNetConfig = TINY) -> FTHNet:
    torch.manual_seed(1)
    made = FTHNet(config).eval()
    made.initialise()
    return made


def same(a: FTHNet, b: FTHNet) -> bool:
    return all(torch.equal(x, b.state_dict()[key]) for key, x in a.state_dict().items())


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.pool}{c.embed_dim}")
@pytest.mark.parametrize("wrap", ["plain", "params", "params_ema", "module"])
@pytest.mark.slow
def test_the_authors_layouts(config: FTHNetConfig, wrap: str, tmp_path: Path) -> None:
    original = network(config)
    state = original.state_dict()
    content = {
        "plain": state,
        "params": {"params": state},
        "params_ema": {"params": FTHNet(config).state_dict(), "params_ema": state},
        "module": {"params": {f"module.{key}": value for key, value in state.items()}},
    }[wrap]
    torch.save(content, tmp_path / "net.pth")
    loaded = load_checkpoint(tmp_path / "net.pth", config.pool)
    assert loaded.network.config == config
    assert same(loaded.network, original)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.pool}{c.embed_dim}")
def test_safetensors_round_trip_says_its_own_pooling(config: FTHNetConfig, tmp_path: Path) -> None:
    original = network(config)
    save_checkpoint(original, tmp_path / "a.safetensors")
    loaded = load_checkpoint(tmp_path / "a.safetensors")
    assert loaded.network.config == config
    assert same(loaded.network, original)


def test_half_checkpoint_is_half_as_large_and_close(tmp_path: Path) -> None:
    save_checkpoint(network(), tmp_path / "full.safetensors")
    save_checkpoint(network(), tmp_path / "half.safetensors", half=True)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (tmp_path / "full.safetensors").stat().st_size
    assert load_checkpoint(tmp_path / "half.safetensors").network.config == TINY


def test_pooling_is_asked_for_where_the_file_does_not_say(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "net.pth")
    with pytest.raises(BundleError, match=r"--pool soft .* or --pool avg"):
        load_checkpoint(tmp_path / "net.pth")


def test_pooling_that_contradicts_the_file_is_refused(tmp_path: Path) -> None:
    save_checkpoint(network(), tmp_path / "a.safetensors")
    with pytest.raises(BundleError, match=r"avg as asked for, the file says soft"):
        load_checkpoint(tmp_path / "a.safetensors", "avg")


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_pickled_code_is_refused_and_not_run(writer: str, tmp_path: Path) -> None:
    content = {"params": network().state_dict(), "note": Bomb(tmp_path / "executed")}
    if writer == "torch":
        torch.save(content, tmp_path / "bomb.pth")
    else:
        (tmp_path / "bomb.pth").write_bytes(pickle.dumps(content["note"]))
    with pytest.raises(BundleError, match=r"pickled code"):
        load_checkpoint(tmp_path / "bomb.pth", "soft")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("bbone.norm.weight"), "missing entries: bbone.norm.weight"),
        (lambda s: s.update({"head.extra": torch.zeros(1)}), "surplus entries: head.extra"),
        (lambda s: s.update({"bbone.norm.weight": torch.zeros(3)}), "bbone.norm.weight: expected shape"),
        (lambda s: s["bbone.norm.bias"].fill_(float("nan")), "bbone.norm.bias: expected finite"),
        (lambda s: s["bbone.layers.0.blocks.1.attn_mask"].fill_(1.0), "attn_mask: expected the values"),
        (lambda s: s.pop("bbone.patch_embed.proj.weight"), "expected the weights of an FTHNet"),
    ],
)
def test_wrong_entries_are_named(change, message: str, tmp_path: Path) -> None:
    state = network().state_dict()
    change(state)
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(BundleError, match=message) as caught:
        load_checkpoint(tmp_path / "net.pth", "soft")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint", os.urandom(2048)], ids=["empty", "text", "noise"])
def test_other_files_are_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BundleError, match=r"found something else|pickled code|found an empty file"):
        load_checkpoint(tmp_path / name, "soft")


def test_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"found no such file"):
        load_checkpoint(tmp_path / "no.pth")


def test_foreign_safetensors_are_refused(tmp_path: Path) -> None:
    save_file({"layer.weight": torch.zeros(2)}, tmp_path / "other.safetensors", metadata={"pool": "soft"})
    with pytest.raises(BundleError, match=r"expected the weights of an FTHNet"):
        load_checkpoint(tmp_path / "other.safetensors")
