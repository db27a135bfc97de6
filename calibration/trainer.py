"""Training and fine-tuning of FTHNet on photographs with scores, resumable at any moment.

The recipe (measured on 1,329 photographs; the log stands in docs/TRAINING.md): AdamW with warm-up and a
cosine that ends when the granted minutes do, an exponential moving average of the weights, smooth L1 on
the score, a ranking loss over all pairs of a batch, and auxiliary linear heads on the tokens of each stage
that name the severity of each fault; these are dropped at the end. A new hypernetwork is kept alive: its
generated weights are mixed with their mean over the batch at first, its generators learn slower, and
sigmoids of the target network that saturate cost something.

The network comes in from outside; it has `initialise`, `whiten_patches`, `enliven` and `forward_parts`.
The granted minutes count from the construction of the `Trainer` to the end of what its caller measures.
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
from fthnet_kit.calibration.dim_labels import gain_to_full_light, in_full_light, relit
from fthnet_kit.calibration.labelled_images import LabelledImage
from fthnet_kit.calibration.sharp_labels import sharpened, vessel_gradient
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
START_IMAGES = 48  # photographs on which new weights are calibrated
CHUNK = 16  # photographs scored at a time

PLAIN_SHARE = 0.2  # pairs of photographs as they are
PLAIN_SHARE_HEAD = 0.5  # the same where only the head learns: faults are known by then
OWN_FROM, OWN_UNTIL = 0.4, 0.7  # share of the minutes between which samples get more and more of their own weights
NEVER_OWN = 0.3  # samples that keep the mean weights to the end, so that the taps are never bypassed
GENERATOR_RATE = 0.3  # learning rate of new generators, of the others'
OUTER = 4.0  # |input| of a sigmoid from which it costs
OUTER_LINEAR = 2.0  # beyond this excess it costs in proportion: a head that comes saturated is drawn back slowly
OUTER_WEIGHT = 0.04

MANY_VIEWS = 20
MANY_VIEWS_SHARE = 0.08  # share of the minutes that scoring with 20 views may take at the end
LEAST_MANY_VIEWS = 10
EXPORT_IMAGES = 40  # export and its comparison cost as much as scoring about so many photographs,
EXPORT_S = 4.0  # and seconds that do not depend on the network
VALIDATION_SHARE = 0.1  # share of the minutes that validations may take
LOOKED_AT_EVERY = 10  # steps between two looks at the loss: each makes the host wait for a GPU


@dataclass(frozen=True)
class Recipe:
    """What a training run does; stored with its state, in the card and in the report.

    `new_head`: taps, hypernetwork and target network start new (`FTHNet.enliven`), whatever the backbone starts from.
    `at_once`: images of a batch that are computed together, None for all; their gradients add up to the batch's, with
    the ranking, and the mean of the generated weights, within each part.
    `relight`: share of the way that labels of dim photographs are raised to what the starting weights say of them in
    full light (`dim_labels`).
    `sharpness`: share of each label that the gradient of vessels makes up (`sharp_labels`).
    `head_only`: the stages stay as they are; taps, hypernetwork and target network learn, also from plain photographs.
    """

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
    new_head: bool = False
    at_once: int | None = None
    relight: float = 0.0
    sharpness: float = 0.0
    head_only: bool = False
    validate_every_s: float = 300.0
    save_every_s: float = 120.0

    def learning_rate(self, step: int, progress: float) -> float:
        """Linear warm-up over the first steps, then a cosine over the share of the minutes that has passed."""
        cosine = self.final_lr + (self.peak_lr - self.final_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return cosine * min(1.0, (step + 1) / self.warmup_steps)

    def own_share(self, progress: float) -> float:
        """How much of its generated weights a sample gets, the rest being the batch's mean."""
        return min(1.0, max(0.0, (progress - OWN_FROM) / (OWN_UNTIL - OWN_FROM))) if self.new_head else 1.0


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
        correlations = self.agreement.srcc + self.agreement.plcc
        return (-2.0 if math.isnan(correlations) else correlations) + 0.1 * sees_defocus


@dataclass(frozen=True)
class Progress:
    """What a progress bar shows."""

    step: int
    images: int
    minutes: float
    loss: float
    last: Validation | None
    stage: str = "training"


Report = Callable[[Progress], None]
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


