"""The SBOM inside the wheel: valid, and of the very files that lie there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

pytest.importorskip("setuptools", minversion="77")
pytest.importorskip("cyclonedx")

from fthnet_kit.bench.dossier.wheel_sbom import wheel_sbom

METADATA = "Metadata-Version: 2.4\nName: fthnet-edge-kit\nVersion: 9.8\nLicense-Expression: Apache-2.0\n\ntext\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What goes into a wheel, in small."""
    demo, assets = (tmp_path / "fthnet_kit" / "edge" / name for name in ("demo", "assets"))
    for folder in (demo / "reports", assets):
        folder.mkdir(parents=True)
    card = {"name": "m", "version": "2", "manufacturer": "us", "weights_sha256": "0" * 64, "intended_use": "tests"}
    (demo / "model_card.json").write_text(json.dumps(card))
    (demo / "a.onnx").write_bytes(b"graph")
    (demo / "reports" / "r.json").write_bytes(b"{}")
    (assets / "retina.jpg").write_bytes(b"picture")
    return tmp_path


def test_it_is_valid_and_names_every_file_of_the_model(root: Path) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = wheel_sbom(METADATA, root).decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    found = json.loads(text)
    assert found["metadata"]["component"]["version"] == "9.8"
    model, photograph = found["components"]
    hashes = {each["name"]: each["hashes"][0]["content"] for each in model["components"]}
    assert set(hashes) == {"a.onnx", "model_card.json", "reports/r.json"}
    assert hashes["a.onnx"] == hashlib.sha256(b"graph").hexdigest()
    assert photograph["licenses"] == [{"license": {"id": "CC0-1.0"}}]


def test_the_same_wheel_has_the_same_sbom_and_another_another(root: Path) -> None:
    first = wheel_sbom(METADATA, root)
    assert wheel_sbom(METADATA, root) == first
    (root / "fthnet_kit" / "edge" / "demo" / "a.onnx").write_bytes(b"other")
    assert json.loads(wheel_sbom(METADATA, root))["serialNumber"] != json.loads(first)["serialNumber"]
