"""A bundle's graphs become engines with manifests, or nothing is written and the message says why.

TensorRT for RTX builds for GPUs that are not here; what needs one is put in by hand.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from packaging.version import Version

from fthnet_kit.convert.engine import agreement as agreement_module
from fthnet_kit.convert.engine import build as to_engine
from fthnet_kit.convert.engine.agreement import BUDGETS, EngineAgreement, engine_agreement, pictures
from fthnet_kit.convert.engine.build import (
    LEAST_WORKSPACE,
    MOST_WORKSPACE,
    BuildOptions,
    TimingCache,
    build_engine,
    build_plan,
    free_memory,
    of_batch,
    workspace_for,
)
from fthnet_kit.convert.engine.layers import EngineLayers
from fthnet_kit.convert.network.config import FTHNetConfig
from fthnet_kit.convert.network.fthnet import FTHNet
from fthnet_kit.convert.onnx_graph.export import weights_of
from fthnet_kit.convert.onnx_graph.fthnet_graph import GraphPlan, write_graph
from fthnet_kit.convert.onnx_graph.rebatch import with_batch
from fthnet_kit.edge import Bundle, EngineError, InputError, Preprocessing
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.inference.engine_manifest import Target, engine_path, load_engine
from fthnet_kit.edge.inference.onnx_runtime import OnnxBackend
from fthnet_kit.edge.inference.tensorrt_library import TensorRT, load_tensorrt
from fthnet_kit.edge.model.bundle import CONVERTED_NAMES, FP32_NAME, sha256_of, shipped_bundle
from fthnet_kit.edge.model.card import CARD_NAME
from fthnet_kit.edge.model.model_file import ModelFile
from tests.conftest import make_card
from tests.convert.test_engine_build import int8_layers

trt = pytest.importorskip("tensorrt_rtx")

Command = Callable[..., subprocess.CompletedProcess[str]]
CONFIG = FTHNetConfig(embed_dim=8, depths=(1, 2, 1, 1), num_heads=(1, 2, 4, 8), target_in=192, hyper_in=32)
HOLDS = {"holds": True, "images": 32, "mean": 0.01, "p99": 0.1, "worst": 0.2, "shift": 0.0, "srcc": 1.0, "flips": 0}
NAMES = {"fp32": FP32_NAME, "fp16": CONVERTED_NAMES["fp16"], "int8": CONVERTED_NAMES["int8"]}
RTX = load_tensorrt("tensorrt_rtx")
SM86 = Target("tensorrt_rtx", str(RTX.version), "8.6")
HERE = Target("tensorrt_rtx", str(RTX.version), "8.6", "a GPU", 82)  # as if this machine had it
FACTS = {"cuda": "12.6"}


RANGES_NAME = "reports/ranges.json"


def bundle_of(folder: Path, graphs: dict[str, bytes]) -> Bundle:
    """A bundle of ONNX files, by precision."""
    (folder / "reports").mkdir(parents=True)
    for precision, content in graphs.items():
        (folder / NAMES[precision]).write_bytes(content)
    (folder / RANGES_NAME).write_text("{}")
    names = [*(NAMES[precision] for precision in graphs), RANGES_NAME]
    converted = {"fp16": HOLDS, "int8": {**HOLDS, "int8_macs": 0.6}}
    card = make_card(
        files={name: sha256_of(folder / name) for name in names},
        precisions={precision: converted[precision] for precision in graphs if precision in converted},
    )
    (folder / CARD_NAME).write_text(card.to_json())
    return Bundle.open(folder)


def small_graph(*nodes: onnx.NodeProto, constants: dict[str, Any] | None = None, domain: str = "") -> bytes:
    """Pixels to a mean, which builds at once; `nodes` stand between `x` and `y`, each (1, 147456, 3) float32."""
    between = nodes or (helper.make_node("Identity", ["x"], ["y"], name="between"),)
    arrays = {"shape": np.array([0, -1, 3]), "axes": np.array([1, 2]), **(constants or {})}
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["wide"], name="widen", to=TensorProto.FLOAT),
            helper.make_node("Reshape", ["wide", "shape"], ["x"], name="pixels"),
            *between,
            helper.make_node("ReduceMean", ["y", "axes"], ["score"], name="mean", keepdims=0),
        ],
        "small",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 384, 384, 3])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 19), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def contents(bundle: Bundle) -> dict[str, bytes]:
    """Every file of a bundle."""
    files = sorted(path for path in bundle.folder.rglob("*") if path.is_file())
    return {str(path.relative_to(bundle.folder)): path.read_bytes() for path in files}


def error_of(done: subprocess.CompletedProcess[str], code: int) -> str:
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("fthnet: ")]
    return line


@pytest.fixture(scope="module")
def graphs() -> dict[str, bytes]:
    """A tiny FTHNet in each precision, as TensorRT takes it."""
    torch.manual_seed(0)
    network = FTHNet(CONFIG)
    network.initialise()
    weights = weights_of(network)
    plans = {"fp32": GraphPlan(), "fp16": GraphPlan("fp16"), "int8": GraphPlan("fp16", int8_layers(weights, CONFIG))}
    return {
        name: write_graph(weights, CONFIG, Preprocessing(), 1, plan).model.SerializeToString()
        for name, plan in plans.items()
    }


@pytest.fixture(scope="module")
def tiny(graphs: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of them; tests leave it as it is, but for its engines."""
    return bundle_of(tmp_path_factory.mktemp("tiny") / "bundle", graphs)


