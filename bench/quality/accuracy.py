"""How far scores agree with labels, in every precision that a bundle has and this machine runs.

A folder is in one of two forms:

- **FQS**: photographs and a table with ``file_name`` and ``meanOpinionScore`` (`calibration.image_set`). Measured are
  PLCC, SRCC, KRCC (Kendall's tau-b) and RMSE of the score against the mean opinion score, as they are: no logistic
  function is fitted to the scores first, as some papers do before PLCC and RMSE. A photograph without a score (no
  retina seen) counts as 0.
- **classes**: `labels.csv` with ``file_name`` and ``quality`` (``good``, ``bad``, or ``outlier``: no retina), the form
  in which DRIMDB (Sevik et al. 2014) is usually unpacked. Measured is the AUC of good against bad. A photograph
  without a score lies below all that have one.

Beside every model stand simple measures of the same views (`bench.quality.simple_measures`), with what the model has
more than each: a set that one line of numpy orders as well as the model says little of the model.

Intervals are 95 % percentile bootstrap intervals over photographs, taken for independent (several of one patient
make them too narrow), seeded; for the AUC each class is resampled by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from fthnet_kit.bench.quality.simple_measures import SIMPLE_MEASURES
from fthnet_kit.calibration.agreement import (
    Scores,
    auc,
    auc_values,
    bootstrap_values,
    krcc,
    percentile_interval,
    plcc,
    rmse,
    srcc,
)
from fthnet_kit.calibration.label_table import read_table
from fthnet_kit.calibration.labelled_images import NAME_COLUMN, SCORE_COLUMN, read_image_set
from fthnet_kit.calibration.precision_gate import Cost, cost
from fthnet_kit.edge.device.machine import Device, read_device
from fthnet_kit.edge.errors import AmbiguousFieldError, EngineError, InputError, KitError
from fthnet_kit.edge.formats.read import read_image
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.inference.backend import Backend
from fthnet_kit.edge.inference.open_backend import open_backend
from fthnet_kit.edge.inference.retina_gate import shows_retina
from fthnet_kit.edge.model.bundle import Bundle
from fthnet_kit.edge.model.card import ModelCard
from fthnet_kit.edge.model.choices import NAMED_PRECISIONS, BackendName, Precision, form_of
from fthnet_kit.edge.model.preprocess import INPUT, Preprocessing, Views, prepare_with_centre
from fthnet_kit.edge.model.score import Thresholds, Verdict

Split = Literal["train", "val", "all"]
Quality = Literal["good", "bad", "outlier"]
QUALITIES: tuple[Quality, ...] = get_args(Quality)
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
LABELS_NAME = "labels.csv"
QUALITY_COLUMN = "quality"
FEWEST = 3  # photographs of a folder, a fold, a class
FOLD_VIEWS: Views = 20  # the released protocol
STATISTICS: dict[str, Callable[[Scores, Scores], float]] = {"PLCC": plcc, "SRCC": srcc, "KRCC": krcc, "RMSE": rmse}
IN_POINTS = ("RMSE",)  # metrics that only a score in points has
WITHOUT_SCORE = 0.0  # counts as this against a mean opinion score
REFUSED = -1.0  # counts as this among classes: below all that have a score
CPU = "CPUExecutionProvider"
EMULATED = (
    "ONNX Runtime computes FP16 in FP32 on a CPU, so its scores and its speed say nothing of FP16 on a GPU; "
    "--precision fp16 measures it all the same"
)


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval; nan if it cannot be computed."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Bootstrapped:
    """A metric and its value in every draw of the bootstrap, (D,)."""

    value: float
    draws: npt.NDArray[np.float64]

    def estimate(self) -> Estimate:
        """With its interval."""
        return Estimate(self.value, *percentile_interval(self.draws))

    def change_to(self, other: Bootstrapped) -> Estimate:
        """What `other`, of the same photographs, has more; draw by draw, so that what both share drops out."""
        return Estimate(other.value - self.value, *percentile_interval(other.draws - self.draws))


@dataclass(frozen=True)
class RatedSet:
    """Photographs with a mean opinion score.

    Attributes:
        folder: where they are.
        paths: the N files.
        mos: labels (N,), 0-100.
        split: which photographs of the folder they are.
        folds: the fold of each; empty where none was asked for.
    """

    folder: Path
    paths: tuple[Path, ...]
    mos: npt.NDArray[np.float64]
    split: Split
    folds: tuple[str, ...] = ()

    def metrics(self, scores: Scores, rows: npt.NDArray[np.bool_] | None = None) -> dict[str, Bootstrapped]:
        """PLCC, SRCC, KRCC and RMSE of scores (N,), nan where there is none; `rows` (N,) picks photographs."""
        found, labels = np.where(np.isnan(scores), WITHOUT_SCORE, scores), self.mos
        if rows is not None:
            found, labels = found[rows], labels[rows]
        return {
            name: Bootstrapped(statistic(found, labels), bootstrap_values(found, labels, statistic))
            for name, statistic in STATISTICS.items()
        }

    def fold_names(self) -> list[str]:
        """The folds, numbers by size before other names."""
        return sorted(set(self.folds), key=lambda name: (int(name) if name.isdecimal() else float("inf"), name))


@dataclass(frozen=True)
class ClassedSet:
    """Photographs that experts called good, bad, or no retina.

    Attributes:
        folder: where they are.
        paths: the N files.
        qualities: the class of each.
    """

    folder: Path
    paths: tuple[Path, ...]
    qualities: tuple[Quality, ...]

    def scores_of(self, quality: Quality, scores: Scores) -> Scores:
        """Scores of a class, `REFUSED` where there is none."""
        return np.where(np.isnan(scores), REFUSED, scores)[np.array(self.qualities) == quality]

    def metrics(self, scores: Scores) -> dict[str, Bootstrapped]:
        """AUC of good against bad from scores (N,), nan where there is none."""
        good, bad = self.scores_of("good", scores), self.scores_of("bad", scores)
        return {"AUC": Bootstrapped(auc(good, bad), auc_values(good, bad))}


DataSet = RatedSet | ClassedSet


@dataclass(frozen=True)
class Engine:
    """A precision that this machine runs.

    Attributes:
        precision: ``fp32``, ``fp16`` or ``int8``.
        form: which file of it: ``int8-cpu`` is INT8 as ONNX Runtime's CPU kernels want it.
        backend: what runs it.
    """

    precision: Precision
    form: str
    backend: Backend

    @property
    def emulated(self) -> bool:
        """FP16 that a CPU computes in FP32."""
        return self.precision == "fp16" and _on_cpu(self.backend)


@dataclass(frozen=True)
class Fold:
    """Metrics of one fold, or of all photographs together."""

    name: str
    images: int
    metrics: Mapping[str, Estimate]


@dataclass(frozen=True)
class Run:
    """One set of photographs in one precision.

    Attributes:
        data: place of the set among the report's.
        precision, form, emulated: as in `Engine`.
        backend: library, provider and threads.
        views: averaged into one score.
        scores: points (N,), 0-100; nan where no retina was seen.
        ms: preparing and scoring a photograph that is in memory, (N,); nan likewise.
        metrics: by name.
        folds: metrics of each; empty where none was asked for.
    """

    data: int
    precision: Precision
    form: str
    emulated: bool
    backend: Mapping[str, str]
    views: Views
    scores: Scores
    ms: Scores
    metrics: Mapping[str, Estimate]
    folds: tuple[Fold, ...] = ()

    @property
    def without_score(self) -> int:
        """Photographs in which no retina was seen."""
        return int(np.isnan(self.scores).sum())

    def ms_percentile(self, percentile: float) -> float:
        """Milliseconds a photograph; nan where none was scored."""
        known = self.ms[np.isfinite(self.ms)]
        return float(np.percentile(known, percentile)) if len(known) else float("nan")

    def fold_means(self) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation of each metric over the folds."""
        values = {name: np.array([fold.metrics[name].value for fold in self.folds]) for name in self.metrics}
        return {name: (float(found.mean()), float(found.std(ddof=1))) for name, found in values.items()}


