"""Checkpoints of others: each is loaded or refused in one line, within the memory of its own size."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from fthnet_kit.convert.network.checkpoint import CONFIG_KEY, load_checkpoint, save_checkpoint  # noqa: E402
from fthnet_kit.convert.network.config import FTHNetConfig  # noqa: E402
from fthnet_kit.convert.network.fthnet import FTHNet  # noqa: E402
from fthnet_kit.edge.errors import BundleError  # noqa: E402
from tests.fuzzing import explore, explore_long  # noqa: E402

TINY = FTHNetConfig(embed_dim=8, num_heads=(1, 1, 1, 1), depths=(1, 1, 1, 1), tap_channels=8, target_in=32, hyper_in=16)
FEW = 60


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    return FTHNet(TINY).state_dict()


def resident_mb() -> int:
    """The most memory that this process has held so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) // 1024
    return 0


def refused_within(path: Path, match: str) -> None:
    """Refused in one line, for less memory than ten times the file, and 100 MB for PyTorch itself."""
    before = resident_mb()
    with pytest.raises(BundleError, match=match) as refused:
        load_checkpoint(path, "soft")
    assert "\n" not in str(refused.value)
    assert resident_mb() - before < 100 + 10 * path.stat().st_size / 1e6


def test_a_file_that_unpacks_to_gigabytes_is_refused_unread(tmp_path: Path, state: dict[str, Any]) -> None:
    plain = tmp_path / "plain.pth"
    torch.save({**state, "x": torch.zeros(4_000_000)}, plain)
    packed = tmp_path / "packed.pth"
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
        target.writestr("archive/data/999", bytes(2_000_000_000 // 4))
    refused_within(packed, "expected tensors as PyTorch writes them, found .* bytes packed into")


def test_a_tensor_that_repeats_its_bytes_is_refused(tmp_path: Path, state: dict[str, Any]) -> None:
    torch.save({**state, "conv1x1.0.0.weight": torch.zeros(1).expand(1_000_000_000)}, tmp_path / "a.pth")
    refused_within(tmp_path / "a.pth", "expected a plain tensor, found another kind")


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("bbone.patch_embed.proj.weight", (200_000, 1, 1, 1)),
        ("bbone.fcl_fc.0.weight", (300_000, 1)),
        ("conv1x1.0.0.weight", (500_000, 1)),
        ("bbone.layers.0.blocks.900000000.x", (1,)),
    ],
)
def test_a_small_file_that_describes_a_huge_network_is_refused(
    tmp_path: Path, state: dict[str, Any], key: str, shape: tuple[int, ...]
) -> None:
    torch.save({**state, key: torch.zeros(shape)}, tmp_path / "a.pth")
    refused_within(tmp_path / "a.pth", "expected|surplus|missing")


@pytest.mark.parametrize("value", [torch.zeros(3).to_sparse(), torch.zeros(3, dtype=torch.complex64), 3, "x", None, []])
def test_what_is_no_plain_tensor_is_refused(tmp_path: Path, state: dict[str, Any], value: Any) -> None:
    for content in ({**state, "conv1x1.0.0.weight": value}, {**state, 7: torch.zeros(1)}, {"params": value}, value):
        torch.save(content, tmp_path / "a.pth")
        refused_within(tmp_path / "a.pth", "expected")


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def safetensors(draw: st.DrawFn, valid: bytes) -> bytes:
    """A file with other metadata, with a member of its header replaced, or with bytes overwritten."""
    (length,) = struct.unpack("<Q", valid[:8])
    header, body = json.loads(valid[8 : 8 + length]), valid[8 + length :]
    kind = draw(st.sampled_from(["config", "config", "header", "bytes", "length"]))
    if kind == "config":
        config = json.loads(header["__metadata__"][CONFIG_KEY])
        config[draw(st.sampled_from([*config, "x"]))] = draw(JSON)
        text = draw(st.sampled_from([json.dumps(config), json.dumps(draw(JSON)), "[" * 3000, draw(st.text())]))
        header["__metadata__"] = {CONFIG_KEY: text, **draw(st.sampled_from([{}, {"pool": "max"}]))}
    elif kind == "header":
        name = draw(st.sampled_from(sorted(header)))
        header[name] = draw(st.one_of(JSON, st.just({"dtype": "F4", "shape": [1 << 40], "data_offsets": [0, 4]})))
    text = json.dumps(header).encode()
    out = struct.pack("<Q", len(text) if kind != "length" else draw(st.integers(0, 2**64 - 1))) + text + body
    if kind == "bytes":
        at = draw(st.integers(0, len(text) + 64))
        out = out[:at] + draw(st.binary(min_size=1, max_size=8)) + out[at + 4 :]
    return out


@st.composite
def pickles(draw: st.DrawFn, valid: bytes) -> bytes:
    """A PyTorch file cut short or with bytes overwritten, in the pickle more often than in the tensors."""
    at = draw(st.integers(0, draw(st.sampled_from([4000, 20_000, len(valid)]))))
    if draw(st.booleans()):
        return valid[:at] + draw(st.binary(min_size=1, max_size=8)) + valid[at + draw(st.integers(0, 8)) :]
    return valid[:at]


def cases(kind: str, valid: bytes) -> tuple[st.SearchStrategy[bytes], Callable[[bytes, Path], object]]:
    """Damaged files of one kind, and what reads them."""

    def load(content: bytes, folder: Path) -> object:
        path = folder / f"a.{kind}"
        path.write_bytes(content)
        return load_checkpoint(path, "soft")

    return safetensors(valid) if kind == "safetensors" else pickles(valid), load


@pytest.fixture(scope="module", params=["safetensors", "pth", "old pth"])
def valid(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    network, path = FTHNet(TINY), tmp_path_factory.mktemp("valid") / "a"
    if request.param == "safetensors":
        save_checkpoint(network, path)
    else:
        torch.save(network.state_dict(), path, _use_new_zipfile_serialization=request.param == "pth")
    return request.param.split()[-1], path.read_bytes()


@pytest.mark.slow
def test_damaged_checkpoints_are_loaded_or_refused(valid: tuple[str, bytes]) -> None:
    before = resident_mb()
    assert explore(*cases(*valid), FEW, 1) >= FEW // 2
    assert resident_mb() - before < 300


@pytest.mark.long
def test_checkpoints_for_ten_minutes(valid: tuple[str, bytes]) -> None:
    tried = explore_long(*cases(*valid), 200)
    print(f"checkpoint {valid[0]}: {tried} cases, 0 escapes")