@pytest.fixture
def small(tmp_path: Path) -> Bundle:
    """A bundle whose graphs build in a moment."""
    return bundle_of(tmp_path / "small", {"fp32": small_graph(), "fp16": small_graph()})


# What a build leaves


class Steps:
    """What a build reports."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, int, int]] = []

    def __call__(self, phase: str, step: int, steps: int) -> None:
        self.heard.append((phase, step, steps))


@pytest.mark.parametrize("precision", NAMES)
@pytest.mark.slow
def test_an_engine_and_its_manifest_are_built(tiny: Bundle, precision: str) -> None:
    steps = Steps()
    path, manifest = build_engine(tiny, BuildOptions(precision, workspace=256), RTX, SM86, FACTS, steps)
    assert path == tiny.folder / "engines" / "sm86-rtx" / f"fthnet.{precision}.engine"
    content, read = load_engine(tiny, precision, SM86)
    assert (content, read) == (path.read_bytes(), manifest)
    assert len(content) > 100_000
    assert (read.precision, read.batch, read.machine["cuda"]) == (precision, 1, "12.6")
    assert read.options["workspace_mib"] == 256
    assert read.options["tf32"] is False
    assert read.layers is not None
    assert read.layers["proved"] > 0.99
    assert read.agreement is None
    assert (read.ranges_sha256 is None) == (precision != "int8")
    assert {found.suffix for found in path.parent.iterdir()} == {".engine", ".json"}  # RTX has no timing cache
    assert Bundle.open(tiny.folder).card == tiny.card
    phases = {phase: (step, of) for phase, step, of in steps.heard}
    assert len(phases) > 3
    assert all(phase and step >= 1 and of >= 1 for phase, (step, of) in phases.items())
    assert phases["Building engine"] == (6, 6)


def test_another_gpu_cannot_load_it(small: Bundle) -> None:
    build_engine(small, BuildOptions("fp16"), RTX, SM86, {})
    assert load_engine(small, "fp16", HERE)[1].target == SM86  # RTX did not know how many multiprocessors there are
    other = Target("tensorrt_rtx", str(RTX.version), "8.9")
    with pytest.raises(EngineError, match=r"engine for sm89-rtx, found engines/sm86-rtx/fthnet\.fp16\.engine;"):
        load_engine(small, "fp16", other)


def test_a_second_build_takes_the_place_of_the_first(small: Bundle) -> None:
    build_engine(small, BuildOptions("fp16"), RTX, SM86, {})
    path, manifest = build_engine(small, BuildOptions("fp16", batch=2, workspace=64), RTX, SM86, {})
    assert load_engine(small, "fp16", SM86)[1] == manifest
    assert manifest.batch == 2
    assert len(list(path.parent.iterdir())) == 2


def test_an_unknown_gpu_is_refused_with_the_list(small: Bundle) -> None:
    before = contents(small)
    with pytest.raises(EngineError, match=r"expected one of .*sm86.*, found sm87"):
        build_engine(small, BuildOptions("fp16"), RTX, Target("tensorrt_rtx", "1", "8.7"), {})
    assert contents(small) == before


# Batch sizes


@pytest.mark.slow
def test_a_batch_is_built(tiny: Bundle, tmp_path: Path) -> None:
    graph = tiny.model("fp16", "tensorrt")
    assert build_plan(RTX, of_batch(graph, 3), SM86, 256).batch == 3
    assert of_batch(graph, None) == graph


@pytest.mark.parametrize("precision", NAMES)
def test_a_graph_of_another_batch_is_the_one_that_would_have_been_written(
    tiny: Bundle, graphs: dict[str, bytes], precision: str
) -> None:
    model = with_batch(ModelFile.of(tiny.folder / NAMES[precision]), 5)
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [5, 384, 384, 3]
    onnx.checker.check_model(model, full_check=True)
    same = onnx.ModelProto.FromString(graphs[precision])
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_value = 1
    assert model == same


def views(count: int) -> Image:
    """Different pictures, none of them plain."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 12, 12, 3), np.uint8)
    return coarse.repeat(32, axis=1).repeat(32, axis=2)


def assert_batches_score_alike(path: Path, atol: float) -> None:
    images = views(3)
    with OnnxBackend(path) as one, OnnxBackend(with_batch(ModelFile.of(path), 3).SerializeToString()) as three:
        assert (one.batch, three.batch) == (1, 3)
        expected = one.infer(images)
        np.testing.assert_allclose(three.infer(images), expected, rtol=0, atol=atol)
    assert len(set(expected.tolist())) == 3


