"""Whose a bundle is: what one key has signed is accepted, and nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fthnet_kit.edge import Bundle, BundleError, InputError, MissingExtraError, QualityScorer
from fthnet_kit.edge.cli.main import group
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.inference.engine_manifest import load_engine
from fthnet_kit.edge.model.bundle import FP32_NAME
from fthnet_kit.edge.model.card import CARD_NAME
from fthnet_kit.edge.trust.keys import key_id, make_key, read_private_key, read_public_key
from fthnet_kit.edge.trust.manifest import MANIFEST_NAME, OWN_NAMES, SIGNATURE_NAME, SignedManifest, sign_manifest
from fthnet_kit.edge.trust.policy import VARIABLE
from fthnet_kit.edge.trust.releases import RELEASES_NAME
from tests.conftest import ROOT, make_card

pytest.importorskip("cryptography", reason="needs the extra [sign]")
pytest.importorskip("onnx", reason="needs the extra [convert]")
from tests.edge.model.graphs import constant_graph, put_graph

RETINA = ROOT / "edge" / "assets" / "retina.jpg"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A device that has accepted nothing yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.delenv(VARIABLE, raising=False)
    return tmp_path / "state" / "fthnet"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A private key; its public half lies beside it."""
    make_key(tmp_path / "maker")
    return tmp_path / "maker"


