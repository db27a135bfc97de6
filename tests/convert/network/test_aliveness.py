"""Is the hypernetwork used: on weights that live, on weights that do not, and on new ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fthnet_kit.calibration.labelled_images import of_split, read_image_set
from fthnet_kit.calibration.trainer import normalise
from fthnet_kit.convert.bundle.train_to_bundle import look_into
from fthnet_kit.convert.network.aliveness import Aliveness, measure_aliveness
from fthnet_kit.convert.network.checkpoint import load_checkpoint
from fthnet_kit.convert.network.config import FTHNetConfig
from fthnet_kit.convert.network.fthnet import FTHNet, apply_target
from fthnet_kit.edge.capture.degradations import DEGRADATIONS, degrade
from fthnet_kit.edge.model.preprocess import Preprocessing, canonical

LIVING = Path(__file__).parents[3] / "edge" / "demo" / "checkpoint.safetensors"
TINY = FTHNetConfig(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))
LABELS = np.linspace(90, 10, 20)


@pytest.fixture(scope="module")
def images(photograph: np.ndarray) -> torch.Tensor:
    """Twenty pictures of one retina, worse and worse."""
    field = canonical(photograph, Preprocessing())[64:448, 64:448]
    faults = [degrade(field, name, severity, 1) for severity in (0.3, 0.9) for name in DEGRADATIONS]
    return normalise(torch.from_numpy(np.stack(faults)[..., ::-1].copy()))


def look(network: FTHNet, images: torch.Tensor) -> Aliveness:
    return measure_aliveness(network.eval(), torch.split(images, 4), LABELS)


@pytest.mark.slow
def test_the_shipped_weights_live(images: torch.Tensor) -> None:
    found = look(load_checkpoint(LIVING).network, images)
    assert found.alive
    assert found.taps_points > 10
    assert found.weights_points > 0.5
    assert found.saturated <= 0.01
    assert found.images == len(images)


@pytest.mark.slow
def test_the_shipped_weights_live_on_photographs(data: Path) -> None:
    found = look_into(load_checkpoint(LIVING).network, of_split(read_image_set(data / "fundus"), "val")[::5])
    assert 10 < found.taps_points < 30  # version 0.6.0: 17.4 on all
    assert abs(found.taps_srcc) < 0.75
    assert found.saturated <= 0.02


@pytest.mark.slow
def test_a_saturated_layer_is_seen_and_called_dead(images: torch.Tensor) -> None:
    network = load_checkpoint(LIVING).network
    with torch.no_grad():
        network.bias_conv[3].bias -= 60  # every sigmoid of the last hidden layer at 0, as in 0.3.0
    found = look(network, images)
    assert found.taps_points < 0.01
    assert not found.alive
    assert "dead" in str(found)
    assert found.saturated >= 24 / (192 + 96 + 48 + 24)


@pytest.mark.slow
def test_new_weights_live_only_once_they_are_calibrated(images: torch.Tensor) -> None:
    torch.manual_seed(0)
    network = FTHNet(TINY)
    network.initialise(0.5)
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    assert not look(network, images).alive
    network.enliven(images, mean_quality=0.4)
    found = look(network, images)
    assert found.alive
    assert found.saturated < 0.2
    assert {name: value.shape for name, value in network.state_dict().items()} == shapes
    parts = network.forward_parts(images)
    raw, hidden = apply_target(parts.vector, parts.generated, torch.zeros(len(images)))
    assert float(raw.detach().mean()) == pytest.approx(0.4, abs=0.02)
    assert float(raw.detach().std()) == pytest.approx(0.15, rel=0.3)
    for layer in hidden:
        assert float(layer.detach().std(dim=0).mean()) == pytest.approx(1.2, rel=0.1)


@pytest.mark.slow
def test_mixing_reaches_from_the_mean_weights_to_each_samples_own(images: torch.Tensor) -> None:
    torch.manual_seed(0)
    network = FTHNet(TINY)
    network.enliven(images)
    with torch.no_grad():
        parts = network.forward_parts(images)
        whole, _ = apply_target(parts.vector, parts.generated, torch.ones(len(images)))
        torch.testing.assert_close(whole, parts.raw, atol=1e-4, rtol=1e-4)
        mean = [
            (w.mean(0, keepdim=True).expand_as(w), b.mean(0, keepdim=True).expand_as(b)) for w, b in parts.generated
        ]
        shared, _ = apply_target(parts.vector, parts.generated, torch.zeros(len(images)))
        torch.testing.assert_close(shared, apply_target(parts.vector, mean)[0], atol=1e-4, rtol=1e-4)
    assert float((whole - shared).abs().mean()) > 0.01