@pytest.mark.parametrize("precision", NAMES)
def test_batches_score_as_single_images_do(tiny: Bundle, precision: str) -> None:
    assert_batches_score_alike(tiny.folder / NAMES[precision], 1e-3)


@pytest.mark.parametrize("precision", NAMES)
@pytest.mark.slow
def test_batches_of_the_shipped_model_score_as_single_images_do(precision: str) -> None:
    assert_batches_score_alike(shipped_bundle() / NAMES[precision], 1e-3)


def test_what_is_no_graph_of_ours_gets_no_batch() -> None:
    with pytest.raises(EngineError, match=r"a\.onnx: expected an ONNX file, found none"):
        with_batch(ModelFile("/b/a.onnx", b"no graph"), 2)
    model = onnx.ModelProto.FromString(small_graph())
    model.graph.output[0].type.tensor_type.shape.ClearField("dim")
    with pytest.raises(EngineError, match=r"a\.onnx: expected N as first axis of score"):
        with_batch(ModelFile("/b/a.onnx", model.SerializeToString()), 2)


# Graphs that TensorRT refuses

BROKEN = {
    "bias_dequantised": small_graph(
        helper.make_node("DequantizeLinear", ["b", "scale"], ["bias"], name="bias_dequantised"),
        helper.make_node("Reshape", ["x", "flat"], ["rows"], name="flatten"),
        helper.make_node("Gemm", ["rows", "w", "bias"], ["z"], name="gemm"),
        helper.make_node("Reshape", ["z", "shape"], ["y"], name="unflatten"),
        constants={
            "b": np.array([1, 2, 3], np.int32),
            "scale": np.float32(0.1),
            "flat": np.array([-1, 3]),
            "shape": np.array([1, -1, 3]),
            "w": np.eye(3, dtype=np.float32),
        },
    ),
    "secret": small_graph(helper.make_node("Secret", ["x"], ["y"], name="secret", domain="nobody"), domain="nobody"),
    "counting": small_graph(
        helper.make_node("Unique", ["x"], ["u"], name="counting"),
        helper.make_node("Reshape", ["u", "shape"], ["y"], name="unflatten"),
        constants={"shape": np.array([1, -1, 3])},
    ),
}


@pytest.mark.parametrize("node", BROKEN)
def test_a_refused_node_is_named(tmp_path: Path, node: str) -> None:
    bundle = bundle_of(tmp_path / "bundle", {"fp32": BROKEN[node]})
    before = contents(bundle)
    with pytest.raises(EngineError) as caught:
        build_engine(bundle, BuildOptions("fp32"), RTX, SM86, {})
    message = str(caught.value)
    assert message.startswith(f"{FP32_NAME}: TensorRT's parser refused node ")
    assert f" {node} (" in message
    assert "\n" not in message
    assert contents(bundle) == before


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("content", [b"", b"no graph", small_graph()[:-9]])
def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, content: bytes, batch: int | None) -> None:
    bundle = bundle_of(tmp_path / "bundle", {"fp32": content})
    before = contents(bundle)
    with pytest.raises(EngineError, match=FP32_NAME) as caught:
        build_engine(bundle, BuildOptions("fp32", batch), RTX, SM86, {})
    assert "\n" not in str(caught.value)
    assert contents(bundle) == before


def test_a_graph_without_a_fixed_batch_is_refused(tmp_path: Path) -> None:
    model = onnx.ModelProto.FromString(small_graph())
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    bundle = bundle_of(tmp_path / "bundle", {"fp32": model.SerializeToString()})
    with pytest.raises(EngineError, match=r"TensorRT could not build it: .*optimization profile"):
        build_engine(bundle, BuildOptions("fp32"), RTX, SM86, {})
    assert build_engine(bundle, BuildOptions("fp32", 2), RTX, SM86, {})[1].batch == 2


# Builds that end before their time


@pytest.mark.slow
def test_an_error_of_the_listener_ends_the_build(tiny: Bundle) -> None:
    build_engine(tiny, BuildOptions("fp32"), RTX, SM86, {})
    before = contents(tiny)

    class StoppedError(Exception):
        pass

    for error in (KeyboardInterrupt, StoppedError):
        heard = 0

        def report(phase: str, step: int, steps: int, error: type[BaseException] = error) -> None:
            nonlocal heard
            heard += 1
            if heard == 20:
                raise error

        with pytest.raises(error):
            build_engine(tiny, BuildOptions("fp32"), RTX, SM86, {}, report)
        assert heard < 40
        assert contents(tiny) == before


@pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals reach the main thread alone"
)
@pytest.mark.parametrize("when", [1, 5, 60])
def test_ctrl_c_ends_the_build(graphs: dict[str, bytes], tmp_path: Path, when: int) -> None:
    """A signal from outside, which Python takes up in whatever callback comes next, the logger's too."""
    bundle = bundle_of(tmp_path / "bundle", {"fp32": graphs["fp32"]})
    before, heard = contents(bundle), 0
    pressed = threading.Event()
    handler = signal.getsignal(signal.SIGINT)

    def press() -> None:
        pressed.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    def report(phase: str, step: int, steps: int) -> None:
        nonlocal heard
        heard += 1
        if heard == when:
            pressed.set()

    finger = threading.Thread(target=press)
    finger.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            build_engine(bundle, BuildOptions("fp32"), RTX, SM86, {}, report)
    finally:
        pressed.set()
        finger.join()
    assert contents(bundle) == before
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_build_runs_on_another_thread_too(small: Bundle) -> None:
    built = []
    thread = threading.Thread(target=lambda: built.append(build_engine(small, BuildOptions("fp16"), RTX, SM86, {})))
    thread.start()
    thread.join()
    assert load_engine(small, "fp16", SM86)[1] == built[0][1]


def test_a_handler_of_somebody_elses_stays(small: Bundle) -> None:
    def handler(*_: object) -> None:
        pass

    before = signal.signal(signal.SIGINT, handler)
    try:
        build_engine(small, BuildOptions("fp16"), RTX, SM86, {})
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


class Changed:
    """An object with some attributes of its own; the others are another's."""

    def __init__(self, inner: Any, **changes: Any) -> None:
        self.__dict__.update(changes, inner=inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.inner, name, value)


def with_builder(build: Callable[[Any, Any, Any, Any], Any], name: str = "tensorrt_rtx") -> TensorRT:
    """TensorRT for RTX with another `build_serialized_network(logger, builder, network, configuration)`."""

    def builder(logger: Any) -> Any:
        inner = trt.Builder(logger)
        return Changed(inner, build_serialized_network=lambda network, options: build(logger, inner, network, options))

    return TensorRT(Changed(trt, Builder=builder), name, RTX.version)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        (
            ["[defaultAllocator.cpp::allocate::31] Error Code 2: OutOfMemory (Requested size was 1073741824 bytes.)"],
            ["ran out of memory with a workspace of 99 MiB", "1073741824", "--workspace", "swap"],
        ),
        (
            ["Error Code 10: Internal Error (Could not find any implementation\n  for node a)"],
            ["any implementation for"],
        ),
        ([], ["no reason given"]),
    ],
)
def test_a_build_that_fails_says_why(small: Bundle, errors: list[str], words: list[str]) -> None:
    def build(logger: Any, *_: Any) -> None:
        for error in errors:
            logger.log(trt.ILogger.ERROR, error)
        logger.log(trt.ILogger.WARNING, "Tactic Device request: 538MB Available: 166MB.")

    before = contents(small)
    with pytest.raises(EngineError) as caught:
        build_engine(small, BuildOptions("fp16", workspace=99), with_builder(build), SM86, {})
    message = str(caught.value)
    assert message.startswith(NAMES["fp16"])
    assert all(word in message for word in words)
    assert ("--workspace" in message) == ("--workspace" in words)
    assert "\n" not in message
    assert contents(small) == before


def test_a_bundle_that_cannot_be_written_is_refused(small: Bundle) -> None:
    (small.folder / "engines").write_text("a file in the way")

    def build(*_: Any) -> None:
        pytest.fail("a build that cannot be kept has begun")

    with pytest.raises(InputError, match="expected a bundle that can be written") as caught:
        build_engine(small, BuildOptions("fp16"), with_builder(build), SM86, {})
    assert "\n" not in str(caught.value)
    assert (small.folder / "engines").read_text() == "a file in the way"


def test_a_bundle_that_cannot_be_written_any_more_is_refused(small: Bundle) -> None:
    def build(logger: Any, builder: Any, network: Any, configuration: Any) -> Any:
        (small.folder / "engines").write_text("a file in the way")
        return builder.build_serialized_network(network, configuration)

    with pytest.raises(InputError, match="expected a bundle that can be written") as caught:
        build_engine(small, BuildOptions("fp16"), with_builder(build), SM86, {})
    assert "\n" not in str(caught.value)


def test_a_build_takes_as_much_memory_as_it_is_told(small: Bundle) -> None:
    asked = []

    def build(logger: Any, builder: Any, network: Any, configuration: Any) -> Any:
        asked.append(configuration.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE))
        asked.append(configuration.get_flag(trt.BuilderFlag.TF32))
        asked.append(configuration.profiling_verbosity)
        return builder.build_serialized_network(network, configuration)

    build_engine(small, BuildOptions("fp16", workspace=99), with_builder(build), SM86, {})
    assert asked == [99 << 20, False, trt.ProfilingVerbosity.DETAILED]


