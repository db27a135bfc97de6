"""Thresholds of a model card, fitted to a site's labelled photographs at a sensitivity that the user names.

Two cuts, each between a class below and a class above in the labels (MOS):

- ``usable``: a picture that scores below it is rejected. Below are the ungradable photographs
  (MOS < `FitTarget.usable_mos`), above the gradable ones.
- ``good``: a picture that scores below it is not called good. Below are the photographs that are not good
  (MOS < `FitTarget.good_mos`), above the good ones.

Sensitivity is the share of the class below that scores below the threshold; specificity is the share of the
class above that does not. The threshold is the lowest one, in steps of 0.01 points, whose sensitivity reaches
the asked one, so that as few as possible of the class above are turned away. Where ``good`` would come out
below ``usable`` it is raised to it. A picture without a value (no retina in view) counts as rejected.

The intervals take the photographs for independent: several of one patient make them too narrow. Sensitivity
and specificity are those of the very photographs that the thresholds were fitted to; on others expect a
little less.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fthnet_kit.calibration.agreement import Scores, auc, bootstrap_interval
from fthnet_kit.calibration.labelled_images import LabelledImage
from fthnet_kit.edge.errors import EngineError, InputError
from fthnet_kit.edge.files import write_atomically
from fthnet_kit.edge.formats.read import read_image
from fthnet_kit.edge.inference.scorer import QualityScorer
from fthnet_kit.edge.model.bundle import Bundle
from fthnet_kit.edge.model.card import CARD_NAME, ModelCard
from fthnet_kit.edge.model.score import Thresholds
from fthnet_kit.edge.trust.manifest import drop_signature

NO_VALUE = -np.inf  # score of a picture in which no retina is seen: below every threshold
GRID = np.arange(10001) / 100  # thresholds that are tried, points
FEWEST = 5  # photographs on either side of a cut
Z_95 = 1.959964  # standard normal quantile of a two-sided 95 % interval


@dataclass(frozen=True)
class FitTarget:
    """What the thresholds shall reach, and where the labels change class.

    Attributes:
        sensitivity: between 0 and 1, both excluded; holds for both cuts.
        usable_mos: MOS from which a photograph is gradable.
        good_mos: MOS from which a photograph is good; at least `usable_mos`.
    """

    sensitivity: float
    usable_mos: float = 40.0
    good_mos: float = 60.0

    def __post_init__(self) -> None:
        if not 0 < self.sensitivity < 1:
            raise InputError(f"sensitivity: expected more than 0 and less than 1, found {self.sensitivity}")
        if not 0 <= self.usable_mos <= self.good_mos <= 100:
            raise InputError(
                "label cut-offs: expected 0 <= usable-mos <= good-mos <= 100, "
                f"found {self.usable_mos:g} and {self.good_mos:g}"
            )


@dataclass(frozen=True)
class Proportion:
    """`hits` of `total`, and its 95 % Wilson score interval."""

    hits: int
    total: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class OperatingPoint:
    """What a threshold does on labelled photographs; the module's docstring defines the terms."""

    threshold: float
    sensitivity: Proportion
    specificity: Proportion


@dataclass(frozen=True)
class FittedCut:
    """One fitted threshold.

    Attributes:
        point: the threshold and what it reaches.
        low, high: 95 % bootstrap interval of the threshold over photographs.
        auc: share of pairs in which the photograph of the class above scores higher.
        raised: whether the threshold is higher than its own class asks, for `good` must not be below `usable`.
    """

    point: OperatingPoint
    low: float
    high: float
    auc: float
    raised: bool = False


@dataclass(frozen=True)
class ThresholdFit:
    """Both cuts, and what they were fitted to."""

    target: FitTarget
    photographs: int
    without_value: int
    usable: FittedCut
    good: FittedCut

    @property
    def thresholds(self) -> Thresholds:
        """As a model card holds them."""
        return Thresholds(usable=self.usable.point.threshold, good=self.good.point.threshold)


def score_images(scorer: QualityScorer, images: Iterable[LabelledImage]) -> Scores:
    """Scores of photographs, float64 (N,), through the gate and preprocessing of the runtime; `NO_VALUE` without one.

    Raises:
        InputError: a photograph cannot be read.
        EngineError: the engine failed; a picture that could not be scored is no rejected one.
    """
    values = []
    for image in images:
        score = scorer.score(read_image(image.path))
        if score.reason == "engine_fault":
            raise EngineError(f"{image.path}: expected a score, the engine failed on this picture; try it again")
        values.append(NO_VALUE if score.value is None else score.value)
    return np.array(values, np.float64)


