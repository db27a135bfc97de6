"""The ranges file: what calibration chose for each layer, and exactly what it was chosen from.

JSON, the same bytes for the same model, photographs and preprocessing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from fthnet_kit.calibration.int8_fit import LayerCalibration
from fthnet_kit.calibration.int8_photographs import Photograph
from fthnet_kit.edge.model.card import ModelCard

FORMAT = 3  # raised whenever the same inputs would give other ranges


def ranges_file(card: ModelCard, photographs: Sequence[Photograph], layers: Mapping[str, LayerCalibration]) -> bytes:
    """The file's content.

    Args:
        card: the model's.
        photographs: what calibrated it.
        layers: what was chosen, by layer.
    """
    content = {
        "format": FORMAT,
        "weights_sha256": card.weights_sha256,
        "architecture": dict(card.architecture),
        "preprocessing": card.preprocessing.to_dict(),
        "images_sha256": hashlib.sha256("".join(p.sha256 for p in photographs).encode()).hexdigest(),
        "images": [{"name": photograph.path.name, "sha256": photograph.sha256} for photograph in photographs],
        "layers": {name: asdict(layer) for name, layer in sorted(layers.items())},
    }
    return (json.dumps(content, default=lambda array: [float(str(value)) for value in array]) + "\n").encode()