def test_the_gpu_that_is_here_is_aimed_at_be_it_on_the_list_or_not(small: Bundle, on_a_gpu: Any) -> None:
    asked = []

    def build(logger: Any, builder: Any, network: Any, configuration: Any) -> Any:
        asked.append(configuration.num_compute_capabilities)
        asked.append(configuration.get_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION))
        configuration.num_compute_capabilities = 1  # there is none here
        configuration.set_compute_capability(trt.ComputeCapability.SM86, 0)
        return builder.build_serialized_network(network, configuration)

    on_a_gpu(layers_with(0.0), GOOD)
    unlisted = Target("tensorrt_rtx", str(RTX.version), "9.0", "a GPU", 132)
    nothing_set = RTX.module.Builder(RTX.logger()).create_builder_config().num_compute_capabilities
    path, _ = build_engine(small, BuildOptions("fp16"), with_builder(build), unlisted, {})
    assert asked == [nothing_set, True]
    assert path.parent.name == "sm90-rtx"


# With the GPU that it is for: what the engine really does decides


def layers_with(too_wide: float, unknown: float = 0.0) -> EngineLayers:
    names = ("mlp.fc1.gemm",) if too_wide else ()
    proved = 1 - too_wide - unknown
    macs = {"fp16": proved, "fp32": too_wide, "unknown": unknown}
    return EngineLayers({"gemm": 9}, {"fp16": 9}, macs, {"fp16": 1.0}, proved, names, too_wide, 0.0, {})


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[EngineLayers, EngineAgreement], None]]:
    """Sets what inspector and scores would say on a machine with the GPU."""

    def say(layers: EngineLayers, agreement: EngineAgreement) -> None:
        monkeypatch.setattr(to_engine, "inspect_plan", lambda tensorrt, plan, target: layers)
        monkeypatch.setattr(to_engine, "engine_agreement", lambda bundle, content, tensorrt: agreement)

    yield say


GOOD = EngineAgreement(24, 0.01, 0.02)


def test_an_engine_that_does_what_it_should_is_installed_with_the_proof(small: Bundle, on_a_gpu: Any) -> None:
    on_a_gpu(layers_with(0.05), GOOD)
    _, manifest = build_engine(small, BuildOptions("fp16"), RTX, HERE, FACTS)
    assert load_engine(small, "fp16", HERE)[1] == manifest
    assert manifest.agreement == {"images": 24, "mean": 0.01, "worst": 0.02}
    assert manifest.layers is not None
    assert manifest.layers["too_wide_macs"] == 0.05


@pytest.mark.parametrize(
    ("too_wide", "agreement", "word"),
    [
        (0.4, GOOD, "40 % of the multiply-accumulates in a wider type"),
        (0.0, EngineAgreement(24, float("nan"), float("inf")), "found inf"),
        (0.0, EngineAgreement(24, float("nan"), float("nan")), "found nan"),
        (0.0, EngineAgreement(24, 0.4, 0.51), "within 0.5 points of ONNX Runtime's, found 0.510"),
    ],
    ids=["too wide", "infinite", "no numbers", "other scores"],
)
def test_an_engine_that_does_something_else_is_not_installed(
    small: Bundle, on_a_gpu: Any, too_wide: float, agreement: EngineAgreement, word: str
) -> None:
    on_a_gpu(layers_with(0.0), GOOD)
    build_engine(small, BuildOptions("fp16"), RTX, HERE, FACTS)
    before = contents(small)
    on_a_gpu(layers_with(too_wide), agreement)
    with pytest.raises(EngineError, match="not installed") as caught:
        build_engine(small, BuildOptions("fp16", batch=2), RTX, HERE, FACTS)
    assert word in str(caught.value)
    assert contents(small) == before


def test_an_engine_that_does_not_show_what_it_does_is_installed_only_if_that_is_allowed(
    small: Bundle, on_a_gpu: Any
) -> None:
    on_a_gpu(layers_with(0.0, unknown=0.11), GOOD)
    with pytest.raises(EngineError, match=r"found 89 %, and 11 % of unknown type; not installed: .*--allow-unproved"):
        build_engine(small, BuildOptions("fp16"), RTX, HERE, FACTS)
    _, manifest = build_engine(small, BuildOptions("fp16", allow_unproved=True), RTX, HERE, FACTS)
    assert manifest.layers is not None
    assert manifest.layers["macs"]["unknown"] == 0.11
    on_a_gpu(layers_with(0.0, unknown=0.10), GOOD)
    build_engine(small, BuildOptions("fp16"), RTX, HERE, FACTS)


def test_budgets_are_those_of_the_gates() -> None:
    for precision, budget in BUDGETS.items():
        EngineAgreement(24, 0.0, budget).check(precision)
        with pytest.raises(EngineError):
            EngineAgreement(24, 0.0, budget * 1.01).check(precision)
    assert BUDGETS["fp32"] < BUDGETS["fp16"] < BUDGETS["int8"]