@dataclass(frozen=True)
class PrecisionAgreement:
    """What another precision changes, over photographs with a score.

    Attributes:
        data, views: as in `Run`.
        reference, form: the two forms.
        cost: differences in points, and verdicts that flip.
        verdicts: photographs by the reference's verdict, then by the other's.
        changes: metrics of `form` less those of `reference`.
    """

    data: int
    views: Views
    reference: str
    form: str
    cost: Cost
    verdicts: Mapping[Verdict, Mapping[Verdict, int]]
    changes: Mapping[str, Estimate]


@dataclass(frozen=True)
class Simple:
    """Values of a simple measure, mean over the views, (N,); nan where no retina was seen."""

    name: str
    views: Views
    values: Scores

    @classmethod
    def unmeasured(cls, views: Sequence[Views], count: int) -> list[Simple]:
        """Every measure at every number of views, for `measure` to fill in."""
        return [cls(name, number, np.full(count, np.nan)) for number in views for name in SIMPLE_MEASURES]

    def of(self, batch: Image) -> float:
        """The mean over the views of one photograph."""
        return float(np.mean([SIMPLE_MEASURES[self.name](view) for view in batch]))


@dataclass(frozen=True)
class Baseline:
    """A simple measure beside the model on one set of photographs.

    Attributes:
        data, views: as in `Run`.
        name: the measure.
        form: what it is compared with.
        values: as in `Simple`.
        metrics: of the measure, without those of `IN_POINTS`.
        gains: metrics of the model less those of the measure, draw by draw of the bootstrap.
    """

    data: int
    views: Views
    name: str
    form: str
    values: Scores
    metrics: Mapping[str, Estimate]
    gains: Mapping[str, Estimate]


