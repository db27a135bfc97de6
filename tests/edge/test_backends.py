"""Which backend a bundle gets, on a machine with no GPU: the one asked for, or ONNX Runtime where nothing was."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from fthnet_kit.edge import Bundle, EngineError, MissingExtraError, QualityScorer
from fthnet_kit.edge.errors import BundleError
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.inference.engine_manifest import ENGINES
from fthnet_kit.edge.inference.onnx_runtime import OnnxBackend, provider_options
from fthnet_kit.edge.inference.open_backend import BACKENDS, engine_cache, engine_precision, open_backend
from fthnet_kit.edge.model.bundle import FP32_NAME, shipped_bundle
from tests.conftest import ROOT

Command = Callable[..., subprocess.CompletedProcess[str]]
RETINA = ROOT / "edge" / "assets" / "retina.jpg"
ABSENT = "raise ModuleNotFoundError(\"No module named '{0}'\", name='{0}')"
NO_DRIVER = "raise ImportError('libcuda.so.1: cannot open shared object file: No such file or directory')"
LIBRARY = "__version__ = '10.3.0'"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.open(shutil.copytree(shipped_bundle(), tmp_path / "bundle"))


def put_engine(bundle: Bundle, key: str, precision: str = "fp16", content: bytes = b"engine") -> Path:
    """An engine without a manifest: nothing may load it."""
    path = bundle.folder / ENGINES / key / f"fthnet.{precision}.engine"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with neither TensorRT nor pycuda."""
    for name in ("tensorrt", "tensorrt_rtx", "pycuda"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it raises ModuleNotFoundError


def environment(folder: Path, **packages: str) -> dict[str, str]:
    """Variables for a process that finds these packages before the machine's own."""
    for name, body in packages.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(body)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))}


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("fthnet: ")]
    return line


# auto


