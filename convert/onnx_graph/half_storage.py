"""Float32 constants that FP16 holds exactly, stored as FP16: the file shrinks, and no score changes.

A checkpoint that was rounded to FP16 (`fthnet export --half-checkpoint`) gives a float32 graph whose weights carry
16 empty bits each. Stored as FP16 with a Cast to FLOAT behind, they take half the room. ONNX Runtime, OpenVINO and
TensorRT compute such a Cast of a constant once, when they load the graph.
"""

from __future__ import annotations

import numpy as np

from fthnet_kit.edge.errors import MissingExtraError

try:
    from onnx import ModelProto, TensorProto, helper, numpy_helper
except ImportError as error:
    raise MissingExtraError("onnx", "convert", purpose="writing ONNX") from error

FEWEST = 1024  # values; a smaller constant is not worth a node
SUFFIX = ".half"  # the stored constant's name ends so; the Cast's output keeps the constant's name


def store_in_half(model: ModelProto) -> None:
    """Replace each large float32 constant that FP16 holds exactly by an FP16 one and a Cast, in place."""
    casts = []
    for tensor in model.graph.initializer:
        half = exact_half(tensor)
        if half is None:
            continue
        casts.append(
            helper.make_node("Cast", [half.name], [tensor.name], name=f"{tensor.name}.cast", to=TensorProto.FLOAT)
        )
        tensor.CopyFrom(half)
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def exact_half(tensor: TensorProto) -> TensorProto | None:
    """The constant in FP16; None where it is small, of another type, or would lose a bit."""
    if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < FEWEST:
        return None
    values = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore", invalid="ignore"):
        half = values.astype(np.float16)
    if not np.array_equal(half.astype(np.float32).view(np.uint32), values.view(np.uint32)):
        return None
    return numpy_helper.from_array(half, f"{tensor.name}{SUFFIX}")