@dataclass(frozen=True)
class AccuracyReport:
    """Everything that one call measured.

    Attributes:
        card: of the model.
        data: the sets of photographs.
        runs, agreements: what was found, set by set and views by views.
        left_out: precisions that were not measured, and why.
        device: this machine.
        measured_at: when it began, UTC, ISO 8601.
        baselines: simple measures beside the first precision.
    """

    card: ModelCard
    data: tuple[DataSet, ...]
    runs: tuple[Run, ...]
    agreements: tuple[PrecisionAgreement, ...]
    left_out: Mapping[str, str]
    device: Device
    measured_at: str
    baselines: tuple[Baseline, ...] = ()


def read_data(
    folder: Path, split: Split | None = None, fold_column: str | None = None, limit: int | None = None
) -> DataSet:
    """Photographs and labels of a folder in either form.

    Args:
        folder: in FQS form, or with classes.
        split: of a folder in FQS form; default ``val``, and all with folds. Classes are always taken whole.
        fold_column: column of the score table that has each photograph's fold.
        limit: most photographs; a seeded choice among more.

    Raises:
        InputError: neither form, a wrong table, a missing photograph, or too few photographs.
    """
    if _has_classes(folder):
        if fold_column is not None:
            raise InputError(
                f"{folder}: expected a score table with the column {fold_column} for --fold-column, found classes in "
                f"{LABELS_NAME}; leave out --fold-column"
            )
        return _read_classes(folder, limit)
    return _read_rated(folder, split or ("all" if fold_column else "val"), fold_column, limit)


def _has_classes(folder: Path) -> bool:
    """Whether `labels.csv` is there and is no score table."""
    table = folder / LABELS_NAME
    if not table.is_file() or any(folder.glob("scores.*")):
        return False
    return read_table(table, ()).find(SCORE_COLUMN) is None


def _read_classes(folder: Path, limit: int | None) -> ClassedSet:
    images = folder / "images" if (folder / "images").is_dir() else folder
    table = read_table(folder / LABELS_NAME, ())
    names, labels = table.require(NAME_COLUMN), table.require(QUALITY_COLUMN)
    paths: list[Path] = []
    qualities: list[Quality] = []
    for number, cells in table.rows:
        path, quality = images / cells[names], cells[labels]
        if quality not in QUALITIES:
            raise InputError(f"{table.where(number)}: expected {', '.join(QUALITIES)}, found {quality!r}")
        if not path.is_file():
            raise InputError(f"{table.where(number)}: expected the image {path}, found none")
        if path in paths:
            raise InputError(f"{table.where(number)}: duplicate {NAME_COLUMN} {path.name!r}; remove one")
        paths.append(path)
        qualities.append(quality)
    kept = _choice(len(paths), limit)
    found = ClassedSet(folder, tuple(paths[i] for i in kept), tuple(qualities[i] for i in kept))
    good, bad = (found.qualities.count(quality) for quality in ("good", "bad"))
    if min(good, bad) < FEWEST:
        raise InputError(
            f"{folder}: expected at least {FEWEST} good and {FEWEST} bad photographs, found {good} and {bad}; "
            "label more, or take more --images"
        )
    return found


def _read_rated(folder: Path, split: Split, fold_column: str | None, limit: int | None) -> RatedSet:
    everything = read_image_set(folder, fold_column=fold_column)
    images = [image for image in everything if split in ("all", image.split)]
    images = [images[i] for i in _choice(len(images), limit)]
    if len(images) < FEWEST:
        raise InputError(
            f"{folder}: expected at least {FEWEST} photographs in split {split}, found {len(images)} among "
            f"{len(everything)}; take another --split, or more --images"
        )
    folds = tuple(image.fold for image in images) if fold_column else ()
    found = RatedSet(
        folder, tuple(image.path for image in images), np.array([image.mos for image in images]), split, folds
    )
    if fold_column is not None:
        _check_folds(found, fold_column)
    return found