@pytest.mark.slow
def test_scores_are_compared_with_those_of_the_fp32_graph(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    class Engine(OnnxBackend):
        """The FP32 graph in place of an engine, with an error in one score."""

        error = 0.0

        def __init__(self, content: bytes, tensorrt: TensorRT) -> None:
            assert (content, tensorrt) == (b"engine", RTX)
            super().__init__(tiny.model_path("fp32"))

        def infer(self, images: Image) -> Any:
            scores = super().infer(images)
            scores[7] += self.error
            return scores

    monkeypatch.setattr(agreement_module, "TrtBackend", Engine)
    assert engine_agreement(tiny, b"engine", RTX) == EngineAgreement(24, 0.0, 0.0)
    Engine.error = -2.4
    found = engine_agreement(tiny, b"engine", RTX)
    assert (found.mean, found.worst) == (pytest.approx(0.1, abs=1e-3), pytest.approx(2.4, abs=1e-3))
    for error in (np.nan, np.inf):
        Engine.error = error
        with pytest.raises(EngineError, match="not installed"):
            engine_agreement(tiny, b"engine", RTX).check("int8")


def test_the_pictures_differ() -> None:
    images = pictures(Preprocessing())
    assert images.shape == (24, 384, 384, 3)
    assert images.dtype == np.uint8
    assert len({image.tobytes() for image in images}) == 24


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="where there is a GPU it may load")
def test_an_engine_that_does_not_load_is_refused(small: Bundle) -> None:
    before = contents(small)
    with pytest.raises(EngineError, match=r"TensorRT cannot load the engine it has built: .*Error Code"):
        build_engine(small, BuildOptions("fp16"), RTX, HERE, {})
    assert contents(small) == before


# Timings of earlier builds


