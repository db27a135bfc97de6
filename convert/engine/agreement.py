"""Whether a new engine scores as the bundle's FP32 graph does, on the machine that will run it.

A build that succeeds can still compute something else: TensorRT 10.3 gave wrong scores for some vision transformers
where a later version is right (github.com/ika-rwth-aachen/ros2-depth-anything-v3-trt, issue 16).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from fthnet_kit.edge.capture.degradations import degrade
from fthnet_kit.edge.errors import EngineError
from fthnet_kit.edge.formats.read import read_image
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.inference.onnx_runtime import OnnxBackend
from fthnet_kit.edge.inference.tensorrt_engine import TrtBackend
from fthnet_kit.edge.inference.tensorrt_library import TensorRT
from fthnet_kit.edge.model.bundle import Bundle
from fthnet_kit.edge.model.choices import FORMS
from fthnet_kit.edge.model.preprocess import Preprocessing, prepare

BUDGETS = {name: form.engine_points for name, form in FORMS.items() if form.engine_points}  # points, by precision
FAULTS = (("defocus", 0.3), ("defocus", 0.6), ("under_exposure", 0.5), ("flare", 0.5))


@dataclass(frozen=True)
class EngineAgreement:
    """Differences from ONNX Runtime's FP32 scores, in points, over `images` pictures."""

    images: int
    mean: float
    worst: float

    def to_dict(self) -> dict[str, Any]:
        """What the manifest keeps."""
        return asdict(self)

    def check(self, precision: str) -> None:
        """Raises EngineError where a score differs by more than the precision may cost, or is none."""
        if not self.worst <= BUDGETS[precision]:
            raise EngineError(
                f"expected scores within {BUDGETS[precision]} points of ONNX Runtime's, found {self.worst:.3f}; not "
                "installed: this TensorRT computes something else, take another version or precision"
            )


def pictures(preprocessing: Preprocessing) -> Image:
    """The shipped photograph in 20 views and with four faults, as network input (24, 384, 384, 3)."""
    photograph = read_image(Path(str(files("fthnet_kit.edge") / "assets" / "retina.jpg")))
    faulty = [prepare(degrade(photograph, name, severity, 0), preprocessing, 1) for name, severity in FAULTS]
    return np.concatenate([prepare(photograph, preprocessing, 20), *faulty])


def engine_agreement(bundle: Bundle, content: bytes, tensorrt: TensorRT) -> EngineAgreement:
    """Score the pictures with an engine and with the FP32 graph.

    Raises:
        EngineError: the engine does not load or run.
    """
    images = pictures(bundle.card.preprocessing)
    with OnnxBackend(bundle.model("fp32")) as reference, TrtBackend(content, tensorrt) as engine:
        difference = np.abs(engine.infer(images) - reference.infer(images))
    worst = float(np.max(np.nan_to_num(difference, nan=np.inf)))
    return EngineAgreement(len(images), float(np.mean(difference)), worst)
