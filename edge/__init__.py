"""The runtime on the device: numpy, OpenCV, ONNX Runtime, nothing heavier.

Everything that an integrator needs is importable from here::

    import cv2
    from fthnet_kit.edge import QualityScorer

    with QualityScorer.from_bundle() as scorer:
        score = scorer.score(cv2.imread("fundus.jpg"))
        print(score.value, score.verdict, score.reason, score.stage_ms)
"""

from fthnet_kit.edge.bundle import Bundle
from fthnet_kit.edge.cameras import make_source
from fthnet_kit.edge.errors import (
    BundleError,
    CameraError,
    EngineError,
    InputError,
    KitError,
    MissingExtraError,
    ParityError,
)
from fthnet_kit.edge.frame import Frame
from fthnet_kit.edge.live import LiveLoop, LiveOptions, LiveResult
from fthnet_kit.edge.model_card import ModelCard, Thresholds
from fthnet_kit.edge.preprocess import Preprocessing
from fthnet_kit.edge.score import Algorithm, Score
from fthnet_kit.edge.scorer import QualityScorer

__all__ = [
    "Algorithm",
    "Bundle",
    "BundleError",
    "CameraError",
    "EngineError",
    "Frame",
    "InputError",
    "KitError",
    "LiveLoop",
    "LiveOptions",
    "LiveResult",
    "MissingExtraError",
    "ModelCard",
    "ParityError",
    "Preprocessing",
    "QualityScorer",
    "Score",
    "Thresholds",
    "make_source",
]