def _check_folds(found: RatedSet, column: str) -> None:
    counts = {name: found.folds.count(name) for name in found.fold_names()}
    if len(counts) < 2 or min(counts.values()) < FEWEST:
        name, fewest = min(counts.items(), key=lambda entry: entry[1])
        raise InputError(
            f"{found.folder}: expected at least 2 folds of {FEWEST} photographs each in the column {column}, found "
            f"{len(counts)}, the smallest of {fewest} ({name!r})"
        )


def _choice(count: int, limit: int | None) -> list[int]:
    """Which of `count` photographs are taken, in the table's order."""
    order = np.random.default_rng(0).permutation(count)
    return sorted(order[:limit].tolist())


@contextmanager
def open_engines(
    bundle: Bundle,
    precisions: Sequence[Precision] = (),
    backend: BackendName = "auto",
    threads: int | None = None,
) -> Iterator[tuple[list[Engine], dict[str, str]]]:
    """The precisions of a bundle that this machine runs, and why others are left out.

    Args:
        bundle: an opened bundle.
        precisions: those to run, whatever it takes; default: all that can be, without FP16 on a CPU.
        backend, threads: as `edge.backends.open_backend` takes them.

    Raises:
        KitError: as `open_backend`, if a precision asked for cannot run, or none can.
    """
    engines: list[Engine] = []
    left_out: dict[str, str] = {}
    failures: list[KitError] = []
    with ExitStack() as stack:
        for precision in NAMED_PRECISIONS:
            if precisions and precision not in precisions:
                continue
            try:
                opened = stack.enter_context(open_backend(bundle, precision, backend, threads))
            except KitError as error:
                if precisions:
                    raise
                failures.append(error)
                left_out[precision] = str(error)
                continue
            form = form_of(precision, onnxruntime_cpu=_on_cpu(opened)).name
            engine = Engine(precision, form, opened)
            if engine.emulated and not precisions:
                opened.close()
                left_out[precision] = EMULATED
                continue
            engines.append(engine)
        if not engines:
            raise failures[0] if failures else EngineError(f"{bundle.folder}: {EMULATED}")
        yield engines, left_out


def _on_cpu(backend: Backend) -> bool:
    return backend.describe().get("provider") == CPU


@dataclass(frozen=True)
class Measured:
    """Scores and milliseconds of one engine at one number of views; as in `Run`."""

    engine: Engine
    views: Views
    scores: Scores
    ms: Scores


def measure(
    engines: Sequence[Engine],
    preprocessing: Preprocessing,
    paths: Sequence[Path],
    views: Sequence[Views],
    report: Callable[[], None] = lambda: None,
    simple: Sequence[Simple] = (),
) -> list[Measured]:
    """Score photographs in every precision, as the runtime does: gate, mean over the views, clipped to 0-100.

    Each photograph is read once and prepared once for each number of views; the precisions take turns, so that a
    machine that slows down slows all of them.

    Args:
        engines: what to score with.
        preprocessing: from the card.
        paths: the N photographs.
        views: numbers of views.
        report: called after every photograph.
        simple: filled in with the measures of the same views.

    Raises:
        InputError: a photograph cannot be read.
        EngineError: an engine failed.
    """
    found = [Measured(engine, count, *np.full((2, len(paths)), np.nan)) for count in views for engine in engines]
    for engine in engines:  # the first call of a session is slower
        engine.backend.infer(np.zeros((1, INPUT, INPUT, 3), np.uint8))
    for place, path in enumerate(paths):
        image = read_image(path)
        for count in views:
            started = time.perf_counter()
            try:
                batch, middle = prepare_with_centre(image, preprocessing, count)
            except AmbiguousFieldError:
                continue  # no score, as for what is no retina
            retina = shows_retina(middle)
            prepared = time.perf_counter() - started
            for measured in found:
                if retina and measured.views == count:
                    started = time.perf_counter()
                    measured.scores[place] = _score(measured.engine, batch, path)
                    measured.ms[place] = 1e3 * (prepared + time.perf_counter() - started)
            for one in simple:
                if retina and one.views == count:
                    one.values[place] = one.of(batch)
        report()
    return found


def _score(engine: Engine, batch: Image, path: Path) -> float:
    score = float(np.mean(engine.backend.infer(batch)))
    if not np.isfinite(score):
        raise EngineError(f"{path}: expected a finite score from {engine.form}, found {score}")
    return min(100.0, max(0.0, score))


