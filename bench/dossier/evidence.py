"""Measurements that a dossier cites: reports of the bundle and files that are given, each with its SHA-256."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fthnet_kit.bench.endurance.fault_soak import KIND as SOAK
from fthnet_kit.bench.results.results_file import SCHEMAS, plain, read_results
from fthnet_kit.edge.errors import InputError, found_instead
from fthnet_kit.edge.files import parse_json, read_regular
from fthnet_kit.edge.model.bundle import REPORTS, Bundle
from fthnet_kit.edge.model.model_file import MOST_BYTES

Kind = Literal["accuracy", "latency", "soak", "conversion", "other"]
WANTED: Mapping[Kind, str] = {
    "accuracy": "fthnet bench accuracy BUNDLE --data FOLDER -o accuracy",
    "latency": "fthnet bench latency BUNDLE --json latency.json",
    "soak": "fthnet bench soak --json soak.json",
}
Figure = float | int | str


@dataclass(frozen=True)
class Evidence:
    """A file with measurements.

    Attributes:
        name: in the dossier's folder of evidence, such as ``bundle/parity.json``.
        kinds: what it is evidence of.
        content: its bytes.
        figures: the ones that are compared between dossiers, by name.
        results: what it holds, where it is a results file of `fthnet bench`.
    """

    name: str
    kinds: tuple[Kind, ...]
    content: bytes = field(repr=False)
    figures: Mapping[str, Figure]
    results: Mapping[str, Any] | None = field(default=None, repr=False)

    @property
    def sha256(self) -> str:
        """Of the file."""
        return hashlib.sha256(self.content).hexdigest()


def gather(bundle: Bundle, given: Sequence[Path]) -> list[Evidence]:
    """Reports of a bundle, then files that are given; of a folder, all its JSON files.

    Raises:
        InputError: one cannot be read, or two have one name.
    """
    reports = sorted(path for path in (bundle.folder / REPORTS).glob("*") if path.is_file())
    found = [_read(path, f"bundle/{path.name}") for path in reports]
    for path in _files(given):
        name = path.name
        if name in {evidence.name for evidence in found}:
            raise InputError(f"{path}: expected evidence of another name, found a second {name}; rename one")
        found.append(_read(path, name))
    return found


def lacking(found: Sequence[Evidence]) -> dict[Kind, str]:
    """Kinds of evidence that are not there, each with the command that makes it."""
    there = {kind for evidence in found for kind in evidence.kinds}
    return {kind: command for kind, command in WANTED.items() if kind not in there}


def _files(given: Sequence[Path]) -> Iterator[Path]:
    for path in given:
        if path.is_dir():
            yield from sorted(path.glob("*.json"))
        else:
            yield path


def _read(path: Path, name: str) -> Evidence:
    try:
        content = read_regular(path, MOST_BYTES)
    except OSError as error:
        raise InputError(f"{path}: expected a file with measurements, found {found_instead(error)}") from error
    try:
        found = plain(parse_json(content)) if path.suffix == ".json" else None
    except ValueError as error:
        raise InputError(f"{path}: expected JSON, found {error}") from error
    if isinstance(found, dict) and found.get("schema") in SCHEMAS:
        results = read_results(path, tuple(SCHEMAS))
        kinds, figures = _of_results(results)
        return Evidence(name, kinds, content, figures, results)
    kinds, figures = _of_report(found)
    return Evidence(name, kinds, content, figures)


def _of_results(results: Mapping[str, Any]) -> tuple[tuple[Kind, ...], dict[str, Figure]]:
    if results["schema"] == "fthnet-accuracy":
        figures = {
            f"{results['data'][run['data']]['folder']}, {run['form']}, {run['views']} views, {name}": metric["value"]
            for run in results["runs"]
            for name, metric in run["metrics"].items()
        }
        return ("accuracy",), _numbers(figures)
    steady, soak = results["steady"], results["soak"]
    total = steady["summary"]["total"]
    figures = {"p50, ms": total["p50"], "p99, ms": total["p99"], "pictures a second": steady["throughput_fps"]}
    if soak is None:
        return ("latency",), _numbers(figures)
    figures |= {
        "soak, s": soak["seconds"],
        "drift": "none found" if soak["drift"] is None else f"{soak['drift']['before']} → {soak['drift']['after']} ms",
        "leak": "none found" if soak["leak"] is None else f"{soak['leak']['mb_per_hour']} MB an hour",
    }
    return ("latency", "soak"), _numbers(figures)


def _of_report(found: Any) -> tuple[tuple[Kind, ...], dict[str, Figure]]:
    """Reports that have no schema: the card's accuracy, parity, precisions, the soak with faults."""
    try:
        if isinstance(found, list):
            figures = {
                f"{entry['data']}, {name}": metric["value"]
                for entry in found
                for name, metric in entry["metrics"].items()
            }
            return ("accuracy",), _numbers(figures)
        if found.get("kind") == SOAK:
            return ("soak",), {name: _verdict(check) for name, check in found["checks"].items()}
        if "max_abs_points" in found:
            return ("conversion",), _numbers({"largest difference from PyTorch, points": found["max_abs_points"]})
        if "how_judged" in found:
            costs = {name: each["cost"] for name, each in found["precisions"].items()}
            pairs = (
                (f"{name}, {key} |Δ|, points", cost[key]) for name, cost in costs.items() for key in ("mean", "p99")
            )
            return ("conversion",), _numbers(dict(pairs))
    except (KeyError, TypeError, AttributeError):
        pass
    return ("other",), {}


def _verdict(check: Mapping[str, Any]) -> str:
    return f"{'passed' if check['passed'] else 'FAILED'}: {check['found']}"


def _numbers(figures: Mapping[str, Any]) -> dict[str, Figure]:
    """Figures that are there, with six digits."""
    rounded = {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in figures.items()}
    return {name: value for name, value in rounded.items() if value is not None}
