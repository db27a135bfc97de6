"""`fthnet quantize` and `fthnet verify` on a tiny network: end to end, killed, refused, with gates that do not hold."""

from __future__ import annotations

import dataclasses
import errno
import json
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from fthnet_kit.calibration.int8_ranges_file import ranges_file
from fthnet_kit.calibration.precision_gate import LEAST_INT8
from fthnet_kit.convert.bundle.add_precisions import install_outcome
from fthnet_kit.convert.bundle.write import Identity, write_bundle
from fthnet_kit.convert.network.checkpoint import NetworkCheckpoint
from fthnet_kit.convert.network.config import FTHNetConfig
from fthnet_kit.convert.network.fthnet import FTHNet
from fthnet_kit.convert.onnx_graph.export import weights_of
from fthnet_kit.convert.onnx_graph.fthnet_graph import write_graph
from fthnet_kit.convert.precision.quantize import Outcome, Quantizer
from fthnet_kit.convert.precision.quantize_report import layer_rows, quantization_reports
from fthnet_kit.convert.precision.verify import verify
from fthnet_kit.edge import Bundle, InputError, Preprocessing
from fthnet_kit.edge.capture.degradations import DEGRADATIONS, degrade
from fthnet_kit.edge.errors import BundleError
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.inference.onnx_runtime import OnnxBackend
from fthnet_kit.edge.model.bundle import CONVERTED_NAMES, sha256_of
from fthnet_kit.edge.model.card import CARD_NAME, ModelCard
from fthnet_kit.edge.model.choices import Budget
from fthnet_kit.edge.model.preprocess import prepare
from tests.made_once import made_once

pytestmark = pytest.mark.slow

CONFIG = FTHNetConfig(
    embed_dim=8, depths=(1, 2, 1, 1), num_heads=(1, 2, 4, 8), target_in=192, hyper_in=32
)  # two blocks: one of them has shifted windows
PHOTOGRAPHS = 72
CALIBRATING = ("--images", 32, "--held-out", 32)
CONVERTED = set(CONVERTED_NAMES.values())
SPREAD = 12.0
GATES = {"fp16", "int8", "int8-cpu", *(["int8-openvino"] if find_spec("openvino") else [])}

Command = Callable[..., subprocess.CompletedProcess[str]]


def content(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder."""
    return {str(path.relative_to(folder)): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that says what went wrong."""
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("fthnet: ")]
    return line


def graph_scores(network: FTHNet, views: Image) -> np.ndarray:
    model = write_graph(weights_of(network), network.config, Preprocessing()).model
    with OnnxBackend(model.SerializeToString()) as backend:
        return backend.infer(views)