def require_classes(mos: Scores, target: FitTarget) -> None:
    """Check that both cuts have enough labelled photographs on either side.

    Raises:
        InputError: fewer than `FEWEST` of a class; the message has the counts.
    """
    for name, cut in (("usable", target.usable_mos), ("good", target.good_mos)):
        below, above = int(np.sum(mos < cut)), int(np.sum(mos >= cut))
        if min(below, above) < FEWEST:
            raise InputError(
                f"{name} threshold: expected at least {FEWEST} photographs with MOS below {cut:g} and {FEWEST} from "
                f"there up, found {below} and {above}; label more, take another split or move --{name}-mos"
            )


def fit_thresholds(scores: Scores, mos: Scores, target: FitTarget, seed: int = 0) -> ThresholdFit:
    """The lowest thresholds that reach the target's sensitivity.

    Args:
        scores: points (N,), `NO_VALUE` for a picture without a value.
        mos: labels (N,), 0-100.
        target: sensitivity and label cut-offs.
        seed: of the bootstrap.

    Raises:
        InputError: too few photographs of a class, or so many of the class below score 100 that no
            threshold reaches the sensitivity.
    """
    scores, mos = np.asarray(scores, np.float64), np.asarray(mos, np.float64)
    require_classes(mos, target)

    def usable_threshold(a: Scores, b: Scores) -> float:
        return lowest_threshold(a[b < target.usable_mos], target.sensitivity)

    def good_threshold(a: Scores, b: Scores) -> float:
        own = lowest_threshold(a[b < target.good_mos], target.sensitivity)
        return float(np.maximum(own, usable_threshold(a, b)))  # nan stays nan

    usable, good = usable_threshold(scores, mos), good_threshold(scores, mos)
    if np.isnan(good):
        raise InputError(
            f"sensitivity {target.sensitivity:g}: expected a threshold up to 100 that reaches it, found too many poor "
            "photographs that score 100; check their labels or ask for less"
        )
    raised = good > lowest_threshold(scores[mos < target.good_mos], target.sensitivity)
    return ThresholdFit(
        target,
        len(scores),
        int(np.sum(scores == NO_VALUE)),
        FittedCut(
            operating_point(scores, mos, target.usable_mos, usable),
            *bootstrap_interval(scores, mos, usable_threshold, seed=seed),
            _auc(scores, mos, target.usable_mos),
        ),
        FittedCut(
            operating_point(scores, mos, target.good_mos, good),
            *bootstrap_interval(scores, mos, good_threshold, seed=seed),
            _auc(scores, mos, target.good_mos),
            raised=raised,
        ),
    )


def lowest_threshold(scores: Scores, sensitivity: float) -> float:
    """The lowest of `GRID` that at least this share of the scores stays below; nan where none is."""
    if not len(scores):
        return float("nan")
    shares = np.arange(1, len(scores) + 1) / len(scores)
    last = np.sort(scores)[np.searchsorted(shares, sensitivity)]
    place = int(np.searchsorted(GRID, last, side="right"))
    return float(GRID[place]) if place < len(GRID) else float("nan")


def operating_point(scores: Scores, mos: Scores, cut: float, threshold: float) -> OperatingPoint:
    """What a threshold does, with the label cut-off `cut`; both classes must have a photograph."""
    below, above = scores[mos < cut], scores[mos >= cut]
    return OperatingPoint(
        threshold,
        wilson(int(np.sum(below < threshold)), len(below)),
        wilson(int(np.sum(above >= threshold)), len(above)),
    )


def wilson(hits: int, total: int) -> Proportion:
    """A proportion with its 95 % Wilson score interval; `total` is at least 1."""
    share, square = hits / total, Z_95**2
    middle = (share + square / (2 * total)) / (1 + square / total)
    half = Z_95 / (1 + square / total) * float(np.sqrt(share * (1 - share) / total + square / (4 * total**2)))
    return Proportion(hits, total, share, min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half)))


def refuse_other_views(bundle: Bundle, views: int) -> None:
    """Check that thresholds fitted at `views` may go into a card: they hold for the card's number only.

    Raises:
        InputError: another number of views than the card's.
    """
    expected = bundle.card.preprocessing.views
    if views != expected:
        raise InputError(
            f"--apply: expected views {expected} as in the card, found {views}; thresholds hold for the views at "
            "which they were fitted: leave out --views or --apply"
        )


def apply_thresholds(bundle: Bundle, thresholds: Thresholds) -> Path:
    """Rewrite the card of a bundle with other thresholds, whole or not at all; returns the card's path.

    Raises:
        InputError: the card cannot be written.
    """
    path = bundle.folder / CARD_NAME
    card = ModelCard.from_json(replace(bundle.card, thresholds=thresholds).to_json(), str(path))
    try:
        drop_signature(bundle.folder)
        write_atomically(path, card.to_json().encode())
    except OSError as error:
        raise InputError(f"{path}: expected a card that can be written, found {error.strerror}") from error
    return path


def _auc(scores: Scores, mos: Scores, cut: float) -> float:
    """`metrics.auc` of the class above over the class below; two pictures without a value tie."""
    finite = np.maximum(scores, -1.0)
    return auc(finite[mos >= cut], finite[mos < cut])
