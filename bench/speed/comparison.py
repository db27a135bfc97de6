"""How many times slower one thing is than another: a ratio of medians with its interval."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from fthnet_kit.bench.speed.in_turn import Runner, in_turn
from fthnet_kit.bench.speed.latency import Pictures
from fthnet_kit.bench.speed.timing import Limit, warm_up
from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.inference.scorer import QualityScorer
from fthnet_kit.edge.model.choices import BACKENDS, PRECISIONS

DRAWS = 2000
Array = npt.NDArray[np.float64]


def other_of(what: str) -> dict[str, Any]:
    """What `--compare` names: the argument of the scorer that it replaces.

    Raises:
        InputError: neither a precision, nor a backend, nor a file.
    """
    if what in PRECISIONS:
        return {"other_precision": what}
    if what in BACKENDS:
        return {"other_backend": what}
    raise InputError(
        f"--compare {what}: expected a JSON file of `fthnet bench latency`, a precision ({', '.join(PRECISIONS)}) or a "
        f"backend ({', '.join(BACKENDS)}), found none of these"
    )


def compare_in_turn(
    this: Callable[[], QualityScorer], other: Callable[[], QualityScorer], name: str, pictures: Pictures, limit: Limit
) -> dict[str, Any]:
    """Two scorers in turn, each in a process of its own, on the same decoded pictures.

    Args:
        this, other: open a scorer; they travel to the processes, so functions of a module or partials of one.
        name: of the other.
        pictures: what is scored.
        limit: how long.

    Returns:
        Ratio of the medians, this one over the other, and its 95 % interval over resampled rounds.
    """
    openers = {"this": partial(_open, this), name: partial(_open, other)}
    samples = in_turn(openers, limit_of(pictures.next, limit), warm_up=0)
    settled = max(warm_up(samples[:, 0].tolist()) or 0, warm_up(samples[:, 1].tolist()) or 0)
    return comparison(["this", name], samples[settled:, 0], samples[settled:, 1], paired=True)


def _open(make: Callable[[], QualityScorer]) -> Runner:
    return make().score


def limit_of(make: Callable[[], Any], limit: Limit) -> Iterator[Any]:
    """What `make` gives, again and again, until the limit is reached."""
    began = time.perf_counter()
    for taken in itertools.count():
        if limit.reached(taken, time.perf_counter() - began):
            return
        yield make()


def compare_with_file(content: Mapping[str, Any], earlier: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The run of `content` and an earlier one."""
    return comparison(["this", name], settled_totals(content), settled_totals(earlier), paired=False)


def settled_totals(content: Mapping[str, Any]) -> Array:
    """Total of every run after the warm-up, ms."""
    return np.array(content["steady"]["stages_ms"]["total"][content["warm_up"]["samples"] or 0 :], np.float64)


def comparison(names: list[str], one: Array, other: Array, *, paired: bool, seed: int = 0) -> dict[str, Any]:
    """Ratio of the medians, one over other, with a 95 % bootstrap interval.

    Args:
        names: of the two.
        one, other: milliseconds.
        paired: whether the samples are of the same rounds, which are then resampled together.
        seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    ratios = []
    for _ in range(DRAWS):
        first = rng.integers(0, len(one), len(one))
        second = first if paired else rng.integers(0, len(other), len(other))
        ratios.append(np.median(one[first]) / np.median(other[second]))
    low, high = np.percentile(ratios, [2.5, 97.5])
    return {
        "names": names,
        "rounds": min(len(one), len(other)),
        "median_ms": [float(np.median(one)), float(np.median(other))],
        "ratio": {"value": float(np.median(one) / np.median(other)), "low": float(low), "high": float(high)},
        "samples_ms": [[round(float(ms), 6) for ms in values] for values in (one, other)],
    }
