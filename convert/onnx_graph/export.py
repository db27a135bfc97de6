"""FTHNet to ONNX: one graph from the pixels to the score.

``image: uint8 (N, 384, 384, 3) RGB -> score: float32 (N,)``, points, not clipped. Normalisation, layout and
the factor 100 are inside, so that an integrator in any language only crops and resizes.
"""

from __future__ import annotations

from pathlib import Path

from fthnet_kit.convert.network.fthnet import FTHNet
from fthnet_kit.convert.onnx_graph.fthnet_graph import Weights, write_graph
from fthnet_kit.edge.errors import MissingExtraError
from fthnet_kit.edge.model.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

try:
    import onnx
    import torch
    from torch import Tensor, nn
except ImportError as error:
    raise MissingExtraError(error.name or "onnx", "convert", purpose="export to ONNX") from error


class ScoringGraph(nn.Module):
    """What the exported graph computes, in PyTorch: pixels in, points out."""

    scale: Tensor
    offset: Tensor

    def __init__(self, network: FTHNet, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        imagenet = preprocessing.normalisation == "imagenet"
        mean = torch.tensor(IMAGENET_MEAN if imagenet else (0.0, 0.0, 0.0))
        std = torch.tensor(IMAGENET_STD if imagenet else (1.0, 1.0, 1.0))
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("offset", -mean / std)

    def forward(self, image: Tensor) -> Tensor:
        """RGB uint8 (N, 384, 384, 3) -> points float32 (N,)."""
        normalised = image.float() * self.scale + self.offset
        return 100 * self.network(normalised.permute(0, 3, 1, 2))


def weights_of(network: FTHNet) -> Weights:
    """The parameters as arrays, by name."""
    return {name: parameter.detach().cpu().numpy() for name, parameter in network.named_parameters()}


def export_onnx(network: FTHNet, preprocessing: Preprocessing, path: Path, batch: int = 1) -> None:
    """Write the FP32 graph with a static batch size.

    Args:
        network: in evaluation mode.
        preprocessing: what the card will say; its normalisation goes into the graph.
        path: file to write.
        batch: N of the input.
    """
    model = write_graph(weights_of(network), network.config, preprocessing, batch).model
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))
