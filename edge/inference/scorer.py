"""From a picture to a score: the public face of the runtime."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from fthnet_kit.edge.errors import AmbiguousFieldError, EngineError, InputError
from fthnet_kit.edge.frame import Frame
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.inference.backend import Backend
from fthnet_kit.edge.inference.open_backend import open_backend
from fthnet_kit.edge.inference.retina_gate import shows_retina
from fthnet_kit.edge.model.bundle import Bundle
from fthnet_kit.edge.model.card import ModelCard
from fthnet_kit.edge.model.choices import BackendName, Precision
from fthnet_kit.edge.model.preprocess import Views, prepare_with_centre
from fthnet_kit.edge.model.score import Algorithm, Reason, Score

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Prepared:
    """A picture on its way to the network: its views, or the reason why there are none."""

    views: Image | None
    reason: Reason | None
    stage_ms: dict[str, float]


class QualityScorer:
    """Scores pictures with one model. A context manager.

    Threads may share one: pictures are prepared side by side, the network is asked by one thread after the other. In
    asyncio: ``await asyncio.to_thread(scorer.score, image)``.

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
        self._one_at_a_time = threading.Lock()
        facts = backend.describe()
        self.algorithm = Algorithm(
            name=card.name,
            version=card.version,
            manufacturer=card.manufacturer,
            parameters=(
                f"views={self.views};field_crop={card.preprocessing.field_crop};resize={card.preprocessing.resize};"
                f"{facts['library']};{facts['provider']};kit={version('fthnet-edge-kit')};bundle={card.origin}"
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
        require_signature: Path | str | None = None,
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

    def score(self, image_bgr: npt.NDArray[np.generic] | None) -> Score:
        """Score of one picture.

        Args:
            image_bgr: BGR uint8 (H, W, 3); gray, BGRA and 16-bit are converted (`image.to_bgr8`). None is refused; the
                type has it because `cv2.imread` does.

        Returns:
            A value with its verdict, or no value with reason ``no_retina``, ``ambiguous_field`` or ``engine_fault``
            (the engine failed, was closed, or gave a value that the card calls implausible).

        Raises:
            InputError: None (what `cv2.imread` gives where it reads no file), no array of 8 or 16 bits, another
                shape, no pixels, or a side beyond 12,000 pixels (`PictureError`).
        """
        return self._finish([self._prepare(image_bgr)])[0]

    def score_frame(self, frame: Frame) -> Score:
        """`score` of a frame; the result carries the frame's index and capture time."""
        score = self.score(frame.image)
        return replace(score, frame_index=frame.index, captured_ns=frame.captured_ns)

    def score_many(self, images: Iterable[npt.NDArray[np.generic] | None], batch: int = 8) -> Iterator[Score]:
        """Scores of any number of pictures, in their order, as they are done.

        The network is asked for `batch` pictures at once, which pays where the graph's own batch is larger than 1
        (`fthnet build --batch`); no more pictures than that are held.

        Args:
            images: as `score` takes them; an iterator is read as far as it is needed.
            batch: pictures at once.

        Raises:
            InputError: a picture that `score` refuses, after the scores of those before it.
        """
        waiting = iter(images)
        while True:
            prepared: list[_Prepared] = []
            refused: InputError | None = None
            for image in islice(waiting, batch):
                try:
                    prepared.append(self._prepare(image))
                except InputError as error:
                    refused = error
                    break
            yield from self._finish(prepared)
            if refused is not None:
                raise refused
            if len(prepared) < batch:
                return

    def _prepare(self, image: npt.NDArray[np.generic] | None) -> _Prepared:
        """The network's input, or the reason why there is none."""
        started = time.perf_counter()
        try:
            views, middle = prepare_with_centre(image, self.card.preprocessing, self.views)
        except AmbiguousFieldError:
            return _Prepared(None, "ambiguous_field", {"preprocess": 1e3 * (time.perf_counter() - started)})
        prepared = time.perf_counter()
        retina = shows_retina(middle)
        stage_ms = {"preprocess": 1e3 * (prepared - started), "gate": 1e3 * (time.perf_counter() - prepared)}
        return _Prepared(views, None, stage_ms) if retina else _Prepared(None, "no_retina", stage_ms)

    def _finish(self, prepared: list[_Prepared]) -> list[Score]:
        """Scores of prepared pictures, by one call of the network for all that have input."""
        asked = [each.views for each in prepared if each.views is not None]
        answers: Iterator[npt.NDArray[np.float32]] = iter(())
        shared_ms: dict[str, float] = {}
        if asked:
            with self._one_at_a_time:
                started = time.perf_counter()
                try:
                    values = self.backend.infer(asked[0] if len(asked) == 1 else np.concatenate(asked))
                except EngineError:
                    values = np.full(len(asked) * self.views, np.nan, np.float32)
                else:
                    shared_ms = {"infer": 1e3 * (time.perf_counter() - started) / len(asked), **self.backend.stage_ms()}
            answers = iter(values.reshape(len(asked), -1))
        return [
            self._without_value(each.reason or "engine_fault", each.stage_ms)
            if each.views is None
            else self._with_value(next(answers), {**each.stage_ms, **shared_ms})
            for each in prepared
        ]

    def _with_value(self, values: npt.NDArray[np.float32], stage_ms: dict[str, float]) -> Score:
        """The score that the values of a picture's views make."""
        started = time.perf_counter()
        if not self.card.plausible.holds(values):
            return self._without_value("engine_fault", stage_ms)
        raw = float(np.mean(values))
        value = min(100.0, max(0.0, raw))
        verdict = self.card.thresholds.verdict(value)
        stage_ms["post"] = 1e3 * (time.perf_counter() - started)
        return Score(value, raw=raw, verdict=verdict, stage_ms=stage_ms, algorithm=self.algorithm)

    def _without_value(self, reason: Reason, stage_ms: dict[str, float]) -> Score:
        return Score(None, reason=reason, stage_ms=stage_ms, algorithm=self.algorithm)

    def close(self) -> None:
        """Release the backend, after the score that is under way."""
        with self._one_at_a_time:
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
