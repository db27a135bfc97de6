"""An unbroken run of frames that may be kept."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from fthnet_kit.edge.image import Image
from fthnet_kit.edge.loop.result import LiveResult
from fthnet_kit.edge.outputs.best_shot.rank import Appraisal
from fthnet_kit.edge.outputs.best_shot.shot import Sample

LEAST_FRAMES = 3  # frames of a stable stretch, however slow the scorer
ROUNDING_S = 1e-6
LONGEST_STRETCH = 10_000  # frames; then it counts as ended


class Stretch:
    """An unbroken run of frames within a band below its best; holds a copy of the best frame.

    Args:
        band: in points.
        buffer: of an earlier stretch, to copy into: fresh memory for 12 megapixels costs more than the copy.
    """

    def __init__(self, band: float, buffer: Image | None) -> None:
        self.samples: list[Sample] = []
        self.buffer = buffer
        self._band = band
        self._best: LiveResult | None = None
        self.appraisal: Appraisal | None = None  # appraisal of the best frame
        self.rank = -math.inf
        self.best_s = 0.0

    @property
    def best(self) -> LiveResult:
        """The best frame of the stretch, with its score."""
        assert self._best is not None
        return self._best

    @property
    def value(self) -> float:
        """The best frame's score."""
        assert self.best.score.value is not None
        return self.best.score.value

    def add(self, result: LiveResult, appraisal: Appraisal | None, now_s: float) -> bool:
        """Add a frame with a score; False where it is too bad to belong here, or the stretch is full."""
        value = result.score.value
        assert value is not None
        rank = value if appraisal is None else appraisal.rank
        if self.samples and (rank < self.rank - self._band or len(self.samples) >= LONGEST_STRETCH):
            return False
        self.samples.append(Sample(result.score.frame_index, now_s, value, rank))
        if rank > self.rank:
            assert result.frame is not None
            if self.buffer is None or self.buffer.shape != result.frame.image.shape:
                self.buffer = np.empty_like(result.frame.image)
            np.copyto(self.buffer, result.frame.image)
            self._best = replace(result, frame=replace(result.frame, image=self.buffer))
            self.appraisal, self.rank, self.best_s = appraisal, rank, now_s
            outside = [i for i, sample in enumerate(self.samples) if sample.rank < rank - self._band]
            del self.samples[: outside[-1] + 1 if outside else 0]
        return True

    def is_stable(self, stable_s: float) -> bool:
        """Whether it has lasted long enough."""
        lasted_s = self.samples[-1].at_s - self.samples[0].at_s + ROUNDING_S
        return len(self.samples) >= LEAST_FRAMES and lasted_s >= stable_s
