"""From photographs to a bundle: train, measure, export."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fthnet_kit.calibration.agreement import accuracy_metrics
from fthnet_kit.calibration.labelled_images import LabelledImage, of_split, read_image_sets
from fthnet_kit.calibration.trainer import MANY_VIEWS, Progress, Recipe, Trainer, Validation, normalise
from fthnet_kit.calibration.training_report import curves_and_scatter, report_page
from fthnet_kit.convert.bundle.write import Identity, write_bundle
from fthnet_kit.convert.network.aliveness import SWAPPED_POINTS, Aliveness, measure_aliveness
from fthnet_kit.convert.network.checkpoint import NetworkCheckpoint, load_checkpoint
from fthnet_kit.convert.network.config import FTHNetConfig
from fthnet_kit.convert.network.fthnet import FTHNet
from fthnet_kit.convert.network.widen import widened
from fthnet_kit.edge.errors import InputError, MissingExtraError
from fthnet_kit.edge.model.card import CARD_NAME, ModelCard
from fthnet_kit.edge.model.preprocess import Preprocessing, prepare_file

try:
    import torch
except ImportError as error:
    raise MissingExtraError("torch", "train", purpose="training") from error

LOOKED_INTO = 200  # photographs: the generated weights of all are held at once
CONFIGS = {"small": FTHNetConfig(embed_dim=32), "base": FTHNetConfig()}


@dataclass(frozen=True)
class TrainingRun:
    """What `fthnet train` was asked for.

    Attributes:
        folders: image sets in FQS form.
        config: ``small`` or ``base``, to which the backbone of a narrower `start` is widened; None: that of `start`, or
            ``small``.
        start: checkpoint to go on from; None starts from new weights.
        pool: pooling of `start` where its file does not say it.
        recipe: minutes, batch and the rest.
        bundle: folder to make; the run's state lives beside it in ``BUNDLE.training``.
        identity: for the card; accuracy and, where it says nothing, training data are filled in.
        group_column: column that keeps a patient's photographs on one side of the split; None: the patient's.
        replace: replace an existing bundle.
    """

    folders: Sequence[Path]
    config: str | None
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


@dataclass(frozen=True)
class TrainingResult:
    """What a run came to.

    Attributes:
        accuracy: the card's entries.
        alive: what the network's hypernetwork does.
        parent: who it was fine-tuned from.
        before: how the parent did on the validation split; None: it had none.
        after: how the new weights do.
        relabelled: sentence on labels that were changed; empty where none was.
    """

    accuracy: Sequence[Mapping[str, Any]]
    alive: Aliveness
    parent: Mapping[str, str] | None
    before: Validation | None
    after: Validation
    relabelled: str = ""

    @property
    def comparison(self) -> str:
        """Parent against new weights, one sentence; empty without a parent."""
        if self.before is None or self.parent is None:
            return ""
        pairs = (
            f"{key.upper()} {getattr(self.before.agreement, key):.3f} to {getattr(self.after.agreement, key):.3f}"
            for key in ("srcc", "plcc", "rmse")
        )
        who = " ".join(self.parent[key] for key in ("name", "version") if key in self.parent)
        return f"From its parent {who}, validation photographs, centre view: {', '.join(pairs)}."

    @property
    def facts(self) -> list[str]:
        """Sentences for the report and the terminal."""
        return [line for line in (self.relabelled, self.comparison, f"{self.alive}.") if line]

    @property
    def warnings(self) -> list[str]:
        """What a user should not overlook."""
        found = []
        if self.before is not None and self.after.merit < self.before.merit:
            found.append(f"worse than the parent. {self.comparison}")
        if not self.alive.alive:
            found.append(f"the hypernetwork is dead: {SWAPPED_POINTS:g} points by another photograph's taps are wanted")
        return found

    def to_dict(self) -> dict[str, Any]:
        """As training.json holds it."""
        return {
            "accuracy": list(self.accuracy),
            "hypernetwork": self.alive.to_dict(),
            "parent": dict(self.parent or {}),
            "before": asdict(self.before.agreement) if self.before else None,
            "after": asdict(self.after.agreement),
            "warnings": self.warnings,
        }


def train_to_bundle(run: TrainingRun, report: Callable[[Progress], None]) -> TrainingResult:
    """Train, measure on the validation split with 1 and 20 views, write the bundle.

    Raises:
        InputError: something is wrong with the tables or images; raised before training starts.
        BundleError: the checkpoint to start from.
    """
    images = read_image_sets(run.folders, run.group_column)
    train, val = of_split(images, "train"), of_split(images, "val")
    parent = load_checkpoint(run.start, run.pool) if run.start else None  # type: ignore[arg-type]
    identity = parent_identity(parent) if parent else None
    network = starting_network(run, parent)
    own = copy.deepcopy(parent.network) if parent and run.recipe.new_head else None  # before its head is renewed
    recipe = replace(run.recipe, new_head=run.recipe.new_head or parent is None)
    trainer = Trainer(network, train, val, recipe, run.state_folder, fresh=parent is None)
    before = trainer.judge(own.to(trainer.device), report) if own else None
    best = trainer.run(report)
    if parent and before is None:
        before = trainer.start
    network.load_state_dict(torch.load(trainer.best_path, map_location="cpu", weights_only=True))
    network = network.cpu().eval()
    chosen = [val[index] for index in np.linspace(0, len(val) - 1, trainer.many_view_images).round().astype(int)]
    one = predict(network, val, 1, lambda: report(trainer.progress("measuring")))
    twenty = predict(network, chosen, MANY_VIEWS, lambda: report(trainer.progress("measuring")))
    name = ", ".join(folder.name for folder in run.folders)
    accuracy = [
        _accuracy(f"{name}, split val", photographs, scores, views)
        for photographs, scores, views in ((val, one, 1), (chosen, twenty, MANY_VIEWS))
        if len(photographs)
    ]
    alive = look_into(network, val)
    result = TrainingResult(accuracy, alive, identity, before, best, relabelled(trainer))
    counted = f"{len(train)} photographs of {name}, split train, and synthetic degradations. {result.relabelled}"
    stated = run.identity.training_data or counted.rstrip()
    report(trainer.progress("exporting"))
    picture = curves_and_scatter(trainer.history, one, np.array([image.mos for image in val]))
    title = f"Training of {run.bundle.name}: {run.identity.name} {run.identity.version}".removesuffix(" 0.0.0")
    took = f"{trainer.step} steps of {recipe.batch} images in {trainer.elapsed / 60:.1f} minutes."
    facts = [took, *result.facts]
    write_bundle(
        NetworkCheckpoint(network, trainer.best_path),
        run.bundle,
        replace(
            run.identity,
            accuracy=tuple(accuracy),
            training_data=stated,
            hypernetwork=alive.to_dict(),
            parent=identity or {},
        ),
        Preprocessing(),
        half_checkpoint=True,
        reports={
            "training.html": report_page(title, facts, result.warnings, picture, accuracy, recipe),
            "training.json": json.dumps({"recipe": vars(recipe), **result.to_dict()}, indent=2) + "\n",
        },
        replace=run.replace,
    )
    report(trainer.progress("done"))
    return result


def starting_network(run: TrainingRun, parent: NetworkCheckpoint | None) -> FTHNet:
    """What is trained: new, the parent's, or one whose backbone is the parent's, widened.

    Raises:
        InputError: the parent cannot become what was asked for.
    """
    if parent is None:
        return FTHNet(CONFIGS[run.config or "small"])
    own = parent.network.config
    wanted = replace(CONFIGS[run.config], pool=own.pool) if run.config else own
    if wanted == own:
        return parent.network
    if not run.recipe.new_head:
        raise InputError(
            f"--config {run.config}: expected --new-head, found other weights ({own.embed_dim} channels instead of "
            f"{wanted.embed_dim}): taps and hypernetwork of one width say nothing in another"
        )
    torch.manual_seed(run.recipe.seed)
    return widened(parent.network, wanted)


def relabelled(trainer: Trainer) -> str:
    """How many labels were changed, how far and by what; empty where none was."""
    points, recipe = trainer.relabelled, trainer.recipe
    if not len(points):
        return ""
    given = {"--relight": recipe.relight, "--sharpness": recipe.sharpness}
    by = ", ".join(f"{option} {share:g}" for option, share in given.items() if share)
    return (
        f"Labels of {len(points)} of {len(trainer.mos)} photographs were changed by {abs(points).mean():.1f} points "
        f"in the mean ({by}); no validation photograph's was."
    )


def parent_identity(parent: NetworkCheckpoint) -> dict[str, str]:
    """Who a checkpoint is: name and version of the bundle that holds it, otherwise the file's name, and its hash."""
    card_path = parent.source.with_name(CARD_NAME)
    named = {"name": parent.source.name}
    if card_path.is_file():
        card = ModelCard.read(card_path)
        named = {"name": card.name, "version": card.version}
    return {**named, "weights_sha256": parent.weights_sha256}


