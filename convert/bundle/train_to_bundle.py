"""From photographs to a bundle: train, measure, export."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fthnet_kit.calibration.agreement import accuracy_metrics
from fthnet_kit.calibration.labelled_images import LabelledImage, of_split, read_image_sets
from fthnet_kit.calibration.trainer import Progress, Recipe, Trainer, normalise
from fthnet_kit.calibration.training_report import curves_and_scatter, report_page
from fthnet_kit.convert.bundle.write import Identity, write_bundle
from fthnet_kit.convert.network.checkpoint import Checkpoint, load_checkpoint
from fthnet_kit.convert.network.config import FTHNetConfig
from fthnet_kit.convert.network.fthnet import FTHNet
from fthnet_kit.edge.errors import MissingExtraError
from fthnet_kit.edge.model.preprocess import Preprocessing, prepare_file

try:
    import torch
except ImportError as error:
    raise MissingExtraError("torch", "train", purpose="training") from error

CONFIGS = {"small": FTHNetConfig(embed_dim=32), "base": FTHNetConfig()}


@dataclass(frozen=True)
class TrainingRun:
    """What `fthnet train` was asked for.

    Attributes:
        folders: image sets in FQS form.
        config: ``small`` or ``base``; ignored with `start`.
        start: checkpoint to go on from; None starts from new weights.
        pool: pooling of `start` where its file does not say it.
        recipe: minutes, batch and the rest.
        bundle: folder to make; the run's state lives beside it in ``BUNDLE.training``.
        identity: for the card; accuracy and, where it says nothing, training data are filled in.
        group_column: column that keeps a patient's photographs on one side of the split; None: the patient's.
        replace: replace an existing bundle.
    """

    folders: Sequence[Path]
    config: str
    start: Path | None
    pool: str | None
    recipe: Recipe
    bundle: Path
    identity: Identity
    group_column: str | None = None
    replace: bool = False

    @property
    def state_folder(self) -> Path:
        """Where a killed run is picked up again."""
        return self.bundle.with_name(f"{self.bundle.name}.training")


def train_to_bundle(run: TrainingRun, report: Callable[[Progress], None]) -> list[dict[str, Any]]:
    """Train, measure on the validation split with 1 and 20 views, write the bundle; returns the accuracy entries.

    Raises:
        InputError: something is wrong with the tables or images; told before training starts.
        BundleError: the checkpoint to start from.
    """
    images = read_image_sets(run.folders, run.group_column)
    train, val = of_split(images, "train"), of_split(images, "val")
    network = load_checkpoint(run.start, run.pool).network if run.start else FTHNet(CONFIGS[run.config])  # type: ignore[arg-type]
    trainer = Trainer(network, train, val, run.recipe, run.state_folder, fresh=run.start is None)
    trainer.run(report)
    network.load_state_dict(torch.load(trainer.best_path, map_location="cpu", weights_only=True))
    network = network.cpu().eval()
    name = ", ".join(folder.name for folder in run.folders)
    labelled = np.array([image.mos for image in val])
    predicted = {views: predict(network, val, views) for views in (1, 20)}
    accuracy = [
        {
            "data": f"{name}, split val",
            "images": len(val),
            "views": views,
            "metrics": accuracy_metrics(scores, labelled),
        }
        for views, scores in predicted.items()
    ]
    stated = (
        run.identity.training_data or f"{len(train)} photographs of {name}, split train, and synthetic degradations."
    )
    picture = curves_and_scatter(trainer.history, predicted[1], labelled)
    write_bundle(
        Checkpoint(network, trainer.best_path),
        run.bundle,
        replace(run.identity, accuracy=tuple(accuracy), training_data=stated),
        Preprocessing(),
        half_checkpoint=True,
        reports={
            "training.html": report_page(f"{run.identity.name} {run.identity.version}", picture, accuracy, run.recipe),
            "training.json": json.dumps({"recipe": vars(run.recipe), "accuracy": accuracy}, indent=2) + "\n",
        },
        replace=run.replace,
    )
    return accuracy


@torch.no_grad()
def predict(network: FTHNet, images: Sequence[LabelledImage], views: int) -> np.ndarray:
    """Scores of photographs, 0-100, mean over the views."""
    scores = []
    for image in images:
        tiles = torch.from_numpy(prepare_file(image.path, Preprocessing(), views))
        scores.append(100 * float(network(normalise(tiles)).mean()))
    return np.clip(np.array(scores), 0, 100)
