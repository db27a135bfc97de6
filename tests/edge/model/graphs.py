"""Small graphs that stand in for FTHNet's, honest and not."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fthnet_kit.edge.model.bundle import FP32_NAME
from fthnet_kit.edge.model.card import CARD_NAME

SIZE = 384


def constant_graph(
    value: float = 99.0, kind: int = TensorProto.FLOAT, shape: tuple[int, ...] = (1,), batch: int = 1
) -> onnx.ModelProto:
    """Looks at no picture: the same value for each, of a type and shape."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["mean"], keepdims=0),
        helper.make_node("Less", ["mean", "below"], ["never"]),
        helper.make_node("Where", ["never", "zeros", "value"], ["score"]),
    ]
    model = model_of(nodes, kind, shape, batch)
    numpy_kind = helper.tensor_dtype_to_np_dtype(kind)
    values = {"value": np.full(shape, value, numpy_kind), "zeros": np.zeros(shape, numpy_kind)}
    for name, content in {**values, "below": np.array(-1, np.float32)}.items():
        model.graph.initializer.append(numpy_helper.from_array(content, name))
    return model


def misdeclared_graph() -> onnx.ModelProto:
    """Says float32 [1] and gives seven values, which no runtime finds out before it has run."""
    image = helper.make_node("Slice", ["image", "starts", "ends", "axes"], ["cut"])
    count = helper.make_node("ReduceMax", ["cut"], ["level"], keepdims=0)
    seven = helper.make_node("Cast", ["level"], ["number"], to=TensorProto.INT64)
    one = helper.make_node("Add", ["number", "six"], ["length"])
    shape = helper.make_node("Reshape", ["length", "vector"], ["shape"])
    many = helper.make_node("ConstantOfShape", ["shape"], ["score"])
    model = model_of([image, count, seven, one, shape, many], TensorProto.FLOAT, (1,))
    for name, content in {"starts": [0], "ends": [1], "axes": [1], "vector": [1]}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(content, np.int64), name))
    model.graph.initializer.append(numpy_helper.from_array(np.array(6, np.int64), "six"))
    return model


def endless_graph(trips: int = 1 << 40) -> onnx.ModelProto:
    """Counts for days."""
    number = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])  # noqa: E731
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["still"]), helper.make_node("Sin", ["x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            number("x"),
        ],
        [helper.make_tensor_value_info("still", TensorProto.BOOL, []), number("y")],
    )
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["mean"], keepdims=0),
        helper.make_node("Reshape", ["mean", "vector"], ["start"]),
        helper.make_node("Loop", ["trips", "on", "start"], ["score"], body=body),
    ]
    model = model_of(nodes, TensorProto.FLOAT, (1,))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "vector"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(trips, np.int64), "trips"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "on"))
    return model


def outside_graph(name: str = "weights.bin") -> onnx.ModelProto:
    """Keeps its value in another file."""
    model = model_of([helper.make_node("Identity", ["value"], ["score"])], TensorProto.FLOAT, (1,))
    tensor = numpy_helper.from_array(np.zeros(1, np.float32), "value")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in {"location": name, "offset": "0", "length": "4"}.items():
        tensor.external_data.add(key=key, value=text)
    model.graph.initializer.append(tensor)
    return model


def model_of(nodes: list[onnx.NodeProto], kind: int, shape: tuple[int, ...], batch: int = 1) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "fthnet",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [batch, SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("score", kind, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def put_graph(bundle: Path, content: bytes, name: str = FP32_NAME) -> None:
    """Replaces a graph, and its hash in the card, as an attacker without a key would."""
    (bundle / name).write_bytes(content)
    card = json.loads((bundle / CARD_NAME).read_text())
    card["files"][name] = hashlib.sha256(content).hexdigest()
    (bundle / CARD_NAME).write_text(json.dumps(card))
