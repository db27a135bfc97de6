"""The ranges file: what calibration chose for each layer, and exactly what it was chosen from.

JSON, the same bytes for the same model, photographs and preprocessing; used again only where all three match.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from fthnet_kit.calibration.int8_fit import Fit, LayerCalibration
from fthnet_kit.calibration.int8_photographs import Photograph
from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.files import write_atomically
from fthnet_kit.edge.model.card import ModelCard

FORMAT = 1  # raised whenever the same inputs would give other ranges


def calibration_key(card: ModelCard, photographs: Sequence[Photograph]) -> dict[str, Any]:
    """Hashes of everything that a calibration depends on."""
    return {
        "format": FORMAT,
        "weights_sha256": card.weights_sha256,
        "architecture": dict(card.architecture),
        "preprocessing": vars(card.preprocessing),
        "images_sha256": hashlib.sha256("".join(p.sha256 for p in photographs).encode()).hexdigest(),
    }


def write_ranges(
    path: Path, key: Mapping[str, Any], photographs: Sequence[Photograph], layers: Mapping[str, LayerCalibration]
) -> None:
    """Write the file, whole or not at all."""
    content = {
        "key": key,
        "images": [{"name": photograph.path.name, "sha256": photograph.sha256} for photograph in photographs],
        "layers": {name: asdict(layer) for name, layer in sorted(layers.items())},
    }
    write_atomically(path, (json.dumps(content, default=lambda array: array.tolist()) + "\n").encode())


def read_ranges(path: Path, key: Mapping[str, Any]) -> dict[str, LayerCalibration] | None:
    """Layers of the file where it was made from the same things; None where it is missing or of others.

    Raises:
        InputError: the file is no ranges file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["key"] != key:
            return None
        return {name: _layer(layer) for name, layer in content["layers"].items()}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: expected a ranges file, found something else ({error}); delete it") from error


def _layer(content: dict[str, Any]) -> LayerCalibration:
    fit = content.pop("fit")
    arrays = {name: np.array(values, np.float32) for name, values in content.items()}
    return LayerCalibration(Fit(**{**fit, "smoothing": np.array(fit["smoothing"], np.float32)}), **arrays)
