"""Writes ONNX nodes in FP32, or in FP16 with FP32 islands: strongly typed, as TensorRT wants it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fthnet_kit.convert.onnx_graph.half_storage import store_in_half
from fthnet_kit.edge.errors import MissingExtraError

try:
    import onnx
    from onnx import TensorProto, helper, numpy_helper
except ImportError as error:
    raise MissingExtraError("onnx", "convert", purpose="writing ONNX") from error

Arithmetic = Literal["fp32", "fp16"]

OPSET = 19  # the first in which QuantizeLinear takes FP16
IR_VERSION = 9
CONTRIB = "com.microsoft"


class GraphWriter:
    """Collects nodes and constants; every method that adds a node returns the name of its output.

    Args:
        arithmetic: of `constant` and `narrow`.
    """

    def __init__(self, arithmetic: Arithmetic) -> None:
        self.arithmetic = arithmetic
        self.scope = ""
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._shared: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._contrib = False

    def op(self, kind: str, *inputs: str, name: str | None = None, domain: str = "", **attributes: Any) -> str:
        """One node with one output."""
        return self.ops(kind, *inputs, outputs=1, name=name, domain=domain, **attributes)[0]

    def ops(
        self, kind: str, *inputs: str, outputs: int, name: str | None = None, domain: str = "", **attributes: Any
    ) -> list[str]:
        """One node with several outputs."""
        base = name or f"{self.scope}{kind}_{len(self._nodes)}"
        names = [base] if outputs == 1 else [f"{base}_{index}" for index in range(outputs)]
        self._nodes.append(helper.make_node(kind, list(inputs), names, name=base, domain=domain, **attributes))
        self._contrib |= domain == CONTRIB
        return names

    def widen(self, x: str) -> str:
        """`x` in FP32: the way into an FP32 island."""
        return self.op("Cast", x, to=TensorProto.FLOAT) if self.arithmetic == "fp16" else x

    def narrow(self, x: str) -> str:
        """FP32 `x` in the graph's arithmetic: the way out of an island."""
        return self.op("Cast", x, to=TensorProto.FLOAT16) if self.arithmetic == "fp16" else x

    def constant(self, values: npt.ArrayLike, name: str | None = None) -> str:
        """A float constant in the graph's arithmetic."""
        return self.literal(np.asarray(values, np.float16 if self.arithmetic == "fp16" else np.float32), name)

    def literal(self, values: npt.ArrayLike, name: str | None = None) -> str:
        """A constant of any type, as it is; equal unnamed constants are stored once."""
        values = np.asarray(values, order="C")
        if name is None:
            key = (values.dtype.str, values.shape, values.tobytes())
            name = self._shared.setdefault(key, f"constant_{len(self._shared)}")
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(values, name)
        return name

    def reshape(self, x: str, *shape: int) -> str:
        """Free: no data moves."""
        return self.op("Reshape", x, self.literal(np.array(shape, np.int64)))

    def transpose(self, x: str, *order: int) -> str:
        """Axes in another order."""
        return self.op("Transpose", x, perm=order)

    def model(
        self,
        inputs: Mapping[str, tuple[int, Sequence[int]]],
        outputs: Mapping[str, tuple[int, Sequence[int]]],
        properties: Mapping[str, str],
    ) -> onnx.ModelProto:
        """The finished model; inputs and outputs by name with ONNX element type and shape.

        Float32 constants that FP16 holds exactly are stored so (`half_storage`).
        """

        def infos(tensors: Mapping[str, tuple[int, Sequence[int]]]) -> list[onnx.ValueInfoProto]:
            return [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in tensors.items()]

        graph = helper.make_graph(
            self._nodes, "fthnet", infos(inputs), infos(outputs), initializer=list(self._constants.values())
        )
        opsets = [helper.make_opsetid("", OPSET)] + ([helper.make_opsetid(CONTRIB, 1)] if self._contrib else [])
        model = helper.make_model(
            graph,
            opset_imports=opsets,
            ir_version=IR_VERSION,
            producer_name="fthnet-edge-kit",
            producer_version=version("fthnet-edge-kit"),
            doc_string="FTHNet: fundus image quality in points, about 0 to 100",
        )
        helper.set_model_props(model, dict(properties))
        store_in_half(model)
        return model
