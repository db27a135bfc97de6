"""Results that have a kind and no schema: soaks, loads, sessions of the best shot, severities, as tables for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fthnet_kit.bench.endurance.fault_soak import KIND as SOAK
from fthnet_kit.bench.endurance.live_load import KIND as LOAD
from fthnet_kit.bench.quality.best_shot import KIND as BEST_SHOT
from fthnet_kit.bench.quality.best_shot import TRUTHS, WAYS
from fthnet_kit.bench.quality.severity import KIND as SEVERITY
from fthnet_kit.bench.results.results_file import plain, printable
from fthnet_kit.edge.reporting.html_page import html_table

Content = Mapping[str, Any]
Tables = Iterator[tuple[Sequence[str], list[tuple[str, ...]]]]


@dataclass(frozen=True)
class Told:
    """A result, ready to be shown.

    Attributes:
        title: for its section.
        parts: HTML.
    """

    title: str
    parts: tuple[str, ...]


def read_other(path: Path) -> Told | None:
    """A file of a kind named here; None where it is none, or does not hold what its kind holds."""
    try:
        content = plain(json.loads(path.read_bytes()))
        title, tables = KINDS[content["kind"]]
        parts = tuple(html_table(columns, rows, "numbers") for columns, rows in tables(content))
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None
    return Told(f"{title}, {printable(path.name)}", parts)


def _soak(content: Content) -> Tables:
    yield (
        ("check", "", "found"),
        [
            (name, "passed" if check["passed"] else "FAILED", check["found"])
            for name, check in content["checks"].items()
        ],
    )
    yield (
        ("fault", "times", "slowest recovery, s", "stale scores"),
        [
            (name, str(row["times"]), number(row["slowest_recovery_s"], 2), str(row["stale"]))
            for name, row in content["faults"].items()
        ],
    )


def _load(content: Content) -> Tables:
    loads = content["loads"]
    names = list(loads[0]["ms"])
    yield (
        ("outputs", "scored", *(f"{name} p95, ms" for name in names)),
        [
            (
                load["name"],
                f"{load['scored']} of {load['captured']}",
                *(number(load["ms"][name]["p95"], 2) for name in names),
            )
            for load in loads
        ],
    )


def _best_shot(content: Content) -> Tables:
    for truth, ways in content["figures"].items():
        rows = [
            (
                WAYS.get(way, f"{TRUTHS[truth]} itself"),
                str(one["sessions"]),
                *(number(one.get(name), 3) for name in ("min", "median", "within")),
                " to ".join(number(end, 2) for end in one.get("interval", ())),
            )
            for way, one in ways.items()
        ]
        yield (f"chosen by ({TRUTHS[truth]})", "sessions", "least", "median", "within 5 %", "95 % interval"), rows


def _severity(content: Content) -> Tables:
    severities = [f"{severity:g}" for severity in content["severities"]]
    rows = [
        (name, *(number(mean, 1) for mean in one["mean"]), number(one["spearman"], 2), number(one["drop"], 1))
        for name, one in content["degradations"].items()
    ]
    yield ("mean score at severity", *severities, "Spearman", "drop"), rows
    looks = content.get("looks", {})
    if looks:
        columns = ("look that is no fault, or cover", "points moved, mean", "good", "reject")
        yield (
            columns,
            [(name, number(one["mean_moved"], 2), str(one["good"]), str(one["reject"])) for name, one in looks.items()],
        )


def number(value: float | None, digits: int) -> str:
    """With so many digits; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


KINDS: dict[str, tuple[str, Callable[[Content], Tables]]] = {
    SOAK: ("Soak with faults", _soak),
    LOAD: ("Live loop under load", _load),
    BEST_SHOT: ("Best shot", _best_shot),
    SEVERITY: ("Degradations", _severity),
}
