"""From an FP32 bundle to FP16 and INT8, by measurement: calibrate, smooth, find what INT8 costs, judge.

1. Photographs to calibrate on and to judge on are chosen (`calibration.calibration_set`).
2. The FP32 graph runs on the former; each layer gets its smoothing and its range (`calibration.int8`).
3. Each layer alone in INT8 is measured in score points; then all together, and the costliest return to
   floating point until the budget holds, on calibration photographs.
4. The gate: FP16, INT8 for TensorRT and INT8 for ONNX Runtime's CPU kernels against FP32 on the others.

FP16 arithmetic is judged on its FP32 twin (`fp16_twin`), which rounds where a GPU would.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fthnet_kit.calibration.int8_fit import LayerCalibration, LayerSample, finish_layer, fit_layer
from fthnet_kit.calibration.int8_observe import observe
from fthnet_kit.calibration.int8_photographs import (
    HELD_OUT,
    WANTED,
    Entry,
    Photograph,
    find_photographs,
    load,
    path_of,
    refuse_too_few,
    refuse_unfit,
    refuse_unfit_scores,
    split,
    without_repeats,
)
from fthnet_kit.calibration.int8_ranges_file import calibration_key, read_ranges, write_ranges
from fthnet_kit.calibration.labelled_images import LabelledImage
from fthnet_kit.calibration.precision_gate import INT8_BUDGET, LEAST_INT8, Cost, cost, shortfalls
from fthnet_kit.convert.network.config import FTHNetConfig
from fthnet_kit.convert.onnx_graph.fthnet_graph import Graph, Plan, Site, Weights, layer_parameters, write_graph
from fthnet_kit.convert.precision.smoothing import producer, smooth
from fthnet_kit.convert.precision.verify import Points, Report, score_model
from fthnet_kit.edge.errors import BundleError, MissingExtraError
from fthnet_kit.edge.image import Image, read_image
from fthnet_kit.edge.inference.onnx_runtime import OnnxBackend
from fthnet_kit.edge.model.bundle import CHECKPOINT_NAME, RANGES_NAME, Bundle
from fthnet_kit.edge.model.preprocess import prepare

try:
    import onnx
    from onnx import TensorProto, helper
    from safetensors.numpy import load_file
except ImportError as error:
    raise MissingExtraError(error.name or "onnx", "convert", purpose="quantisation") from error

PROBES = 32  # photographs on which each layer alone is measured
TRIALS = 128  # photographs on which the layers together are measured
MARGIN = 0.8  # of the budget, for choices made on other photographs than those that judge
WORTHWHILE = 0.002  # share of the weighted layers' MACs; a smaller layer gains nothing from INT8 and is left alone


@dataclass(frozen=True)
class Sensitivity:
    """What one layer alone in INT8 costs, in points, and its share of the weighted layers' MACs."""

    layer: str
    mean: float
    worst: float
    macs: float


@dataclass
class Outcome:
    """What a quantisation found and made.

    Attributes:
        models: the converted graphs, by precision.
        costs: what each costs on the held-out photographs.
        int8_layers: layers that run in INT8; `returned` went back to floating point, in this order.
        int8_macs: their share of the weighted layers' MACs.
        reference, scores: points of FP32 and of each precision on the held-out photographs.
    """

    models: dict[str, onnx.ModelProto]
    costs: dict[str, Cost]
    int8_layers: list[str]
    returned: list[str]
    int8_macs: float
    layers: Mapping[str, LayerCalibration]
    sensitivities: list[Sensitivity]
    calibration: list[Photograph]
    held_out: list[Photograph]
    reference: Points
    scores: dict[str, Points] = field(default_factory=dict)

    def shortfalls(self, precision: str) -> list[str]:
        """What of the gate does not hold."""
        return shortfalls(precision, self.costs[precision], self.int8_macs)


class Quantizer:
    """Converts one bundle.

    Args:
        bundle: with checkpoint and FP32 graph.
        folder: work folder; what is found is kept there, and a killed run uses it again.
        report: called as work goes on.

    Ranges and the cost of each layer are kept; the trials of all layers together are made again.
    """

    def __init__(self, bundle: Bundle, folder: Path, report: Report) -> None:
        self.bundle = bundle
        self.folder = folder
        self.report = report
        self.config = FTHNetConfig(**bundle.card.architecture)
        self.weights = read_weights(bundle)
        with OnnxBackend(bundle.model_path("fp32")) as backend:
            self.batch = backend.batch
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, folders: Sequence[Path], images: int = WANTED, held_out: int = HELD_OUT) -> Outcome:
        """Choose photographs, calibrate, convert, judge.

        Raises:
            InputError: the photographs cannot calibrate anything.
        """
        calibration, judging = self.choose(folders, images, held_out)
        key = calibration_key(self.bundle.card, calibration)
        layers = read_ranges(self.folder / RANGES_NAME, key)
        if layers is None:
            layers = self.calibrate(calibration)
            write_ranges(self.folder / RANGES_NAME, key, calibration, layers)
        smoothed = smooth(self.weights, _smoothings(layers))
        sensitivities = self.sensitivities(smoothed, layers, calibration, key)
        chosen, returned = self.choose_layers(smoothed, layers, sensitivities, calibration)
        graphs = {
            "fp16": self.graph(self.weights, Plan("fp16")),
            "int8": self.graph(smoothed, self.plan(smoothed, layers, chosen, affine=False)),
            "int8-cpu": self.graph(smoothed, self.plan(smoothed, layers, chosen, affine=True)),
        }
        views = [photograph.view for photograph in judging]
        reference = self.scores(onnx.load(self.bundle.model_path("fp32")), views, "scoring in fp32")
        scores = {form: self.scores(graph.model, views, f"scoring in {form}") for form, graph in graphs.items()}
        return Outcome(
            models={form: graph.model for form, graph in graphs.items()},
            costs={form: cost(reference, found, self.bundle.card.thresholds) for form, found in scores.items()},
            int8_layers=chosen,
            returned=returned,
            int8_macs=sum(entry.macs for entry in sensitivities if entry.layer in set(chosen)),
            layers=layers,
            sensitivities=sensitivities,
            calibration=calibration,
            held_out=judging,
            reference=reference,
            scores=scores,
        )

    def choose(self, folders: Sequence[Path], images: int, held_out: int) -> tuple[list[Photograph], list[Photograph]]:
        """Photographs to calibrate on and to judge on, spread over labels, or over FP32 scores where there are none."""
        entries = without_repeats(find_photographs(folders))
        calibrating, judging = split(self.values(entries), images, held_out)
        chosen = []
        for number, index in enumerate([*calibrating, *judging]):
            chosen.append(load(entries[index], self.bundle.card.preprocessing))
            self.report("reading photographs", number + 1, len(calibrating) + len(judging))
        refuse_unfit(chosen)
        calibration = _different(chosen[: len(calibrating)], set())  # the same picture may lie in several files
        held_out_ones = _different(chosen[len(calibrating) :], {photograph.sha256 for photograph in calibration})
        refuse_too_few(len(calibration) + len(held_out_ones), min(len(calibration), len(held_out_ones)))
        return calibration, held_out_ones

    def values(self, entries: Sequence[Entry]) -> npt.NDArray[np.float64]:
        """What photographs are spread over: labels, or FP32 scores where one has no label."""
        labels = [entry.mos for entry in entries if isinstance(entry, LabelledImage)]
        if len(labels) == len(entries):
            return np.array(labels)
        scores = []
        with OnnxBackend(self.bundle.model_path("fp32")) as backend:
            for number, entry in enumerate(entries):
                view = prepare(read_image(path_of(entry)), self.bundle.card.preprocessing, 1)
                scores.append(float(backend.infer(view)[0]))
                self.report("scoring photographs without labels", number + 1, len(entries))
        return np.array(scores)

    def calibrate(self, photographs: Sequence[Photograph]) -> dict[str, LayerCalibration]:
        """Smoothing, range, weight scales and bias corrections of every layer that may run in INT8."""
        graph = self.graph(self.weights, Plan(), batch=1)
        tensors = {site.layer: site.input for site in graph.sites}
        for name in sorted(set(tensors.values())):
            graph.model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        samples, scores = observe(
            graph.model.SerializeToString(),
            tensors,
            [photograph.view for photograph in photographs],
            lambda done: self.report("observing activations", done, len(photographs)),
        )
        refuse_unfit_scores(photographs, scores)
        return self.fit(graph.sites, samples)

    def fit(self, sites: Sequence[Site], samples: Mapping[str, LayerSample]) -> dict[str, LayerCalibration]:
        """The choices for every layer, from samples of its input."""
        fits = {}
        for number, site in enumerate(sites):
            weight, _ = layer_parameters(self.weights, self.config, site.layer)
            fits[site.layer] = fit_layer(samples[site.layer], weight, smoothable=producer(site.layer) is not None)
            self.report("choosing smoothing and ranges", number + 1, len(sites))
        smoothed = smooth(self.weights, {layer: fit.smoothing for layer, fit in fits.items() if fit.alpha is not None})
        return {
            layer: finish_layer(fit, samples[layer], layer_parameters(smoothed, self.config, layer)[0])
            for layer, fit in fits.items()
        }

    def sensitivities(
        self,
        smoothed: Weights,
        layers: Mapping[str, LayerCalibration],
        photographs: Sequence[Photograph],
        key: Mapping[str, Any],
    ) -> list[Sensitivity]:
        """What each layer alone costs, on ONNX Runtime's kernels, the costliest first."""
        views = [photographs[i].view for i in _evenly(len(photographs), PROBES)]
        journal = _Journal(self.folder / "sensitivity.jsonl", key)
        graph = self.graph(smoothed, Plan())
        total = sum(site.macs for site in graph.sites) + graph.other_macs
        sites = [site for site in graph.sites if site.macs >= WORTHWHILE * total]
        reference: Points | None = None
        found = []
        for number, site in enumerate(sites):
            known = journal.get(site.layer)
            if known is None:
                if reference is None:
                    reference = self.scores(graph.model, views)
                plan = self.plan(smoothed, layers, [site.layer], affine=True)
                size = np.abs(self.scores(self.graph(smoothed, plan).model, views) - reference)
                known = asdict(Sensitivity(site.layer, float(size.mean()), float(size.max()), site.macs / total))
                journal.add(known)
            found.append(Sensitivity(**known))
            self.report("measuring layer by layer", number + 1, len(sites))
        return sorted(found, key=lambda entry: -entry.mean)

    def choose_layers(
        self,
        smoothed: Weights,
        layers: Mapping[str, LayerCalibration],
        sensitivities: Sequence[Sensitivity],
        photographs: Sequence[Photograph],
    ) -> tuple[list[str], list[str]]:
        """Layers that run in INT8, and those that went back to floating point until the budget held."""
        views = [photographs[i].view for i in _evenly(len(photographs), TRIALS)]
        reference = self.scores(self.graph(smoothed, Plan()).model, views, "scoring in fp32")
        chosen: list[str] = [entry.layer for entry in sensitivities]
        returned: list[str] = []
        share = sum(entry.macs for entry in sensitivities)
        candidates = list(sensitivities)
        while True:
            if self.holds(smoothed, layers, chosen, views, reference):
                return chosen, returned
            worst = next((entry for entry in candidates if share - entry.macs >= LEAST_INT8), None)
            if worst is None:
                return chosen, returned
            candidates = [entry for entry in candidates if entry is not worst]
            share -= worst.macs
            chosen.remove(worst.layer)
            returned.append(worst.layer)

    def holds(
        self,
        smoothed: Weights,
        layers: Mapping[str, LayerCalibration],
        chosen: Sequence[str],
        views: Sequence[Image],
        reference: Points,
    ) -> bool:
        """Whether both forms of INT8 stay within a share of the budget."""
        for affine, form in ((True, "int8-cpu"), (False, "int8")):
            graph = self.graph(smoothed, self.plan(smoothed, layers, chosen, affine=affine))
            found = self.scores(graph.model, views, f"trying {len(chosen)} layers in {form}")
            if cost(reference, found, self.bundle.card.thresholds).shortfalls(INT8_BUDGET.tightened(MARGIN)):
                return False
        return True

    def plan(
        self, smoothed: Weights, layers: Mapping[str, LayerCalibration], chosen: Iterable[str], *, affine: bool
    ) -> Plan:
        """Layers in INT8: affine for ONNX Runtime's CPU kernels, symmetric with FP16 around it for TensorRT."""
        int8 = {
            name: layers[name].layer(*layer_parameters(smoothed, self.config, name), affine=affine) for name in chosen
        }
        return Plan("fp32", int8, "onnxruntime") if affine else Plan("fp16", int8)

    def graph(self, weights: Weights, plan: Plan, batch: int | None = None) -> Graph:
        """The graph of a plan."""
        return write_graph(weights, self.config, self.bundle.card.preprocessing, batch or self.batch, plan)

    def scores(self, model: onnx.ModelProto, views: Sequence[Image], what: str | None = None) -> Points:
        """Points of photographs, FP16 rounded as on a GPU."""
        return score_model(model, views, lambda done: self.report(what, done, len(views)) if what else None)


