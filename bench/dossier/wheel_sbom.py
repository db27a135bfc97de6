"""Puts an SBOM into the wheel (PEP 770): what lies inside it that is not the kit's code, the model above all.

A command class of setuptools, for setup.py; nothing of the kit is imported, so that it works where only setuptools is
there. What is installed on a device is listed by `fthnet dossier`.
"""

from __future__ import annotations

import hashlib
import json
from email.parser import Parser
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from setuptools.command.bdist_wheel import bdist_wheel

FOLDER, NAME = "sboms", "fthnet-edge-kit.cdx.json"
MODEL = "fthnet_kit/edge/demo"
CARD = "model_card.json"
PHOTOGRAPH = "fthnet_kit/edge/assets/retina.jpg"


class WheelWithSbom(bdist_wheel):
    """The wheel, with `.dist-info/sboms/`."""

    def write_wheelfile(self, wheelfile_base: str, *arguments: Any, **named: Any) -> None:
        """Called once, when everything else lies in its place; an editable installation has nothing to list."""
        super().write_wheelfile(wheelfile_base, *arguments, **named)
        folder = Path(wheelfile_base)
        if not (folder.parent / MODEL).is_dir():
            return
        (folder / FOLDER).mkdir(exist_ok=True)
        (folder / FOLDER / NAME).write_bytes(wheel_sbom((folder / "METADATA").read_text("utf-8"), folder.parent))


def wheel_sbom(metadata: str, root: Path) -> bytes:
    """CycloneDX 1.6: the kit, the model with its files, and the photograph of the simulated camera.

    Args:
        metadata: of the wheel.
        root: folder of what goes into the wheel.
    """
    kit = Parser().parsestr(metadata)
    purl = f"pkg:pypi/{kit['Name']}@{kit['Version']}"
    model, photograph = _model(root), _file(root / PHOTOGRAPH, PHOTOGRAPH)
    photograph["licenses"] = [{"license": {"id": "CC0-1.0"}}]
    content = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "bom-ref": purl,
                "type": "application",
                "name": kit["Name"],
                "version": kit["Version"],
                "licenses": [{"expression": kit["License-Expression"]}],
                "purl": purl,
            }
        },
        "components": [model, photograph],
        "dependencies": [{"ref": purl, "dependsOn": [model["bom-ref"], photograph["bom-ref"]]}],
    }
    content["serialNumber"] = f"urn:uuid:{uuid5(NAMESPACE_URL, json.dumps(content, sort_keys=True))}"
    return f"{json.dumps(content, indent=2, ensure_ascii=False)}\n".encode()


def _model(root: Path) -> dict[str, Any]:
    """The demonstration model: its card, and every file of its bundle as it lies in the wheel."""
    card = json.loads((root / MODEL / CARD).read_text("utf-8"))
    paths = sorted(path for path in (root / MODEL).rglob("*") if path.is_file())
    own = _file(root / MODEL / CARD, CARD)
    return {
        "bom-ref": "model",
        "type": "machine-learning-model",
        "name": card["name"],
        "version": card["version"],
        "manufacturer": {"name": card["manufacturer"]},
        "description": card["intended_use"],
        "hashes": own["hashes"],
        "properties": [{"name": "fthnet:weights_sha256", "value": card["weights_sha256"]}],
        "components": [_file(path, path.relative_to(root / MODEL).as_posix()) for path in paths],
        "modelCard": {"considerations": {"useCases": [card["intended_use"]]}},
    }


def _file(path: Path, name: str) -> dict[str, Any]:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {
        "bom-ref": f"file:{name}",
        "type": "file",
        "name": name,
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }
