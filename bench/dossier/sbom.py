"""The software bill of materials: CycloneDX 1.6 in JSON, of this environment and of the model in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

from fthnet_kit.bench.dossier.inventory import KIT, Component
from fthnet_kit.edge.errors import MissingExtraError
from fthnet_kit.edge.model.bundle import Bundle
from fthnet_kit.edge.model.card import CARD_NAME, ModelCard

if TYPE_CHECKING:
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component as BomComponent

MODEL_REF = "model"
NAMESPACE = "fthnet:"  # prefix of the properties that CycloneDX has no word for


def write_sbom(
    bundle: Bundle, components: Sequence[Component], platform: Mapping[str, str], written_at: datetime
) -> bytes:
    """A CycloneDX document; the same environment and bundle give the same bytes at the same time.

    Args:
        bundle: whose model is a component of type ``machine-learning-model``, with its card and files.
        components: distributions.
        platform: interpreter, operating system and what else the kit runs on.
        written_at: time of the document.

    Raises:
        MissingExtraError: cyclonedx-python-lib is not installed.
    """
    try:
        from cyclonedx.output.json import JsonV1Dot6
    except ImportError as error:
        raise MissingExtraError("cyclonedx-python-lib", "dossier", purpose="the SBOM") from error
    bom = _bom(bundle, components, platform)
    bom.metadata.timestamp = written_at
    bom.serial_number = uuid5(NAMESPACE_URL, repr((bundle.card_sha256, components, sorted(platform.items()))))
    content = json.loads(JsonV1Dot6(bom).output_as_string())
    for component in content["components"]:
        if component["bom-ref"] == MODEL_REF:
            component["modelCard"] = model_card(bundle.card)  # the library has no class for it
    return f"{json.dumps(content, indent=2)}\n".encode()


def purl(name: str, version: str) -> str:
    """Address of a distribution on PyPI; without a version where there is none."""
    return f"pkg:pypi/{name}@{version}" if version else f"pkg:pypi/{name}"


def model_card(card: ModelCard) -> dict[str, Any]:
    """A card in CycloneDX's words."""
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "image quality assessment",
            "architectureFamily": "transformer with hypernetwork",
            "modelArchitecture": f"FTHNet {json.dumps(dict(card.architecture), sort_keys=True)}",
            "inputs": [{"format": "image: uint8 [N, 384, 384, 3], RGB"}],
            "outputs": [{"format": "score: float32 [N], 0 to 100 points"}],
        },
        "quantitativeAnalysis": {"performanceMetrics": [*_metrics(card)]},
        "considerations": {"useCases": [card.intended_use], "technicalLimitations": [card.training_data]},
    }


def _metrics(card: ModelCard) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for entry in card.accuracy:
        for name, estimate in entry["metrics"].items():
            row: dict[str, Any] = {
                "type": name,
                "value": str(estimate["value"]),
                "slice": f"{entry['data']}, {entry['images']} images, views {entry['views']}",
            }
            if "low" in estimate:
                bounds = {"lowerBound": str(estimate["low"]), "upperBound": str(estimate["high"])}
                row["confidenceInterval"] = bounds
            rows.append(row)
    return rows


def _bom(bundle: Bundle, components: Sequence[Component], platform: Mapping[str, str]) -> Bom:
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component as BomComponent
    from cyclonedx.model.component import ComponentType

    libraries = {each.name: _library(each) for each in components}
    model = _model(bundle)
    base = [
        BomComponent(name=name, version=version, type=ComponentType.PLATFORM, bom_ref=f"platform:{name}")
        for name, version in sorted(platform.items())
    ]
    kit = libraries.pop(KIT, None) or BomComponent(name=KIT, bom_ref=KIT)
    kit.type = ComponentType.APPLICATION
    bom = Bom(components=[*libraries.values(), model, *base])
    bom.metadata.component = kit
    known = {**libraries, KIT: kit}
    for each in components:
        needs = [known[name] for name in each.needs if name != KIT]
        bom.register_dependency(known[each.name], [*needs, model, *base] if each.name == KIT else needs)
    return bom


def _library(component: Component) -> BomComponent:
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component as BomComponent
    from cyclonedx.model.component import ComponentScope
    from packageurl import PackageURL

    licences = [] if component.licence == "not stated" else [LicenseFactory().make_from_string(component.licence)]
    properties = [Property(name=f"{NAMESPACE}purpose", value=component.purpose)]
    properties += [Property(name=f"{NAMESPACE}known_anomaly", value=anomaly) for anomaly in component.anomalies]
    return BomComponent(
        name=component.name,
        version=component.version,
        bom_ref=purl(component.name, component.version),
        purl=PackageURL("pypi", None, component.name, component.version),
        licenses=licences,
        scope=ComponentScope(component.scope),
        properties=properties,
    )


def _model(bundle: Bundle) -> BomComponent:
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component as BomComponent
    from cyclonedx.model.component import ComponentType
    from cyclonedx.model.contact import OrganizationalEntity

    def sha256(value: str) -> list[HashType]:
        return [HashType(alg=HashAlgorithm.SHA_256, content=value)]

    card = bundle.card
    facts = {"weights_sha256": card.weights_sha256, "origin": card.origin}
    facts |= {f"threshold_{name}": str(value) for name, value in vars(card.thresholds).items()}
    files = {**card.files, CARD_NAME: bundle.card_sha256}
    return BomComponent(
        name=card.name,
        version=card.version,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=MODEL_REF,
        manufacturer=OrganizationalEntity(name=card.manufacturer),
        description=card.intended_use,
        hashes=sha256(bundle.card_sha256),
        properties=[Property(name=f"{NAMESPACE}{name}", value=value) for name, value in facts.items()],
        components=[
            BomComponent(name=name, type=ComponentType.FILE, bom_ref=f"{MODEL_REF}:{name}", hashes=sha256(value))
            for name, value in sorted(files.items())
        ],
    )
