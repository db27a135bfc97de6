"""The FP32 twin of an FP16 graph: computes in FP32 and rounds to FP16 after every operation.

For judging FP16 without a GPU. ONNX Runtime runs FP16 nodes on a CPU in FP32 and drops the casts between
them, so an FP16 file gives nearly FP32 results there whatever its precision costs on a GPU (measured:
``(0.3 + 1024) - 1024`` comes out as 0.3 instead of 0). Explicit casts in an FP32 graph are kept, and a GPU
that accumulates FP16 products in FP32 rounds at the same places as the twin.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fthnet_kit.edge.errors import MissingExtraError

try:
    import onnx
    from onnx import NodeProto, TensorProto, helper, numpy_helper
except ImportError as error:
    raise MissingExtraError("onnx", "convert", purpose="judging FP16") from error

MOVES = {
    "Reshape",
    "Transpose",
    "Gather",
    "Concat",
    "Squeeze",
    "Unsqueeze",
    "Split",
    "Slice",
    "Pad",
    "Expand",
    "Identity",
}


def rounded_twin(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model that rounds as `model` would on a GPU; without FP16 in it, the same model."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    half = {info.name for info in inferred.graph.value_info if info.type.tensor_type.elem_type == TensorProto.FLOAT16}
    half |= {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    if not half:
        return model
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    del twin.graph.value_info[:]
    for tensor in twin.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    nodes = [new for node in twin.graph.node for new in _rounded(node, half)]
    del twin.graph.node[:]
    twin.graph.node.extend(nodes)
    return twin


def _rounded(node: NodeProto, half: set[str]) -> Iterator[NodeProto]:
    """The node in FP32, followed by the rounding of its FP16 outputs."""
    if node.op_type == "Cast" and node.output[0] not in half and node.input[0] in half:
        yield helper.make_node("Identity", node.input, node.output, name=node.name)
        return
    if node.op_type == "Cast" and node.output[0] in half:
        yield from _round(node.input[0], node.output[0])
        return
    if node.op_type in MOVES:
        yield node
        return
    for index, output in enumerate(node.output):
        if output in half:
            node.output[index] = f"{output}.exact"
    yield node
    for exact in node.output:
        if exact.endswith(".exact"):
            yield from _round(exact, exact.removesuffix(".exact"))


def _round(source: str, target: str) -> Iterator[NodeProto]:
    yield helper.make_node("Cast", [source], [f"{target}.half"], to=TensorProto.FLOAT16)
    yield helper.make_node("Cast", [f"{target}.half"], [target], to=TensorProto.FLOAT)
