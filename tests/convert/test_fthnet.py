"""FTHNet against outputs of the authors' implementation, and the promises of its own docstrings."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fthnet_kit.convert.network.config import FTHNetConfig
from fthnet_kit.convert.network.fthnet import FTHNet, SoftPool2d

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "fthnet.json").read_text())
spec = importlib.util.spec_from_file_location("golden_weights", GOLDEN / "weights.py")
weights = importlib.util.module_from_spec(spec)
spec.loader.exec_module(weights)


@pytest.mark.parametrize("case", CASES, ids=[case["pool"] for case in CASES])
@pytest.mark.slow
def test_agrees_with_the_authors_outputs_and_entries(case: dict) -> None:
    config = FTHNetConfig(case["pool"], case["embed_dim"], tuple(case["depths"]), tuple(case["num_heads"]))
    network = FTHNet(config).eval()
    state = network.state_dict()
    entries = "\n".join(f"{key} {tuple(value.shape)}" for key, value in sorted(state.items()))
    assert len(state) == case["entries"]
    assert hashlib.sha256(entries.encode()).hexdigest() == case["entries_sha256"]
    network.load_state_dict(
        {
            key: value
            if key.endswith("attn_mask") or not value.is_floating_point()
            else torch.from_numpy(weights.weight(key, tuple(value.shape), case["seed"]))
            for key, value in state.items()
        }
    )
    with torch.no_grad():
        output = network(torch.from_numpy(weights.image(case["seed"])))
    np.testing.assert_allclose(output.numpy(), case["output"], atol=2e-4)


def test_released_configuration_has_the_papers_parameter_count() -> None:
    assert round(sum(p.numel() for p in FTHNet().parameters()) / 1e6, 2) == 14.88


@pytest.mark.parametrize(
    ("embed_dim", "depths", "heads"),
    [(32, (2, 2, 6, 2), (2, 4, 8, 16)), (96, (2, 2, 2, 2), (3, 6, 12, 24)), (64, (2, 2, 12, 2), (2, 4, 8, 16))],
)
@pytest.mark.slow
def test_the_authors_ablations_can_be_built(embed_dim: int, depths: tuple, heads: tuple) -> None:
    network = FTHNet(FTHNetConfig(embed_dim=embed_dim, depths=depths, num_heads=heads)).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 384, 384)).shape == (1,)


def test_soft_pool_weighs_by_softmax_and_survives_large_values() -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    expected = (torch.softmax(torch.tensor([1.0, 2, 3, 4]), 0) * torch.tensor([1.0, 2, 3, 4])).sum()
    assert torch.allclose(SoftPool2d(2)(x).squeeze(), expected)
    assert torch.isfinite(SoftPool2d(2)(1e4 * x)).all()


@pytest.mark.slow
def test_batches_do_not_mix() -> None:
    network = FTHNet(FTHNetConfig(embed_dim=8, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8))).eval()
    network.initialise()
    images = torch.randn(3, 3, 384, 384)
    with torch.no_grad():
        together = network(images)
        alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [{"pool": "max"}, {"embed_dim": 36}, {"num_heads": (3, 4, 8, 16)}, {"depths": (2, 2)}, {"window_size": 7}],
    ids=str,
)
def test_impossible_configurations_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"expected|divide"):
        FTHNetConfig(**wrong)


def test_whitened_patches_see_fine_detail_from_the_start() -> None:
    network = FTHNet(FTHNetConfig(embed_dim=32))
    generator = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.randn(8, 3, 12, 12, generator=generator), 384, mode="bicubic")
    images = smooth + 0.01 * torch.randn(8, 3, 384, 384, generator=generator)
    network.whiten_patches(images)
    embedded = network.bbone.patch_embed.proj(images).permute(0, 2, 3, 1).reshape(-1, 32)
    torch.testing.assert_close(embedded.var(dim=0), torch.ones(32), atol=0.15, rtol=0)


def test_one_kernel_of_attention_says_what_the_steps_that_train_say() -> None:
    torch.manual_seed(1)
    network = FTHNet(FTHNetConfig(embed_dim=8, depths=(2, 1, 1, 1), num_heads=(1, 2, 4, 8)))
    network.initialise()
    block = network.bbone.layers[0].blocks[1]  # shifted: windows differ in their mask
    torch.nn.init.normal_(block.attn.relative_position_bias_table, std=2)
    tokens = torch.randn(2, 96 * 96, 8)
    trained = block(tokens)
    assert trained.requires_grad
    with torch.no_grad():
        scored = block(tokens)
    torch.testing.assert_close(scored, trained.detach(), atol=1e-5, rtol=1e-4)
