"""Float32 weights that FP16 holds exactly: half the bytes, the same scores, on every runtime that is here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from fthnet_kit.convert.bundle.write import Identity, write_bundle
from fthnet_kit.convert.network.checkpoint import NetworkCheckpoint, round_to_half
from fthnet_kit.convert.network.config import FTHNetConfig
from fthnet_kit.convert.network.fthnet import FTHNet
from fthnet_kit.convert.onnx_graph import writer
from fthnet_kit.convert.onnx_graph.export import weights_of
from fthnet_kit.convert.onnx_graph.fthnet_graph import GraphPlan, write_graph
from fthnet_kit.convert.onnx_graph.half_storage import FEWEST, store_in_half
from fthnet_kit.convert.precision.fp16_twin import rounded_twin
from fthnet_kit.edge import Bundle, Preprocessing
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.inference.onnx_runtime import OnnxBackend
from fthnet_kit.edge.model.preprocess import prepare

CONFIG = FTHNetConfig(embed_dim=8, depths=(1, 2, 1, 1), num_heads=(1, 2, 4, 8), target_in=192, hyper_in=64)
HALVES = hnp.from_dtype(np.dtype(np.float16), allow_nan=False)


@pytest.fixture(scope="module")
def network() -> FTHNet:
    torch.manual_seed(5)
    network = FTHNet(CONFIG).eval()
    network.initialise()
    round_to_half(network)
    return network


@pytest.fixture(scope="module")
def views(photograph: Image) -> Image:
    noise = np.random.default_rng(0).integers(0, 256, (1, 384, 384, 3), np.uint8)
    return np.concatenate([prepare(photograph, Preprocessing(), 1), noise])


def graph(network: FTHNet, plan: GraphPlan, monkeypatch: pytest.MonkeyPatch, *, plain: bool = False) -> onnx.ModelProto:
    """What the kit writes, or with every float32 constant stored as it is."""
    with monkeypatch.context() as patch:
        if plain:
            patch.setattr(writer, "store_in_half", lambda model: None)
        return write_graph(weights_of(network), CONFIG, Preprocessing(), plan=plan).model


def scores(backend: OnnxBackend, views: Image) -> np.ndarray:
    with backend:
        return np.concatenate([backend.infer(view[np.newaxis]) for view in views])


PLANS = {"fp32": GraphPlan(), "fp16": GraphPlan("fp16"), "fused": GraphPlan(kernels="onnxruntime")}


@pytest.mark.parametrize("name", PLANS)
def test_scores_are_equal_to_the_last_bit(
    name: str, network: FTHNet, views: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, plain = (
        graph(network, PLANS[name], monkeypatch, plain=plain).SerializeToString() for plain in (False, True)
    )
    assert len(stored) < len(plain) * (0.99 if name == "fp16" else 0.75)
    found, expected = (scores(OnnxBackend(model), views) for model in (stored, plain))
    assert np.std(expected) > 0
    np.testing.assert_array_equal(found, expected)
    twins = (rounded_twin(onnx.load_from_string(model)).SerializeToString() for model in (stored, plain))
    np.testing.assert_array_equal(*(scores(OnnxBackend(twin), views) for twin in twins))
    if name == "fused":
        return
    pytest.importorskip("openvino")
    from fthnet_kit.edge.inference.openvino_runtime import OpenVinoBackend

    np.testing.assert_array_equal(*(scores(OpenVinoBackend(model), views) for model in (stored, plain)))


def test_nothing_is_cast_while_a_picture_is_scored(
    network: FTHNet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kinds = []
    for plain in (False, True):
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
        options.log_severity_level = 4
        model = graph(network, GraphPlan(), monkeypatch, plain=plain)
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        kinds.append([node.op_type for node in onnx.load(tmp_path / "loaded.onnx").graph.node])
    assert sorted(kinds[0]) == sorted(kinds[1])


@pytest.mark.slow
def test_export_of_a_rounded_checkpoint_stores_its_weights_once(network: FTHNet, tmp_path: Path) -> None:
    sizes = []
    for half in (True, False):
        fine = FTHNet(CONFIG).eval()
        fine.initialise()
        write_bundle(
            NetworkCheckpoint(fine, "0" * 64), tmp_path / f"{half}", Identity(), Preprocessing(), half_checkpoint=half
        )
        bundle = Bundle.open(tmp_path / f"{half}")
        stored = {tensor.data_type for tensor in onnx.load(bundle.model_path()).graph.initializer}
        assert (TensorProto.FLOAT16 in stored) == half
        sizes.append(bundle.model_path().stat().st_size)
    assert sizes[0] < 0.75 * sizes[1]


def stored_and_given(values: np.ndarray) -> tuple[onnx.TensorProto, np.ndarray]:
    """The constant that is stored for float32 values, and what a model that returns it gives."""
    node = helper.make_node("Identity", ["c"], ["y"])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, values.shape)
    model = helper.make_model(
        helper.make_graph([node], "g", [], [output], [numpy_helper.from_array(values, "c")]),
        opset_imports=[helper.make_opsetid("", writer.OPSET)],
        ir_version=writer.IR_VERSION,
    )
    store_in_half(model)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return model.graph.initializer[0], session.run(None, {})[0]


@given(
    head=st.lists(HALVES, max_size=8), odd=st.none() | st.floats(width=32), count=st.sampled_from([1023, 1024, 1500])
)
def test_a_constant_keeps_every_bit(head: list[float], odd: float | None, count: int) -> None:
    values = np.full(count, 0.5, np.float32)
    values[: len(head)] = head
    if odd is not None:
        values[-1] = odd
    with np.errstate(over="ignore", invalid="ignore"):
        exact = np.array_equal(values.astype(np.float16).astype(np.float32).view(np.uint32), values.view(np.uint32))
    stored, found = stored_and_given(values)
    assert (stored.data_type == TensorProto.FLOAT16) == (exact and count >= FEWEST)
    np.testing.assert_array_equal(found.view(np.uint32), values.view(np.uint32))