def evaluate(
    data: int, photographs: DataSet, measured: Sequence[Measured], thresholds: Thresholds
) -> tuple[list[Run], list[PrecisionAgreement]]:
    """Metrics of everything that was measured on one set, and what the precisions change against the first.

    Args:
        data: place of the set among the report's.
        photographs: the set.
        measured: from `measure`.
        thresholds: for verdicts.
    """
    runs: list[Run] = []
    agreements: list[PrecisionAgreement] = []
    first: dict[Views, tuple[Measured, dict[str, Bootstrapped]]] = {}
    for found in measured:
        engine, metrics = found.engine, photographs.metrics(found.scores)
        runs.append(
            Run(
                data=data,
                precision=engine.precision,
                form=engine.form,
                emulated=engine.emulated,
                backend=engine.backend.describe(),
                views=found.views,
                scores=found.scores,
                ms=found.ms,
                metrics=_estimates(metrics),
                folds=_folds(photographs, found.scores) if isinstance(photographs, RatedSet) else (),
            )
        )
        reference, before = first.setdefault(found.views, (found, metrics))
        seen = np.isfinite(found.scores)  # the gate is the same for all
        if reference is not found and seen.any():
            a, b = reference.scores[seen], found.scores[seen]
            changes = {name: before[name].change_to(after) for name, after in metrics.items()}
            names = (reference.engine.form, engine.form)
            verdicts = _verdicts(a, b, thresholds)
            agreements.append(PrecisionAgreement(data, found.views, *names, cost(a, b, thresholds), verdicts, changes))
    return runs, agreements


def beside(
    data: int, photographs: DataSet, measured: Sequence[Measured], simple: Sequence[Simple]
) -> Iterator[Baseline]:
    """Each simple measure, and what the first precision at the same number of views has more.

    Args:
        data, photographs, measured: as in `evaluate`.
        simple: filled in by `measure`.
    """
    first = {found.views: found for found in reversed(measured)}
    ours = {views: photographs.metrics(found.scores) for views, found in first.items()}
    for one in simple:
        metrics = {n: m for n, m in photographs.metrics(one.values).items() if n not in IN_POINTS}
        gains = {name: metric.change_to(ours[one.views][name]) for name, metric in metrics.items()}
        form = first[one.views].engine.form
        yield Baseline(data, one.views, one.name, form, one.values, _estimates(metrics), gains)


def _estimates(metrics: Mapping[str, Bootstrapped]) -> dict[str, Estimate]:
    return {name: metric.estimate() for name, metric in metrics.items()}


def _folds(photographs: RatedSet, scores: Scores) -> tuple[Fold, ...]:
    folds = []
    for name in photographs.fold_names():
        rows = np.array(photographs.folds) == name
        folds.append(Fold(name, int(rows.sum()), _estimates(photographs.metrics(scores, rows))))
    return tuple(folds)


def _verdicts(reference: Scores, found: Scores, thresholds: Thresholds) -> dict[Verdict, dict[Verdict, int]]:
    table = {row: dict.fromkeys(VERDICTS, 0) for row in VERDICTS}
    for a, b in zip(reference.tolist(), found.tolist(), strict=True):
        table[thresholds.verdict(a)][thresholds.verdict(b)] += 1
    return table


def measure_accuracy(
    bundle: Bundle,
    data: Sequence[DataSet],
    views: Sequence[Views],
    precisions: Sequence[Precision] = (),
    backend: BackendName = "auto",
    threads: int | None = None,
    report: Callable[[], None] = lambda: None,
) -> AccuracyReport:
    """Measure a bundle on sets of photographs; arguments and errors are those of `open_engines` and `measure`."""
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    runs: list[Run] = []
    agreements: list[PrecisionAgreement] = []
    baselines: list[Baseline] = []
    with open_engines(bundle, precisions, backend, threads) as (engines, left_out):
        device = read_device()
        for place, photographs in enumerate(data):
            simple = Simple.unmeasured(views, len(photographs.paths))
            measured = measure(engines, bundle.card.preprocessing, photographs.paths, views, report, simple)
            baselines += beside(place, photographs, measured, simple)
            more_runs, more_agreements = evaluate(place, photographs, measured, bundle.card.thresholds)
            runs += more_runs
            agreements += more_agreements
    return AccuracyReport(
        bundle.card, tuple(data), tuple(runs), tuple(agreements), left_out, device, started, tuple(baselines)
    )
