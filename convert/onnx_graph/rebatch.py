"""The same ONNX graph for another batch size.

The kit's graphs for TensorRT (`convert/onnx_graph/fthnet_graph.py`) say the batch nowhere but in the shapes of
their input and output, so an engine of any batch size comes from a bundle's one file.
"""

from __future__ import annotations

from pathlib import Path

from fthnet_kit.edge.errors import EngineError, MissingExtraError
from fthnet_kit.edge.model.model_file import ModelFile

try:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
except ImportError as error:
    raise MissingExtraError("onnx", "tensorrt", purpose="another batch size") from error


def with_batch(graph: ModelFile, batch: int) -> onnx.ModelProto:
    """A graph with input ``image: uint8 (batch, 384, 384, 3)`` and output ``score: float32 (batch,)``.

    Raises:
        EngineError: no ONNX file, or its input or output has no shape.
    """
    name = Path(graph.name).name
    try:
        model = onnx.load_from_string(graph.content)
    except DecodeError as error:
        raise EngineError(f"{name}: expected an ONNX file, found none that can be read ({error})") from error
    for tensor in (*model.graph.input, *model.graph.output):
        if not tensor.type.tensor_type.shape.dim:
            raise EngineError(f"{name}: expected N as first axis of {tensor.name}, found no axis")
        tensor.type.tensor_type.shape.dim[0].dim_value = batch
    return model
