"""A widened backbone sees what the narrow one saw, and its copies learn apart."""

from __future__ import annotations

import pytest
import torch

from fthnet_kit.convert.network.config import FTHNetConfig
from fthnet_kit.convert.network.fthnet import FTHNet
from fthnet_kit.convert.network.widen import widened
from fthnet_kit.edge.errors import InputError

DEPTHS = (2, 1, 1, 1)  # a shifted block, three mergings
NARROW = FTHNetConfig(embed_dim=16, depths=DEPTHS)


@pytest.fixture(scope="module")
def narrow() -> FTHNet:
    torch.manual_seed(0)
    network = FTHNet(NARROW)
    for parameter in network.parameters():  # norms and biases, too, so that none is right by being 1 or 0
        parameter.data = torch.randn_like(parameter) * 0.3 + (parameter.data if parameter.ndim == 1 else 0)
    return network


@pytest.mark.parametrize("times", [1, 2, 3])
def test_each_token_channel_stands_there_several_times(narrow: FTHNet, times: int) -> None:
    wide = widened(narrow, FTHNetConfig(embed_dim=16 * times, depths=DEPTHS))
    image = torch.randn(1, 3, 384, 384)
    with torch.no_grad():
        expected, found = narrow.forward_parts(image).tokens, wide.forward_parts(image).tokens
    for old, new in zip(expected, found, strict=True):
        torch.testing.assert_close(new, old.repeat(1, 1, times), rtol=1e-3, atol=1e-3)


def test_copies_get_gradients_of_their_own(narrow: FTHNet) -> None:
    wide = widened(narrow, FTHNetConfig(embed_dim=32, depths=DEPTHS))
    wide(torch.randn(1, 3, 384, 384)).sum().backward()
    rows = wide.bbone.layers[0].blocks[0].mlp.fc1.weight.grad  # type: ignore[union-attr,index]
    first, second = rows.reshape(2, -1).float()  # type: ignore[union-attr,operator]
    assert torch.corrcoef(torch.stack([first, second]))[0, 1] < 0.99


@pytest.mark.parametrize("wanted", [FTHNetConfig(embed_dim=24, depths=DEPTHS), FTHNetConfig(embed_dim=32)])
def test_another_architecture_is_refused(narrow: FTHNet, wanted: FTHNetConfig) -> None:
    with pytest.raises(InputError, match="channels"):
        widened(narrow, wanted)