class Configuration:
    """An IBuilderConfig as far as timings go."""

    def __init__(self, timed: bytes) -> None:
        self.timed = timed
        self.given: bytes | None = None

    def create_timing_cache(self, content: bytes) -> bytes:
        self.given = content
        return content

    def set_timing_cache(self, timings: bytes, *, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        return True

    def get_timing_cache(self) -> Configuration:
        return self

    def serialize(self) -> bytes:
        return (self.given or b"") + self.timed


def library(name: str = "tensorrt", version: str = "10.3.0") -> TensorRT:
    return TensorRT(trt, name, Version(version))  # type: ignore[arg-type]


def build_with(cache: TimingCache, timed: bytes) -> bytes | None:
    """What a build gets of the timings; it times something more."""
    configuration = Configuration(timed)
    if cache.use(configuration) is not None:
        cache.keep(configuration)
    cache.write()
    return configuration.given


def test_timings_are_used_again_by_the_same_versions_only(tmp_path: Path) -> None:
    assert build_with(TimingCache(tmp_path, library(), "12.6"), b"one ") == b""
    assert build_with(TimingCache(tmp_path, library(), "12.6"), b"two") == b"one "
    others = [
        TimingCache(tmp_path, library(version="10.3.0.30"), "12.6"),
        TimingCache(tmp_path, library(), "12.8"),
        TimingCache(tmp_path, library(), None),
        TimingCache(tmp_path / "sm86", library(), "12.6"),
    ]
    (tmp_path / "sm86").mkdir()
    for other in others:
        assert build_with(other, b"other") == b""
    assert build_with(TimingCache(tmp_path, library(), "12.6"), b"") == b"one two"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 5
    assert not [path for path in files if path.name.startswith(".")]
    assert not list(tmp_path.rglob("*.engine"))


def test_timings_of_a_build_that_failed_are_not_kept(tmp_path: Path) -> None:
    cache = TimingCache(tmp_path, library(), "12.6")
    cache.use(Configuration(b"half"))
    cache.write()
    assert list(tmp_path.iterdir()) == []


def test_timings_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_with(TimingCache(tmp_path, library(), "12.6"), b"one ")
    (path,) = tmp_path.iterdir()
    with monkeypatch.context() as patched, pytest.raises(OSError, match="disk"):

        def fail(*_: object) -> None:
            raise OSError("disk full")

        patched.setattr(Path, "replace", fail)
        build_with(TimingCache(tmp_path, library(), "12.6"), b"two")
    assert path.read_bytes() == b"one "


def test_rtx_has_no_timings(tmp_path: Path) -> None:
    assert build_with(TimingCache(tmp_path, library("tensorrt_rtx"), "12.6"), b"one") is None
    assert list(tmp_path.iterdir()) == []


def for_sm86(logger: Any, builder: Any, network: Any, configuration: Any) -> Any:
    """Builds for a GPU that is not here, whatever the caller takes this library for."""
    configuration.num_compute_capabilities = 1
    configuration.set_compute_capability(trt.ComputeCapability.SM86, 0)
    return builder.build_serialized_network(network, configuration)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("damaged", [b"", b"garbage", bytes(4096)])
def test_a_build_keeps_its_timings_beside_the_engine(small: Bundle, on_a_gpu: Any, damaged: bytes) -> None:
    on_a_gpu(layers_with(0.0), GOOD)
    plain = with_builder(for_sm86, "tensorrt")
    here = Target("tensorrt", str(RTX.version), "8.6", "a GPU", 82)
    path, _ = build_engine(small, BuildOptions("fp16"), plain, here, FACTS)
    assert path == engine_path(small, "fp16", here)
    assert path.parent.name == "sm86"
    (cache,) = path.parent.glob("*.cache")
    assert cache.name == f"timings-cuda12.6-tensorrt{RTX.version}.cache"
    whole = cache.read_bytes()
    cache.write_bytes(damaged)
    build_engine(small, BuildOptions("fp32"), plain, here, FACTS)
    assert cache.read_bytes() == whole
    assert {found.name for found in path.parent.iterdir()} == {
        cache.name, *(f"fthnet.{precision}.{suffix}" for precision in ("fp16", "fp32") for suffix in ("engine", "json"))
    }  # fmt: skip


# Memory

NANO = """MemTotal:        7802868 kB
MemFree:          213544 kB
MemAvailable:    5243228 kB
Buffers:           98612 kB
SwapTotal:       3901424 kB
"""


@pytest.mark.parametrize(
    ("text", "mib"),
    [
        (NANO, 5120),
        ("MemAvailable: 0 kB\n", 0),
        ("MemTotal: 1 kB\n", 2048),
        ("", 2048),
        ("MemAvailable:\n", 2048),
        ("MemAvailable: much kB\n", 2048),
    ],
)
def test_free_memory_is_what_the_system_says(tmp_path: Path, text: str, mib: int) -> None:
    (tmp_path / "meminfo").write_text(text)
    assert free_memory(tmp_path / "meminfo") == mib


def test_free_memory_of_a_system_that_does_not_say(tmp_path: Path) -> None:
    assert free_memory(tmp_path / "none") == 2048
    assert free_memory(tmp_path) == 2048
    assert free_memory() > 0


@pytest.mark.parametrize(("free", "mib"), [(0, 64), (100, 64), (1000, 500), (5120, 2560), (1 << 20, 4096)])
def test_the_builder_gets_half_of_what_is_free(free: int, mib: int) -> None:
    assert workspace_for(free) == mib


@given(st.integers(0, 1 << 24), st.integers(0, 1 << 24))
def test_more_memory_is_never_less_workspace(one: int, other: int) -> None:
    few, many = sorted((one, other))
    assert LEAST_WORKSPACE <= workspace_for(few) <= workspace_for(many) <= MOST_WORKSPACE


# The command


def test_build_says_what_it_made(tiny: Bundle, fthnet: Command) -> None:
    done = fthnet("build", "--device", "sm86", tiny.folder, "--precision", "fp16")
    assert done.returncode == 0, done.stderr
    content, manifest = load_engine(tiny, "fp16", SM86)
    assert done.stdout.splitlines() == [
        f"engine: {engine_path(tiny, 'fp16', SM86)}, {len(content) / 1e6:.1f} MB, batch 1",
        "multiply-accumulates: fp16 96.4 %, fp32 3.6 % (asked: fp16 96.4 %, fp32 3.6 %)",
        "seen to run as asked: 100.0 %",
        "blocks with attention in one kernel: 0 of 5",
        "scores: not compared, the engine is for a GPU that is not here",
    ]
    assert done.stderr == ""
    assert manifest.machine == {}


def test_build_takes_a_batch_and_a_workspace(small: Bundle, fthnet: Command) -> None:
    done = fthnet("build", small.folder, "--device", "sm89", "--batch", 4, "--workspace", 77, "--precision", "fp32")
    assert done.returncode == 0, done.stderr
    assert "batch 4" in done.stdout
    (manifest,) = (small.folder / "engines" / "sm89-rtx").glob("*.json")
    content = json.loads(manifest.read_text())
    assert (content["batch"], content["options"]["workspace_mib"], content["precision"]) == (4, 77, "fp32")
    engine = manifest.with_suffix(".engine").read_bytes()
    assert content["engine_sha256"] == hashlib.sha256(engine).hexdigest()


@pytest.mark.parametrize("device", ["sm87", "SM86", "sm", "86", "orin"])
def test_build_refuses_what_rtx_does_not_know(small: Bundle, fthnet: Command, device: str) -> None:
    line = error_of(fthnet("build", small.folder, "--device", device), 6)
    assert all(known in line for known in RTX.compute_capabilities())
    assert "for a Jetson build on the Jetson, without --device" in line
    assert not (small.folder / "engines").exists()


def test_build_tells_the_refused_node(tmp_path: Path, fthnet: Command) -> None:
    bundle = bundle_of(tmp_path / "bundle", {"fp32": BROKEN["secret"]})
    line = error_of(fthnet("build", bundle.folder, "--device", "sm86", "--precision", "fp32"), 6)
    assert " secret (Secret)" in line


def test_build_of_a_precision_that_is_not_there(tmp_path: Path, fthnet: Command) -> None:
    bundle = bundle_of(tmp_path / "bundle", {"fp32": small_graph()})
    assert "fthnet quantize" in error_of(fthnet("build", bundle.folder, "--device", "sm86"), 4)


@pytest.mark.parametrize("option", [("--batch", 0), ("--batch", 65), ("--workspace", 1), ("--precision", "fp8")])
def test_build_refuses_wrong_options(small: Bundle, fthnet: Command, option: tuple[str, object]) -> None:
    done = fthnet("build", small.folder, "--device", "sm86", *option)
    assert done.returncode == 2
    assert option[0] in done.stderr


def environment(folder: Path, **packages: str) -> dict[str, str]:
    """Variables for a process that finds these packages before the machine's own."""
    for name, body in packages.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(body)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))}


