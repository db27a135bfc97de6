"""Training and fine-tuning of FTHNet on photographs with scores, resumable at any moment.

The recipe (measured on 1,329 photographs; the log stands in docs/TRAINING.md): AdamW with warm-up and a
cosine that ends when the granted minutes do, an exponential moving average of the weights, smooth L1 on
the score, a ranking loss over all pairs of a batch, and an auxiliary linear head on the backbone's last
tokens that names the severity of each fault. The head is dropped at the end.

The network comes in from outside, with `forward_with_tokens(image) -> (raw (N,), tokens (N, L, D))`.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fthnet_kit.calibration.agreement import Agreement, agreement
from fthnet_kit.calibration.labelled_images import LabelledImage
from fthnet_kit.calibration.training_samples import FAULTS, SampleSource
from fthnet_kit.edge.capture.degradations import degrade
from fthnet_kit.edge.errors import InputError, MissingExtraError
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.model.preprocess import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    INPUT,
    MARGIN,
    Preprocessing,
    canonical_file,
    prepare_file,
)

try:
    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn
except ImportError as error:
    raise MissingExtraError("torch", "train", purpose="training") from error

PROBE_IMAGES = 32  # good validation photographs on which the fall with defocus is watched
PROBE_SEVERITY = 0.5


@dataclass(frozen=True)
class Recipe:
    """What a training run does; stored with its state, in the card and in the report."""

    minutes: float
    batch: int = 8
    peak_lr: float = 3e-4
    final_lr: float = 3e-6
    warmup_steps: int = 100
    weight_decay: float = 0.03
    clip: float = 1.0
    ema_decay: float = 0.998
    ranking_weight: float = 0.5
    auxiliary_weight: float = 0.5
    seed: int = 0
    validate_every_s: float = 300.0
    save_every_s: float = 120.0

    def learning_rate(self, step: int, progress: float) -> float:
        """Linear warm-up over the first steps, then a cosine over the share of the minutes that has passed."""
        cosine = self.final_lr + (self.peak_lr - self.final_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return cosine * min(1.0, (step + 1) / self.warmup_steps)


@dataclass(frozen=True)
class Validation:
    """One look at the validation photographs, centre view, moving-average weights."""

    step: int
    minutes: float
    loss: float
    agreement: Agreement
    defocus_drop: float  # points that good photographs lose at defocus 0.5, mean

    @property
    def merit(self) -> float:
        """What the best weights are chosen by: both correlations, and a tenth for seeing defocus at all."""
        sees_defocus = 0.0 if math.isnan(self.defocus_drop) else min(1.0, max(0.0, self.defocus_drop / 30))
        return self.agreement.srcc + self.agreement.plcc + 0.1 * sees_defocus


@dataclass(frozen=True)
class Progress:
    """What a progress bar shows."""

    step: int
    images: int
    minutes: float
    loss: float
    last: Validation | None


Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def make_batch(source: SampleSource, first: int, pairs: int) -> Batch:
    """Pairs `first` … as tensors: image uint8 (N, 384, 384, 3), quality (N,), severities and their weights (N, 10)."""
    samples = [sample for index in range(first, first + pairs) for sample in source.pair(index)]
    severities = np.stack([sample.severities for sample in samples])
    known = np.array([[sample.known] for sample in samples]) | (severities > 0)
    return (
        torch.from_numpy(np.stack([sample.image for sample in samples])),
        torch.tensor([sample.quality for sample in samples]),
        torch.from_numpy(severities),
        torch.from_numpy(known.astype(np.float32)),
    )


def normalise(image: Tensor) -> Tensor:
    """RGB uint8 (N, 384, 384, 3) -> float32 (N, 3, 384, 384) with the ImageNet mean and deviation."""
    mean = torch.tensor(IMAGENET_MEAN, device=image.device)
    std = torch.tensor(IMAGENET_STD, device=image.device)
    return ((image.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


def ranking_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean shortfall of every pair of the batch: how far its predicted difference stays below the labelled one."""
    wanted = target[:, None] - target[None, :]
    found = predicted[:, None] - predicted[None, :]
    apart = wanted > 0.02
    shortfall = F.relu(wanted - found)[apart]
    return shortfall.mean() if shortfall.numel() else predicted.sum() * 0


def fault_loss(named: Tensor, severities: Tensor, known: Tensor) -> Tensor:
    """Error of the severities that the heads name, (heads, N, 10), summed over faults, mean over heads and samples."""
    error = F.smooth_l1_loss(named.float(), severities.expand_as(named), beta=0.1, reduction="none") * known
    return error.sum(dim=-1).mean()


def stage_widths(network: nn.Module) -> list[int]:
    """Channels of the tokens of each stage."""
    return [int(stage.blocks[0].norm1.weight.numel()) for stage in network.bbone.layers]  # type: ignore[union-attr]


