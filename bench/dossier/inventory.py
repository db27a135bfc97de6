"""What is installed: distributions of this environment, and what they run on."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import Distribution, distributions
from typing import Any, Literal

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from fthnet_kit.bench.dossier.knowledge import anomalies, purposes
from fthnet_kit.edge.device.machine import read_cuda_version, read_device, read_driver

KIT = "fthnet-edge-kit"
DEVELOPMENT = "dev"  # extra that no device has
LONGEST_LICENCE = 80  # characters; a longer text is a licence, not the name of one
Scope = Literal["required", "optional", "excluded"]


@dataclass(frozen=True)
class Component:
    """A distribution of this environment.

    Attributes:
        name: canonical.
        version: of it.
        licence: as its metadata names it; ``not stated`` where they do not.
        scope: ``required`` by the kit, ``optional``: by one of its extras, or ``excluded``: neither needs it.
        needs: names of the installed distributions that it requires.
        purpose: what it is for.
        anomalies: identifiers of those that are known of this version.
    """

    name: str
    version: str
    licence: str
    scope: Scope
    needs: tuple[str, ...]
    purpose: str
    anomalies: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def read_components() -> list[Component]:
    """All distributions of this environment by name, the kit's own first."""
    found = _installed()
    needs = {name: sorted(_needed(distribution, found)) for name, distribution in found.items()}
    scopes = _scopes(found, needs)
    users = {name: sorted(user for user in needs if name in needs[user]) for name in found}
    known = purposes()
    components = [
        Component(
            name,
            distribution.version,
            licence_of(distribution.metadata),
            scopes[name],
            tuple(needs[name]),
            known.get(name) or _needed_by(users[name]),
            known_anomalies(name, distribution.version),
        )
        for name, distribution in found.items()
    ]
    return sorted(components, key=lambda component: (component.name != KIT, component.name))


def known_anomalies(name: str, version: str) -> tuple[str, ...]:
    """Identifiers of what is known of a component."""
    return tuple(anomaly.id for anomaly in anomalies() if anomaly.concerns(name, version))


def read_platform() -> dict[str, str]:
    """Interpreter, operating system and NVIDIA's parts, by name; what is not there is left out."""
    device = read_device()
    facts = {
        platform.python_implementation(): platform.python_version(),
        "operating system": device.system,
        "Linux": device.kernel,
        "architecture": device.architecture,
        "Jetson Linux": device.l4t,
        "JetPack": device.jetpack,
        "CUDA": read_cuda_version(),
        "NVIDIA driver": read_driver(),
    }
    return {name: value for name, value in facts.items() if value}


def licence_of(metadata: Any) -> str:
    """Licence that a distribution's metadata name: an expression, a short text, or their classifiers."""
    stated = (metadata.get("License-Expression") or metadata.get("License") or "").strip()
    if stated and stated != "UNKNOWN" and "\n" not in stated and len(stated) <= LONGEST_LICENCE:
        return str(stated).removeprefix("OSI Approved :: ")
    classifiers = [row.split(" :: ") for row in metadata.get_all("Classifier") or ()]
    names = [row[-1] for row in classifiers if row[0] == "License" and row[-1] != "OSI Approved"]
    return ", ".join(names) or "not stated"


def _installed() -> dict[str, Distribution]:
    """Distributions by canonical name; of two with one name the first is the one that is imported."""
    found: dict[str, Distribution] = {}
    for distribution in distributions():
        name = distribution.name
        if name:
            found.setdefault(canonicalize_name(name), distribution)
    return found


def _needed(distribution: Distribution, found: Mapping[str, Distribution], extra: str = "") -> Iterator[str]:
    """Installed distributions that one requires, with an extra of it."""
    for text in distribution.requires or ():
        try:
            requirement = Requirement(text)
        except InvalidRequirement:  # old distributions have such requirements
            continue
        name = canonicalize_name(requirement.name)
        if name in found and (requirement.marker is None or requirement.marker.evaluate({"extra": extra})):
            yield name


def _scopes(found: Mapping[str, Distribution], needs: Mapping[str, list[str]]) -> dict[str, Scope]:
    """What of the environment belongs to the kit."""
    if KIT not in found:
        return dict.fromkeys(found, "excluded")
    kit = found[KIT]
    extras = [extra for extra in kit.metadata.get_all("Provides-Extra") or () if extra != DEVELOPMENT]
    required = _closure([KIT], needs)
    optional = _closure([name for extra in extras for name in _needed(kit, found, extra)], needs)
    return {name: "required" if name in required else "optional" if name in optional else "excluded" for name in found}


def _closure(names: list[str], needs: Mapping[str, list[str]]) -> set[str]:
    reached: set[str] = set()
    while names:
        name = names.pop()
        if name not in reached:
            reached.add(name)
            names += needs[name]
    return reached


def _needed_by(users: list[str]) -> str:
    most = 3
    if not users:
        return "installed beside the kit"
    return f"needed by {', '.join(users[:most])}" + (f" and {len(users) - most} more" if len(users) > most else "")
