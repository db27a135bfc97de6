"""A dossier: a folder that only its owner may enter, and that appears whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fthnet_kit.bench.dossier.evidence import gather
from fthnet_kit.bench.dossier.inventory import KIT, read_components, read_platform
from fthnet_kit.bench.dossier.knowledge import anomalies, hazards
from fthnet_kit.bench.dossier.pages import Contents, anomalies_of, index_page, pages_of
from fthnet_kit.bench.dossier.sbom import write_sbom
from fthnet_kit.bench.dossier.vex import judge, write_vex
from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.files import make_folder, new_private_folder, write_atomically
from fthnet_kit.edge.model.bundle import Bundle
from fthnet_kit.edge.reporting.json_file import json_file

DOSSIER_NAME = "dossier.json"
SCHEMA, VERSION = "fthnet-dossier", 1
EVIDENCE = "evidence"  # folder


@dataclass(frozen=True)
class Written:
    """What was put together, and where it lies."""

    folder: Path
    contents: Contents


def write_dossier(
    out: Path, bundle: Bundle, maker: str, given: Sequence[Path] = (), audit: Path | None = None
) -> Written:
    """Gather everything and write it to `out`.

    Args:
        out: a folder that is not there yet, or is empty.
        bundle: whose model is filed.
        maker: who files it; author of the VEX document.
        given: more evidence: files, or folders with JSON files.
        audit: what ``pip-audit --format json`` wrote.

    Raises:
        InputError: there is something at `out`, it cannot be written, or evidence cannot be read.
        MissingExtraError: the extra ``dossier`` is not installed.
    """
    if out.exists() and not (out.is_dir() and not out.is_symlink() and not any(out.iterdir())):
        raise InputError(f"{out}: expected a new folder, found something there; file each dossier in its own")
    now = datetime.now(timezone.utc).replace(microsecond=0)
    components, platform = read_components(), read_platform()
    judgements = judge(components, audit)
    contents = Contents(
        maker=maker,
        written_at=f"{now:%Y-%m-%d %H:%M:%S} UTC",
        card=bundle.card,
        card_sha256=bundle.card_sha256,
        components=components,
        platform=platform,
        judgements=judgements,
        hazards=hazards(),
        anomalies=anomalies_of(bundle.card, components, anomalies()),
        evidence=gather(bundle, given),
    )
    files = {
        "sbom.cdx.json": write_sbom(bundle, components, platform, now),
        "vex.openvex.json": write_vex(judgements, maker, components, now),
        **pages_of(contents),
        **{f"{EVIDENCE}/{each.name}": each.content for each in contents.evidence},
    }
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    files[DOSSIER_NAME] = json_file(_facts(contents, hashes, now))
    hashes[DOSSIER_NAME] = hashlib.sha256(files[DOSSIER_NAME]).hexdigest()
    files["index.html"] = index_page(contents, hashes)
    _install(out, files)
    return Written(out, contents)


def _facts(contents: Contents, hashes: Mapping[str, str], now: datetime) -> dict[str, Any]:
    card = contents.card
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "written_at": now.isoformat(),
        "kit": next((each.version for each in contents.components if each.name == KIT), None),
        "maker": contents.maker,
        "model": {
            "name": card.name,
            "version": card.version,
            "manufacturer": card.manufacturer,
            "origin": card.origin,
            "weights_sha256": card.weights_sha256,
            "card_sha256": contents.card_sha256,
            "thresholds": vars(card.thresholds),
            "files": dict(card.files),
        },
        "platform": dict(contents.platform),
        "components": {each.name: each.to_dict() for each in contents.components},
        "vulnerabilities": {each.vulnerability: each.to_dict() for each in contents.judgements},
        "hazards": {each.id: asdict(each) for each in contents.hazards},
        "anomalies": {each.id: asdict(each) for each in contents.anomalies},
        "figures": {each.name: dict(each.figures) for each in contents.evidence},
        "evidence": {each.name: each.sha256 for each in contents.evidence},
        "files": dict(sorted(hashes.items())),
    }


def _install(out: Path, files: Mapping[str, bytes]) -> None:
    """Write everything beside `out`, then rename it there."""
    make_folder(out.parent, private=False)
    work = out.with_name(f".{out.name}.tmp")
    try:
        if work.exists():  # left by a process that was killed
            shutil.rmtree(work)
        new_private_folder(work)
        for name, content in files.items():
            path = work / name
            make_folder(path.parent, private=True)
            write_atomically(path, content, private=True)
        work.rename(out)
    except OSError as error:
        shutil.rmtree(work, ignore_errors=True)
        raise InputError(f"{out}: expected a folder that can be written, found {error.strerror}") from error
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
