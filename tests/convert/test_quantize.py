"""`fthnet quantize` and `fthnet verify` on a tiny network: end to end, killed, refused, with gates that do not hold."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from fthnet_kit.calibration.precision_gate import LEAST_INT8
from fthnet_kit.convert.bundle.add_precisions import install_outcome
from fthnet_kit.convert.bundle.write import Identity, write_bundle
from fthnet_kit.convert.network.checkpoint import Checkpoint
from fthnet_kit.convert.network.config import FTHNetConfig
from fthnet_kit.convert.network.fthnet import FTHNet
from fthnet_kit.convert.onnx_graph.export import weights_of
from fthnet_kit.convert.onnx_graph.fthnet_graph import write_graph
from fthnet_kit.convert.precision.quantize import Outcome, Quantizer
from fthnet_kit.convert.precision.quantize_report import quantization_reports
from fthnet_kit.convert.precision.verify import verify
from fthnet_kit.edge import Bundle, InputError, Preprocessing
from fthnet_kit.edge.capture.degradations import DEGRADATIONS, degrade
from fthnet_kit.edge.errors import BundleError
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.inference.onnx_runtime import OnnxBackend
from fthnet_kit.edge.model.bundle import CONVERTED_NAMES, sha256_of
from fthnet_kit.edge.model.card import CARD_NAME, ModelCard
from fthnet_kit.edge.model.preprocess import prepare

CONFIG = FTHNetConfig(
    embed_dim=8, depths=(1, 2, 1, 1), num_heads=(1, 2, 4, 8), target_in=192, hyper_in=32
)  # two blocks: one of them has shifted windows
PHOTOGRAPHS = 72
CALIBRATING = ("--images", 32, "--held-out", 32)
CONVERTED = set(CONVERTED_NAMES.values())
SPREAD = 12.0

Command = Callable[..., subprocess.CompletedProcess[str]]


class StoppedError(Exception):
    pass


class Progress:
    """What a run reported, in order; raises `StoppedError` at the first report of a step named `stop`."""

    def __init__(self, stop: str | None = None) -> None:
        self.stop = stop
        self.steps: list[str] = []

    def __call__(self, what: str, done: int, total: int) -> None:
        assert 1 <= done <= total
        if what == self.stop:
            raise StoppedError(what)
        if what not in self.steps:
            self.steps.append(what)


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
    folder = tmp_path_factory.mktemp("plain") / "bundle"
    checkpoint, few = Checkpoint(scored[0], Path("random")), sorted(images.iterdir())[:4]
    write_bundle(checkpoint, folder, Identity("tiny"), Preprocessing(), images=few)
    return folder


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
    """The bundle after `fthnet quantize`, its work folder beside it, and what the command said."""
    bundle = tmp_path_factory.mktemp("quantized") / "bundle"
    shutil.copytree(plain, bundle)
    return bundle, fthnet("quantize", bundle, "--data", labelled, *CALIBRATING)


@pytest.fixture(scope="module")
def again(
    quantized: tuple[Path, object], plain: Path, labelled: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Outcome, Progress]:
    """A second run in a copy of the first one's work folder."""
    bundle, _ = quantized
    work = tmp_path_factory.mktemp("again") / "work"
    shutil.copytree(bundle.with_name("bundle.quantize"), work)
    progress = Progress()
    return Quantizer(Bundle.open(plain), work, progress).run([labelled], 32, 32), progress


def copied(bundle: Path, folder: Path) -> Path:
    shutil.copytree(bundle, folder / "bundle")
    return folder / "bundle"


# What a quantised bundle holds


