"""What a check of `fthnet doctor` finds."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any, Literal

from fthnet_kit.edge.device.machine import Device
from fthnet_kit.edge.device.sysfs import MB

State = Literal["ok", "note", "problem"]
STATES: tuple[State, ...] = ("ok", "note", "problem")
MESSAGE_LIMIT = 200  # characters of an error that is not ours


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: what it is about.
        state: ``ok``; ``note``, worth knowing; ``problem``, something will not work.
        found: what there is.
        remedy: what to do; a problem always has one.
    """

    topic: str
    state: State
    found: str
    remedy: str | None = None

    def __post_init__(self) -> None:
        if self.state == "problem" and not self.remedy:
            raise ValueError(f"{self.topic}: expected a remedy for a problem, found none")

    def to_dict(self) -> dict[str, str | None]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Report:
    """All findings about one machine, in the order in which they are read."""

    device: Device
    findings: tuple[Finding, ...]

    def counts(self) -> dict[State, int]:
        """Number of findings by state."""
        counted = Counter(finding.state for finding in self.findings)
        return {state: counted[state] for state in STATES}

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "device": self.device.to_dict(),
            "findings": [finding.to_dict() for finding in self.findings],
            "counts": self.counts(),
        }


def load_module(name: str) -> tuple[ModuleType | None, str | None]:
    """Import a module: the module; or what is broken about it; or neither where it is not installed."""
    try:
        return import_module(name), None
    except Exception as error:  # a broken native library can raise anything
        if isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]:
            return None, None
        return None, f"{name} is installed but {describe_failure(error)}"


def describe_failure(error: Exception) -> str:
    """One line about an error of a library's import."""
    words = " ".join(str(error).split())
    if len(words) > MESSAGE_LIMIT:
        words = words[:MESSAGE_LIMIT] + "…"
    return f"does not load: {type(error).__name__}: {words}"


def package_version(name: str) -> str | None:
    """Version of an installed package; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def numbers_of(found: str) -> tuple[int, ...]:
    """The leading numbers of a version, so that 10.13 comes after 10.3; empty where it starts with none."""
    leading = re.match(r"[0-9]{1,9}(?:\.[0-9]{1,9})*", found)
    return tuple(map(int, leading[0].split("."))) if leading else ()


def gigabytes(megabytes: int) -> str:
    """Such as ``7.4 GB``."""
    return f"{megabytes * MB / 10**9:.1f} GB"
