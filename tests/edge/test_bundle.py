"""Bundles: what is whole opens, what was altered does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fthnet_kit.edge import Bundle, BundleError, EngineError, ModelCard, QualityScorer, Thresholds
from fthnet_kit.edge.model.bundle import FP32_NAME, shipped_bundle
from fthnet_kit.edge.model.card import CARD_NAME
from tests.conftest import make_card


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return shutil.copytree(shipped_bundle(), tmp_path / "bundle")


def change_card(bundle: Path, **changes: object) -> None:
    card = json.loads((bundle / CARD_NAME).read_text())
    (bundle / CARD_NAME).write_text(json.dumps({**card, **changes}))


def test_the_shipped_bundle_is_whole_and_says_what_it_is() -> None:
    bundle = Bundle.open()
    assert "demonstration" in bundle.card.intended_use.lower()
    assert bundle.card.training_data
    assert {FP32_NAME, "checkpoint.safetensors"} <= set(bundle.card.files)
    assert bundle.card.accuracy
    assert bundle.model_path() == shipped_bundle() / FP32_NAME


def test_card_round_trips_byte_for_byte() -> None:
    text = (shipped_bundle() / CARD_NAME).read_text()
    assert ModelCard.from_json(text).to_json() == text


@pytest.mark.parametrize("where", [0, -1])
def test_one_flipped_bit_is_found(copy: Path, where: int) -> None:
    content = bytearray((copy / FP32_NAME).read_bytes())
    content[where] ^= 1
    (copy / FP32_NAME).write_bytes(content)
    with pytest.raises(BundleError, match=r"SHA-256.*altered or damaged"):
        QualityScorer.from_bundle(copy)


def test_a_missing_file_is_named(copy: Path) -> None:
    (copy / FP32_NAME).unlink()
    with pytest.raises(BundleError, match=FP32_NAME):
        Bundle.open(copy)


def test_no_folder_and_no_card(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"expected a bundle, found no such folder"):
        Bundle.open(tmp_path / "none")
    with pytest.raises(BundleError, match=r"found none; `fthnet export` makes one"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"surprise": 1}, "surprise"),
        ({"schema": 2}, "schema"),
        ({"preprocessing": {"field_crop": "round", "normalisation": "imagenet", "views": 1, "seed": 0}}, "field_crop"),
        ({"thresholds": {"usable": 70, "good": 30}}, "usable <= good"),
        ({"files": {"../escape.onnx": "0" * 64}}, "escape"),
        ({"files": {"fthnet.fp32.onnx": "short"}}, "files"),
        ({"name": ""}, "name"),
    ],
)
def test_wrong_cards_are_refused_with_the_key(copy: Path, changes: dict, message: str) -> None:
    change_card(copy, **changes)
    with pytest.raises(BundleError, match=message) as caught:
        Bundle.open(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", "no json", "\x00"])
def test_no_card_at_all(copy: Path, text: str) -> None:
    (copy / CARD_NAME).write_text(text)
    with pytest.raises(BundleError, match=r"model_card.json"):
        Bundle.open(copy)


def test_thresholds() -> None:
    thresholds = Thresholds(usable=40, good=60)
    assert [thresholds.verdict(v) for v in (0, 39.9, 40, 59.9, 60, 100)] == [
        "reject", "reject", "usable", "usable", "good", "good",
    ]  # fmt: skip


def test_a_backend_is_never_replaced_in_silence() -> None:
    with pytest.raises(EngineError, match=r"provider tensorrt: expected TensorrtExecutionProvider"):
        QualityScorer.from_bundle(backend="onnxruntime-tensorrt")


def test_card_names_every_field_of_the_schema() -> None:
    assert ModelCard.from_json(make_card().to_json()) == make_card()