def test_quantize_installs_what_it_made(quantized: tuple[Path, subprocess.CompletedProcess[str]], plain: Path) -> None:
    bundle, done = quantized
    assert done.returncode == 0, done.stderr
    for word in ("calibrated on 32, judged on 32 photographs", "fp16 ", "int8 ", "int8-cpu ", "quantization.html"):
        assert word in done.stdout
    assert done.stdout.count("gate holds") == 3
    opened = Bundle.open(bundle)
    reports = {name for name in content(bundle) if name.startswith("reports/") and name != "reports/ranges.json"}
    assert set(opened.card.files) == set(content(bundle)) - {CARD_NAME, *reports}
    assert set(opened.card.files) >= {*CONVERTED, "reports/ranges.json"}
    assert "reports/quantization.json" in reports
    assert (bundle / "reports" / "quantization.html").stat().st_size > 10_000
    before, after = content(plain), content(bundle)
    assert {name for name in before if before[name] != after[name]} == {CARD_NAME}
    found = {path.name for path in bundle.parent.iterdir()}
    assert found == {"bundle", "bundle.quantize"}
    assert not [name for name in opened.card.files if name.endswith((".jpg", ".png"))]  # patients' pictures stay
    assert cv2.imread(str(bundle.with_name("bundle.quantize") / "calibration-images.jpg")) is not None


def test_card_says_what_each_precision_costs(quantized: tuple[Path, object], plain: Path) -> None:
    card, before = Bundle.open(quantized[0]).card, Bundle.open(plain).card
    assert dataclasses.replace(card, files=before.files, precisions={}) == before
    assert set(card.precisions) == {"fp16", "int8", "int8-cpu"}
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
    assert {form for form, found in types.items() if half in found} == {"fp16", "int8"}
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


def test_what_is_unchanged_is_not_computed_again(again: tuple[Outcome, Progress]) -> None:
    _, progress = again
    assert "reading photographs" in progress.steps
    assert "scoring in int8-cpu" in progress.steps
    assert not {"observing activations", "choosing smoothing and ranges"} & set(progress.steps)


def test_a_second_run_makes_the_same_graphs(quantized: tuple[Path, object], again: tuple[Outcome, Progress]) -> None:
    outcome, _ = again
    for form, name in CONVERTED_NAMES.items():
        found = outcome.models[form].SerializeToString(deterministic=True)
        assert found == (quantized[0] / name).read_bytes(), form
    assert outcome.int8_macs >= LEAST_INT8
    assert outcome.returned
    assert not set(outcome.returned) & set(outcome.int8_layers)
    means = [entry.mean for entry in outcome.sensitivities]
    assert means == sorted(means, reverse=True)
    shares = {entry.layer: entry.macs for entry in outcome.sensitivities}
    assert outcome.int8_macs == pytest.approx(sum(shares[layer] for layer in outcome.int8_layers))
    calibrating, judging = ({p.sha256 for p in group} for group in (outcome.calibration, outcome.held_out))
    assert len(calibrating) == len(judging) == 32
    assert not calibrating & judging


def test_same_inputs_give_the_same_ranges_file(
    quantized: tuple[Path, object], plain: Path, labelled: Path, tmp_path: Path
) -> None:
    progress = Progress(stop="measuring layer by layer")
    with pytest.raises(StoppedError):
        Quantizer(Bundle.open(plain), tmp_path / "fresh", progress).run([labelled], 32, 32)
    assert {"observing activations", "choosing smoothing and ranges"} <= set(progress.steps)
    found = (tmp_path / "fresh" / "ranges.json").read_bytes()
    assert found == (quantized[0] / "reports" / "ranges.json").read_bytes()
    for secret in (str(labelled.parent), str(plain.parent)):
        assert secret not in found.decode()


def test_other_photographs_or_weights_are_calibrated_anew(
    quantized: tuple[Path, object], plain: Path, labelled: Path, tmp_path: Path
) -> None:
    bundle, _ = quantized
    shutil.copytree(bundle.with_name("bundle.quantize"), tmp_path / "work")
    observing = "observing activations"
    with pytest.raises(StoppedError):
        Quantizer(Bundle.open(plain), tmp_path / "work", Progress(observing)).run([labelled], 33, 32)
    opened = Bundle.open(plain)
    other = dataclasses.replace(opened, card=dataclasses.replace(opened.card, weights_sha256="0" * 64))
    with pytest.raises(StoppedError):
        Quantizer(other, tmp_path / "work", Progress(observing)).run([labelled], 32, 32)
    kept = (tmp_path / "work" / "ranges.json").read_bytes()
    assert kept == (bundle / "reports" / "ranges.json").read_bytes()


