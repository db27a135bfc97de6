"""Whether a converted graph says the same as PyTorch, in score points, on real photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from fthnet_kit.convert.network.fthnet import FTHNet
from fthnet_kit.convert.onnx_graph.export import ScoringGraph
from fthnet_kit.edge.capture import degradations
from fthnet_kit.edge.errors import MissingExtraError, ParityError
from fthnet_kit.edge.formats.read import read_image
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.inference.onnx_runtime import OnnxBackend
from fthnet_kit.edge.model.preprocess import Preprocessing, prepare, prepare_file

try:
    import torch
except ImportError as error:
    raise MissingExtraError("torch", "convert", purpose="comparing with PyTorch") from error

BUDGET_POINTS = 0.01
IMAGES = 24


@dataclass(frozen=True)
class Parity:
    """Differences of a graph against PyTorch in score points; `scores` are PyTorch's."""

    images: list[str]
    scores: list[float]
    differences: list[float]
    budget: float

    @property
    def worst(self) -> float:
        """Largest absolute difference."""
        return max(abs(difference) for difference in self.differences)

    @property
    def mean(self) -> float:
        """Mean absolute difference."""
        return float(np.mean(np.abs(self.differences)))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready report."""
        return {
            **asdict(self),
            "max_abs_points": self.worst,
            "mean_abs_points": self.mean,
            "holds": self.worst <= self.budget,
        }


def parity_images(paths: Sequence[Path], preprocessing: Preprocessing) -> tuple[list[str], Image]:
    """Names and network input of up to 24 photographs, evenly picked from `paths`.

    Without paths: the photograph that the kit carries, as it is and with each degradation, seeded.
    """
    if paths:
        picked = [paths[round(i)] for i in np.linspace(0, len(paths) - 1, min(IMAGES, len(paths)))]
        return [path.name for path in picked], np.concatenate([prepare_file(p, preprocessing, 1) for p in picked])
    photograph = read_image(Path(str(files("fthnet_kit.edge") / "assets" / "retina.jpg")))
    names, views = ["retina.jpg"], [prepare(photograph, preprocessing, 1)]
    for index in range(IMAGES - 1):
        name = list(degradations.DEGRADATIONS)[index % len(degradations.DEGRADATIONS)]
        severity = (0.3, 0.6, 0.9)[index // len(degradations.DEGRADATIONS)]
        names.append(f"retina.jpg {name} {severity}")
        views.append(prepare(degradations.degrade(photograph, name, severity, index), preprocessing, 1))
    return names, np.concatenate(views)


def measure_parity(
    network: FTHNet, model: Path, preprocessing: Preprocessing, names: list[str], images: Image
) -> Parity:
    """Scores of PyTorch and of ONNX Runtime on the same input.

    Args:
        network: in evaluation mode.
        model: the exported graph.
        preprocessing: of the card.
        names: what to call the images in the report.
        images: RGB uint8 (N, 384, 384, 3).
    """
    graph = ScoringGraph(network, preprocessing).eval()
    with torch.no_grad():
        expected = np.concatenate([graph(torch.from_numpy(image[np.newaxis])).numpy() for image in images])
    with OnnxBackend(model) as backend:
        found = backend.infer(images)
    return Parity(names, expected.tolist(), (found - expected).tolist(), BUDGET_POINTS)


def require(parity: Parity) -> None:
    """Raises ParityError where the budget is exceeded."""
    if parity.worst > parity.budget:
        worst = parity.images[int(np.argmax(np.abs(parity.differences)))]
        raise ParityError(
            f"expected ONNX within {parity.budget} points of PyTorch, found {parity.worst:.4f} on {worst}; "
            "no bundle was written"
        )
