"""FTHNet to ONNX: one graph from the pixels to the score.

``image: uint8 (N, 384, 384, 3) RGB -> score: float32 (N,)``, points, not clipped. Normalisation, layout and
the factor 100 are inside, so that an integrator in any language only crops and resizes.

Everything that does not depend on the image is folded: position-bias gathers, shift masks, shapes. One
sum is left on purpose, position bias + shift mask: as two small constants they keep the file half as
large, and ONNX Runtime and TensorRT fold it when they load the graph.
"""

from __future__ import annotations

import json
import logging
import warnings
from importlib.metadata import version
from pathlib import Path

from fthnet_kit.convert.fthnet import FTHNet
from fthnet_kit.edge.errors import MissingExtraError
from fthnet_kit.edge.onnx_backend import INPUT_NAME, OUTPUT_NAME
from fthnet_kit.edge.preprocess import IMAGENET_MEAN, IMAGENET_STD, INPUT, Preprocessing

try:
    import onnx
    import onnxslim
    import torch
    from torch import Tensor, nn
except ImportError as error:
    raise MissingExtraError(error.name or "onnx", "convert", purpose="export to ONNX") from error

OPSET = 18


class ScoringGraph(nn.Module):
    """What is exported: pixels in, points out."""

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


def largest_folded(network: FTHNet) -> int:
    """Bytes of the largest position bias (heads, L, L): what is larger, bias + mask of all windows, is not folded."""
    return max(network.config.num_heads) * network.config.window_size**4 * 4


def export_onnx(network: FTHNet, preprocessing: Preprocessing, path: Path, batch: int = 1) -> None:
    """Write the FP32 graph with a static batch size; constants folded, metadata inside.

    Args:
        network: in evaluation mode.
        preprocessing: what the card will say; its normalisation goes into the graph.
        path: file to write.
        batch: N of the input.
    """
    graph = ScoringGraph(network, preprocessing).eval()
    example = torch.zeros(batch, INPUT, INPUT, 3, dtype=torch.uint8)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph,
            (example,),
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = onnxslim.slim(program.model_proto, size_threshold=largest_folded(network))
    model.producer_name = "fthnet-edge-kit"
    model.producer_version = version("fthnet-edge-kit")
    model.doc_string = "FTHNet: fundus image quality in points, about 0 to 100"
    for node in model.graph.node:
        node.ClearField("metadata_props")  # the exporter's Python stack traces: paths of the exporting machine
        node.doc_string = ""
    del model.metadata_props[:]
    onnx.helper.set_model_props(
        model,
        {
            "fthnet.architecture": json.dumps(network.config.to_dict()),
            "fthnet.preprocessing": json.dumps(vars(preprocessing)),
        },
    )
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))
