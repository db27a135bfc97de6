"""The whole path on a machine with an NVIDIA GPU: build, load, score, compare, recover.

Nobody has run these tests: they were written without a GPU at hand, for any CUDA machine or Jetson with TensorRT and
pycuda (`pytest -m gpu`). A failure here may be the test's as well as the kit's.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fthnet_kit.edge import QualityScorer
from fthnet_kit.edge.errors import EngineError, KitError
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.inference.engine_manifest import Target, engine_path, load_engine
from fthnet_kit.edge.inference.onnx_runtime import OnnxBackend
from fthnet_kit.edge.model.bundle import Bundle, shipped_bundle

if TYPE_CHECKING:
    from fthnet_kit.edge.inference.tensorrt_engine import TrtBackend
    from fthnet_kit.edge.inference.tensorrt_library import TensorRT

pytestmark = pytest.mark.gpu

POINTS = {"fp32": 0.05, "fp16": 0.5, "int8": 2.0}  # largest difference from ONNX Runtime's FP32 scores
STAGES = ["h2d", "gpu_compute", "d2h", "enqueue"]
BUILD_SECONDS = 1800  # an Orin Nano takes its time
MANY = 10_000

Command = Callable[..., subprocess.CompletedProcess[str]]


def missing() -> str | None:
    """Why nothing can be run here; None where everything is there."""
    for names in (("pycuda",), ("tensorrt", "tensorrt_rtx"), ("onnx",)):
        if not any(map(importlib.util.find_spec, names)):
            return f"{' or '.join(names)} is not installed"
    from fthnet_kit.edge.inference.cuda_memory import load_pycuda
    from fthnet_kit.edge.inference.tensorrt_library import load_tensorrt

    try:
        name = load_pycuda().Device(0).name()
        load_tensorrt()
    except KitError as error:
        return str(error)
    return "this process has loaded the CUDA stand-in" if "stand-in" in name else None


@pytest.fixture(scope="module")
def tensorrt() -> TensorRT:
    if reason := missing():
        pytest.skip(f"no CUDA GPU with TensorRT and pycuda: {reason}")
    from fthnet_kit.edge.inference.tensorrt_library import load_tensorrt

    return load_tensorrt()


@pytest.fixture(scope="module")
def target(tensorrt: TensorRT) -> Target:
    from fthnet_kit.edge.inference.open_backend import this_target

    return this_target(tensorrt)


@pytest.fixture(scope="module")
def bundle(tensorrt: TensorRT, fthnet: Command, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A copy of the shipped bundle with engines of every precision, built as a user builds them."""
    folder = tmp_path_factory.mktemp("bundle") / "demo"
    shutil.copytree(shipped_bundle(), folder, ignore=shutil.ignore_patterns("engines"))
    for precision in POINTS:
        done = fthnet("build", folder, "--precision", precision, timeout=BUILD_SECONDS)
        assert done.returncode == 0, f"{precision}: {done.stdout}{done.stderr}"
        assert "scores: mean " in done.stdout
    return Bundle.open(folder)


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Bundle:
    """The bundle once more, to be changed."""
    return Bundle.open(shutil.copytree(bundle.folder, tmp_path / "copy"))


@pytest.fixture(scope="module")
def images(bundle: Bundle) -> Image:
    """24 pictures as network input."""
    from fthnet_kit.convert.engine.agreement import pictures

    return pictures(bundle.card.preprocessing)


@pytest.fixture(scope="module")
def expected(bundle: Bundle, images: Image) -> np.ndarray:
    """Their scores in ONNX Runtime, FP32."""
    with OnnxBackend(bundle.model_path("fp32")) as reference:
        return reference.infer(images)


@pytest.fixture
def opened(bundle: Bundle, tensorrt: TensorRT, target: Target) -> Callable[..., TrtBackend]:
    def make(precision: str = "fp16", **options: Any) -> TrtBackend:
        from fthnet_kit.edge.inference.tensorrt_engine import TrtBackend

        return TrtBackend(load_engine(bundle, precision, target)[0], tensorrt, **options)

    return make


