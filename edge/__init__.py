"""The runtime on the device: numpy, OpenCV, ONNX Runtime, nothing heavier.

Everything that an integrator needs is importable from here::

    import cv2
    from fthnet_kit.edge import QualityScorer

    with QualityScorer.from_bundle() as scorer:
        score = scorer.score(cv2.imread("fundus.jpg"))
        print(score.value, score.verdict, score.reason, score.stage_ms)

Names are imported when they are first used, so that `fthnet --help` loads neither OpenCV nor numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fthnet_kit.edge.capture.open_source import make_source as make_source
    from fthnet_kit.edge.errors import BundleError as BundleError
    from fthnet_kit.edge.errors import CameraError as CameraError
    from fthnet_kit.edge.errors import EngineError as EngineError
    from fthnet_kit.edge.errors import InputError as InputError
    from fthnet_kit.edge.errors import KitError as KitError
    from fthnet_kit.edge.errors import MissingExtraError as MissingExtraError
    from fthnet_kit.edge.errors import ParityError as ParityError
    from fthnet_kit.edge.frame import Frame as Frame
    from fthnet_kit.edge.inference.scorer import QualityScorer as QualityScorer
    from fthnet_kit.edge.loop.live_loop import LiveLoop as LiveLoop
    from fthnet_kit.edge.loop.options import LiveOptions as LiveOptions
    from fthnet_kit.edge.loop.result import LiveResult as LiveResult
    from fthnet_kit.edge.model.bundle import Bundle as Bundle
    from fthnet_kit.edge.model.card import ModelCard as ModelCard
    from fthnet_kit.edge.model.preprocess import Preprocessing as Preprocessing
    from fthnet_kit.edge.model.score import Algorithm as Algorithm
    from fthnet_kit.edge.model.score import Score as Score
    from fthnet_kit.edge.model.score import Thresholds as Thresholds

_HOMES = {
    "Bundle": "model.bundle",
    "make_source": "capture.open_source",
    "BundleError": "errors",
    "CameraError": "errors",
    "EngineError": "errors",
    "InputError": "errors",
    "KitError": "errors",
    "MissingExtraError": "errors",
    "ParityError": "errors",
    "Frame": "frame",
    "LiveLoop": "loop.live_loop",
    "LiveOptions": "loop.live_loop",
    "LiveResult": "loop.live_loop",
    "ModelCard": "model.card",
    "Thresholds": "model.card",
    "Preprocessing": "model.preprocess",
    "Algorithm": "model.score",
    "Score": "model.score",
    "QualityScorer": "inference.scorer",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
