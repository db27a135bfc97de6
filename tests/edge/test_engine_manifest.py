"""An engine is loaded whole and where it belongs, or refused with the reason and the command that mends it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fthnet_kit.edge import Bundle, BundleError, EngineError
from fthnet_kit.edge.inference.engine_manifest import (
    EngineManifest,
    Target,
    build_command,
    engine_path,
    load_engine,
    sources,
)
from fthnet_kit.edge.model.bundle import CONVERTED_NAMES, FP32_NAME, sha256_of
from fthnet_kit.edge.model.card import CARD_NAME
from tests.conftest import make_card

RANGES_NAME = "reports/ranges.json"
ORIN = Target("tensorrt", "10.3.0", "8.7", "Orin", 8)
ENGINE = bytes(range(256)) * 4  # what is in it is TensorRT's affair
PRECISIONS = ("fp32", "fp16", "int8")
IN_PLACE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # each example puts everything back
HOLDS = {"holds": True, "images": 32, "mean": 0.01, "p99": 0.1, "worst": 0.2, "shift": 0.0, "srcc": 1.0, "flips": 0}


def make_bundle(folder: Path) -> Path:
    """A bundle with files of every precision; none of them is looked into."""
    (folder / "reports").mkdir(parents=True)
    names = [FP32_NAME, CONVERTED_NAMES["fp16"], CONVERTED_NAMES["int8"], RANGES_NAME]
    for name in names:
        (folder / name).write_text(name)
    card = make_card(
        files={name: sha256_of(folder / name) for name in names},
        precisions={"fp16": HOLDS, "int8": {**HOLDS, "int8_macs": 0.6}},
    )
    (folder / CARD_NAME).write_text(card.to_json())
    return folder


def install(bundle: Bundle, precision: str, target: Target, content: bytes = ENGINE, **changes: Any) -> Path:
    """An engine and its manifest, as a build for a target leaves them."""
    path = engine_path(bundle, precision, target)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    manifest = EngineManifest(
        engine_sha256=hashlib.sha256(content).hexdigest(),
        engine_bytes=len(content),
        **sources(bundle, precision),  # type: ignore[arg-type]
        precision=precision,
        batch=1,
        target=target,
        machine={"cuda": "12.6", "jetpack": None},
        options={"workspace_mib": 512},
        layers={"macs": {"fp16": 1.0}},
        kit_version="0.1.0",
        built_at="2026-01-01T00:00:00+00:00",
    )
    path.with_suffix(".json").write_text(dataclasses.replace(manifest, **changes).to_json())
    return path


def refusal(bundle: Bundle, precision: str = "fp16", target: Target = ORIN, batch: int = 1) -> str:
    """Why an engine is refused; always one line that ends in the command that builds it anew."""
    with pytest.raises(EngineError) as caught:
        load_engine(bundle, precision, target)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(build_command(bundle, precision, batch)), message
    return message


def change_manifest(engine: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(engine.with_suffix(".json").read_text())
    change(content)
    engine.with_suffix(".json").write_text(json.dumps(content))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.open(make_bundle(tmp_path / "bundle"))


@pytest.fixture
def engine(bundle: Bundle) -> Path:
    return install(bundle, "fp16", ORIN)


# What fits is loaded


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("batch", [1, 8])
def test_an_engine_that_fits_is_loaded_whole(bundle: Bundle, precision: str, batch: int) -> None:
    install(bundle, precision, ORIN, batch=batch)
    content, manifest = load_engine(bundle, precision, ORIN)
    assert content == ENGINE
    assert (manifest.precision, manifest.batch, manifest.target) == (precision, batch, ORIN)


def test_a_manifest_is_read_as_it_was_written(engine: Path) -> None:
    text = engine.with_suffix(".json").read_text()
    manifest = EngineManifest.read(engine.with_suffix(".json"))
    assert manifest.to_json() == text
    assert manifest.target == ORIN
    assert manifest.agreement is None


@pytest.mark.parametrize("absent", ["gpu", "multiprocessors"])
def test_what_an_absent_gpu_did_not_tell_is_not_compared(bundle: Bundle, absent: str) -> None:
    install(bundle, "fp16", dataclasses.replace(ORIN, **{absent: None}))
    assert load_engine(bundle, "fp16", ORIN)[0] == ENGINE


def test_engines_of_the_two_libraries_lie_apart(bundle: Bundle) -> None:
    rtx = Target("tensorrt_rtx", "1.7.1.116", "8.6")
    plain = Target("tensorrt", "10.3.0", "8.6")
    install(bundle, "fp16", rtx, b"rtx")
    install(bundle, "fp16", plain, b"plain")
    assert (rtx.key, plain.key, Target("tensorrt_rtx", "1", "12.0").key) == ("sm86-rtx", "sm86", "sm120-rtx")
    assert load_engine(bundle, "fp16", rtx)[0] == b"rtx"
    assert load_engine(bundle, "fp16", plain)[0] == b"plain"


def test_the_bundle_opens_with_engines_in_it(engine: Path, bundle: Bundle) -> None:
    assert Bundle.open(bundle.folder).card == bundle.card


# What differs is refused, by name

OTHER_HERE = {
    "library_version": "10.3.1",
    "gpu": "NVIDIA Jetson Orin Nano Super",
    "multiprocessors": 4,
}


@pytest.mark.parametrize("field", OTHER_HERE)
def test_another_machine_is_refused(bundle: Bundle, engine: Path, field: str) -> None:
    here = dataclasses.replace(ORIN, **{field: OTHER_HERE[field]})
    message = refusal(bundle, target=here)
    assert f"built for {field} {getattr(ORIN, field)} instead of {OTHER_HERE[field]};" in message
    assert str(engine) in message


@pytest.mark.parametrize(
    ("field", "value"), [("library", "tensorrt_rtx"), ("compute_capability", "8.6"), ("library_version", "10.3.0.30")]
)
def test_an_engine_in_the_wrong_folder_is_refused(bundle: Bundle, engine: Path, field: str, value: str) -> None:
    change_manifest(engine, lambda content: content["target"].update({field: value}))
    assert f"built for {field} {value} instead of {getattr(ORIN, field)};" in refusal(bundle)


@pytest.mark.parametrize("field", ["onnx_sha256", "card_sha256", "ranges_sha256"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_other_sources_are_refused(bundle: Bundle, precision: str, field: str) -> None:
    engine = install(bundle, precision, ORIN)
    change_manifest(engine, lambda content: content.update({field: "a" * 64}))
    message = refusal(bundle, precision)
    expected = sources(bundle, precision)[field]
    assert (expected is None) == (field == "ranges_sha256" and precision != "int8")
    told = "None" if expected is None else f"{expected[:12]}…"
    assert f"built for {field} aaaaaaaaaaaa… instead of {told};" in message


def test_another_precision_is_refused(bundle: Bundle, engine: Path) -> None:
    change_manifest(engine, lambda content: content.update(precision="fp32"))
    assert "built for precision fp32 instead of fp16;" in refusal(bundle)


@pytest.mark.parametrize("name", [CONVERTED_NAMES["int8"], RANGES_NAME])
def test_a_bundle_that_was_quantised_again_has_a_stale_engine(bundle: Bundle, name: str) -> None:
    install(bundle, "int8", ORIN)
    (bundle.folder / name).write_text("made anew")
    card = bundle.card.with_files({**bundle.card.files, name: sha256_of(bundle.folder / name)})
    (bundle.folder / CARD_NAME).write_text(card.to_json())
    message = refusal(Bundle.open(bundle.folder), "int8")
    assert "card_sha256" in message
    assert ("ranges_sha256" if name == RANGES_NAME else "onnx_sha256") in message


def test_a_changed_card_alone_makes_an_engine_stale(bundle: Bundle, engine: Path) -> None:
    (bundle.folder / CARD_NAME).write_text(bundle.card.to_json() + "\n")
    message = refusal(Bundle.open(bundle.folder))
    assert "built for card_sha256" in message
    assert "onnx" not in message.split(";")[0]


def test_all_that_differs_is_told_at_once(bundle: Bundle, engine: Path) -> None:
    message = refusal(bundle, target=dataclasses.replace(ORIN, **OTHER_HERE))  # type: ignore[arg-type]
    assert all(f"{field} " in message for field in OTHER_HERE)


def test_a_rebuild_keeps_the_batch(bundle: Bundle) -> None:
    install(bundle, "fp16", ORIN, batch=8)
    here = dataclasses.replace(ORIN, gpu="another")
    assert "--batch 8" in refusal(bundle, target=here, batch=8)


def test_a_bundle_with_spaces_gets_a_command_that_runs(tmp_path: Path) -> None:
    bundle = Bundle.open(make_bundle(tmp_path / "my bundle's"))
    command = shlex.split(refusal(bundle).partition("build")[2].partition(": ")[2])
    assert command == ["fthnet", "build", str(bundle.folder), "--precision", "fp16"]


def test_no_engine_names_those_of_other_gpus(bundle: Bundle) -> None:
    assert "expected an engine for sm87, found none;" in refusal(bundle)
    install(bundle, "fp16", Target("tensorrt_rtx", "1.7.1.116", "8.6"))
    install(bundle, "int8", Target("tensorrt", "10.13.3.9", "11.0"))
    message = refusal(bundle)
    assert "found engines/sm110/fthnet.int8.engine, engines/sm86-rtx/fthnet.fp16.engine;" in message


def test_a_precision_that_the_bundle_lacks_is_the_bundles_affair(bundle: Bundle, engine: Path) -> None:
    without = dataclasses.replace(bundle, card=dataclasses.replace(bundle.card, precisions={}))
    with pytest.raises(BundleError, match="fthnet quantize"):
        load_engine(without, "fp16", ORIN)


# Engines that are not what was built


@IN_PLACE
@given(st.integers(0, 8 * len(ENGINE) - 1))
def test_one_flipped_bit_is_refused(bundle: Bundle, engine: Path, bit: int) -> None:
    content = bytearray(ENGINE)
    content[bit // 8] ^= 1 << bit % 8
    engine.write_bytes(content)
    message = refusal(bundle)
    assert "altered, damaged or not finished" in message
    assert f"found {len(ENGINE)} bytes with another" in message


@pytest.mark.parametrize("content", [b"", ENGINE[:1], ENGINE[:-1], ENGINE + b"\0", b"another engine"])
def test_another_length_is_refused(bundle: Bundle, engine: Path, content: bytes) -> None:
    engine.write_bytes(content)
    assert f"expected {len(ENGINE)} bytes with SHA-256 " in refusal(bundle)
    assert f"found {len(content)} bytes" in refusal(bundle)


def test_a_hash_or_a_size_of_another_engine_is_refused(bundle: Bundle, engine: Path) -> None:
    for change in ({"engine_sha256": "0" * 64}, {"engine_bytes": len(ENGINE) + 1}):
        change_manifest(engine, lambda content, change=change: content.update(change))
        assert "the engine was altered" in refusal(bundle)
        install(bundle, "fp16", ORIN)


def test_two_engines_swapped_are_refused(bundle: Bundle) -> None:
    one = install(bundle, "fp16", ORIN, b"fp16's engine")
    other = install(bundle, "fp32", ORIN, b"fp32's engine")

    def swap(suffix: str) -> None:
        aside = one.with_name("aside")
        one.with_suffix(suffix).rename(aside)
        other.with_suffix(suffix).rename(one.with_suffix(suffix))
        aside.rename(other.with_suffix(suffix))

    swap(".engine")
    for precision in ("fp16", "fp32"):
        assert "the engine was altered" in refusal(bundle, precision)
    swap(".json")
    assert "precision fp32 instead of fp16" in refusal(bundle, "fp16")
    assert "precision fp16 instead of fp32" in refusal(bundle, "fp32")


def test_an_engine_of_another_bundle_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    make_bundle(tmp_path / "other")
    card = dataclasses.replace(bundle.card, version="2")
    (tmp_path / "other" / CARD_NAME).write_text(card.to_json())
    install(Bundle.open(tmp_path / "other"), "fp16", ORIN)
    shutil.copytree(tmp_path / "other" / "engines", bundle.folder / "engines")
    assert "card_sha256" in refusal(bundle)


def test_an_engine_without_its_manifest_is_refused(bundle: Bundle, engine: Path) -> None:
    engine.with_suffix(".json").unlink()
    message = refusal(bundle)
    assert str(engine.with_suffix(".json")) in message
    assert "expected an engine's manifest, found none" in message


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a file that opens and cannot be read")
def test_an_engine_that_cannot_be_read_is_refused(bundle: Bundle, engine: Path) -> None:
    engine.unlink()
    engine.symlink_to("/proc/self/mem")  # its first byte belongs to nobody
    assert engine.is_file()
    assert "expected an engine, found none that can be read" in refusal(bundle)


def test_folders_in_place_of_files_are_refused(bundle: Bundle, engine: Path) -> None:
    engine.with_suffix(".json").unlink()
    engine.with_suffix(".json").mkdir()
    assert "expected an engine's manifest, found none that can be read" in refusal(bundle)
    engine.unlink()
    engine.mkdir()
    assert "expected an engine for sm87, found " in refusal(bundle)


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
def test_a_link_that_leads_nowhere_is_no_engine(bundle: Bundle, engine: Path) -> None:
    engine.unlink()
    engine.symlink_to("nowhere")
    assert "expected an engine for sm87" in refusal(bundle)


# Manifests that are none


@pytest.mark.parametrize(
    "content", [b"", b"null", b"[]", b"{}", b"no json", b"\xff\xfe", b'{"schema": 1}', b"[" * 100_000, b"1" * 5000]
)
def test_a_manifest_that_is_none_is_refused(bundle: Bundle, engine: Path, content: bytes) -> None:
    engine.with_suffix(".json").write_bytes(content)
    assert str(engine.with_suffix(".json")) in refusal(bundle)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schema", 2),
        ("schema", "1"),
        ("surprise", 1),
        ("engine_sha256", "0" * 63),
        ("engine_sha256", None),
        ("engine_bytes", 0),
        ("engine_bytes", "1024"),
        ("onnx_sha256", 5),
        ("ranges_sha256", ""),
        ("precision", "fp8"),
        ("batch", 0),
        ("batch", [1]),
        ("target", None),
        ("target.library", "tensorflow"),
        ("target.compute_capability", "87"),
        ("target.gpu", 1),
        ("target.multiprocessors", "8"),
        ("target.surprise", 1),
        ("machine", {"cuda": 12}),
        ("layers", []),
        ("built_at", 0),
    ],
)
def test_a_manifest_of_another_form_is_refused_with_the_key(
    bundle: Bundle, engine: Path, key: str, value: object
) -> None:
    owner, _, name = key.rpartition(".")
    change_manifest(engine, lambda content: (content[owner] if owner else content).update({name: value}))
    assert name in refusal(bundle)


@pytest.mark.parametrize("key", ["schema", "engine_sha256", "engine_bytes", "ranges_sha256", "target", "layers"])
def test_a_manifest_that_lacks_a_key_is_refused(bundle: Bundle, engine: Path, key: str) -> None:
    change_manifest(engine, lambda content: content.pop(key))
    assert re.search(rf"'{key}' is a required property", refusal(bundle))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KEYS = [*sorted(field.name for field in dataclasses.fields(EngineManifest)), "schema"]


@IN_PLACE
@given(st.sampled_from(KEYS), json_values)
def test_whatever_a_manifest_says_an_engine_is_loaded_or_refused_in_one_line(
    bundle: Bundle, engine: Path, key: str, value: object
) -> None:
    install(bundle, "fp16", ORIN)
    change_manifest(engine, lambda content: content.update({key: value}))
    try:
        content, _ = load_engine(bundle, "fp16", ORIN)
    except EngineError as error:
        assert len(str(error).splitlines()) == 1
        assert "fthnet build" in str(error)
    else:
        assert content == ENGINE


@IN_PLACE
@given(st.text(), st.text())
def test_odd_names_stay_in_one_line(bundle: Bundle, engine: Path, gpu: str, key: str) -> None:
    engine = install(bundle, "fp16", dataclasses.replace(ORIN, gpu=gpu))
    assert len(refusal(bundle).splitlines()) == 1
    change_manifest(engine, lambda content: content["machine"].update({key: 1}))
    assert len(refusal(bundle).splitlines()) == 1


@IN_PLACE
@given(st.binary(max_size=40))
def test_whatever_stands_in_a_manifest_is_refused_in_one_line(bundle: Bundle, engine: Path, content: bytes) -> None:
    engine.with_suffix(".json").write_bytes(content)
    refusal(bundle)