def in_thread(work: Callable[[], Any]) -> Any:
    """The answer of work in a thread of its own."""
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(work()))
    thread.start()
    thread.join()
    assert answers, "the thread ended with an error"
    return answers[0]


def resident_mib() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def gpu_memory() -> Iterator[Callable[[], int]]:
    """A function that says how many MiB of the GPU are free; on a Jetson that is the machine's memory."""
    from fthnet_kit.edge.inference.cuda_memory import Gpu

    gpu = Gpu()

    def free() -> int:
        with gpu:
            return gpu.free_mib()

    try:
        yield free
    finally:
        gpu.close()


@pytest.mark.parametrize("precision", POINTS)
def test_a_built_engine_has_a_complete_manifest_and_loads(bundle: Bundle, target: Target, precision: str) -> None:
    content, manifest = load_engine(bundle, precision, target)
    path = engine_path(bundle, precision, target)
    assert manifest.engine_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (manifest.engine_bytes, manifest.precision, manifest.batch) == (len(content), precision, 1)
    assert manifest.target == target
    assert manifest.target.gpu
    assert manifest.target.multiprocessors
    assert manifest.machine["cuda"]
    assert manifest.options["tf32"] is False
    assert manifest.kit_version
    assert manifest.built_at
    assert manifest.layers is not None
    assert manifest.layers["macs"]
    assert manifest.agreement is not None
    assert manifest.agreement["images"] == 24
    assert manifest.agreement["worst"] <= POINTS[precision]
    assert (manifest.ranges_sha256 is not None) == (precision == "int8")


@pytest.mark.parametrize("precision", POINTS)
def test_an_engine_scores_as_onnx_runtime_does(
    opened: Callable[..., TrtBackend], images: Image, expected: np.ndarray, precision: str
) -> None:
    with opened(precision) as backend:
        scores = backend.infer(images)
        again = backend.infer(images[::-1])[::-1]
    assert scores.dtype == np.float32
    assert float(np.max(np.abs(scores - expected))) <= POINTS[precision]
    np.testing.assert_allclose(again, scores, rtol=0, atol=1e-3)  # the order of the pictures changes nothing


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_stage_times_are_parts_of_the_whole(opened: Callable[..., TrtBackend], images: Image, cuda_graph: bool) -> None:
    with opened(cuda_graph=cuda_graph) as backend:
        for _ in range(20):
            backend.infer(images[:1])
        began = time.perf_counter()
        backend.infer(images[:1])
        wall = 1e3 * (time.perf_counter() - began)
        stages = backend.stage_ms()
    assert list(stages) == STAGES
    assert all(ms >= 0 for ms in stages.values())
    assert stages["gpu_compute"] > 0
    assert stages["h2d"] + stages["gpu_compute"] + stages["d2h"] <= wall


def test_a_cuda_graph_gives_the_same_scores(opened: Callable[..., TrtBackend], images: Image) -> None:
    with opened() as plain, opened(cuda_graph=True) as graph:
        assert "CUDA graph" in graph.describe()["provider"]
        for _ in range(3):
            np.testing.assert_allclose(graph.infer(images), plain.infer(images), rtol=0, atol=1e-3)


def test_an_engine_of_batch_five(
    copy: Bundle, fthnet: Command, tensorrt: TensorRT, target: Target, images: Image, expected: np.ndarray
) -> None:
    from fthnet_kit.edge.inference.tensorrt_engine import TrtBackend

    done = fthnet("build", copy.folder, "--precision", "fp16", "--batch", 5, timeout=BUILD_SECONDS)
    assert done.returncode == 0, done.stderr
    content, manifest = load_engine(copy, "fp16", target)
    assert manifest.batch == 5
    with TrtBackend(content, tensorrt) as backend:
        assert backend.batch == 5
        for count in (1, 4, 5, 24):
            difference = np.abs(backend.infer(images[:count]) - expected[:count])
            assert float(np.max(difference)) <= POINTS["fp16"], count