def test_a_killed_run_leaves_the_bundle_and_goes_on(
    quantized: tuple[Path, object], plain: Path, labelled: Path, tmp_path: Path, fthnet: Command
) -> None:
    bundle = copied(plain, tmp_path)
    journal = bundle.with_name("bundle.quantize") / "sensitivity.jsonl"
    arguments = ["quantize", bundle, "--data", labelled, *CALIBRATING]
    command = [sys.executable, "-m", "fthnet_kit.edge.cli", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and (not journal.exists() or len(journal.read_text().splitlines()) < 5):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert content(bundle) == content(plain)
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", "bundle.quantize"}
    ranges = journal.with_name("ranges.json")
    before, written = journal.read_text(), ranges.stat().st_mtime_ns
    journal.write_text(before + '{"layer": "cut o')  # as a kill in the middle of a write leaves it
    done = fthnet(*arguments)
    assert done.returncode == 0, done.stderr
    assert ranges.stat().st_mtime_ns == written
    assert journal.read_text().startswith(before[: before.rindex("\n") + 1])
    _, *entries = (json.loads(line) for line in journal.read_text().splitlines())
    layers = [entry["layer"] for entry in entries]
    assert len(set(layers)) == len(layers) > 20
    assert {name: digest for name, digest in content(bundle).items() if name.endswith((".onnx", "ranges.json"))} == {
        name: digest for name, digest in content(quantized[0]).items() if name.endswith((".onnx", "ranges.json"))
    }


# Gates that do not hold


def test_a_gate_that_does_not_hold_keeps_the_model_out(
    quantized: tuple[Path, object],
    again: tuple[Outcome, Progress],
    images: Path,
    tmp_path: Path,
    fthnet: Command,
) -> None:
    bundle, outcome = copied(quantized[0], tmp_path), again[0]
    ranges = tmp_path / "ranges.json"
    shutil.copyfile(bundle / "reports" / "ranges.json", ranges)
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
    assert (bundle / "reports" / "ranges.json").read_bytes() == ranges.read_bytes()
    done = fthnet("score", images / "000.jpg", "--bundle", bundle, "--precision", "int8")
    assert done.returncode == 4
    assert "fthnet.int8-cpu.onnx" in error_of(done)
    assert after.model_path("int8", "tensorrt").is_file()
    install_outcome(after, outcome, ranges, {})
    assert Bundle.open(bundle).model_path("int8").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", "ranges.json"}


def test_a_graph_that_gives_no_numbers_is_kept_out(
    quantized: tuple[Path, object], again: tuple[Outcome, Progress], tmp_path: Path
) -> None:
    bundle, outcome = copied(quantized[0], tmp_path), again[0]
    infinite = dataclasses.replace(
        outcome.costs["fp16"], mean=np.inf, p99=np.inf, worst=np.inf, shift=np.nan, srcc=np.nan
    )
    failed = dataclasses.replace(outcome, costs=dict.fromkeys(outcome.costs, infinite), int8_macs=0.1)
    opened = Bundle.open(bundle)
    install_outcome(opened, failed, bundle / "reports" / "ranges.json", quantization_reports(failed, opened.card))
    after = Bundle.open(bundle)
    assert not CONVERTED & set(content(bundle))
    assert [entry["holds"] for entry in after.card.precisions.values()] == [False] * 3
    for precision in ("fp16", "int8"):
        with pytest.raises(BundleError):
            after.model_path(precision)  # type: ignore[arg-type]
    assert after.model_path("auto").is_file()


def test_a_bundle_that_cannot_be_replaced_stays(
    quantized: tuple[Path, object], again: tuple[Outcome, Progress], tmp_path: Path
) -> None:
    bundle = copied(quantized[0], tmp_path)
    before = content(bundle)
    with pytest.raises(InputError, match="expected a folder that can be written"):
        install_outcome(Bundle.open(bundle), again[0], tmp_path / "no ranges.json", {})
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
    assert not (tmp_path / "bundle.quantize" / "ranges.json").exists()


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
        verify(bundle, [tmp_path], 256, Progress())
