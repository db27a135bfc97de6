"""What is hashed is what is loaded, and what a graph gives is a score or a fault."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fthnet_kit.edge import Bundle, BundleError, EngineError, QualityScorer
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.inference.backend import Backend
from fthnet_kit.edge.inference.onnx_runtime import OnnxBackend
from fthnet_kit.edge.inference.open_backend import open_backend
from fthnet_kit.edge.model.bundle import CHECKPOINT_NAME, FP32_NAME, shipped_bundle
from fthnet_kit.edge.model.card import CARD_NAME
from fthnet_kit.edge.model.choices import BackendName
from fthnet_kit.edge.model.score import RawRange

onnx = pytest.importorskip("onnx", reason="needs the extra [convert]")
from tests.edge.model.graphs import (  # noqa: E402
    constant_graph,
    endless_graph,
    misdeclared_graph,
    outside_graph,
    put_graph,
)

BLACK = np.zeros((1, 384, 384, 3), np.uint8)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return shutil.copytree(shipped_bundle(), tmp_path / "bundle")


@pytest.fixture(params=["onnxruntime", "openvino"])
def runtime(request: pytest.FixtureRequest) -> BackendName:
    pytest.importorskip(request.param)
    return request.param


@pytest.fixture
def opened(runtime: BackendName) -> Callable[..., Backend]:
    if runtime == "onnxruntime":
        return OnnxBackend
    from fthnet_kit.edge.inference.openvino_runtime import OpenVinoBackend

    return OpenVinoBackend


def change_card(bundle: Path, **changes: object) -> None:
    card = json.loads((bundle / CARD_NAME).read_text())
    (bundle / CARD_NAME).write_text(json.dumps({**card, **changes}))


# Bytes


def test_a_file_swapped_after_it_was_hashed_is_not_loaded(copy: Path, runtime: BackendName) -> None:
    bundle = Bundle.open(copy)
    (copy / FP32_NAME).write_bytes(constant_graph().SerializeToString())
    with pytest.raises(BundleError, match=r"fthnet\.fp32\.onnx: expected SHA-256 .* altered or damaged"):
        open_backend(bundle, "fp32", runtime)


def test_a_card_swapped_after_it_was_read_changes_nothing(copy: Path) -> None:
    bundle = Bundle.open(copy)
    before = hashlib.sha256((copy / CARD_NAME).read_bytes()).hexdigest()
    put_graph(copy, constant_graph().SerializeToString())
    assert bundle.card_sha256 == before
    with pytest.raises(BundleError, match="SHA-256"):
        bundle.model("fp32")


def test_a_runtime_gets_the_bytes_that_were_hashed_and_no_file(
    copy: Path, opened: Callable[..., Backend], runtime: BackendName
) -> None:
    model = Bundle.open(copy).model("fp32")
    shutil.rmtree(copy)
    with opened(model) as backend:
        assert np.isfinite(backend.infer(BLACK)).all()


@pytest.mark.parametrize("name", [FP32_NAME, CARD_NAME, "reports", "reports/ranges.json", CHECKPOINT_NAME])
def test_a_link_in_a_bundle_is_refused(copy: Path, tmp_path: Path, name: str) -> None:
    (copy / name).rename(tmp_path / "elsewhere")
    (copy / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=rf"{name}: expected only files and folders .*found a symbolic link"):
        Bundle.open(copy)


def test_a_pipe_in_a_bundle_is_refused_and_never_read(copy: Path) -> None:
    (copy / "engines").mkdir()
    os.mkfifo(copy / "engines" / "pipe")
    with pytest.raises(BundleError, match=r"pipe: expected only files and folders .*found a special file"):
        Bundle.open(copy)


def test_a_link_that_comes_after_the_look_is_not_followed(copy: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(copy)
    (copy / FP32_NAME).rename(tmp_path / "elsewhere")
    (copy / FP32_NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="found a symbolic link"):
        bundle.model("fp32")


def test_a_link_to_a_bundle_is_the_users_affair(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(copy)
    assert Bundle.open(tmp_path / "current").card == Bundle.open(copy).card


@pytest.mark.parametrize("name", [FP32_NAME, CARD_NAME])
def test_a_file_beyond_its_limit_is_refused_unread(copy: Path, name: str) -> None:
    with (copy / name).open("ab") as file:
        file.truncate(1 << 40)  # has no blocks on the disk; reading it would take hours
    with pytest.raises(BundleError, match=rf"{name}: .*{1 << 40} bytes, more than"):
        Bundle.open(copy)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_external_data_is_refused(copy: Path, runtime: BackendName, precision: str) -> None:
    (copy / "weights.bin").write_bytes(np.float32(95).tobytes())
    for name in (FP32_NAME, "fthnet.int8.onnx", "fthnet.int8-cpu.onnx"):
        put_graph(copy, outside_graph().SerializeToString(), name)
    with pytest.raises(EngineError, match=r"expected a graph that is whole in itself, found .* external data"):
        open_backend(Bundle.open(copy), precision, runtime)  # type: ignore[arg-type]


def test_a_format_other_than_onnx_is_refused(opened: Callable[..., Backend]) -> None:
    with pytest.raises(EngineError, match="expected an ONNX graph"):
        opened(b'<?xml version="1.0"?><net name="a" version="11"></net>')


# The checkpoint


def test_the_shipped_weights_are_those_of_the_card() -> None:
    Bundle.open().check_weights()


def test_weights_of_another_model_are_found(copy: Path) -> None:
    change_card(copy, weights_sha256="1" * 64)
    with pytest.raises(BundleError, match=r"checkpoint.safetensors: expected weights with SHA-256 111111111111… as"):
        Bundle.open(copy).check_weights()


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x02" + b"\0" * 7 + b"[]", b"\x02" + b"\0" * 7 + b"no"])
def test_a_damaged_checkpoint_is_found(copy: Path, content: bytes) -> None:
    put_graph(copy, content, CHECKPOINT_NAME)
    with pytest.raises(BundleError) as caught:
        Bundle.open(copy).check_weights()
    assert "\n" not in str(caught.value)


# What a graph gives


@pytest.mark.parametrize(
    "model",
    [
        constant_graph(kind=onnx.TensorProto.INT64),
        constant_graph(kind=onnx.TensorProto.DOUBLE),
        constant_graph(shape=(7,)),
        constant_graph(shape=()),
        constant_graph(shape=(1, 1)),
        constant_graph(batch=65, shape=(65,)),
        constant_graph(batch=1_000_000, shape=(1,)),
    ],
    ids=["int64", "double", "seven", "scalar", "matrix", "batch 65", "batch of a million"],
)
def test_another_output_or_batch_is_refused(opened: Callable[..., Backend], model: onnx.ModelProto) -> None:
    with pytest.raises(EngineError, match=r"one output score float32 \[N\], N from 1 to 64, found") as caught:
        opened(model.SerializeToString())
    assert "\n" not in str(caught.value)


def test_an_output_that_is_not_the_declared_one_is_no_score(opened: Callable[..., Backend]) -> None:
    with pytest.raises(EngineError), opened(misdeclared_graph().SerializeToString()) as backend:
        backend.infer(BLACK)


def score_of(bundle: Path, photograph: Image, runtime: BackendName) -> tuple[float | None, str | None]:
    with QualityScorer.from_bundle(bundle, "fp32", backend=runtime) as scorer:
        found = scorer.score(photograph)
    return found.value, found.reason


@pytest.mark.parametrize("raw", [1e30, -1e30, np.inf, -np.inf, np.nan, 200.5, -100.5])
def test_an_implausible_raw_value_is_a_fault(copy: Path, photograph: Image, runtime: BackendName, raw: float) -> None:
    put_graph(copy, constant_graph(raw).SerializeToString())
    assert score_of(copy, photograph, runtime) == (None, "engine_fault")


@pytest.mark.parametrize(("raw", "value"), [(110.0, 100.0), (-20.0, 0.0)])
def test_a_plausible_raw_value_is_clipped(copy: Path, photograph: Image, raw: float, value: float) -> None:
    put_graph(copy, constant_graph(raw).SerializeToString())
    assert score_of(copy, photograph, "onnxruntime") == (value, None)


def test_the_card_states_what_is_plausible(copy: Path, photograph: Image) -> None:
    put_graph(copy, constant_graph(110).SerializeToString())
    change_card(copy, raw_range={"low": -10, "high": 105})
    assert Bundle.open(copy).card.plausible == RawRange(-10, 105)
    assert score_of(copy, photograph, "onnxruntime") == (None, "engine_fault")


def test_one_implausible_view_is_enough(copy: Path, photograph: Image) -> None:
    from tests.conftest import FakeBackend, make_card

    class TwoWrong(FakeBackend):
        def infer(self, images: Image) -> np.ndarray:
            return np.array([1e6, -1e6, 50, 50, 50], np.float32)

    assert QualityScorer(make_card(), TwoWrong(), views=5).score(photograph).reason == "engine_fault"


def test_a_range_that_is_none_is_refused(copy: Path) -> None:
    change_card(copy, raw_range={"low": 5, "high": 5})
    with pytest.raises(BundleError, match="raw_range: expected low < high"):
        Bundle.open(copy)


def test_a_run_that_does_not_end_is_stopped() -> None:
    backend = OnnxBackend(endless_graph().SerializeToString(), longest_s=0.5)
    with backend, pytest.raises(EngineError, match=r"stopped after 0\.5 s of one inference"):
        backend.infer(BLACK)


def test_openvino_refuses_what_it_could_not_stop() -> None:
    pytest.importorskip("openvino")
    from fthnet_kit.edge.inference.openvino_runtime import OpenVinoBackend

    with pytest.raises(EngineError, match="expected a graph without loops, found Loop"):
        OpenVinoBackend(endless_graph().SerializeToString())


def test_a_run_that_openvino_finds_too_long_is_stopped() -> None:
    pytest.importorskip("openvino")
    from fthnet_kit.edge.inference.openvino_runtime import OpenVinoBackend

    backend = OpenVinoBackend(Bundle.open().model("fp32"), longest_s=0.002)
    with backend, pytest.raises(EngineError, match=r"stopped after 0\.002 s of one inference"):
        backend.infer(BLACK)


def test_a_run_that_ends_in_time_is_left_alone() -> None:
    with OnnxBackend(endless_graph(1000).SerializeToString(), longest_s=30) as backend:
        assert np.isfinite(backend.infer(BLACK)).all()
