"""From a picture to a score: the public face of the runtime."""

from __future__ import annotations

import logging
import time
from importlib.metadata import version
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from fthnet_kit.edge.errors import AmbiguousFieldError, EngineError
from fthnet_kit.edge.frame import Frame
from fthnet_kit.edge.inference.backend import Backend
from fthnet_kit.edge.inference.open_backend import open_backend
from fthnet_kit.edge.inference.retina_gate import shows_retina
from fthnet_kit.edge.model.bundle import Bundle
from fthnet_kit.edge.model.card import ModelCard
from fthnet_kit.edge.model.choices import BackendName, Precision
from fthnet_kit.edge.model.preprocess import Views, prepare_with_centre
from fthnet_kit.edge.model.score import Algorithm, Reason, Score

LOG = logging.getLogger(__name__)


class QualityScorer:
    """Scores pictures with one model. A context manager; belongs to one thread at a time.

    Example::

        with QualityScorer.from_bundle() as scorer:
            score = scorer.score(cv2.imread("retina.jpg"))
            print(score.value, score.verdict)

    Args:
        card: how to feed the model and what its number means.
        backend: what runs it; closed with the scorer.
        views: 1, 5 or 20 views averaged into one score; default: the card's.
    """

    def __init__(self, card: ModelCard, backend: Backend, views: Views | None = None) -> None:
        self.card = card
        self.backend = backend
        self.views = card.preprocessing.views if views is None else views
        facts = backend.describe()
        self.algorithm = Algorithm(
            name=card.name,
            version=card.version,
            manufacturer=card.manufacturer,
            parameters=(
                f"views={self.views};field_crop={card.preprocessing.field_crop};resize={card.preprocessing.resize};"
                f"{facts['library']};{facts['provider']};kit={version('fthnet-edge-kit')}"
            ),
        )

    @classmethod
    def from_bundle(
        cls,
        path: Path | str | None = None,
        precision: Precision = "auto",
        views: Views | None = None,
        backend: BackendName = "auto",
        threads: int | None = None,
        *,
        cuda_graph: bool = False,
        pick: Path | None = None,
        require_signature: Path | None = None,
    ) -> QualityScorer:
        """A scorer for a bundle, checked and ready.

        Args:
            path: bundle folder; default: the demonstration bundle that the kit ships.
            precision: ``auto`` (FP16 in TensorRT, FP32 elsewhere), ``fp32``, ``fp16`` or ``int8``; the last two
                where `fthnet quantize` made them.
            views: 1 (real time), 5 or 20 (the released protocol); default: the card's.
            backend: ``onnxruntime``, ``onnxruntime-cuda``, ``onnxruntime-tensorrt``, ``openvino``, ``tensorrt``, or
                ``auto``: with precision ``auto`` what `fthnet bench pick` measured to be the fastest; otherwise
                TensorRT where the bundle has an engine for this GPU, and else ONNX Runtime on the CPU.
            threads: of one inference on the CPU; default: all cores.
            cuda_graph: on TensorRT, launch the network as one CUDA graph.
            pick: file of `fthnet bench pick`; default: the user's, where there is one.
            require_signature: public key that the bundle must be signed with.

        Raises:
            BundleError: the bundle is missing, incomplete or altered; with a key: unsigned, another's or older, too.
            EngineError: the backend is not there or refuses the model or the engine.
            MissingExtraError: TensorRT is asked for and not installed.
        """
        bundle = Bundle.open(path, require_signature)
        _tell_other_views(bundle.card, views)
        opened = open_backend(bundle, precision, backend, threads, cuda_graph=cuda_graph, pick=pick)
        return cls(bundle.card, opened, views)

    def score(self, image_bgr: npt.NDArray[np.generic]) -> Score:
        """Score of one picture.

        Args:
            image_bgr: BGR uint8 (H, W, 3); gray, BGRA and 16-bit are converted (`preprocess.to_bgr8`).

        Returns:
            A value with its verdict, or no value with reason ``no_retina``, ``ambiguous_field`` or ``engine_fault``.

        Raises:
            InputError: not an image.
        """
        return self._score(image_bgr, None, None)

    def score_frame(self, frame: Frame) -> Score:
        """`score` of a frame; the result carries the frame's index and capture time."""
        return self._score(frame.image, frame.index, frame.captured_ns)

    def _score(self, image: npt.NDArray[np.generic], index: int | None, captured_ns: int | None) -> Score:
        started = time.perf_counter()
        stage_ms: dict[str, float] = {}

        def without_value(reason: Reason) -> Score:
            return Score(
                None,
                reason=reason,
                frame_index=index,
                captured_ns=captured_ns,
                stage_ms=stage_ms,
                algorithm=self.algorithm,
            )

        try:
            views, middle = prepare_with_centre(image, self.card.preprocessing, self.views)
        except AmbiguousFieldError:
            stage_ms["preprocess"] = 1e3 * (time.perf_counter() - started)
            return without_value("ambiguous_field")
        prepared = time.perf_counter()
        stage_ms["preprocess"] = 1e3 * (prepared - started)
        retina = shows_retina(middle)
        gated = time.perf_counter()
        stage_ms["gate"] = 1e3 * (gated - prepared)
        if not retina:
            return without_value("no_retina")
        try:
            scores = self.backend.infer(views)
        except EngineError:
            return without_value("engine_fault")
        inferred = time.perf_counter()
        stage_ms["infer"] = 1e3 * (inferred - gated)
        stage_ms.update(self.backend.stage_ms())
        if not self.card.plausible.holds(scores):
            return without_value("engine_fault")
        raw = float(np.mean(scores))
        value = min(100.0, max(0.0, raw))
        verdict = self.card.thresholds.verdict(value)
        stage_ms["post"] = 1e3 * (time.perf_counter() - inferred)
        return Score(
            value,
            raw=raw,
            verdict=verdict,
            frame_index=index,
            captured_ns=captured_ns,
            stage_ms=stage_ms,
            algorithm=self.algorithm,
        )

    def close(self) -> None:
        """Release the backend."""
        self.backend.close()

    def __enter__(self) -> QualityScorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _tell_other_views(card: ModelCard, views: Views | None) -> None:
    """Verdicts come from thresholds that were fitted at the card's number of views."""
    fitted = card.preprocessing.views
    if views is not None and views != fitted:
        LOG.warning(
            "views: the thresholds of %s were fitted at %d, scores are averaged over %d: a verdict near a threshold "
            "may differ; fthnet thresholds --views %d shows what they would be",
            card.name,
            fitted,
            views,
            views,
        )
