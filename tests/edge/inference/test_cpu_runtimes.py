"""ONNX Runtime and OpenVINO on a CPU: one contract, the same scores, the same errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fthnet_kit.edge import Bundle, EngineError, MissingExtraError
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.inference.backend import Backend
from fthnet_kit.edge.inference.onnx_runtime import OnnxBackend
from fthnet_kit.edge.inference.open_backend import open_backend
from fthnet_kit.edge.model.choices import Precision
from fthnet_kit.edge.model.preprocess import Preprocessing, prepare

Open = Callable[..., Backend]


@pytest.fixture(params=["onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)])
def runtime(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param)
    return str(request.param)


@pytest.fixture
def opened(runtime: str) -> Open:
    """Makes a backend of a file or its content."""
    if runtime == "onnxruntime":
        return OnnxBackend
    from fthnet_kit.edge.inference.openvino_runtime import OpenVinoBackend

    return OpenVinoBackend


@pytest.fixture(scope="module")
def reference() -> Backend:
    return open_backend(Bundle.open(), "fp32", "onnxruntime")


@pytest.fixture(scope="module")
def views() -> Image:
    """The kit's photograph in five crops."""
    from fthnet_kit.edge.formats.read import read_image
    from tests.conftest import ROOT

    return prepare(read_image(ROOT / "edge" / "assets" / "retina.jpg"), Preprocessing(), 5)


@pytest.mark.parametrize(("precision", "points"), [("auto", 0.01), ("fp32", 0.01), ("int8", 2.0)])
@pytest.mark.slow
def test_scores_are_those_of_the_fp32_graph(
    runtime: str, reference: Backend, views: Image, precision: Precision, points: float
) -> None:
    with open_backend(Bundle.open(), precision, runtime) as backend:  # type: ignore[arg-type]
        found = backend.infer(views)
    assert found.dtype == np.float32
    assert np.abs(found - reference.infer(views)).max() < points


def test_any_number_of_images_alone_or_together_is_the_same(opened: Open, views: Image) -> None:
    with opened(Bundle.open().model_path("fp32")) as backend:
        together = backend.infer(views[::-1])  # not contiguous
        alone = [backend.infer(views[index : index + 1])[0] for index in range(len(views))]
    np.testing.assert_allclose(together, alone[::-1], atol=1e-3)


def test_the_result_belongs_to_the_caller(opened: Open, views: Image) -> None:
    with opened(Bundle.open().model_path("fp32")) as backend:
        first = backend.infer(views[:1])
        kept = first.copy()
        backend.infer(views[1:2])
    assert first == kept


def test_the_content_of_a_file_will_do(opened: Open, views: Image) -> None:
    path = Bundle.open().model_path("fp32")
    with opened(path) as of_file, opened(path.read_bytes()) as of_content:
        np.testing.assert_allclose(of_file.infer(views[:1]), of_content.infer(views[:1]), atol=1e-3)


def test_threads_are_those_asked_for(opened: Open) -> None:
    with opened(Bundle.open().model_path("fp32"), threads=1) as backend:
        assert backend.describe()["threads"] == "1"


def test_a_closed_backend_says_so(opened: Open, views: Image) -> None:
    backend = opened(Bundle.open().model_path("fp32"))
    backend.close()
    backend.close()
    with pytest.raises(EngineError, match="closed"):
        backend.infer(views[:1])


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((0, 384, 384, 3), np.uint8),
        np.zeros((1, 384, 383, 3), np.uint8),
        np.zeros((1, 384, 384, 3), np.float32),
    ],
)
def test_other_input_is_refused(opened: Open, images: Image) -> None:
    with opened(Bundle.open().model_path("fp32")) as backend, pytest.raises(EngineError, match="expected uint8"):
        backend.infer(images)


@pytest.mark.parametrize("content", [b"not onnx", b""])
def test_a_file_that_is_no_graph_is_refused(opened: Open, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    for model in (path, content):
        with pytest.raises(EngineError) as caught:
            opened(model)
        assert "\n" not in str(caught.value)
    with pytest.raises(EngineError, match=r"absent\.onnx"):
        opened(tmp_path / "absent.onnx")


def test_a_foreign_graph_is_refused(opened: Open, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", kind, [1, 3])],
        [helper.make_tensor_value_info("y", kind, [1, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(EngineError, match=r"expected one input image uint8 .*found x float(32)? \[1, 3\]"):
        opened(tmp_path / "a.onnx")


@pytest.mark.slow
def test_openvino_says_what_it_compiled() -> None:
    pytest.importorskip("openvino")
    products = {}
    for precision in ("fp32", "int8"):
        with open_backend(Bundle.open(), precision, "openvino") as backend:  # type: ignore[arg-type]
            products[precision] = backend.describe()["products"]
    assert "int8" not in products["fp32"]
    assert "int8" in products["int8"]
    assert not any("16" in found for found in products.values())


def openvino_kernels(precision: Precision) -> list[str]:
    """Kind of each kernel that the shipped model becomes."""
    openvino = pytest.importorskip("openvino")
    from fthnet_kit.edge.inference.openvino_runtime import compile_settings

    if " avx2 " not in Path("/proc/cpuinfo").read_text():
        pytest.skip("OpenVINO fuses attention only where the processor has AVX2")
    core = openvino.Core()
    graph = core.read_model(Bundle.open().model(precision, "openvino").content)
    compiled = core.compile_model(graph, "CPU", compile_settings(1))
    facts = (layer.get_rt_info() for layer in compiled.get_runtime_model().get_ops())
    return [each["layerType"].astype(str) for each in facts if "layerType" in each]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_openvino_runs_each_attention_as_one_kernel(precision: Precision) -> None:
    assert openvino_kernels(precision).count("Softmax") == 8  # of the poolings; attention in pieces has twelve more


@pytest.mark.slow
def test_openvino_quantises_in_the_kernel_before() -> None:
    assert "FakeQuantize" not in openvino_kernels("int8")  # 28 where each channel of a LayerNorm has its own scale


def test_openvino_that_would_compute_in_bfloat16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    openvino = pytest.importorskip("openvino")
    from fthnet_kit.edge.inference import openvino_runtime

    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bfloat16")
    settings = openvino_runtime.compile_settings(1) | {"INFERENCE_PRECISION_HINT": "bf16"}
    monkeypatch.setattr(openvino_runtime, "compile_settings", lambda *_: settings)
    with pytest.raises(EngineError, match="found bf16"):
        openvino_runtime.OpenVinoBackend(Bundle.open().model_path("fp32"))


def test_openvino_that_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"fthnet-edge-kit\[openvino\]"):
        open_backend(Bundle.open(), "fp32", "openvino")


@pytest.mark.slow
def test_openvino_keeps_compiled_models_only_where_it_is_told_to(tmp_path: Path, views: Image) -> None:
    pytest.importorskip("openvino")
    from fthnet_kit.edge.inference.openvino_runtime import OpenVinoBackend

    path = Bundle.open().model_path("fp32")
    scores = []
    for cache in (None, tmp_path, tmp_path):
        with OpenVinoBackend(path, cache=cache) as backend:
            scores.append(float(backend.infer(views[:1])[0]))
    assert list(tmp_path.iterdir())
    assert max(scores) - min(scores) < 0.01
