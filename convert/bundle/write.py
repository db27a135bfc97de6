"""Makes a bundle from a checkpoint: export, parity, card, all or nothing."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fthnet_kit.convert.bundle.folder import hashes, install, refuse_existing
from fthnet_kit.convert.network.checkpoint import NetworkCheckpoint, round_to_half, save_checkpoint
from fthnet_kit.convert.onnx_graph.export import export_onnx
from fthnet_kit.convert.onnx_graph.parity import Parity, measure_parity, parity_images, require
from fthnet_kit.edge.model.bundle import CHECKPOINT_NAME, FP32_NAME, REPORTS
from fthnet_kit.edge.model.card import CARD_NAME, ModelCard
from fthnet_kit.edge.model.preprocess import Preprocessing
from fthnet_kit.edge.model.score import RawRange, Thresholds


@dataclass(frozen=True)
class Identity:
    """What a card says that no weight can tell."""

    name: str = "FTHNet"
    version: str = "0.0.0"
    manufacturer: str = "unnamed"
    thresholds: Thresholds = field(default_factory=lambda: Thresholds(usable=40.0, good=60.0))
    intended_use: str = (
        "Rates how well a retinal photograph shows the retina. Not a diagnosis; not validated clinically."
    )
    training_data: str = "Not stated by whoever exported this model."
    accuracy: tuple[Mapping[str, Any], ...] = ()
    hypernetwork: Mapping[str, float] = field(default_factory=dict)
    parent: Mapping[str, str] = field(default_factory=dict)
    raw_range: RawRange = field(default_factory=RawRange)


def write_bundle(
    checkpoint: NetworkCheckpoint,
    folder: Path,
    identity: Identity,
    preprocessing: Preprocessing,
    *,
    batch: int = 1,
    half_checkpoint: bool = False,
    images: Sequence[Path] = (),
    reports: Mapping[str, str | bytes] | None = None,
    replace: bool = False,
) -> Parity:
    """Export, check parity, and write the bundle; the folder appears whole or not at all.

    Args:
        checkpoint: the network.
        folder: the bundle to make; must not exist unless `replace`.
        identity: for the card.
        preprocessing: for the card; its normalisation goes into the graph.
        batch: static batch size of the graph.
        half_checkpoint: round the weights to float16, in the graph too, and store the safetensors file so.
        images: photographs for the parity check; default: the one that the kit carries, degraded.
        reports: further files for `reports/`, by name.

    Raises:
        InputError: the folder exists.
        ParityError: ONNX differs from PyTorch by more than 0.01 points; nothing is written.
    """
    refuse_existing(folder, replace=replace)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        work = Path(temporary) / folder.name
        (work / REPORTS).mkdir(parents=True)
        if half_checkpoint:
            round_to_half(checkpoint.network)
        export_onnx(checkpoint.network, preprocessing, work / FP32_NAME, batch)
        parity = measure_parity(
            checkpoint.network, work / FP32_NAME, preprocessing, *parity_images(images, preprocessing)
        )
        require(parity)
        save_checkpoint(checkpoint.network, work / CHECKPOINT_NAME, half=half_checkpoint)
        for name, content in {**(reports or {}), "parity.json": json.dumps(parity.to_dict(), indent=2) + "\n"}.items():
            (work / REPORTS / name).write_bytes(content.encode() if isinstance(content, str) else content)
        card = ModelCard(
            **{key: getattr(identity, key) for key in Identity.__dataclass_fields__},
            weights_sha256=checkpoint.weights_sha256,
            architecture=checkpoint.network.config.to_dict(),
            preprocessing=preprocessing,
            files=hashes(work),
        )
        (work / CARD_NAME).write_text(ModelCard.from_json(card.to_json()).to_json(), encoding="utf-8")
        install(work, folder, Path(temporary))
    return parity
