"""From an FP32 bundle to FP16 and INT8: calibrate, tell what each layer costs, judge.

1. Photographs to calibrate on and to judge on are chosen (`calibration.int8_photographs`).
2. The FP32 graph runs on the former; each layer gets its smoothing and its range (`calibration.int8_fit`).
3. Each layer alone in INT8 is measured in score points; if all together cost more than the budget, the costliest
   stay in floating point.
4. The gate: FP16, and INT8 on each runtime that will run it, against FP32 on the others.

FP16 arithmetic is judged on its FP32 twin (`fp16_twin`), which rounds where a GPU would.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fthnet_kit.calibration.int8_fit import Floats, LayerCalibration, calibrate_layer, smoothing_vector
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
from fthnet_kit.calibration.labelled_images import LabelledImage
from fthnet_kit.calibration.precision_gate import LEAST_INT8, Cost, cost, shortfalls
from fthnet_kit.convert.network.config import FTHNetConfig
from fthnet_kit.convert.onnx_graph.fthnet_graph import Graph, GraphPlan, Weights, layer_parameters, write_graph
from fthnet_kit.convert.precision.smoothing import can_smooth, fold_norms, smooth
from fthnet_kit.convert.precision.verify import Points, Report, openvino_scores, score_model
from fthnet_kit.edge.errors import BundleError, MissingExtraError
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.inference.onnx_runtime import OnnxBackend
from fthnet_kit.edge.model.bundle import CHECKPOINT_NAME, Bundle
from fthnet_kit.edge.model.choices import INT8_BUDGET
from fthnet_kit.edge.model.preprocess import prepare_file

try:
    import onnx
    from onnx import TensorProto, helper
    from safetensors.numpy import load as load_safetensors
except ImportError as error:
    raise MissingExtraError(error.name or "onnx", "convert", purpose="quantisation") from error

PROBES = 32  # photographs on which each layer alone is measured
TRIALS = 64  # photographs on which the layers together are measured
MARGIN = 0.8  # share of the budget, for choices made on other photographs than those that judge
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
        costs: what each costs on the held-out photographs; ``int8-openvino`` where OpenVINO is installed.
        int8_layers: layers that run in INT8.
        int8_macs: their share of the weighted layers' MACs.
        macs: the share of every layer that might run in INT8, in the order of the network.
        layers: what calibration chose for each.
        reference, scores: points of FP32 and of each precision on the held-out photographs.
    """

    models: dict[str, onnx.ModelProto]
    costs: dict[str, Cost]
    int8_layers: list[str]
    int8_macs: float
    macs: Mapping[str, float]
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
        report: called as work goes on.
    """

    def __init__(self, bundle: Bundle, report: Report) -> None:
        self.bundle = bundle
        self.report = report
        self.config = FTHNetConfig(**bundle.card.architecture)
        self.weights = read_weights(bundle)
        self.folded = fold_norms(self.weights)  # for INT8
        with OnnxBackend(bundle.model("fp32")) as backend:
            self.batch = backend.batch

    def run(self, folders: Sequence[Path], images: int = WANTED, held_out: int = HELD_OUT) -> Outcome:
        """Choose photographs, calibrate, convert, judge.

        Args:
            folders: photographs, with or without a table of labels.
            images, held_out: how many calibrate, and how many judge.

        Raises:
            InputError: the photographs cannot calibrate anything.
        """
        calibration, judging = self.choose(folders, images, held_out)
        layers = self.calibrate(calibration)
        smoothed = smooth(self.folded, smoothings(layers))
        sensitivities = self.sensitivities(smoothed, layers, calibration)
        chosen = self.choose_layers(smoothed, layers, sensitivities, calibration)
        models = {
            "fp16": self.graph(self.weights, GraphPlan("fp16")).model,
            "int8": self.graph(smoothed, self.plan(smoothed, layers, chosen, affine=False)).model,
            "int8-cpu": self.graph(smoothed, self.plan(smoothed, layers, chosen, affine=True)).model,
        }
        views = [photograph.view for photograph in judging]
        reference = self.scores(onnx.load_from_string(self.bundle.model("fp32").content), views, "scoring in fp32")
        scores = {form: self.scores(model, views, f"scoring in {form}") for form, model in models.items()}
        on_openvino = openvino_scores(models["int8"], views, self.report)
        scores |= {} if on_openvino is None else {"int8-openvino": on_openvino}
        return Outcome(
            models=models,
            costs={form: cost(reference, found, self.bundle.card.thresholds) for form, found in scores.items()},
            int8_layers=chosen,
            int8_macs=sum(entry.macs for entry in sensitivities if entry.layer in chosen),
            macs=self.mac_shares(),
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
        with OnnxBackend(self.bundle.model("fp32")) as backend:
            for number, entry in enumerate(entries):
                view = prepare_file(path_of(entry), self.bundle.card.preprocessing, 1)
                scores.append(float(backend.infer(view)[0]))
                self.report("scoring photographs without labels", number + 1, len(entries))
        return np.array(scores)

    def calibrate(self, photographs: Sequence[Photograph]) -> dict[str, LayerCalibration]:
        """Smoothing, range, weight scales and bias corrections of every layer that may run in INT8."""
        graph = self.graph(self.folded, GraphPlan(), batch=1)
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
        smoothing = {
            layer: smoothing_vector(samples[layer], self.parameters(self.folded, layer)[0])
            for layer in tensors
            if can_smooth(layer)
        }
        smoothed = smooth(self.folded, smoothing)
        return {
            layer: calibrate_layer(samples[layer], smoothing.get(layer), self.parameters(smoothed, layer)[0])
            for layer in tensors
        }

    def mac_shares(self) -> dict[str, float]:
        """Share of the weighted layers' MACs that each layer has that may run in INT8."""
        graph = self.graph(self.weights, GraphPlan())
        total = sum(site.macs for site in graph.sites) + graph.other_macs
        return {site.layer: site.macs / total for site in graph.sites}

    def parameters(self, weights: Weights, layer: str) -> tuple[Floats, Floats | None]:
        """Weight (in, out) and bias (out,) of a layer."""
        return layer_parameters(weights, self.config, layer)

    def sensitivities(
        self,
        smoothed: Weights,
        layers: Mapping[str, LayerCalibration],
        photographs: Sequence[Photograph],
    ) -> list[Sensitivity]:
        """What each layer alone costs, on ONNX Runtime's kernels, the costliest first."""
        views = [photographs[i].view for i in _evenly(len(photographs), PROBES)]
        wanted = {name: share for name, share in self.mac_shares().items() if share >= WORTHWHILE}
        reference = self.scores(self.graph(smoothed, GraphPlan()).model, views)
        found = []
        for number, (layer, share) in enumerate(wanted.items()):
            plan = self.plan(smoothed, layers, [layer], affine=True)
            size = np.abs(self.scores(self.graph(smoothed, plan).model, views) - reference)
            found.append(Sensitivity(layer, float(size.mean()), float(size.max()), share))
            self.report("measuring layer by layer", number + 1, len(wanted))
        return sorted(found, key=lambda entry: -entry.mean)

    def choose_layers(
        self,
        smoothed: Weights,
        layers: Mapping[str, LayerCalibration],
        sensitivities: Sequence[Sensitivity],
        photographs: Sequence[Photograph],
    ) -> list[str]:
        """All layers, less the costliest until INT8 stays within a share of its budget on calibration photographs."""
        views = [photographs[i].view for i in _evenly(len(photographs), TRIALS)]
        reference = self.scores(self.graph(smoothed, GraphPlan()).model, views)
        chosen, share = list(sensitivities), sum(entry.macs for entry in sensitivities)
        while True:
            names = [entry.layer for entry in chosen]
            model = self.graph(smoothed, self.plan(smoothed, layers, names, affine=True)).model
            found = cost(
                reference, self.scores(model, views, f"trying {len(names)} layers"), self.bundle.card.thresholds
            )
            costliest = next((entry for entry in chosen if share - entry.macs >= LEAST_INT8), None)
            if costliest is None or not found.shortfalls(INT8_BUDGET.tightened(MARGIN)):
                return names
            chosen.remove(costliest)
            share -= costliest.macs

    def plan(
        self, smoothed: Weights, layers: Mapping[str, LayerCalibration], chosen: Iterable[str], *, affine: bool
    ) -> GraphPlan:
        """Layers in INT8: affine for ONNX Runtime's CPU kernels, symmetric with FP16 around it for TensorRT."""
        int8 = {name: layers[name].layer(*self.parameters(smoothed, name), affine=affine) for name in chosen}
        return GraphPlan("fp32", int8, "onnxruntime") if affine else GraphPlan("fp16", int8)

    def graph(self, weights: Weights, plan: GraphPlan, batch: int | None = None) -> Graph:
        """The graph of a plan."""
        return write_graph(weights, self.config, self.bundle.card.preprocessing, batch or self.batch, plan)

    def scores(self, model: onnx.ModelProto, views: Sequence[Image], what: str | None = None) -> Points:
        """Points of photographs, FP16 rounded as on a GPU."""
        return score_model(model, views, lambda done: self.report(what, done, len(views)) if what else None)


def read_weights(bundle: Bundle) -> Weights:
    """The checkpoint's parameters, float32.

    Raises:
        BundleError: the bundle has no checkpoint, or one whose weights are not those that its card states.
    """
    if CHECKPOINT_NAME not in bundle.card.files:
        raise BundleError(
            f"{bundle.folder}: expected {CHECKPOINT_NAME}, found none in the card; export the bundle again"
        )
    bundle.check_weights()
    state = load_safetensors(bundle.read(CHECKPOINT_NAME))
    return {name: values.astype(np.float32) for name, values in state.items()}


def _different(photographs: Sequence[Photograph], seen: set[str]) -> list[Photograph]:
    """The first of each picture that was not seen before."""
    return list({p.sha256: p for p in reversed(photographs) if p.sha256 not in seen}.values())[::-1]


def smoothings(layers: Mapping[str, LayerCalibration]) -> dict[str, Floats]:
    """What divides the input of each layer that is smoothed."""
    return {name: layer.smoothing for name, layer in layers.items() if layer.smoothing is not None}


def _evenly(length: int, count: int) -> list[int]:
    """Up to `count` indices, evenly over `length`."""
    return sorted({round(i) for i in np.linspace(0, length - 1, min(count, length))})
