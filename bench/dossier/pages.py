"""The dossier's pages, by the one page builder that all reports use."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fthnet_kit.bench.dossier.evidence import Evidence, lacking
from fthnet_kit.bench.dossier.inventory import KIT, Component, known_anomalies
from fthnet_kit.bench.dossier.knowledge import Anomaly, Hazard
from fthnet_kit.bench.dossier.vex import Judgement
from fthnet_kit.bench.report.summary_page import Found, parts_of
from fthnet_kit.edge.model.card import ModelCard
from fthnet_kit.edge.reporting.html_page import (
    box,
    bullets,
    cards,
    file_links,
    html_table,
    meanings,
    page,
    paragraph,
    section,
    soft,
)

WHAT_IT_IS = (
    "Evidence for a maker's technical file, gathered by fthnet dossier from what is installed here. It claims no "
    "conformity to any standard or law, and is no risk analysis of a device: a maker judges, completes and signs."
)
SCOPES = {
    "required": "Required by the kit",
    "optional": "Required by one of its extras",
    "excluded": "Installed beside, not required by the kit",
}
SOUP_COLUMNS = ("name", "version", "purpose", "known anomalies", "licence")


@dataclass(frozen=True)
class Contents:
    """What the pages show.

    Attributes:
        maker: who files the dossier.
        written_at: for the reader.
        card: the model's.
        card_sha256: of its bytes.
        components: distributions.
        platform: what they run on.
        judgements: of published weaknesses.
        hazards: all of them.
        anomalies: those of what is installed.
        evidence: measurements.
    """

    maker: str
    written_at: str
    card: ModelCard
    card_sha256: str
    components: Sequence[Component]
    platform: Mapping[str, str]
    judgements: Sequence[Judgement]
    hazards: Sequence[Hazard]
    anomalies: Sequence[Anomaly]
    evidence: Sequence[Evidence]


def pages_of(contents: Contents) -> dict[str, bytes]:
    """All pages but the one on top, by file name."""
    return {
        "soup.html": soup_page(contents),
        "hazards.html": hazards_page(contents.hazards),
        "anomalies.html": anomalies_page(contents.anomalies),
        "vulnerabilities.html": vulnerabilities_page(contents.judgements),
        "evidence.html": evidence_page(contents.evidence),
        "model_card.html": model_card_page(contents.card, contents.card_sha256),
    }


def index_page(contents: Contents, files: Mapping[str, str]) -> bytes:
    """The page on top: what was gathered, what is missing, and every file with its SHA-256.

    Args:
        contents: of the dossier.
        files: SHA-256 by name.
    """
    kit = next((component.version for component in contents.components if component.name == KIT), "not installed")
    figures = {
        "libraries": str(len(contents.components)),
        "hazards": str(len(contents.hazards)),
        "known anomalies": str(len(contents.anomalies)),
        "weaknesses open": str(len(open_weaknesses(contents.judgements))),
        "files of evidence": str(len(contents.evidence)),
    }
    facts = {
        "model": contents.card.title,
        "kit": f"{KIT} {kit}",
        "maker": contents.maker,
        "written": contents.written_at,
        **contents.platform,
    }
    return page(
        f"Dossier: {contents.card.name} {contents.card.version}",
        paragraph(WHAT_IT_IS),
        cards(figures),
        meanings(facts),
        box(*_missing(contents)),
        section("Contents", file_links(_TITLES)),
        section("Every file", meanings(dict(sorted(files.items())))),
    )


_TITLES = {
    "model_card.html": "Model card",
    "hazards.html": "Hazards, their controls and tests",
    "anomalies.html": "Known anomalies",
    "soup.html": "SOUP: software of unknown provenance",
    "vulnerabilities.html": "Published weaknesses, judged",
    "evidence.html": "Evidence: accuracy, latency, soak",
    "sbom.cdx.json": "SBOM, CycloneDX 1.6",
    "vex.openvex.json": "VEX, OpenVEX 0.2.0",
    "dossier.json": "Everything as JSON, for fthnet dossier diff",
}


def open_weaknesses(judgements: Iterable[Judgement]) -> list[Judgement]:
    """Those that concern this environment, or that nobody has judged yet."""
    return [judgement for judgement in judgements if judgement.status in ("affected", "under_investigation")]


def _missing(contents: Contents) -> tuple[str, list[str]]:
    missing = [
        f"no evidence of {kind}: {command}, then --evidence" for kind, command in lacking(contents.evidence).items()
    ]
    missing += [
        f"{each.vulnerability} in {each.component}: {each.note}" for each in open_weaknesses(contents.judgements)
    ]
    if "unsigned" in contents.card.origin:
        missing.append("the bundle is not signed: fthnet bundle sign")
    return ("To be completed" if missing else "Nothing is missing that the kit knows of"), missing


def soup_page(contents: Contents) -> bytes:
    """Software that others made, what it is for, and what is known of it."""
    parts = []
    for scope, title in SCOPES.items():
        rows = [
            (each.name, each.version, each.purpose, ", ".join(each.anomalies) or "none known", each.licence)
            for each in contents.components
            if each.scope == scope and each.name != KIT
        ]
        parts += [section(title, html_table(SOUP_COLUMNS, rows, "wide"))] if rows else []
    return page(
        "SOUP",
        soft("Distributions of this Python environment. Licences are as their metadata state them."),
        *parts,
        section("What they run on", meanings(contents.platform)),
    )


def hazards_page(hazards: Sequence[Hazard]) -> bytes:
    """One section a hazard: a table of so many words could not be read on a phone."""
    parts = []
    for each in hazards:
        facts = {"cause": each.cause, "harm": each.harm, "control": each.control, "residual risk": each.residual}
        tests = section("Tests that prove the control", bullets(each.tests), level=3)
        parts.append(section(f"{each.id}  {each.hazard}", meanings(facts), tests, name=each.id))
    return page(
        "Hazards",
        soft(
            "Of the kit alone, without a device around it: severities and probabilities are the maker's to give. "
            "Tests are named as pytest takes them, in the kit's source."
        ),
        html_table(("id", "hazard", "cause"), [(each.id, each.hazard, each.cause) for each in hazards], "wide"),
        *parts,
    )


def anomalies_page(anomalies: Sequence[Anomaly]) -> bytes:
    """What is known not to be right in the versions that are installed."""
    parts = [
        section(
            f"{each.id}  {each.component} {each.versions}",
            meanings({"what it does": each.what, "what is done": each.control}),
            name=each.id,
        )
        for each in anomalies
    ]
    return page("Known anomalies", soft("Of the versions that are installed here."), *parts)


def vulnerabilities_page(judgements: Sequence[Judgement]) -> bytes:
    """What the VEX document says, to read."""
    columns = ("vulnerability", "component", "installed", "status", "note")
    rows = [
        (each.vulnerability, each.component, each.version or "no", each.status.replace("_", " "), each.note)
        for each in judgements
    ]
    return page("Published weaknesses", html_table(columns, rows, "wide"))


def evidence_page(evidence: Sequence[Evidence]) -> bytes:
    """Every file with its hash and figures, then results of `fthnet bench` in full."""
    missing = [f"{kind}: {command}" for kind, command in lacking(evidence).items()]
    files = [(each.name, ", ".join(each.kinds), str(len(each.content))) for each in evidence]
    figures = [(name, str(value), each.name) for each in evidence for name, value in each.figures.items()]
    full = [
        section(Found(Path(each.name), each.results).title, *parts_of(each.results), style="result")
        for each in evidence
        if each.results is not None
    ]
    return page(
        "Evidence",
        box("No evidence of" if missing else "Accuracy, latency and soak are there", missing),
        html_table(("file", "of", "bytes"), files, "wide"),
        section("SHA-256", meanings({each.name: each.sha256 for each in evidence})),
        section("Figures", html_table(("figure", "value", "file"), figures, "wide")),
        *full,
    )


def model_card_page(card: ModelCard, card_sha256: str) -> bytes:
    """A model card to read and to print."""
    preprocessing = {name.replace("_", " "): str(value) for name, value in card.preprocessing.to_dict().items()}
    thresholds = {
        "good": f"from {card.thresholds.good} points",
        "usable": f"from {card.thresholds.usable} points",
        "reject": f"below {card.thresholds.usable} points",
    }
    hypernetwork = {name.replace("_", " "): str(value) for name, value in card.hypernetwork.items()}
    return page(
        f"Model card: {card.name} {card.version}",
        meanings(
            {
                "model": card.title,
                "manufacturer": card.manufacturer,
                "weights": card.weights_sha256,
                "card": card_sha256,
                **({"made from": json.dumps(dict(card.parent), ensure_ascii=False)} if card.parent else {}),
            }
        ),
        section("Intended use", paragraph(card.intended_use)),
        section("Training data", paragraph(card.training_data)),
        section("Thresholds", meanings(thresholds)),
        section("Accuracy", html_table(("metric", "value", "images", "views", "data"), _accuracy(card), "wide")),
        section("Cost of each precision, points", html_table(PRECISION_COLUMNS, _precisions(card), "numbers")),
        *([section("Hypernetwork", meanings(hypernetwork))] if hypernetwork else []),
        section("Input", meanings(preprocessing)),
        section("Architecture", meanings({name: str(value) for name, value in card.architecture.items()})),
        section("Files", meanings(dict(sorted(card.files.items())))),
    )


PRECISION_COLUMNS = ("precision", "gate", "images", "mean |Δ|", "p99 |Δ|", "max |Δ|", "verdicts that flip")


def _accuracy(card: ModelCard) -> list[tuple[str, ...]]:
    return [
        (name, _estimate(metric), str(entry["images"]), str(entry["views"]), entry["data"])
        for entry in card.accuracy
        for name, metric in entry["metrics"].items()
    ]


def _estimate(metric: Mapping[str, Any]) -> str:
    interval = f" [{metric['low']}, {metric['high']}]" if "low" in metric else ""
    return f"{metric['value']}{interval}"


def _precisions(card: ModelCard) -> list[tuple[str, ...]]:
    return [
        (name, "holds" if cost["holds"] else "does not hold", *(str(cost.get(key, "–")) for key in COST_KEYS))
        for name, cost in sorted(card.precisions.items())
    ]


COST_KEYS = ("images", "mean", "p99", "worst", "flips")


def anomalies_of(card: ModelCard, components: Sequence[Component], every: Sequence[Anomaly]) -> list[Anomaly]:
    """Those of a model and of what is installed."""
    there = {anomaly for component in components for anomaly in component.anomalies}
    there |= set(known_anomalies(card.name, card.version))
    return [anomaly for anomaly in every if anomaly.id in there]
