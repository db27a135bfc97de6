"""Puts converted graphs into a bundle: those whose gate holds, and the reports in any case."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fthnet_kit.convert.bundle.folder import hashes, install
from fthnet_kit.convert.precision.quantize import Outcome
from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.model.bundle import CONVERTED_NAMES, RANGES_NAME, REPORTS, Bundle
from fthnet_kit.edge.model.card import CARD_NAME, ModelCard
from fthnet_kit.edge.trust.manifest import drop_signature


def install_outcome(bundle: Bundle, outcome: Outcome, ranges: bytes, reports: Mapping[str, bytes]) -> None:
    """Replace the bundle by one with the converted graphs; the folder changes whole or not at all.

    Args:
        bundle: what was converted.
        outcome: a graph whose gate does not hold is left out, and an older one of that precision removed.
        ranges: content of the ranges file.
        reports: further files for `reports/`, by name.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=f".{bundle.folder.name}.", dir=bundle.folder.parent) as temporary:
            work = Path(temporary) / bundle.folder.name
            shutil.copytree(bundle.folder, work)
            (work / REPORTS).mkdir(exist_ok=True)
            for form, name in CONVERTED_NAMES.items():
                (work / name).unlink(missing_ok=True)
                if not outcome.shortfalls(form):
                    (work / name).write_bytes(outcome.models[form].SerializeToString(deterministic=True))
            (work / REPORTS / RANGES_NAME).write_bytes(ranges)
            for name, content in reports.items():
                (work / REPORTS / name).write_bytes(content)
            drop_signature(work)
            card = replace(bundle.card.with_files(hashes(work)), precisions=precisions(outcome))
            (work / CARD_NAME).write_text(ModelCard.from_json(card.to_json()).to_json(), encoding="utf-8")
            install(work, bundle.folder, Path(temporary))
    except OSError as error:
        raise InputError(f"{bundle.folder}: expected a folder that can be written, found {error}") from error


def precisions(outcome: Outcome) -> dict[str, dict[str, Any]]:
    """What the card says of each precision."""
    return {
        form: {
            "holds": not outcome.shortfalls(form),
            **{key: _rounded(value) for key, value in cost.to_dict().items()},
            **({} if form == "fp16" else {"int8_macs": round(outcome.int8_macs, 4)}),
        }
        for form, cost in outcome.costs.items()
    }


def _rounded(value: float) -> float:
    """Six digits of a number; JSON has no infinity, so a graph that gave none at all costs a billion points."""
    return value if isinstance(value, int) else round(float(np.nan_to_num(value, nan=-1.0, posinf=1e9)), 6)