@pytest.fixture(scope="module")
def images(photograph: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One retina with each degradation at eight severities, without a table."""
    folder = tmp_path_factory.mktemp("photographs") / "images"
    folder.mkdir()
    small = cv2.resize(photograph, (400, 400), interpolation=cv2.INTER_AREA)
    names = list(DEGRADATIONS)
    for index in range(PHOTOGRAPHS):
        spoiled = degrade(small, names[index % len(names)], (index // len(names) + 1) / 8, index)
        cv2.imwrite(str(folder / f"{index:03}.jpg"), spoiled, [cv2.IMWRITE_JPEG_QUALITY, 95])
    return folder


@pytest.fixture(scope="module")
def scored(images: Path) -> tuple[FTHNet, np.ndarray]:
    """A random network whose scores of those photographs spread over the scale, and the scores."""
    views = np.concatenate([prepare(cv2.imread(str(path)), Preprocessing(), 1) for path in sorted(images.iterdir())])
    torch.manual_seed(3)
    network = FTHNet(CONFIG).eval()
    network.initialise()
    with torch.no_grad():
        network.whiten_patches((torch.from_numpy(views[:8]).float() / 255).permute(0, 3, 1, 2))
        scores = graph_scores(network, views).astype(np.float64)
        factor = SPREAD / scores.std()
        for generator in (network.weight_conv[4], network.bias_conv[4]):
            generator.weight *= factor
            generator.bias *= factor
        network.bias_conv[4].bias += 0.5 - factor * scores.mean() / 100
    return network, 50 + factor * (scores - scores.mean())


@pytest.fixture(scope="module")
def plain(scored: tuple[FTHNet, np.ndarray], images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle as `fthnet export` makes it."""
    with made_once(tmp_path_factory, "quantize-plain") as (folder, is_made):
        if not is_made:
            checkpoint, few = NetworkCheckpoint(scored[0], Path("random")), sorted(images.iterdir())[:4]
            write_bundle(checkpoint, folder / "bundle", Identity("tiny"), Preprocessing(), images=few)
    return folder / "bundle"


@pytest.fixture(scope="module")
def labelled(images: Path, scored: tuple[FTHNet, np.ndarray]) -> Path:
    """Those photographs in FQS form; labels are the scores, with noise."""
    folder = images.parent
    mos = np.clip(scored[1] + np.random.default_rng(0).normal(0, 3, PHOTOGRAPHS), 0, 100)
    rows = [f"{path.name},{value:.2f}" for path, value in zip(sorted(images.iterdir()), mos, strict=True)]
    (folder / "scores.csv").write_text("\n".join(["file_name,meanOpinionScore", *rows]))
    return folder


@pytest.fixture(scope="module")
def quantized(
    plain: Path, labelled: Path, fthnet: Command, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The bundle after `fthnet quantize`, and what the command said."""
    with made_once(tmp_path_factory, "quantize") as (folder, is_made):
        work, said = folder / "work", folder / "said.pickle"
        if not is_made:
            work.mkdir()
            shutil.copytree(plain, work / "bundle")
            done = fthnet("quantize", work / "bundle", "--data", labelled, *CALIBRATING)
            said.write_bytes(pickle.dumps(done))
        return work / "bundle", pickle.loads(said.read_bytes())


@pytest.fixture(scope="module")
def again(plain: Path, labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A second run."""
    with made_once(tmp_path_factory, "quantize-again") as (folder, is_made):
        if not is_made:
            outcome = Quantizer(Bundle.open(plain), lambda what, done, total: None).run([labelled], 32, 32)
            (folder / "outcome.pickle").write_bytes(pickle.dumps(outcome))
        return pickle.loads((folder / "outcome.pickle").read_bytes())


def copied(bundle: Path, folder: Path) -> Path:
    shutil.copytree(bundle, folder / "bundle")
    return folder / "bundle"


# What a quantised bundle holds


def test_quantize_installs_what_it_made(quantized: tuple[Path, subprocess.CompletedProcess[str]], plain: Path) -> None:
    bundle, done = quantized
    assert done.returncode == 0, done.stderr
    for word in ("calibrated on 32, judged on 32 photographs", "fp16 ", "int8 ", "int8-cpu ", "quantization.html"):
        assert word in done.stdout
    assert done.stdout.count("gate holds") == len(GATES)
    opened = Bundle.open(bundle)
    reports = {name for name in content(bundle) if name.startswith("reports/") and name != "reports/ranges.json"}
    assert set(opened.card.files) == set(content(bundle)) - {CARD_NAME, *reports}
    assert set(opened.card.files) >= {*CONVERTED, "reports/ranges.json"}
    assert "reports/quantization.json" in reports
    assert (bundle / "reports" / "quantization.html").stat().st_size > 10_000
    before, after = content(plain), content(bundle)
    assert {name for name in before if before[name] != after[name]} == {CARD_NAME}
    found = {path.name for path in bundle.parent.iterdir()}
    assert found == {"bundle", "bundle.calibration-images.jpg"}
    assert not [name for name in opened.card.files if name.endswith((".jpg", ".png"))]  # patients' pictures stay
    assert cv2.imread(str(bundle.with_name("bundle.calibration-images.jpg"))) is not None


def test_card_says_what_each_precision_costs(quantized: tuple[Path, object], plain: Path) -> None:
    card, before = Bundle.open(quantized[0]).card, Bundle.open(plain).card
    assert dataclasses.replace(card, files=before.files, precisions={}) == before
    assert set(card.precisions) == GATES
    for form, found in card.precisions.items():
        assert found["holds"]
        assert found["images"] == 32
        assert 0 < found["mean"] <= found["p99"] <= found["worst"]
        assert found["mean"] < (0.1 if form == "fp16" else 0.5)
        assert ("int8_macs" in found) == (form != "fp16")
        assert found.get("int8_macs", 1) >= LEAST_INT8
    assert card.precisions["fp16"]["mean"] < card.precisions["int8-cpu"]["mean"]
    assert ModelCard.from_json(card.to_json()) == card


def test_converted_graphs_are_what_they_are_called(quantized: tuple[Path, object]) -> None:
    graphs = {form: onnx.load(quantized[0] / name).graph for form, name in CONVERTED_NAMES.items()}
    kinds = {form: {node.op_type for node in graph.node} for form, graph in graphs.items()}
    assert not kinds["fp16"] & {"QuantizeLinear", "MatMulIntegerToFloat"}
    assert kinds["int8"] >= {"QuantizeLinear", "DequantizeLinear"}
    assert kinds["int8-cpu"] >= {"QuantizeLinear", "MatMulIntegerToFloat"}
    assert "DequantizeLinear" not in kinds["int8-cpu"]
    types = {form: {tensor.data_type for tensor in graph.initializer} for form, graph in graphs.items()}
    half, int8 = onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8
    assert {form for form, found in types.items() if half in found} >= {"fp16", "int8"}
    assert {form for form, found in types.items() if int8 in found} == {"int8", "int8-cpu"}


def test_every_precision_scores(quantized: tuple[Path, object], plain: Path, images: Path, fthnet: Command) -> None:
    files = [images / f"{index:03}.jpg" for index in (0, 44, 71)]
    scores = {}
    for precision in ("fp32", "fp16", "int8"):
        done = fthnet("score", *files, "--bundle", quantized[0], "--precision", precision, "--json")
        assert done.returncode == 0, done.stderr
        scores[precision] = np.array([json.loads(line)["raw"] for line in done.stdout.splitlines()])
        assert len(scores[precision]) == 3
    for precision, found in scores.items():
        np.testing.assert_allclose(found, scores["fp32"], atol=2)
        assert precision == "fp32" or not np.array_equal(found, scores["fp32"])
    with pytest.raises(BundleError, match="fthnet quantize"):
        Bundle.open(plain).model_path("int8")


def test_each_provider_gets_its_own_form(quantized: tuple[Path, object]) -> None:
    bundle = Bundle.open(quantized[0])
    assert bundle.model_path("int8").name == "fthnet.int8-cpu.onnx"
    for provider in ("cuda", "tensorrt"):
        assert bundle.model_path("int8", provider).name == "fthnet.int8.onnx"
        assert bundle.model_path("fp16", provider).name == "fthnet.fp16.onnx"
        assert bundle.model_path("auto", provider).name == "fthnet.fp32.onnx"


# Repeating


def test_a_second_run_makes_the_same_graphs(quantized: tuple[Path, object], again: Outcome) -> None:
    for form, name in CONVERTED_NAMES.items():
        found = again.models[form].SerializeToString(deterministic=True)
        assert found == (quantized[0] / name).read_bytes(), form
    assert again.int8_macs >= LEAST_INT8
    means = [entry.mean for entry in again.sensitivities]
    assert means == sorted(means, reverse=True)
    assert again.sensitivities[0].layer not in again.int8_layers  # all together cost this network more than the budget
    assert again.int8_macs == pytest.approx(sum(again.macs[layer] for layer in again.int8_layers))
    calibrating, judging = ({p.sha256 for p in group} for group in (again.calibration, again.held_out))
    assert len(calibrating) == len(judging) == 32
    assert not calibrating & judging


def test_same_inputs_give_the_same_ranges_file(
    quantized: tuple[Path, object], again: Outcome, plain: Path, labelled: Path
) -> None:
    found = ranges_file(Bundle.open(plain).card, again.calibration, again.layers)
    assert found == (quantized[0] / "reports" / "ranges.json").read_bytes()
    for secret in (str(labelled.parent), str(plain.parent)):
        assert secret not in found.decode()


def test_a_killed_run_leaves_the_bundle(plain: Path, labelled: Path, tmp_path: Path) -> None:
    bundle = copied(plain, tmp_path)
    command = [sys.executable, "-m", "fthnet_kit.edge.cli", "quantize", bundle, "--data", labelled, *CALIBRATING]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert content(bundle) == content(plain)
    assert {path.name for path in tmp_path.iterdir()} == {"bundle"}


@pytest.mark.long
def test_the_costliest_layers_stay_in_floating_point_until_the_budget_holds(
    plain: Path, labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fthnet_kit.convert.precision.quantize.INT8_BUDGET", Budget(mean=1e-3))  # nothing holds that
    outcome = Quantizer(Bundle.open(plain), lambda what, done, total: None).run([labelled], 32, 32)
    measured = [entry.layer for entry in outcome.sensitivities]
    assert len(outcome.int8_layers) < len(measured)
    assert outcome.sensitivities[0].layer not in outcome.int8_layers
    assert outcome.int8_macs >= LEAST_INT8
    assert {row.layer: row.state for row in layer_rows(outcome)}[measured[0]] == "floating point"


# Gates that do not hold


def test_a_gate_that_does_not_hold_keeps_the_model_out(
    quantized: tuple[Path, object],
    again: Outcome,
    images: Path,
    tmp_path: Path,
    fthnet: Command,
) -> None:
    bundle, outcome = copied(quantized[0], tmp_path), again
    ranges = (bundle / "reports" / "ranges.json").read_bytes()
    bad = dataclasses.replace(outcome.costs["int8-cpu"], mean=0.7, p99=3.0)
    failed = dataclasses.replace(outcome, costs={**outcome.costs, "int8-cpu": bad})
    assert len(failed.shortfalls("int8-cpu")) == 2
    opened = Bundle.open(bundle)
    install_outcome(opened, failed, ranges, quantization_reports(failed, opened.card))
    after = Bundle.open(bundle)
    assert not (bundle / "fthnet.int8-cpu.onnx").exists()
    assert {name for name in after.card.files if name in CONVERTED} == CONVERTED - {"fthnet.int8-cpu.onnx"}
    assert not after.card.precisions["int8-cpu"]["holds"]
    assert after.card.precisions["int8-cpu"]["mean"] == 0.7
    assert after.card.precisions["int8"]["holds"]
    report = json.loads((bundle / "reports" / "quantization.json").read_text())
    assert not report["precisions"]["int8-cpu"]["holds"]
    assert (bundle / "reports" / "ranges.json").read_bytes() == ranges
    done = fthnet("score", images / "000.jpg", "--bundle", bundle, "--precision", "int8")
    assert done.returncode == 4
    assert "fthnet.int8-cpu.onnx" in error_of(done)
    assert after.model_path("int8", "tensorrt").is_file()
    install_outcome(after, outcome, ranges, {})
    assert Bundle.open(bundle).model_path("int8").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"bundle"}


def test_a_graph_that_gives_no_numbers_is_kept_out(
    quantized: tuple[Path, object], again: Outcome, tmp_path: Path
) -> None:
    bundle, outcome = copied(quantized[0], tmp_path), again
    infinite = dataclasses.replace(
        outcome.costs["fp16"], mean=np.inf, p99=np.inf, worst=np.inf, shift=np.nan, srcc=np.nan
    )
    failed = dataclasses.replace(outcome, costs=dict.fromkeys(outcome.costs, infinite), int8_macs=0.1)
    opened = Bundle.open(bundle)
    install_outcome(opened, failed, b"{}", quantization_reports(failed, opened.card))
    after = Bundle.open(bundle)
    assert not CONVERTED & set(content(bundle))
    assert [entry["holds"] for entry in after.card.precisions.values()] == [False] * len(GATES)
    for precision in ("fp16", "int8"):
        with pytest.raises(BundleError):
            after.model_path(precision)  # type: ignore[arg-type]
    assert after.model_path("auto").is_file()


def test_openvino_runs_int8_only_where_its_own_gate_holds(quantized: tuple[Path, object]) -> None:
    bundle = Bundle.open(quantized[0])
    gates = {name: facts for name, facts in bundle.card.precisions.items() if name != "int8-openvino"}
    for own, allowed in (({}, True), ({"int8-openvino": {**gates["int8"], "holds": False}}, False)):
        other = dataclasses.replace(bundle, card=dataclasses.replace(bundle.card, precisions={**gates, **own}))
        assert other.model_path("int8", "tensorrt").name == "fthnet.int8.onnx"
        if allowed:
            assert other.model_path("int8", "openvino").name == "fthnet.int8.onnx"
            continue
        with pytest.raises(BundleError, match="gate holds"):
            other.model_path("int8", "openvino")


def test_a_bundle_that_cannot_be_replaced_stays(
    quantized: tuple[Path, object], again: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = copied(quantized[0], tmp_path)
    before = content(bundle)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(InputError, match="expected a folder that can be written"):
        install_outcome(Bundle.open(bundle), again, b"{}", {})
    assert content(bundle) == before
    assert {path.name for path in tmp_path.iterdir()} == {"bundle"}


# Photographs that cannot calibrate


def write_black(folder: Path, labelled: Path) -> None:
    for index in range(70):
        cv2.imwrite(str(folder / f"{index}.png"), np.zeros((64, 64 + index, 3), np.uint8))


def write_copies(folder: Path, labelled: Path) -> None:
    for index in range(70):
        shutil.copy(labelled / "images" / "000.jpg", folder / f"{index}.jpg")


def write_shuffled(folder: Path, labelled: Path) -> None:
    (folder / "images").symlink_to(labelled / "images")
    header, *rows = (labelled / "scores.csv").read_text().splitlines()
    labels = np.random.default_rng(5).permutation([row.split(",")[1] for row in rows])
    shuffled = [f"{row.split(',')[0]},{label}" for row, label in zip(rows, labels, strict=True)]
    (folder / "scores.csv").write_text("\n".join([header, *shuffled]))


@pytest.mark.parametrize(
    ("write", "word"),
    [(write_black, "found one in only 0 of"), (write_copies, "found 1;"), (write_shuffled, "shuffled")],
    ids=["black", "copies", "shuffled"],
)
def test_photographs_that_cannot_calibrate_are_refused(
    plain: Path, labelled: Path, tmp_path: Path, fthnet: Command, write: Callable[[Path, Path], None], word: str
) -> None:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", labelled)
    bundle = copied(plain, tmp_path)
    done = fthnet("quantize", bundle, "--data", tmp_path / "data", *CALIBRATING)
    assert done.returncode == 3
    assert word in error_of(done)
    assert content(bundle) == content(plain)
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", "data"}


# Verifying


def test_verify_leaves_out_what_calibrated(
    quantized: tuple[Path, object], images: Path, tmp_path: Path, fthnet: Command
) -> None:
    bundle, _ = quantized
    done = fthnet("verify", bundle, "--data", images, "-o", tmp_path / "report")
    assert done.returncode == 0, done.stderr
    for word in ("fp16", "int8-cpu", "mean", "Noise floor"):
        assert word in done.stdout
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"verify.json", "verify.html", "verify.png"}
    report = json.loads((tmp_path / "report" / "verify.json").read_text())
    judged = {entry["file"] for entry in report["images"]}
    ranges = json.loads((bundle / "reports" / "ranges.json").read_text())
    calibrated = {entry["name"] for entry in ranges["images"]}
    assert len(calibrated) == 32
    assert judged == {path.name for path in images.iterdir()} - calibrated
    for form, found in report["precisions"].items():
        assert found["holds"], form
    assert not (bundle / "reports" / "verify.json").exists()


def test_verify_tells_a_worse_model(
    quantized: tuple[Path, object], labelled: Path, tmp_path: Path, fthnet: Command
) -> None:
    bundle = copied(quantized[0], tmp_path)
    model = onnx.load(bundle / "fthnet.fp16.onnx")
    (bias,) = [tensor for tensor in model.graph.initializer if tensor.name == "bias_conv.4.bias"]
    worse = numpy_helper.to_array(bias) + np.float32(0.02)  # two points
    bias.CopyFrom(numpy_helper.from_array(worse.astype(np.float32), bias.name))
    onnx.save(model, bundle / "fthnet.fp16.onnx")
    refused = fthnet("verify", bundle, "--data", labelled)
    assert refused.returncode == 4
    assert "fthnet.fp16.onnx" in error_of(refused)
    card = Bundle.open(quantized[0]).card
    hashes = {**card.files, "fthnet.fp16.onnx": sha256_of(bundle / "fthnet.fp16.onnx")}
    (bundle / CARD_NAME).write_text(card.with_files(hashes).to_json())
    done = fthnet("verify", bundle, "--data", labelled)
    assert done.returncode == 7
    message = error_of(done)
    assert re.search(r"fp16: mean (1\.9|2\.0)\d+ > 0\.1 points", message)
    assert "int8" not in message
    assert "int8-cpu" in done.stdout


def test_verify_without_converted_graphs_is_refused(plain: Path, labelled: Path, fthnet: Command) -> None:
    done = fthnet("verify", plain, "--data", labelled)
    assert done.returncode == 4
    assert "fthnet quantize" in error_of(done)


def test_verify_needs_photographs_that_did_not_calibrate(
    quantized: tuple[Path, object], images: Path, tmp_path: Path
) -> None:
    bundle = Bundle.open(quantized[0])
    ranges = json.loads((bundle.folder / "reports" / "ranges.json").read_text())
    for entry in ranges["images"]:
        shutil.copy(images / entry["name"], tmp_path / entry["name"])
    with pytest.raises(InputError, match=r"at least 32 photographs that did not calibrate .*, found 0;"):
        verify(bundle, [tmp_path], 256, lambda what, done, total: None)