def test_the_scorer_takes_the_engine(bundle: Bundle, photograph: Image) -> None:
    with QualityScorer.from_bundle(bundle.folder, "fp16", backend="tensorrt") as scorer:
        on_gpu = scorer.score(photograph)
    with QualityScorer.from_bundle(bundle.folder, "fp32", backend="onnxruntime") as scorer:
        on_cpu = scorer.score(photograph)
    assert on_gpu.raw == pytest.approx(on_cpu.raw, abs=POINTS["fp16"])
    assert set(STAGES) <= set(on_gpu.stage_ms)


@pytest.mark.slow
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_memory_is_flat_over_ten_thousand_inferences(
    opened: Callable[..., TrtBackend], images: Image, cuda_graph: bool
) -> None:
    with opened(cuda_graph=cuda_graph) as backend, gpu_memory() as free:
        scores = backend.infer(images)
        for index in range(500):
            backend.infer(images[index % 24 : index % 24 + 1])
        host, device = resident_mib(), free()
        for index in range(MANY):
            backend.infer(images[index % 24 : index % 24 + 1])
        grown, taken = resident_mib() - host, device - free()
        np.testing.assert_allclose(backend.infer(images), scores, rtol=0, atol=1e-3)
    assert grown < 8
    assert taken < 64  # others use the GPU, too; a picture each time would be 4 GiB


def test_everything_is_given_back(opened: Callable[..., TrtBackend], images: Image) -> None:
    with gpu_memory() as free:
        with opened() as backend:  # what CUDA and TensorRT keep for the process is taken here
            backend.infer(images[:1])
        before = free()
        for cuda_graph in (False, True) * 5:
            with opened(cuda_graph=cuda_graph) as backend:
                backend.infer(images[:1])
        assert before - free() < 64


def test_two_backends_at_once(opened: Callable[..., TrtBackend], images: Image, expected: np.ndarray) -> None:
    with opened("fp16") as one, opened("fp32", cuda_graph=True) as two:
        answers: dict[str, np.ndarray] = {}
        threads = [
            threading.Thread(target=lambda name=name, backend=backend: answers.update({name: backend.infer(images)}))
            for name, backend in (("fp16", one), ("fp32", two))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert set(answers) == {"fp16", "fp32"}
    for name, scores in answers.items():
        assert float(np.max(np.abs(scores - expected))) <= POINTS[name]


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_made_here_used_and_closed_elsewhere(
    opened: Callable[..., TrtBackend], images: Image, cuda_graph: bool
) -> None:
    backend = opened(cuda_graph=cuda_graph)
    here = backend.infer(images[:2])
    there = in_thread(lambda: backend.infer(images[:2]))
    in_thread(lambda: backend.close() or True)
    backend.close()
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-3)
    with pytest.raises(EngineError, match="closed"):
        backend.infer(images[:1])


def test_bytes_that_are_no_engine_are_refused(tensorrt: TensorRT) -> None:
    from fthnet_kit.edge.inference.tensorrt_engine import TrtBackend

    with pytest.raises(EngineError, match="could not load the engine"):
        TrtBackend(b"no engine" * 1000, tensorrt)


def test_an_engine_of_another_version_is_refused_and_rebuilt(copy: Bundle, fthnet: Command, target: Target) -> None:
    path = engine_path(copy, "fp16", target).with_suffix(".json")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["target"]["library_version"] = "10.0.0"
    path.write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(EngineError, match=r"library_version 10\.0\.0 instead of .*fthnet build"):
        load_engine(copy, "fp16", target)

    run = ("run", "--bundle", copy.folder, "--backend", "tensorrt", "--max-frames", 3, "--source", "sim:?seconds=2")
    refused = fthnet(*run)
    assert refused.returncode == EngineError.exit_code
    assert "library_version 10.0.0" in refused.stderr

    healed = fthnet(*run, "--rebuild", timeout=BUILD_SECONDS)
    assert healed.returncode == 0, healed.stdout + healed.stderr
    content, rebuilt = load_engine(copy, "fp16", target)
    assert rebuilt.target == target
    assert hashlib.sha256(content).hexdigest() == rebuilt.engine_sha256

    again = fthnet(*run, "--rebuild")
    assert again.returncode == 0, again.stderr
    assert "building" not in again.stderr