ABSENT = "raise ModuleNotFoundError(\"No module named '{0}'\", name='{0}')"
NO_DRIVER = {"pycuda": "", "pycuda/driver": "raise ImportError('libcuda.so.1: cannot open shared object file')"}


@pytest.mark.parametrize(
    ("packages", "code", "word"),
    [
        ({name: ABSENT.format(name) for name in ("tensorrt", "tensorrt_rtx")}, 8, "pip install tensorrt"),
        ({"tensorrt": "__version__ = '10.3.0'", "pycuda": ABSENT.format("pycuda")}, 8, "needs pycuda"),
        ({"tensorrt": "__version__ = '10.3.0'", **NO_DRIVER}, 6, "expected a CUDA driver"),
        (NO_DRIVER, 6, "expected a CUDA driver"),
    ],
    ids=["no TensorRT", "no pycuda", "no driver", "RTX without a driver"],
)
def test_build_for_this_machine_needs_its_gpu(
    small: Bundle, tmp_path: Path, fthnet: Command, packages: dict[str, str], code: int, word: str
) -> None:
    done = fthnet("build", small.folder, env=environment(tmp_path / "packages", **packages))
    assert word in error_of(done, code)
    assert done.stderr.count("\n") == 1
    assert not (small.folder / "engines").exists()


def test_a_builder_that_is_killed_is_told(small: Bundle, tmp_path: Path, fthnet: Command) -> None:
    """As Linux ends a process when memory runs out: without a word."""
    env = environment(tmp_path / "packages", tensorrt_rtx="import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    done = fthnet("build", small.folder, "--device", "sm86", env=env)
    line = error_of(done, 6)
    assert "the build was killed" in line
    assert "--workspace" in line
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("ending", "code"), [("SIGTERM", 143), ("SIGSEGV", 139)])
def test_a_builder_that_ends_otherwise_ends_the_command_alike(
    small: Bundle, tmp_path: Path, fthnet: Command, ending: str, code: int
) -> None:
    env = environment(tmp_path / "packages", tensorrt_rtx=f"import os, signal\nos.kill(os.getpid(), signal.{ending})")
    done = fthnet("build", small.folder, "--device", "sm86", env=env)
    assert done.returncode == code
    assert done.stdout == ""


@pytest.mark.slow
def test_a_build_that_is_told_to_end_leaves_no_process(small: Bundle, tmp_path: Path) -> None:
    wait = f"""
        import os, time
        from pathlib import Path
        Path({str(tmp_path)!r}, "new").write_text(str(os.getpid()))
        Path({str(tmp_path)!r}, "new").rename(Path({str(tmp_path)!r}, "child"))
        time.sleep(60)
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "fthnet_kit.edge.cli", "build", str(small.folder), "--device", "sm86"],
        env=environment(tmp_path / "packages", tensorrt_rtx=textwrap.dedent(wait)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not (tmp_path / "child").exists():
        threading.Event().wait(0.02)
    child = int((tmp_path / "child").read_text())
    assert child != process.pid
    process.terminate()
    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_ctrl_c_in_a_terminal_ends_build_and_command(graphs: dict[str, bytes], tmp_path: Path) -> None:
    """A terminal sends the signal to all of its processes."""
    bundle = bundle_of(tmp_path / "bundle", graphs)
    before = contents(bundle)
    began = tmp_path / "began"
    script = f"""
    from pathlib import Path
    import fthnet_kit.convert.engine.build as to_engine
    from fthnet_kit.edge.cli.main import main
    build = to_engine.build_plan
    def build_plan(*arguments):
        *rest, report = arguments
        def tell(*step):
            Path({str(began)!r}).touch()
            report(*step)
        return build(*rest, tell)
    to_engine.build_plan = build_plan
    main(["build", {str(bundle.folder)!r}, "--device", "sm86"])
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while process.poll() is None and not began.exists():
        threading.Event().wait(0.02)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 1, (output, errors)
    assert output == ""
    assert "no engine was installed; run it again" in errors
    assert contents(bundle) == before
