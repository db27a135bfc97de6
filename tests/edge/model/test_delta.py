"""Files of a bundle that lie there as what is different from another one."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fthnet_kit.edge import Bundle, BundleError
from fthnet_kit.edge.inference.open_backend import open_backend
from fthnet_kit.edge.model import delta
from fthnet_kit.edge.model.bundle import shipped_bundle
from fthnet_kit.edge.trust.keys import make_key, read_private_key
from fthnet_kit.edge.trust.manifest import sign_manifest

MOST = 1 << 20
RUN = st.binary(min_size=150, max_size=200)


@given(
    st.lists(RUN, min_size=3, max_size=3),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40), st.binary(max_size=9)), max_size=8),
)
@settings(max_examples=60)
def test_what_is_made_is_restored(runs: list[bytes], pieces: list[tuple[int, int, bytes]]) -> None:
    base = b"".join(runs)
    content = b"".join(runs[which][cut:] + new for which, cut, new in pieces)
    found = delta.make(content, base, "base.onnx")
    assert delta.base_of(found) == "base.onnx"
    assert delta.restore(found, base, MOST) == content


def test_what_repeats_is_not_held_again() -> None:
    base = b"".join(number.to_bytes(4, "big") for number in range(5000))
    content = b"new" + base[101:9000] + b"other" + base[:5000]
    assert len(delta.make(content, base, "a")) < 200


@given(st.binary(max_size=120))
def test_what_is_no_delta_is_refused_and_nothing_else_happens(noise: bytes) -> None:
    for content in (noise, b"fthnet-delta 1 a 40\n" + noise):
        with contextlib.suppress(ValueError):
            assert len(delta.restore(content, bytes(64), MOST)) == 40


def test_a_delta_of_too_much_is_refused_before_it_is_restored() -> None:
    with pytest.raises(ValueError, match="at most"):
        delta.restore(b"fthnet-delta 1 a 9999999999\n", b"", MOST)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped bundle as the wheel holds it."""
    folder = shutil.copytree(shipped_bundle(), tmp_path_factory.mktemp("wheel") / "demo")
    delta.pack(folder)
    return folder


def test_a_packed_bundle_holds_the_same_bytes(packed: Path) -> None:
    assert not any((packed / name).exists() for name in delta.PACKED)
    assert sum((packed / (name + delta.SUFFIX)).stat().st_size for name in delta.PACKED) < 1_000_000
    bundle = Bundle.open(packed)
    for name in delta.PACKED:
        assert bundle.read(name) == (shipped_bundle() / name).read_bytes()
    with open_backend(bundle, "int8", "onnxruntime") as backend:
        assert backend.describe()["library"]


def altered(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def cut(content: bytes) -> bytes:
    return content[:-1]


def of_another_base(content: bytes) -> bytes:
    return content.replace(b"fthnet.int8.onnx", b"fthnet.none.onnx", 1)


def noise(content: bytes) -> bytes:
    return content[::-1]


@pytest.mark.parametrize("harm", [altered, cut, of_another_base, noise])
def test_a_damaged_delta_is_named(packed: Path, tmp_path: Path, harm: object) -> None:
    folder = shutil.copytree(packed, tmp_path / "bundle")
    path = folder / "fthnet.int8-cpu.onnx.delta"
    path.write_bytes(harm(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(BundleError, match=r"fthnet\.(int8-cpu|none)\.onnx.*expected .* found .*copy the bundle again"):
        Bundle.open(folder)


def test_a_signature_covers_deltas_as_they_lie(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cryptography")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = shutil.copytree(packed, tmp_path / "bundle")
    public = make_key(tmp_path / "maker")
    card = Bundle.open(folder).card
    sign_manifest(folder, read_private_key(tmp_path / "maker"), card.name, card.version, 1)
    assert Bundle.open(folder, public).read("fthnet.fp16.onnx") == (shipped_bundle() / "fthnet.fp16.onnx").read_bytes()
    path = folder / "fthnet.fp16.onnx.delta"
    shutil.copy(shipped_bundle() / "fthnet.fp16.onnx", folder)  # the same model, but nobody signed this file
    with pytest.raises(BundleError, match="a file that the signature covers"):
        Bundle.open(folder, public)
    path.unlink()
    with pytest.raises(BundleError, match="the bundle is incomplete"):
        Bundle.open(folder, public)


def test_a_file_that_lies_there_is_read_whatever_its_delta_says(packed: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(packed, tmp_path / "bundle")
    name = "fthnet.fp16.onnx"
    (folder / (name + delta.SUFFIX)).write_bytes(b"noise")
    shutil.copy(shipped_bundle() / name, folder)
    assert Bundle.open(folder).read(name) == (shipped_bundle() / name).read_bytes()