class _Journal:
    """Results of finished steps, one JSON object a line; those of another key are forgotten."""

    def __init__(self, path: Path, key: Mapping[str, Any]) -> None:
        self.path = path
        self.known: dict[str, dict[str, Any]] = {}
        first = json.dumps(key)
        lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
        if lines[:1] != [first]:
            path.write_text(first + "\n", encoding="utf-8")
            return
        whole = [line for line in lines[1:-1] if line.endswith("}")]  # what a kill cut off has no end
        self.known = {entry["layer"]: entry for entry in map(json.loads, whole)}
        path.write_text("".join(f"{line}\n" for line in [first, *whole]), encoding="utf-8")

    def get(self, layer: str) -> dict[str, Any] | None:
        return self.known.get(layer)

    def add(self, entry: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def read_weights(bundle: Bundle) -> Weights:
    """The checkpoint's parameters, float32.

    Raises:
        BundleError: the bundle has no checkpoint.
    """
    if CHECKPOINT_NAME not in bundle.card.files:
        raise BundleError(
            f"{bundle.folder}: expected {CHECKPOINT_NAME}, found none in the card; export the bundle again"
        )
    state = load_file(bundle.folder / CHECKPOINT_NAME)
    return {name: values.astype(np.float32) for name, values in state.items()}


def _different(photographs: Sequence[Photograph], seen: set[str]) -> list[Photograph]:
    """The first of each picture that was not seen before."""
    return list({p.sha256: p for p in reversed(photographs) if p.sha256 not in seen}.values())[::-1]


def _smoothings(layers: Mapping[str, LayerCalibration]) -> dict[str, npt.NDArray[np.float32]]:
    return {name: layer.fit.smoothing for name, layer in layers.items() if layer.fit.alpha is not None}


def _evenly(length: int, count: int) -> list[int]:
    """Up to `count` indices, evenly over `length`."""
    return sorted({round(i) for i in np.linspace(0, length - 1, min(count, length))})