def look_into(network: FTHNet, images: Sequence[LabelledImage]) -> Aliveness:
    """`measure_aliveness` on at most `LOOKED_INTO` photographs, centre view."""
    chosen = [images[index] for index in np.linspace(0, len(images) - 1, min(len(images), LOOKED_INTO)).astype(int)]
    batches = (normalise(torch.from_numpy(prepare_file(i.path, Preprocessing(), 1))) for i in chosen)
    return measure_aliveness(network, batches, np.array([image.mos for image in chosen]))


def _accuracy(data: str, images: Sequence[LabelledImage], scores: np.ndarray, views: int) -> dict[str, Any]:
    """An entry of the card; what has no value (of constant scores) is left out."""
    metrics = accuracy_metrics(scores, np.array([image.mos for image in images]))
    kept = {key: found for key, found in metrics.items() if not np.isnan(list(found.values())).any()}
    return {"data": data, "images": len(images), "views": views, "metrics": kept}


@torch.no_grad()
def predict(
    network: FTHNet, images: Sequence[LabelledImage], views: int, tell: Callable[[], None] = lambda: None
) -> np.ndarray:
    """Scores of photographs, 0-100, mean over the views."""
    scores = []
    for image in images:
        tiles = torch.from_numpy(prepare_file(image.path, Preprocessing(), views))
        scores.append(100 * float(network(normalise(tiles)).mean()))
        tell()
    return np.clip(np.array(scores), 0, 100)
