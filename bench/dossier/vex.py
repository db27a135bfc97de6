"""OpenVEX 0.2.0: which published weaknesses of libraries concern this environment."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from uuid import NAMESPACE_URL, uuid5

from packaging.utils import canonicalize_name
from packaging.version import Version

from fthnet_kit.bench.dossier.inventory import KIT, Component
from fthnet_kit.bench.dossier.knowledge import Weakness, weaknesses
from fthnet_kit.bench.dossier.sbom import purl
from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.files import parse_json

CONTEXT = "https://openvex.dev/ns/v0.2.0"
Status = Literal["not_affected", "affected", "fixed", "under_investigation"]


@dataclass(frozen=True)
class Judgement:
    """What a published weakness means here.

    Attributes:
        vulnerability: its identifier.
        component: distribution that it concerns.
        version: installed; empty where it is not.
        status: in OpenVEX's words.
        note: why, or what to do.
    """

    vulnerability: str
    component: str
    version: str
    status: Status
    note: str

    def to_dict(self) -> dict[str, str]:
        """For JSON."""
        return asdict(self)


def judge(components: Sequence[Component], audit: Path | None = None) -> list[Judgement]:
    """Weaknesses that the kit knows of, then those that an audit found and nobody has judged yet.

    Args:
        components: what is installed.
        audit: what ``pip-audit --format json`` wrote for this environment.

    Raises:
        InputError: `audit` is none.
    """
    installed = {component.name: component.version for component in components}
    known = [_judge_known(weakness, installed.get(weakness.component, "")) for weakness in weaknesses()]
    names = {judgement.vulnerability for judgement in known}
    found = [] if audit is None else list(_read_audit(audit, installed))
    new = [judgement for judgement in found if judgement.vulnerability not in names]
    return [*known, *sorted(new, key=lambda judgement: (judgement.component, judgement.vulnerability))]


def write_vex(judgements: Sequence[Judgement], author: str, components: Sequence[Component], at: datetime) -> bytes:
    """An OpenVEX document; the same judgements give the same bytes at the same time."""
    time = at.isoformat(timespec="seconds").replace("+00:00", "Z")
    statements = [{**_statement(judgement, components), "timestamp": time} for judgement in judgements]
    content = {
        "@context": CONTEXT,
        "@id": f"urn:uuid:{uuid5(NAMESPACE_URL, repr((author, judgements, components)))}",
        "author": author,
        "timestamp": time,
        "version": 1,
        "tooling": "fthnet dossier",
        "statements": statements,
    }
    return f"{json.dumps(content, indent=2)}\n".encode()


def _judge_known(weakness: Weakness, version: str) -> Judgement:
    if not version:
        status: Status = "not_affected"
        note = f"{weakness.component} is not installed"
    elif Version(version) >= Version(weakness.fixed):
        status, note = "fixed", f"{weakness.what} Fixed in {weakness.fixed}."
    else:
        status, note = "affected", f"{weakness.what} Update {weakness.component} to {weakness.fixed} or later."
    return Judgement(weakness.vulnerability, weakness.component, version, status, note)


def _read_audit(path: Path, installed: Mapping[str, str]) -> Iterator[Judgement]:
    try:
        rows = parse_json(path.read_bytes())["dependencies"]
        for row in rows:
            name = canonicalize_name(row["name"])
            for found in row.get("vulns", ()):
                fixes = ", ".join(found.get("fix_versions", ())) or "no version yet"
                identifier = next(
                    (alias for alias in found.get("aliases", ()) if alias.startswith("CVE-")), found["id"]
                )
                note = f"Found by an audit; not judged yet. Fixed in {fixes}."
                yield Judgement(identifier, name, installed.get(name, str(row["version"])), "under_investigation", note)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: expected what `pip-audit --format json` writes, found {error!r}") from error


def _statement(judgement: Judgement, components: Sequence[Component]) -> dict[str, Any]:
    kit = next((component.version for component in components if component.name == KIT), "")
    product: dict[str, Any] = {"@id": purl(KIT, kit), "identifiers": {"purl": purl(KIT, kit)}}
    if judgement.version:
        library = purl(judgement.component, judgement.version)
        product["subcomponents"] = [{"@id": library, "identifiers": {"purl": library}}]
    statement: dict[str, Any] = {
        "vulnerability": {"name": judgement.vulnerability},
        "products": [product],
        "status": judgement.status,
        "status_notes": judgement.note,
    }
    if judgement.status == "not_affected":
        statement["justification"] = "component_not_present"
    if judgement.status == "affected":
        statement["action_statement"] = judgement.note
    return statement