def test_auto_without_engines_is_onnx_runtime_on_the_cpu(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    with open_backend(bundle) as backend:
        assert backend.describe()["provider"] == "CPUExecutionProvider"
        assert isinstance(backend, OnnxBackend)
    assert caplog.text == ""


def test_auto_does_not_look_for_tensorrt_where_there_is_no_engine(bundle: Bundle, absent: None) -> None:
    with open_backend(bundle, "fp16") as backend:
        assert "onnxruntime" in backend.describe()["library"]


def test_threads_reach_onnx_runtime(bundle: Bundle) -> None:
    with open_backend(bundle, threads=1) as backend:
        assert backend.describe()["threads"] == "1"


@pytest.mark.parametrize("key", ["sm87", "sm86-rtx"])
def test_auto_says_in_one_line_why_an_engine_is_not_used(
    bundle: Bundle, absent: None, photograph: Image, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    put_engine(bundle, key)
    with caplog.at_level(logging.WARNING), QualityScorer.from_bundle(bundle.folder, views=1) as scorer:
        assert scorer.backend.describe()["provider"] == "CPUExecutionProvider"
        found = scorer.score(photograph)
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith("TensorRT is not used: ")
    assert "\n" not in message
    assert ("tensorrt_rtx" if key.endswith("-rtx") else "needs tensorrt,") in message
    with QualityScorer.from_bundle(shipped_bundle(), views=1) as plain:
        assert found.raw == plain.score(photograph).raw


def test_auto_asks_for_the_engine_of_the_precision_alone(
    bundle: Bundle, absent: None, caplog: pytest.LogCaptureFixture
) -> None:
    put_engine(bundle, "sm87", "int8")
    open_backend(bundle, "auto").close()
    open_backend(bundle, "fp32").close()
    assert caplog.text == ""
    open_backend(bundle, "int8").close()
    assert "TensorRT is not used" in caplog.text


def test_auto_is_fp16_on_tensorrt() -> None:
    assert [engine_precision(name) for name in ("auto", "fp32", "fp16", "int8")] == ["fp16", "fp32", "fp16", "int8"]


@pytest.mark.parametrize("engine", [False, True])
def test_a_bundle_without_the_precision_is_refused(bundle: Bundle, absent: None, engine: bool) -> None:
    if engine:
        put_engine(bundle, "sm87")
    without = dataclasses.replace(bundle, card=dataclasses.replace(bundle.card, precisions={}))
    with pytest.raises(BundleError, match="fthnet quantize"):
        open_backend(without, "fp16")


def test_the_command_line_warns_in_one_line_and_scores(bundle: Bundle, tmp_path: Path, fthnet: Command) -> None:
    put_engine(bundle, "sm87")
    env = environment(tmp_path / "packages", tensorrt=LIBRARY, pycuda="", **{"pycuda/driver": NO_DRIVER})
    done = fthnet("score", RETINA, "--bundle", bundle.folder, "--views", 1, "--json", env=env)
    assert done.returncode == 0, done.stderr
    assert '"raw"' in done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("TensorRT is not used: pycuda: expected a CUDA driver, found none")


# What is asked for is never replaced


def test_tensorrt_is_never_replaced(bundle: Bundle, absent: None) -> None:
    with pytest.raises(MissingExtraError, match="pip install tensorrt"):
        open_backend(bundle, "auto", "tensorrt")
    put_engine(bundle, "sm87")
    with pytest.raises(MissingExtraError, match="needs tensorrt,"):
        open_backend(bundle, "auto", "tensorrt")


@pytest.mark.parametrize(
    ("packages", "code", "word"),
    [
        ({"tensorrt": ABSENT.format("tensorrt"), "tensorrt_rtx": ABSENT.format("tensorrt_rtx")}, 8, "tensorrt"),
        ({"tensorrt": LIBRARY, "pycuda": ABSENT.format("pycuda")}, 8, "needs pycuda"),
        ({"tensorrt": LIBRARY, "pycuda": "", "pycuda/driver": NO_DRIVER}, 6, "expected a CUDA driver"),
        ({"tensorrt": "__version__ = '8.6.1'"}, 6, "found 8.6.1"),
    ],
    ids=["no TensorRT", "no pycuda", "no driver", "too old"],
)
@pytest.mark.parametrize("engine", [False, True])
def test_the_command_line_never_replaces_tensorrt(
    bundle: Bundle, tmp_path: Path, fthnet: Command, packages: dict[str, str], code: int, word: str, engine: bool
) -> None:
    if engine:
        put_engine(bundle, "sm87")
    env = environment(tmp_path / "packages", **packages)
    done = fthnet("score", RETINA, "--bundle", bundle.folder, "--backend", "tensorrt", env=env)
    assert done.returncode == code, done.stderr
    assert word in error_of(done)
    assert done.stdout == ""


@pytest.mark.parametrize("name", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_execution_providers_are_never_replaced(bundle: Bundle, name: str) -> None:
    if {"CUDAExecutionProvider", "TensorrtExecutionProvider"} & set(ort.get_available_providers()):
        pytest.skip("this ONNX Runtime has them")
    with pytest.raises(EngineError, match=r"in this ONNX Runtime, found .*CPUExecutionProvider"):
        open_backend(bundle, "auto", name)  # type: ignore[arg-type]
    assert not (bundle.folder / ENGINES).exists()


@pytest.mark.parametrize("name", ["", "cpu", "TensorRT", "OpenVINO"])
def test_unknown_backends_are_refused_with_the_list(bundle: Bundle, name: str) -> None:
    with pytest.raises(EngineError) as caught:
        open_backend(bundle, "auto", name)  # type: ignore[arg-type]
    assert all(known in str(caught.value) for known in BACKENDS)
    assert repr(name) in str(caught.value)


def test_the_command_line_knows_the_backends(fthnet: Command) -> None:
    done = fthnet("score", RETINA, "--backend", "openvino-gpu")
    assert done.returncode == 2
    assert all(known in done.stderr for known in BACKENDS)


# Options of execution providers


class AskedError(Exception):
    pass


@pytest.mark.parametrize(
    ("name", "provider"), [("onnxruntime-cuda", "CUDA"), ("onnxruntime-tensorrt", "Tensorrt"), ("onnxruntime", "CPU")]
)
def test_what_onnx_runtime_is_asked_for(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, provider: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked = {}

    def session(model: bytes, options: object, providers: list[tuple[str, dict[str, str]]]) -> None:
        asked.update(model=model, providers=providers)
        raise AskedError

    monkeypatch.setattr(ort, "get_available_providers", lambda: [f"{provider}ExecutionProvider"])
    monkeypatch.setattr(ort, "InferenceSession", session)
    with pytest.raises(EngineError):
        open_backend(bundle, "int8", name)  # type: ignore[arg-type]
    ((found, options),) = asked["providers"]
    assert found == f"{provider}ExecutionProvider"
    name = "fthnet.int8-cpu.onnx" if provider == "CPU" else "fthnet.int8.onnx"
    assert asked["model"] == (bundle.folder / name).read_bytes()
    assert all(isinstance(value, str) for value in options.values())
    if provider == "CUDA":
        assert options == {"use_tf32": "0"}
    elif provider == "CPU":
        assert options == {}
    else:
        assert (options["trt_fp16_enable"], options["trt_int8_enable"]) == ("False", "False")
        assert "trt_int8_calibration_table_name" not in options
        (folder,) = {value for key, value in options.items() if key.endswith("_path")}
        assert Path(folder).parent == tmp_path / "cache" / "fthnet" / "tensorrt"
        assert not (bundle.folder / ENGINES).exists()


def test_the_tensorrt_provider_takes_the_types_of_the_graph(tmp_path: Path) -> None:
    switches = {"trt_fp16_enable": "False", "trt_int8_enable": "False"}
    assert provider_options("tensorrt") == switches
    cached = provider_options("tensorrt", tmp_path)
    assert cached.items() >= switches.items()
    assert (cached["trt_engine_cache_enable"], cached["trt_timing_cache_enable"]) == ("True", "True")


def test_engines_of_onnx_runtime_are_not_taken_for_ours(bundle: Bundle, absent: None) -> None:
    cache = bundle.folder / ENGINES / "onnxruntime-tensorrt"
    cache.mkdir(parents=True)
    (cache / "TensorrtExecutionProvider_TRTKernel_graph_fthnet_1_0_sm87.engine").write_bytes(b"cache")
    with open_backend(bundle) as backend:
        scores = backend.infer(np.zeros((1, 384, 384, 3), np.uint8))
    assert np.isfinite(scores).all()
    assert bundle.model_path().name == FP32_NAME


def test_engines_of_onnx_runtime_lie_in_a_private_cache_and_not_in_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle = Bundle.open()
    folder = engine_cache(bundle)
    assert folder is not None
    assert folder.is_relative_to(tmp_path / "cache")
    assert folder.stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert engine_cache(bundle) is None
    assert "engines are not kept" in caplog.text