@pytest.fixture
def public(key: Path) -> Path:
    return key.with_suffix(".pub")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A small bundle whose graph says 50 of every picture."""
    return make_bundle(tmp_path / "bundle")


def make_bundle(folder: Path) -> Path:
    (folder / "reports").mkdir(parents=True)
    (folder / "reports" / "accuracy.json").write_text("{}")
    graph = constant_graph(50).SerializeToString()
    (folder / FP32_NAME).write_bytes(graph)
    card = make_card(files={FP32_NAME: hashlib.sha256(graph).hexdigest()})
    (folder / CARD_NAME).write_text(card.to_json())
    return folder


def sign(bundle: Path, key: Path, release: int = 1) -> SignedManifest:
    card = Bundle.open(bundle).card
    return sign_manifest(bundle, read_private_key(key), card.name, card.version, release)


def refusal(bundle: Path, public: Path) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.open(bundle, public)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_signed_bundle_is_accepted_and_says_whose_it_is(bundle: Path, key: Path, public: Path) -> None:
    sign(bundle, key, 7)
    opened = Bundle.open(str(bundle), str(public))
    assert opened.card.title == f"test 1 (signed by {key_id(read_public_key(public))}, release 7)"


def test_without_a_key_nobody_vouches(bundle: Path, key: Path, photograph: Image) -> None:
    assert Bundle.open(bundle).card.title == "test 1 (intact, unsigned)"
    with QualityScorer.from_bundle(bundle) as scorer:
        found = scorer.score(photograph)
    assert found.algorithm is not None
    assert found.algorithm.parameters.endswith(";bundle=intact, unsigned")
    sign(bundle, key)
    assert Bundle.open(bundle).card.origin == "intact, its signature not checked"


def test_unsigned_is_refused(bundle: Path, public: Path) -> None:
    assert "found it unsigned" in refusal(bundle, public)


@pytest.mark.parametrize("name", OWN_NAMES)
def test_half_a_signature_is_none(bundle: Path, key: Path, public: Path, name: str) -> None:
    sign(bundle, key)
    (bundle / name).unlink()
    assert "found it unsigned" in refusal(bundle, public)


def test_a_graph_that_was_replaced_with_its_hash_is_refused(
    bundle: Path, key: Path, public: Path, photograph: Image
) -> None:
    sign(bundle, key)
    put_graph(bundle, constant_graph(99).SerializeToString())
    with QualityScorer.from_bundle(bundle) as scorer:  # without a key it is good, and nobody vouches for it
        assert scorer.score(photograph).value == 99
    assert "as signed, found" in refusal(bundle, public)


@pytest.mark.parametrize("name", [CARD_NAME, FP32_NAME, "reports/accuracy.json"])
def test_an_altered_file_is_refused(bundle: Path, key: Path, public: Path, name: str) -> None:
    sign(bundle, key)
    content = bytearray((bundle / name).read_bytes())
    content[-1] ^= 1
    (bundle / name).write_bytes(content)
    assert name in refusal(bundle, public)


@pytest.mark.parametrize("name", [FP32_NAME, "reports/accuracy.json"])
def test_an_incomplete_bundle_is_refused(bundle: Path, key: Path, public: Path, name: str) -> None:
    sign(bundle, key)
    (bundle / name).unlink()
    assert f"{name}: expected a file that was signed, found none: the bundle is incomplete" in refusal(bundle, public)


def test_a_file_that_was_added_is_refused(bundle: Path, key: Path, public: Path) -> None:
    sign(bundle, key)
    (bundle / "reports" / "more.json").write_text("{}")
    assert "more.json: expected a file that the signature covers" in refusal(bundle, public)


def test_another_key_is_refused(bundle: Path, public: Path, tmp_path: Path) -> None:
    make_key(tmp_path / "eve")
    sign(bundle, tmp_path / "eve")
    stranger = key_id(read_public_key(tmp_path / "eve.pub"))
    assert refusal(bundle, public).endswith(f"found the unknown key {stranger}")


def test_another_key_that_claims_to_be_the_right_one_is_refused(
    bundle: Path, key: Path, public: Path, tmp_path: Path
) -> None:
    make_key(tmp_path / "eve")
    honest = sign(bundle, key)
    sign(bundle, tmp_path / "eve", 2)
    found = SignedManifest.from_bytes((bundle / MANIFEST_NAME).read_bytes(), "")
    (bundle / MANIFEST_NAME).write_bytes(dataclasses.replace(found, key=honest.key).to_bytes())
    assert "found that its manifest was altered" in refusal(bundle, public)


def test_a_manifest_with_another_release_is_refused(bundle: Path, key: Path, public: Path) -> None:
    manifest = sign(bundle, key, 1)
    (bundle / MANIFEST_NAME).write_bytes(dataclasses.replace(manifest, release=9).to_bytes())
    assert "altered" in refusal(bundle, public)


@pytest.mark.parametrize("content", [b"", b"\0" * 63, b"\0" * 64, b"\0" * 65])
def test_a_signature_that_is_none_is_refused(bundle: Path, key: Path, public: Path, content: bytes) -> None:
    sign(bundle, key)
    (bundle / SIGNATURE_NAME).write_bytes(content)
    refusal(bundle, public)


def test_an_older_release_is_refused_the_same_and_a_later_one_not(
    bundle: Path, key: Path, public: Path, tmp_path: Path, state: Path
) -> None:
    sign(bundle, key, 4)
    old = shutil.copytree(bundle, tmp_path / "old")
    sign(bundle, key, 5)
    for _ in range(2):
        assert Bundle.open(bundle, public).signed is not None
    assert "expected release 5 or later of test, found release 4" in refusal(old, public)
    assert list(json.loads((state / RELEASES_NAME).read_text()).values()) == [5]


@pytest.mark.parametrize("text", ["", "[]", '{"a": "b"}', "{"])
def test_a_damaged_note_of_releases_is_told(bundle: Path, key: Path, public: Path, state: Path, text: str) -> None:
    sign(bundle, key)
    state.mkdir(parents=True)
    (state / RELEASES_NAME).write_text(text)
    assert RELEASES_NAME in refusal(bundle, public)


def test_releases_that_cannot_be_noted_are_told(
    bundle: Path, key: Path, public: Path, state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sign(bundle, key)
    state.mkdir(parents=True)
    (state / f".{RELEASES_NAME}.tmp").mkdir()  # where the note would be written first
    with caplog.at_level(logging.WARNING):
        assert Bundle.open(bundle, public).signed is not None
    assert "releases cannot be noted" in caplog.text


# Engines


def test_an_engine_must_be_covered(bundle: Path, key: Path, public: Path) -> None:
    from tests.edge.test_engine_manifest import ORIN, install

    sign(bundle, key)
    engine = install(Bundle.open(bundle), "fp32", ORIN)
    assert load_engine(Bundle.open(bundle), "fp32", ORIN)[0]
    with pytest.raises(BundleError, match="expected a file that the signature covers"):
        load_engine(Bundle.open(bundle, public), "fp32", ORIN)
    sign(bundle, key)
    assert load_engine(Bundle.open(bundle, public), "fp32", ORIN)[0]
    install(Bundle.open(bundle), "fp32", ORIN, b"another, with a manifest that fits")
    with pytest.raises(BundleError, match=r"fthnet\.fp32\.json: expected .* as signed"):
        load_engine(Bundle.open(bundle, public), "fp32", ORIN)
    assert engine.is_file()


# Keys


def test_a_private_key_is_its_owners(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        make_key(tmp_path / "maker")
    finally:
        os.umask(old)
    assert (tmp_path / "maker").stat().st_mode & 0o777 == 0o600


def test_a_key_is_never_replaced(key: Path) -> None:
    before = key.read_bytes()
    with pytest.raises(InputError, match="File exists"):
        make_key(key)
    assert key.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_a_file_that_is_no_key_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    for read in (read_public_key, read_private_key):
        with pytest.raises(InputError) as caught:
            read(tmp_path / "key")
        assert "\n" not in str(caught.value)


def test_without_the_extra_it_is_named(bundle: Path, public: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cryptography", None)
    with pytest.raises(MissingExtraError, match=r"fthnet-edge-kit\[sign\]"):
        Bundle.open(bundle, public)


@given(st.binary(max_size=300) | st.text(alphabet='{}[]":,0123abcfilesnm', max_size=80).map(str.encode))
def test_what_is_no_manifest_is_refused_in_one_line(content: bytes) -> None:
    with pytest.raises(BundleError) as caught:
        SignedManifest.from_bytes(content, "here")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c | {"release": 0},
        lambda c: c | {"release": True},
        lambda c: c | {"release": "1"},
        lambda c: c | {"more": 1},
        lambda c: c | {"schema": 2},
        lambda c: c | {"files": {"../a": {"bytes": 1, "sha256": "0" * 64}}},
        lambda c: c | {"files": {"a": {"bytes": -1, "sha256": "0" * 64}}},
        lambda c: c | {"files": {"a": {"bytes": 1, "sha256": "0"}}},
        lambda c: c | {"files": []},
    ],
)
def test_a_manifest_out_of_form_is_refused(change: Callable[[dict], dict]) -> None:
    sound = SignedManifest("a", "1", 1, "k", "t", {}).to_bytes()
    assert SignedManifest.from_bytes(sound, "").release == 1
    content = json.dumps(change(json.loads(sound)), sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(BundleError):
        SignedManifest.from_bytes(content, "")


# The command line


def test_the_commands(fthnet: Callable, tmp_path: Path, bundle: Path) -> None:
    key, public = tmp_path / "k", tmp_path / "k.pub"
    assert "id " in fthnet("bundle", "keygen", key).stdout
    unsigned = fthnet("score", RETINA, "--bundle", bundle, "--require-signature", public)
    assert (unsigned.returncode, unsigned.stdout) == (4, "")
    assert "found it unsigned" in unsigned.stderr
    signed = fthnet("bundle", "sign", bundle, "--key", key, "--release", 3)
    assert signed.returncode == 0, signed.stderr
    assert "release 3" in fthnet("bundle", "verify", bundle, "--key", public).stdout
    assert "states, unchecked: signed by" in fthnet("bundle", "show", bundle).stdout
    done = fthnet("score", RETINA, "--bundle", bundle, "--json", "--require-signature", public)
    assert json.loads(done.stdout)["algorithm"]["parameters"].endswith("release 3")
    put_graph(bundle, constant_graph(99).SerializeToString())
    assert fthnet("bundle", "verify", bundle, "--key", public).returncode == 4
    altered = fthnet("score", RETINA, "--bundle", bundle, env={**os.environ, VARIABLE: str(public)})
    assert (altered.returncode, altered.stdout) == (4, "")


def test_a_configuration_can_ask_for_a_signature(
    fthnet: Callable, tmp_path: Path, bundle: Path, key: Path, public: Path
) -> None:
    config = tmp_path / "fthnet.toml"
    config.write_text(
        '[camera]\nsource = "sim:?seconds=1&fps=4&realtime=0"\n'
        f'[model]\nbundle = "{bundle}"\nrequire_signature = "{public}"\n'
    )
    refused = fthnet("run", "--config", config)
    assert refused.returncode == 4
    assert "found it unsigned" in refused.stderr
    sign(bundle, key, 2)
    accepted = fthnet("run", "--config", config)
    assert accepted.returncode == 0, accepted.stderr
    assert ", release 2)" in accepted.stdout


MAKES_A_BUNDLE = {"export", "train"}


def commands(found: click.Command, name: str = "") -> list[tuple[str, click.Command]]:
    if not isinstance(found, click.Group):
        return [(name, found)]
    context = click.Context(found)
    below = [(each, found.get_command(context, each)) for each in found.list_commands(context)]
    return [entry for each, command in below if command for entry in commands(command, f"{name} {each}".strip())]


def test_every_command_that_loads_a_bundle_can_ask_for_a_signature() -> None:
    loading = {
        name: {parameter.name for parameter in command.params}
        for name, command in commands(group)
        if any(parameter.name == "bundle" for parameter in command.params)
        and name not in MAKES_A_BUNDLE
        and not name.startswith("bundle ")
    }
    assert {"run", "score", "doctor", "build", "bench latency", "thresholds"} <= set(loading)
    assert [name for name, options in loading.items() if "require_signature" not in options] == []