def centre_view(field: Image) -> Image:
    """The view that most devices score: RGB uint8 (384, 384, 3) of a BGR field of 512."""
    return field[MARGIN : MARGIN + INPUT, MARGIN : MARGIN + INPUT, ::-1]


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies in bfloat16 itself; where that is emulated, a step takes thirty times as long."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def ranking_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean shortfall of every pair of the batch: how far its predicted difference stays below the labelled one."""
    wanted = target[:, None] - target[None, :]
    found = predicted[:, None] - predicted[None, :]
    apart = wanted > 0.02
    shortfall = torch.where(apart, F.relu(wanted - found), 0)  # indexing would make the host wait for a GPU
    return shortfall.sum() / apart.sum().clamp(min=1)


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
        clock: seconds, monotonic.
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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.recipe = recipe
        self.folder = folder
        self.clock = clock
        self._started = clock()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(recipe.seed)
        self.network = network.to(self.device).train()
        self.head = FaultHeads(stage_widths(self.network)).to(self.device)
        if recipe.head_only:
            for part in (self.network.bbone.patch_embed, self.network.bbone.layers, self.network.bbone.norm):  # type: ignore[union-attr]
                part.requires_grad_(False)  # type: ignore[union-attr]
        self.parameters = [p for p in (*self.network.parameters(), *self.head.parameters()) if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self._parameter_groups(), lr=recipe.peak_lr, betas=(0.9, 0.98), fused=self.device.type == "cuda"
        )
        self.step, self.loss = 0, float("nan")
        self._smooth_loss = torch.tensor(self.loss, device=self.device)
        self.best: Validation | None = None
        self.history: list[Validation] = []
        self.mos = np.array([image.mos for image in train])
        self.source = self._source(load_canonical(train), self.mos)
        self.val_images = np.concatenate([prepare_file(image.path, Preprocessing()) for image in val])
        self.val_mos = np.array([image.mos for image in val])
        self.probe = self._degraded_probe(val)
        self.image_s = self.validation_s = 0.0
        folder.mkdir(parents=True, exist_ok=True)
        if self._state_path.exists():
            self._resume()
        else:
            self._start(float(self.mos.mean()) / 100, fresh=fresh)

    @property
    def _state_path(self) -> Path:
        return self.folder / "state.pt"

    @property
    def best_path(self) -> Path:
        """The best weights so far, a state_dict; exists after the first validation behind the start."""
        return self.folder / "best.pt"

    @property
    def limit(self) -> float:
        """Seconds that the run was granted."""
        return self.recipe.minutes * 60

    @property
    def elapsed(self) -> float:
        """Seconds that this run has had, of an earlier process too."""
        return self.clock() - self._started

    @property
    def start(self) -> Validation | None:
        """How the weights that the run began with did."""
        return self.history[0] if self.history and self.history[0].step == 0 else None

    @property
    def many_view_images(self) -> int:
        """Validation photographs that can be scored with 20 views at the end, within `MANY_VIEWS_SHARE`.

        None if they were too few for a correlation.
        """
        fitting = min(len(self.val_mos), int(MANY_VIEWS_SHARE * self.limit / max(MANY_VIEWS * self.image_s, 1e-9)))
        return fitting if fitting >= min(len(self.val_mos), LEAST_MANY_VIEWS) else 0

    @property
    def end_s(self) -> float:
        """Seconds from the last step to the end: a validation, the caller's measurements, the bundle."""
        images = len(self.val_mos) + MANY_VIEWS * self.many_view_images + EXPORT_IMAGES
        return self.validation_s + images * self.image_s + EXPORT_S

    def run(self, report: Report = lambda progress: None) -> Validation:
        """Train for the granted minutes, less the time that the end takes; one step at least.

        Returns:
            The best validation, whose weights `best_path` holds.

        Raises:
            InputError: the loss is no longer a number.
        """
        if not self.history:
            self._validate(report, initial=True)
        validated = saved = self.elapsed
        for batch in self._batches():
            training_s = max(1e-9, self.limit - self.end_s)
            if self.elapsed >= training_s and self.step:
                break
            self._train_step(*batch, progress=self.elapsed / training_s)
            if self.step % LOOKED_AT_EVERY == 1:
                self._look_at_loss()
            report(self.progress())
            apart = max(self.recipe.validate_every_s, self.validation_s / VALIDATION_SHARE)
            if self.elapsed - validated >= apart and self.elapsed + self.validation_s < training_s:
                self._validate(report)
                validated = self.elapsed
            if self.elapsed - saved >= self.recipe.save_every_s:
                self._save()
                saved = self.elapsed
        if self.history[-1].step < self.step or self.best is None:
            self._validate(report)
        self._save()
        assert self.best is not None
        return self.best

    def progress(self, stage: str = "training") -> Progress:
        """Where the run stands."""
        last = self.history[-1] if self.history else None
        return Progress(self.step, self.step * self.recipe.batch, self.elapsed / 60, self.loss, last, stage)

    @torch.no_grad()
    def _start(self, mean_quality: float, *, fresh: bool) -> None:
        """New weights where they are asked for, and the moving average."""
        every = max(1, len(self.source.photographs) // START_IMAGES)
        crops = [centre_view(field) for field in self.source.photographs[::every]]
        images = normalise(torch.from_numpy(np.stack(crops[:START_IMAGES])).to(self.device))
        if fresh:
            self.network.initialise(mean_quality)  # type: ignore[operator]
            self.network.whiten_patches(images)  # type: ignore[operator]
        if self.recipe.new_head:
            self.network.enliven(images, mean_quality)  # type: ignore[operator]
        self.average = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
        labels = self._relit() if self.recipe.relight else self.mos
        if self.recipe.sharpness:
            gradients = np.array([vessel_gradient(centre_view(field)) for field in self.source.photographs])
            labels = sharpened(labels, gradients, self.recipe.sharpness)
        self.source = self._source(self.source.photographs, labels)

    def _source(self, photographs: list[Image], mos: np.ndarray) -> SampleSource:
        plain = PLAIN_SHARE_HEAD if self.recipe.head_only else PLAIN_SHARE
        return SampleSource(photographs, mos, self.recipe.seed, plain=plain)

    def _relit(self) -> np.ndarray:
        """Labels of the training photographs with those of the dim ones raised, by the weights as they are."""
        gains = np.array([gain_to_full_light(field) for field in self.source.photographs])
        seen, dim = self.mos.copy(), np.flatnonzero(gains > 1)
        if len(dim):
            lit = (in_full_light(self.source.photographs[index]) for index in dim)
            views = np.stack([centre_view(field) for field in lit])
            seen[dim] = np.clip(self._scores(self.network, views, lambda progress: None), 0, 100)
        return relit(self.mos, gains, seen, self.recipe.relight)

    @property
    def relabelled(self) -> np.ndarray:
        """Points by which the labels that were changed were."""
        points = self.source.mos - self.mos
        return points[points != 0]

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """No weight decay on biases, norms and position tables; new generators learn slower."""
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in (*self.network.named_parameters(), *self.head.named_parameters(prefix="head")):
            if not parameter.requires_grad:
                continue
            decay = self.recipe.weight_decay if parameter.ndim > 1 and "bias_table" not in name else 0.0
            generator = name.startswith(("weight_conv", "bias_conv"))
            rate = GENERATOR_RATE if generator and self.recipe.new_head else 1.0
            groups.setdefault((decay, rate), []).append(parameter)
        return [{"params": params, "weight_decay": key[0], "rate": key[1]} for key, params in groups.items()]

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
                        waiting.append(pool.submit(self._make_batch, next(upcoming), pairs))
                    batch = waiting.popleft().result()
                    yield tuple(t.to(self.device, non_blocking=True) for t in batch)  # type: ignore[misc]
            finally:
                pool.shutdown(cancel_futures=True)

    def _make_batch(self, first: int, pairs: int) -> Batch:
        """`make_batch`, in pinned memory for a GPU, so that the copy does not wait."""
        batch = make_batch(self.source, first, pairs)
        return batch if self.device.type == "cpu" else tuple(t.pin_memory() for t in batch)  # type: ignore[return-value]

    def _loss(
        self, image: Tensor, quality: Tensor, severities: Tensor, known: Tensor, own: Tensor | None = None
    ) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=has_bfloat16(self.device)):
            parts = self.network.forward_parts(normalise(image), own)  # type: ignore[operator]
            named = self.head(parts.tokens)
        raw = parts.raw.float()
        loss = (
            F.smooth_l1_loss(raw, quality, beta=0.05)
            + self.recipe.ranking_weight * ranking_loss(raw, quality)
            + self.recipe.auxiliary_weight * fault_loss(named, severities, known)
        )
        excess = [F.relu(hidden.float().abs() - OUTER) for hidden in parts.hidden]
        outer = [F.smooth_l1_loss(x, torch.zeros_like(x), beta=OUTER_LINEAR) for x in excess]
        return loss + OUTER_WEIGHT * torch.stack(outer).sum()

    def _train_step(self, image: Tensor, quality: Tensor, severities: Tensor, known: Tensor, progress: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * self.recipe.learning_rate(self.step, progress)
        own = None
        if self.recipe.new_head:
            own = (torch.rand(len(image)) >= NEVER_OWN).float() * self.recipe.own_share(progress)
            own = own.to(self.device, non_blocking=True)
        self.optimizer.zero_grad(set_to_none=True)
        size = self.recipe.at_once or len(image)
        loss = torch.zeros((), device=self.device)
        given = [tensor for tensor in (image, quality, severities, known, own) if tensor is not None]
        for part in zip(*(torch.split(tensor, size) for tensor in given), strict=True):
            share = self._loss(*part) * (len(part[0]) / len(image))
            share.backward()  # type: ignore[no-untyped-call]
            loss += share.detach()
        nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip)
        self.optimizer.step()
        self.step += 1
        self._update_average()
        smoothing = min(0.99, 1 - 1 / self.step)
        with torch.no_grad():
            self._smooth_loss = loss if self.step == 1 else self._smooth_loss.lerp(loss, 1 - smoothing)

    def _look_at_loss(self) -> None:
        """Fetch the smoothed loss from the device.

        Raises:
            InputError: it is no longer a number.
        """
        self.loss = float(self._smooth_loss)
        if not math.isfinite(self.loss):
            raise InputError(f"training diverged by step {self.step} (loss is not finite); lower the learning rate")

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.recipe.ema_decay, (1 + self.step) / (10 + self.step))
        current = self.network.state_dict()
        names = [name for name, tensor in current.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([self.average[name] for name in names], [current[name] for name in names], 1 - decay)

    def _validate(self, report: Report, *, initial: bool = False) -> None:
        """Score the validation photographs; the start is a yardstick and never the best."""
        began = self.clock()
        if initial:
            with torch.no_grad():
                batch = self._make_batch(0, self.recipe.batch // 2)
                self._smooth_loss.copy_(self._loss(*(t.to(self.device) for t in batch)))
        self._look_at_loss()
        current = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        self.network.load_state_dict(self.average)
        found = self.judge(self.network, report)
        scored = len(self.val_images) + (0 if self.probe is None else len(self.probe[1]))
        self.image_s = (self.clock() - began) / scored
        self.network.load_state_dict(current)
        self.history.append(found)
        with (self.folder / "history.jsonl").open("a") as file:
            file.write(json.dumps(asdict(found)) + "\n")
        if not initial and (self.best is None or found.merit > self.best.merit):
            self.best = found
            _save_atomically(self.average, self.best_path)
        self.validation_s = self.clock() - began
        report(self.progress())

    def judge(self, network: nn.Module, report: Report = lambda progress: None) -> Validation:
        """How a network on this trainer's device does on the validation photographs, now."""
        scores = self._scores(network, self.val_images, report)
        drop = float("nan")
        if self.probe is not None:
            sharp, blurred = self.probe
            drop = float(np.mean(scores[sharp] - self._scores(network, blurred, report)))
        return Validation(self.step, self.elapsed / 60, self.loss, agreement(scores, self.val_mos), drop)

    @torch.no_grad()
    def _scores(self, network: nn.Module, images: Image, report: Report) -> np.ndarray:
        """Scores of RGB uint8 (N, 384, 384, 3), float32 arithmetic."""
        parts = []
        for start in range(0, len(images), CHUNK):
            chunk = normalise(torch.from_numpy(images[start : start + CHUNK]).to(self.device))
            parts.append(network(chunk).cpu())
            report(self.progress("validating"))
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
        self._look_at_loss()
        state = {
            "recipe": asdict(self.recipe),
            "network": self.network.state_dict(),
            "head": self.head.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "elapsed": self.elapsed,
            "loss": self._smooth_loss.cpu(),
            "mos": torch.from_numpy(self.source.mos),
            "costs": [self.image_s, self.validation_s],
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
        self.step = state["step"]
        self._started -= state["elapsed"]
        self._smooth_loss.copy_(state["loss"])
        self.loss = float(self._smooth_loss)
        self.source = self._source(self.source.photographs, state["mos"].numpy())
        self.image_s, self.validation_s = state["costs"]
        self.history = [_validation(entry) for entry in state["history"]]
        self.best = _validation(state["best"]) if state["best"] else None


def _validation(entry: dict[str, Any]) -> Validation:
    return Validation(**{**entry, "agreement": Agreement(**entry["agreement"])})


def _save_atomically(content: Any, path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(content, temporary)
    temporary.replace(path)
