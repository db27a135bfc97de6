"""What is known beforehand: hazards, anomalies, weaknesses of libraries and what each library is for.

The JSON files beside this module are the one place for each; the docs and the tests read them too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name


@dataclass(frozen=True)
class Hazard:
    """A hazard, what causes it, what is done against it, and what remains.

    Attributes:
        id: such as ``H-01``; never given to another hazard.
        tests: files and names of the tests that fail when the control is gone.
        residual: what the control does not reach.
    """

    id: str
    hazard: str
    cause: str
    harm: str
    control: str
    tests: tuple[str, ...]
    residual: str


@dataclass(frozen=True)
class Anomaly:
    """Something that a component does not do right.

    Attributes:
        id: such as ``A-01``; never given to another anomaly.
        component: distribution, or name of a model.
        versions: as in a requirement, such as ``>=4``.
        what: it does.
        control: what the kit, or its user, does about it.
    """

    id: str
    component: str
    versions: str
    what: str
    control: str

    def concerns(self, component: str, version: str) -> bool:
        """Whether a component of this version has it."""
        same = canonicalize_name(component) == canonicalize_name(self.component)
        return same and SpecifierSet(self.versions).contains(version, prereleases=True)


@dataclass(frozen=True)
class Weakness:
    """A published vulnerability of a library.

    Attributes:
        vulnerability: its identifier.
        component: distribution that has it.
        fixed: first version without it.
        what: an attacker can do.
    """

    vulnerability: str
    component: str
    fixed: str
    what: str


def hazards() -> list[Hazard]:
    """All hazards, in their order."""
    return [Hazard(**{**row, "tests": tuple(row["tests"])}) for row in _read("hazards.json")]


def anomalies() -> list[Anomaly]:
    """All anomalies, whatever is installed."""
    return [Anomaly(**row) for row in _read("anomalies.json")]


def weaknesses() -> list[Weakness]:
    """Weaknesses that the kit's lower bounds exclude."""
    return [Weakness(**row) for row in _read("vulnerabilities.json")]


def purposes() -> Mapping[str, str]:
    """What distributions are for, by canonical name."""
    return _read("purposes.json")


@cache
def _read(name: str) -> Any:
    return json.loads((files(__package__) / name).read_text(encoding="utf-8"))
