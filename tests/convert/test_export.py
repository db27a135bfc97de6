"""`fthnet export`, from checkpoints in the authors' layout to a bundle that scores as PyTorch does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from fthnet_kit.convert.bundle.write import Identity
from fthnet_kit.convert.commands.export import preprocessing_for
from fthnet_kit.convert.network.checkpoint import load_checkpoint
from fthnet_kit.convert.network.config import FTHNetConfig
from fthnet_kit.convert.network.fthnet import FTHNet
from fthnet_kit.convert.onnx_graph.export import ScoringGraph
from fthnet_kit.edge import Bundle, QualityScorer
from fthnet_kit.edge.inference.onnx_runtime import OnnxBackend
from fthnet_kit.edge.model.preprocess import Preprocessing, prepare

CONFIGS = {
    "released": ((64, (2, 2, 6, 2), (2, 4, 8, 16))),
    "tiny": ((8, (1, 2, 1, 1), (1, 2, 4, 8))),
}


def authors_file(path: Path, config: FTHNetConfig, key: str = "params_ema") -> Path:
    torch.manual_seed(3)
    network = FTHNet(config)
    network.initialise()
    torch.save({key: {f"module.{name}": value for name, value in network.state_dict().items()}}, path)
    return path


def loaded_operators(model: Path, folder: Path) -> set[str]:
    """What is left to run once ONNX Runtime has folded constants and fused."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "loaded.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(model), options)
    return {node.op_type for node in onnx.load(folder / "loaded.onnx").graph.node}


@pytest.mark.parametrize(
    ("pool", "size"),
    [
        ("soft", "tiny"),
        ("avg", "tiny"),
        *(pytest.param(pool, "released", marks=pytest.mark.long) for pool in ("soft", "avg")),
    ],
)
def test_authors_checkpoint_to_bundle(pool: str, size: str, tmp_path: Path, fthnet) -> None:
    config = FTHNetConfig(pool, *CONFIGS[size])
    checkpoint = authors_file(tmp_path / "net_g.pth", config)
    names = ("--manufacturer", "us", *(("--intended-use", "Our eyes only.") if size == "tiny" else ()))
    done = fthnet("export", checkpoint, "--pool", pool, "-o", tmp_path / "bundle", *names)
    assert done.returncode == 0, done.stderr
    assert "parity" in done.stdout
    report = json.loads((tmp_path / "bundle" / "reports" / "parity.json").read_text())
    assert report["holds"]
    assert report["max_abs_points"] <= 0.01
    assert len(report["images"]) >= 20
    assert np.std(report["scores"]) > 0
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.card.intended_use == ("Our eyes only." if size == "tiny" else Identity.intended_use)
    assert FTHNetConfig(**bundle.card.architecture) == config
    assert bundle.card.preprocessing == Preprocessing(field_crop="none", resize="pil")
    assert load_checkpoint(tmp_path / "bundle" / "checkpoint.safetensors").network.config == config
    graph = onnx.load(bundle.model_path()).graph
    kinds = {node.op_type for node in graph.node}
    assert "LayerNormalization" in kinds
    assert not kinds & {"Shape", "Range", "ConstantOfShape"}
    assert not loaded_operators(bundle.model_path(), tmp_path) & {"Equal", "Where", "Erf", "Div"}


def test_parity_on_a_folder_of_photographs(data: Path, tmp_path: Path, fthnet) -> None:
    checkpoint = authors_file(tmp_path / "net.pth", FTHNetConfig("soft", *CONFIGS["tiny"]))
    images = data / "fundus" / "images"
    done = fthnet("export", checkpoint, "--pool", "soft", "-o", tmp_path / "b", "--images", images)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "b" / "reports" / "parity.json").read_text())
    assert len(report["images"]) >= 20
    assert report["max_abs_points"] <= 0.01


@pytest.mark.long
def test_static_batches_agree_with_single_images(photograph, tmp_path: Path, fthnet) -> None:
    checkpoint = authors_file(tmp_path / "net.pth", FTHNetConfig("avg", *CONFIGS["tiny"]))
    done = fthnet("export", checkpoint, "--pool", "avg", "-o", tmp_path / "b4", "--batch", 4, "--views", 5)
    assert done.returncode == 0, done.stderr
    bundle = Bundle.open(tmp_path / "b4")
    views = prepare(photograph, bundle.card.preprocessing)
    assert len(views) == 5
    graph = ScoringGraph(load_checkpoint(checkpoint, "avg").network, bundle.card.preprocessing).eval()
    with OnnxBackend(bundle.model_path()) as backend, torch.no_grad():
        np.testing.assert_allclose(backend.infer(views), graph(torch.from_numpy(views)).numpy(), atol=0.01)
    with QualityScorer.from_bundle(tmp_path / "b4") as scorer:
        assert scorer.views == 5
        score = scorer.score(photograph)
        assert score.value is not None or score.reason == "engine_fault"  # random weights know no plausible range


def test_the_form_of_a_checkpoint_says_how_its_images_are_prepared() -> None:
    own, theirs = Path("net.safetensors"), Path("net_g.pth")
    assert preprocessing_for(own, None, "imagenet", 1, None) == Preprocessing()
    assert preprocessing_for(own, None, "imagenet", 1, "pil") == Preprocessing(resize="pil")
    assert preprocessing_for(theirs, "square", "none", 20, None) == Preprocessing("square", "none", 20, resize="pil")
    assert preprocessing_for(theirs, None, "imagenet", 1, "area") == Preprocessing("none")


def test_normalisation_none_is_in_the_graph(photograph, tmp_path: Path, fthnet) -> None:
    checkpoint = authors_file(tmp_path / "net.pth", FTHNetConfig("avg", *CONFIGS["tiny"]), "params")
    arguments = ["export", checkpoint, "--pool", "avg", "-o", tmp_path / "b", "--normalisation", "none"]
    assert fthnet(*arguments).returncode == 0
    bundle = Bundle.open(tmp_path / "b")
    views = prepare(photograph, bundle.card.preprocessing)
    with torch.no_grad():
        network = load_checkpoint(checkpoint, "avg").network
        expected = 100 * network(torch.from_numpy(views).permute(0, 3, 1, 2).float() / 255).numpy()
    with OnnxBackend(bundle.model_path()) as backend:
        np.testing.assert_allclose(backend.infer(views), expected, atol=0.01)
    again = fthnet(*arguments)
    assert again.returncode == 3
    assert "--replace" in again.stderr
    assert fthnet(*arguments, "--replace").returncode == 0


def test_wrong_checkpoints_leave_no_bundle(tmp_path: Path, fthnet) -> None:
    (tmp_path / "text.pth").write_text("hello")
    for name in ("text.pth", "missing.pth"):
        done = fthnet("export", tmp_path / name, "-o", tmp_path / "bundle")
        assert done.returncode == 4
        assert len(done.stderr.splitlines()) == 1
        assert not (tmp_path / "bundle").exists()