class FaultHeads(nn.Module):
    """One linear head a stage that names the severity of each fault; dropped when training ends.

    The early heads show the early layers, where fine detail still exists, what to look for.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.heads = nn.ModuleList(nn.Linear(width, len(FAULTS)) for width in widths)

    def forward(self, tokens: Sequence[Tensor]) -> Tensor:
        """Tokens of each stage (N, L, C) -> severities (stages, N, 10)."""
        pooled = [norm(stage).mean(dim=1) for norm, stage in zip(self.norms, tokens, strict=True)]
        return torch.stack([head(features) for head, features in zip(self.heads, pooled, strict=True)])


def load_canonical(images: Sequence[LabelledImage]) -> list[Image]:
    """Each photograph's field at 512x512, BGR."""
    preprocessing = Preprocessing()
    return [canonical_file(image.path, preprocessing) for image in images]


class Trainer:
    """One training run in a folder; construct it again on the same folder and it goes on where it was killed.

    Args:
        network: FTHNet, freshly initialised or loaded from a checkpoint.
        train, val: the photographs of the two splits.
        recipe: what to do; must equal the stored one when a run is resumed.
        fresh: start from new weights (`network.initialise`, `network.whiten_patches`) instead of the network's.
        folder: holds `state.pt` (everything, to resume), `best.pt` (best weights) and `history.jsonl`.
    """

    def __init__(
        self,
        network: nn.Module,
        train: Sequence[LabelledImage],
        val: Sequence[LabelledImage],
        recipe: Recipe,
        folder: Path,
        *,
        fresh: bool = False,
    ) -> None:
        self.recipe = recipe
        self.folder = folder
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(recipe.seed)
        self.network = network.to(self.device).train()
        self.head = FaultHeads(stage_widths(self.network)).to(self.device)
        self.parameters = [*self.network.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.AdamW(self._parameter_groups(), lr=recipe.peak_lr, betas=(0.9, 0.98))
        self.average = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
        self.step, self.elapsed, self.loss = 0, 0.0, float("nan")
        self.best: Validation | None = None
        self.history: list[Validation] = []
        mos = np.array([image.mos for image in train])
        self.source = SampleSource(load_canonical(train), mos, recipe.seed)
        self.val_images = np.concatenate([prepare_file(image.path, Preprocessing()) for image in val])
        self.val_mos = np.array([image.mos for image in val])
        self.probe = self._degraded_probe(val)
        folder.mkdir(parents=True, exist_ok=True)
        if self._state_path.exists():
            self._resume()
        elif fresh:
            self._initialise(float(mos.mean()) / 100)

    @property
    def _state_path(self) -> Path:
        return self.folder / "state.pt"

    @property
    def best_path(self) -> Path:
        """The best weights so far, a state_dict; exists after the first validation."""
        return self.folder / "best.pt"

    def run(self, report: Callable[[Progress], None] = lambda progress: None) -> Validation:
        """Train until the minutes are over; returns the best validation, whose weights `best_path` holds."""
        limit = self.recipe.minutes * 60
        validated = saved = self.elapsed
        clock = time.monotonic()
        for batch in self._batches():
            if self.elapsed >= limit:
                break
            self._train_step(*batch, progress=self.elapsed / limit)
            now = time.monotonic()
            self.elapsed += now - clock
            clock = now
            if self.elapsed - validated >= self.recipe.validate_every_s:
                self._validate()
                validated = self.elapsed
            if self.elapsed - saved >= self.recipe.save_every_s:
                self._save()
                saved = self.elapsed
            report(self._progress())
        self._validate()
        self._save()
        report(self._progress())
        assert self.best is not None
        return self.best

    def _progress(self) -> Progress:
        last = self.history[-1] if self.history else None
        return Progress(self.step, self.step * self.recipe.batch, self.elapsed / 60, self.loss, last)

    @torch.no_grad()
    def _initialise(self, mean_quality: float) -> None:
        crops = [p[MARGIN : MARGIN + INPUT, MARGIN : MARGIN + INPUT, ::-1] for p in self.source.photographs[::8]]
        self.network.initialise(mean_quality)  # type: ignore[operator]
        self.network.whiten_patches(normalise(torch.from_numpy(np.stack(crops)).to(self.device)))  # type: ignore[operator]
        self.average = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """No weight decay on biases, norms and position tables."""
        named = [*self.network.named_parameters(), *self.head.named_parameters(prefix="head")]
        decayed = [p for name, p in named if p.ndim > 1 and "bias_table" not in name]
        kept = [p for name, p in named if not (p.ndim > 1 and "bias_table" not in name)]
        return [{"params": decayed, "weight_decay": self.recipe.weight_decay}, {"params": kept, "weight_decay": 0.0}]

    def _batches(self) -> Iterator[Batch]:
        """Batches from the current step on, made ahead in threads: OpenCV and NumPy release the GIL."""
        pairs = self.recipe.batch // 2
        workers = max(1, (os.cpu_count() or 2) - 1)
        with ThreadPoolExecutor(workers) as pool:
            waiting: deque[Future[Batch]] = deque()
            upcoming = itertools.count(self.step * pairs, pairs)
            try:
                while True:
                    while len(waiting) < workers + 2:
                        waiting.append(pool.submit(make_batch, self.source, next(upcoming), pairs))
                    batch = waiting.popleft().result()
                    yield batch if self.device.type == "cpu" else tuple(t.to(self.device) for t in batch)  # type: ignore[misc]
            finally:
                pool.shutdown(cancel_futures=True)

    def _train_step(self, image: Tensor, quality: Tensor, severities: Tensor, known: Tensor, progress: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate(self.step, progress)
        with torch.autocast(self.device.type, torch.bfloat16):
            raw, tokens = self.network.forward_with_tokens(normalise(image))  # type: ignore[operator]
            named = self.head(tokens)
        raw = raw.float()
        score_loss = F.smooth_l1_loss(raw, quality, beta=0.05)
        auxiliary = fault_loss(named, severities, known)
        loss = (
            score_loss
            + self.recipe.ranking_weight * ranking_loss(raw, quality)
            + self.recipe.auxiliary_weight * auxiliary
        )
        if not torch.isfinite(loss):
            raise InputError(f"training diverged at step {self.step} (loss is not finite); lower the learning rate")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip)
        self.optimizer.step()
        self.step += 1
        self._update_average()
        smoothing = min(0.99, 1 - 1 / self.step)
        self.loss = loss.item() if self.step == 1 else smoothing * self.loss + (1 - smoothing) * loss.item()

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.recipe.ema_decay, (1 + self.step) / (10 + self.step))
        for name, tensor in self.network.state_dict().items():
            if tensor.is_floating_point():
                self.average[name].lerp_(tensor, 1 - decay)

    def _validate(self) -> None:
        current = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        self.network.load_state_dict(self.average)
        scores = self._scores(self.val_images)
        drop = float("nan")
        if self.probe is not None:
            sharp, blurred = self.probe
            drop = float(np.mean(scores[sharp] - self._scores(blurred)))
        self.network.load_state_dict(current)
        found = Validation(self.step, self.elapsed / 60, self.loss, agreement(scores, self.val_mos), drop)
        self.history.append(found)
        with (self.folder / "history.jsonl").open("a") as file:
            file.write(json.dumps(asdict(found)) + "\n")
        if self.best is None or found.merit > self.best.merit:
            self.best = found
            _save_atomically(self.average, self.best_path)

    @torch.no_grad()
    def _scores(self, images: Image) -> np.ndarray:
        """Scores of RGB uint8 (N, 384, 384, 3), float32 arithmetic."""
        parts = [
            self.network(normalise(torch.from_numpy(images[start : start + 16]).to(self.device))).cpu()
            for start in range(0, len(images), 16)
        ]
        return 100 * torch.cat(parts).numpy()

    def _degraded_probe(self, val: Sequence[LabelledImage]) -> tuple[np.ndarray, Image] | None:
        """Indices of good validation photographs, and the same defocused, as network input."""
        good = np.argsort(-self.val_mos, kind="stable")[:PROBE_IMAGES]
        good = good[self.val_mos[good] >= 50]
        if not len(good):
            return None
        blurred = []
        for index in good:
            field = degrade(canonical_file(val[index].path, Preprocessing()), "defocus", PROBE_SEVERITY, 0)
            crop = field[MARGIN : MARGIN + INPUT, MARGIN : MARGIN + INPUT]
            blurred.append(cv2.cvtColor(crop, cv2.COLOR_BGR2RGB))
        return good, np.stack(blurred)

    def _save(self) -> None:
        state = {
            "recipe": asdict(self.recipe),
            "network": self.network.state_dict(),
            "head": self.head.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "elapsed": self.elapsed,
            "loss": self.loss,
            "history": [asdict(validation) for validation in self.history],
            "best": asdict(self.best) if self.best else None,
        }
        _save_atomically(state, self._state_path)

    def _resume(self) -> None:
        state = torch.load(self._state_path, map_location=self.device, weights_only=True)
        if state["recipe"] != asdict(self.recipe):
            changed = [key for key, value in asdict(self.recipe).items() if state["recipe"].get(key) != value]
            raise InputError(
                f"{self.folder}: expected the recipe this run was started with, found another {', '.join(changed)}; "
                "repeat the options or choose a new output"
            )
        self.network.load_state_dict(state["network"])
        self.head.load_state_dict(state["head"])
        self.average = state["average"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.elapsed, self.loss = state["step"], state["elapsed"], state["loss"]
        self.history = [_validation(entry) for entry in state["history"]]
        self.best = _validation(state["best"]) if state["best"] else None


def _validation(entry: dict[str, Any]) -> Validation:
    return Validation(**{**entry, "agreement": Agreement(**entry["agreement"])})


def _save_atomically(content: Any, path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(content, temporary)
    temporary.replace(path)
