"""`fthnet build --check`: NVIDIA's parser and builder on every graph of a bundle, for every GPU that they know."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from fthnet_kit.convert.engine.check import NOT_ON_THIS_GPU, CheckedEngine, check_builds, precisions_of
from fthnet_kit.convert.engine.layer_table import from_log
from fthnet_kit.convert.engine.layers import Wanted, compare
from fthnet_kit.edge import Bundle, EngineError
from fthnet_kit.edge.inference.engine_manifest import fused_of
from fthnet_kit.edge.inference.tensorrt_library import load_tensorrt
from fthnet_kit.edge.model.bundle import CONVERTED_NAMES, FP32_NAME, sha256_of, shipped_bundle
from fthnet_kit.edge.model.card import CARD_NAME

pytest.importorskip("tensorrt_rtx")
from tests.convert.test_to_engine import bundle_of
from tests.golden.layer_tables.make import CONFIGS, graph_of, read

Command = Callable[..., subprocess.CompletedProcess[str]]
RTX = load_tensorrt("tensorrt_rtx")
DEVICES = list(RTX.compute_capabilities())
PRECISIONS = ("fp32", "fp16", "int8")


def error_of(done: subprocess.CompletedProcess[str], code: int) -> str:
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("fthnet: ")]
    return line


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return shutil.copytree(shipped_bundle(), tmp_path / "bundle")


def break_graph(bundle: Path, name: str, kind: str) -> str:
    """Makes the first node of a kind one that TensorRT does not know; the card vouches for it. Its name."""
    model = onnx.load(bundle / name)
    node = next(node for node in model.graph.node if node.op_type == kind)
    node.op_type = "Unheard"
    onnx.save(model, bundle / name)
    card = Bundle.open().card
    (bundle / CARD_NAME).write_text(card.with_files({**card.files, name: sha256_of(bundle / name)}).to_json())
    return str(node.name)


# What is built


@pytest.fixture(scope="module")
def checked() -> tuple[list[CheckedEngine], list[str]]:
    """Every precision of the shipped bundle for two GPUs, and what was told meanwhile."""
    told: list[str] = []
    return list(check_builds(Bundle.open(), RTX, ["sm86", "sm89"], told.append)), told


@pytest.mark.slow
def test_every_precision_is_built_for_every_gpu_asked_for(checked: tuple[list[CheckedEngine], list[str]]) -> None:
    found, told = checked
    pairs = [(precision, device) for precision in PRECISIONS for device in ("sm86", "sm89")]
    assert [(one.precision, one.device) for one in found] == pairs
    assert told == [f"{precision} for {device}" for precision, device in pairs]
    for one in found:
        assert one.unsupported == ""
        assert one.engine_bytes > 1_000_000
        assert one.seconds > 0
        assert one.layers > len(one.wanted.products) > 100
        assert one.faults() == []
        assert one.found is not None
        assert one.found.proved > 0.999
        fused = set(one.found.attention.values())
        assert len(one.found.attention) == 12
        assert fused == ({"apart"} if one.precision == "fp32" else {"fused"})


@pytest.mark.slow
def test_the_shares_are_those_that_the_graphs_ask_for(checked: tuple[list[CheckedEngine], list[str]]) -> None:
    shares = {one.precision: one.wanted.asked for one in checked[0]}
    assert shares["fp32"] == {"fp32": 1.0}
    assert set(shares["fp16"]) == {"fp16", "fp32"}
    assert shares["fp16"]["fp16"] > 0.9
    assert set(shares["int8"]) == set(PRECISIONS)
    assert shares["int8"]["int8"] > 0.3
    for share in shares.values():
        assert sum(share.values()) == pytest.approx(1, abs=1e-5)
    macs = {sum(product.macs for product in one.wanted.products) for one in checked[0]}
    assert len(macs) == 1  # the same network in every precision


@pytest.mark.slow
def test_a_check_leaves_nothing_behind(checked: tuple[list[CheckedEngine], list[str]]) -> None:
    assert not (shipped_bundle() / "engines").exists()
    assert Bundle.open().card.files


def test_what_was_not_built_asks_for_nothing() -> None:
    one = CheckedEngine("fp32", "sm75", 0, Wanted(()), None, 0, 0.0, "for Turing")
    assert one.wanted.asked == {}
    assert one.faults() == []


@pytest.mark.slow
def test_what_turing_lacks_is_told_and_not_held_against_the_graph() -> None:
    """This TensorRT for RTX has no FP32 products on it, of which every precision has some."""
    found = list(check_builds(Bundle.open(), RTX, ["sm75"]))
    assert [one.precision for one in found] == list(PRECISIONS)
    for one in found:
        assert one.engine_bytes == 0
        assert "SM75" in one.unsupported
        assert "is not supported" in one.unsupported


@pytest.mark.parametrize(
    ("message", "limit"),
    [
        ("a.onnx: Cannot compile operation MatMul for Turing (SM75): float32 is not supported. In x", True),
        ("a.onnx: Cannot compile operation MatMul: no reason", False),
        ("a.onnx: TensorRT's parser refused node 3 a (Unheard): it is not supported", False),
    ],
)
def test_limits_of_a_gpu_are_told_from_faults_of_a_graph(message: str, limit: bool) -> None:
    assert bool(NOT_ON_THIS_GPU.search(message)) == limit


def test_precisions_are_those_that_the_bundle_has(copy: Path) -> None:
    assert precisions_of(Bundle.open(copy)) == list(PRECISIONS)
    card = Bundle.open(copy).card
    without = {name: sha for name, sha in card.files.items() if name != CONVERTED_NAMES["fp16"]}
    (copy / CARD_NAME).write_text(card.with_files(without).to_json())
    assert precisions_of(Bundle.open(copy)) == ["fp32", "int8"]


# Graphs that build, and whose engines are not as they should be

BLOCK = "bbone.layers.1.blocks.0"


def checked_graph(model: onnx.ModelProto, folder: Path, fthnet: Command) -> subprocess.CompletedProcess[str]:
    """`--check` of a bundle whose FP16 graph is the model."""
    bundle = bundle_of(folder / "bundle", {"fp16": model.SerializeToString()})
    return fthnet("build", bundle.folder, "--check", "--device", "sm86")


@pytest.fixture(scope="module")
def fp16_graph() -> onnx.ModelProto:
    return onnx.load_from_string(graph_of(CONFIGS["small"], "fp16"))


@pytest.fixture
def model(fp16_graph: onnx.ModelProto) -> onnx.ModelProto:
    """An FP16 graph of drawn weights, to be broken."""
    return deepcopy(fp16_graph)


def test_a_graph_as_it_should_be_passes(model: onnx.ModelProto, tmp_path: Path, fthnet: Command) -> None:
    done = checked_graph(model, tmp_path, fthnet)
    assert done.returncode == 0, done.stderr
    assert "12 of 12" in done.stdout


def test_a_block_whose_attention_no_longer_fuses_is_named(
    model: onnx.ModelProto, tmp_path: Path, fthnet: Command
) -> None:
    """One node more between softmax and product, which changes no value."""
    nodes = model.graph.node
    index = next(i for i, node in enumerate(nodes) if node.name.startswith(BLOCK) and node.op_type == "Softmax")
    weights = nodes[index].output[0]
    nodes[index].output[0] = "weights"
    nodes.insert(index + 1, helper.make_node("Relu", ["weights"], [weights], name=f"{BLOCK}.extra"))
    done = checked_graph(model, tmp_path, fthnet)
    assert error_of(done, 6).endswith(f"fp16 for sm86: attention of {BLOCK} is no longer one kernel")
    assert "11 of 12" in done.stdout


def test_a_layer_that_was_left_in_fp32_is_named(model: onnx.ModelProto, tmp_path: Path, fthnet: Command) -> None:
    nodes = model.graph.node
    index = next(i for i, node in enumerate(nodes) if node.name == f"{BLOCK}.mlp.fc1.gemm")
    product = nodes[index]
    casts = [
        helper.make_node("Cast", [name], [f"wide_{i}"], name=f"{BLOCK}.widen_{i}", to=TensorProto.FLOAT)
        for i, name in enumerate(product.input)
    ]
    narrow = helper.make_node("Cast", ["wide"], product.output[:1], name=f"{BLOCK}.narrow", to=TensorProto.FLOAT16)
    product.input[:] = [cast.output[0] for cast in casts]
    product.output[0] = "wide"
    nodes.insert(index + 1, narrow)
    for cast in casts:
        nodes.insert(index, cast)
    line = error_of(checked_graph(model, tmp_path, fthnet), 6)
    assert line.endswith(f"fp16 for sm86: the graph leaves {BLOCK}.mlp.fc1.gemm in FP32")


def test_an_engine_that_runs_wider_than_its_graph_asks_is_named() -> None:
    recording = read("small-fp16-sm86")
    table = recording.table.replace("Datatype: Half", "Datatype: Float")
    found = compare(from_log(table), recording.wanted)
    one = CheckedEngine("fp16", "sm86", 1000, recording.wanted, found, 1, 0.1)
    wide, unproved = one.faults()
    assert wide.startswith("fp16 for sm86: the engine runs weight_conv.0.gemm, ")
    assert wide.endswith(f" and {len(found.too_wide) - 3} more in a wider type than the graph asks for")
    assert unproved == "fp16 for sm86: 1 % of the multiply-accumulates are seen to run as asked"


@pytest.mark.long
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_released_configuration_fuses_on_every_gpu(precision: str, tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "released", {precision: graph_of(CONFIGS["released"], precision)})
    found = [one for one in check_builds(bundle, RTX) if not one.unsupported]
    assert {one.device for one in found} == set(DEVICES) - {"sm75"}
    for one in found:
        assert one.found is not None
        assert fused_of(one.found.attention) == "12 of 12"
        assert one.faults() == []


# What is refused


@pytest.mark.parametrize("devices", [["sm87"], ["sm86", "sm99", "orin"]])
def test_unknown_devices_are_refused_before_anything_is_built(devices: list[str]) -> None:
    told: list[str] = []
    with pytest.raises(EngineError) as caught:
        list(check_builds(Bundle.open(), RTX, devices, told.append))
    assert told == []
    assert all(known in str(caught.value) for known in DEVICES)
    assert devices[-1] in str(caught.value)


@pytest.mark.parametrize(("name", "kind"), [(FP32_NAME, "Erf"), (CONVERTED_NAMES["fp16"], "LayerNormalization")])
def test_a_broken_graph_is_refused_with_its_node(copy: Path, fthnet: Command, name: str, kind: str) -> None:
    node = break_graph(copy, name, kind)
    line = error_of(fthnet("build", copy, "--check", "--device", "sm86"), 6)
    assert name in line
    assert f" {node} (Unheard)" in line
    assert not (copy / "engines").exists()


def test_the_command_refuses_unknown_devices(fthnet: Command) -> None:
    line = error_of(fthnet("build", "--check", "--device", "sm87"), 6)
    assert all(known in line for known in DEVICES)


def test_the_command_refuses_an_altered_bundle(copy: Path, fthnet: Command) -> None:
    with (copy / FP32_NAME).open("ab") as file:
        file.write(b"\0")
    assert FP32_NAME in error_of(fthnet("build", copy, "--check"), 4)


# All of it


def test_one_gpu(fthnet: Command) -> None:
    done = fthnet("build", "--check", "--device", "sm86")
    assert done.returncode == 0, done.stderr
    for word in (*PRECISIONS, "sm86", "3 of 3 built in ", "nothing was run", "nothing was built for a Jetson"):
        assert word in done.stdout
    assert "sm89" not in done.stdout
    assert done.stderr == ""


@pytest.mark.long
def test_all_gpus(fthnet: Command) -> None:
    done = fthnet("build", "--check", timeout=900)
    assert done.returncode == 0, done.stderr
    rows = [set(line.replace("│", " ").split()) for line in done.stdout.splitlines()]
    cells = {(precision, device) for precision in PRECISIONS for device in DEVICES}
    built = {cell for cell in cells for row in rows if set(cell) <= row and "supported" not in row}
    assert {device for _, device in cells - built} <= {"sm75"}
    assert f"{len(built)} of {len(cells)} built in " in done.stdout
    assert "sm75: for Turing (SM75)" in done.stdout
