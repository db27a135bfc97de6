"""The same ONNX graph for another batch size.

The kit's graphs for TensorRT (`convert/graph.py`) say the batch nowhere but in the shapes of their input and output,
so an engine of any batch size comes from a bundle's one file.
"""

from __future__ import annotations

from pathlib import Path

from fthnet_kit.edge.errors import MissingExtraError

try:
    import onnx
except ImportError as error:
    raise MissingExtraError("onnx", "tensorrt", purpose="another batch size") from error


def with_batch(path: Path, batch: int) -> onnx.ModelProto:
    """An ONNX file's model with input ``image: uint8 (batch, 384, 384, 3)`` and output ``score: float32 (batch,)``."""
    model = onnx.load(path)
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_value = batch
    return model
