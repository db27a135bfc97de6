"""What every precision of a bundle costs against FP32, on photographs that did not calibrate it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fthnet_kit.calibration.int8_photographs import (
    FEWEST,
    Photograph,
    find_photographs,
    load,
    stratify,
    without_repeats,
)
from fthnet_kit.calibration.labelled_images import LabelledImage
from fthnet_kit.calibration.precision_gate import Cost, cost, shortfalls
from fthnet_kit.convert.precision.fp16_twin import rounded_twin
from fthnet_kit.edge.errors import InputError, MissingExtraError
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.inference.onnx_runtime import OnnxBackend
from fthnet_kit.edge.model.bundle import CONVERTED_NAMES, RANGES_NAME, REPORTS, Bundle
from fthnet_kit.edge.model.preprocess import prepare_file

try:
    import onnx
except ImportError as error:
    raise MissingExtraError("onnx", "convert", purpose="verifying a bundle") from error

Points = npt.NDArray[np.float32]
Report = Callable[[str, int, int], None]  # what is being done, how much of it, of how much

NOISE_IMAGES = 24
NOISE_VIEWS = 20


@dataclass(frozen=True)
class PrecisionVerification:
    """Every precision of a bundle against FP32.

    Attributes:
        images: names of the photographs.
        reference: FP32 points, not clipped.
        scores: points of each precision, by its name (``fp16``, ``int8``, ``int8-cpu``, ``int8-openvino``).
        costs: differences from `reference`.
        noise_floor: standard deviation between 20 random crops of one photograph, in points, mean over photographs:
            what the score varies by when nothing is converted.
        int8_macs: share of the weighted layers' MACs that an INT8 precision runs in INT8, from the card.
    """

    images: list[str]
    reference: Points
    scores: dict[str, Points]
    costs: dict[str, Cost]
    noise_floor: float
    int8_macs: Mapping[str, float] = field(default_factory=dict)

    def shortfalls(self, precision: str) -> list[str]:
        """What of the precision's gate does not hold."""
        return shortfalls(precision, self.costs[precision], self.int8_macs.get(precision, 1.0))


def verify(bundle: Bundle, folders: Sequence[Path], images: int, report: Report) -> PrecisionVerification:
    """Score photographs in every precision that the bundle holds.

    Args:
        bundle: with FP32 and any converted graphs.
        folders: photographs, with or without a table; those named in the bundle's ranges file are left out.
        images: most photographs to use.
        report: called as work goes on.

    Raises:
        InputError: fewer than 32 photographs are left.
    """
    photographs = held_out(bundle, folders, images, report)
    views = [photograph.view for photograph in photographs]
    reference = score_all(bundle.model("fp32").content, views, "scoring in fp32", report)
    present = [form for form, name in CONVERTED_NAMES.items() if name in bundle.card.files]
    scores = {
        form: score_all(bundle.read(CONVERTED_NAMES[form]), views, f"scoring in {form}", report) for form in present
    }
    if "int8" in present:
        on_openvino = openvino_scores(onnx.load_from_string(bundle.read(CONVERTED_NAMES["int8"])), views, report)
        scores |= {} if on_openvino is None else {"int8-openvino": on_openvino}
    return PrecisionVerification(
        images=[photograph.path.name for photograph in photographs],
        reference=reference,
        scores=scores,
        costs={form: cost(reference, found, bundle.card.thresholds) for form, found in scores.items()},
        noise_floor=noise_floor(bundle, [photograph.path for photograph in photographs], report),
        int8_macs={form: bundle.card.precisions.get(form, {}).get("int8_macs", 1.0) for form in scores},
    )


def held_out(bundle: Bundle, folders: Sequence[Path], images: int, report: Report) -> list[Photograph]:
    """Photographs that did not calibrate the bundle, spread over their labels where all have one."""
    used = calibrated_on(bundle)
    entries = without_repeats(find_photographs(folders))
    labels = [entry.mos for entry in entries if isinstance(entry, LabelledImage)]
    values = np.array(labels) if len(labels) == len(entries) else np.arange(len(entries), dtype=float)
    candidates = stratify(values, images + len(used))
    found: dict[int, Photograph] = {}
    for number, index in enumerate(candidates):
        photograph = load(entries[index], bundle.card.preprocessing)
        if photograph.sha256 not in used:
            found[index] = photograph
        report("reading photographs", number + 1, len(candidates))
    if len(found) < FEWEST:
        raise InputError(
            f"verify: expected at least {FEWEST} photographs that did not calibrate the bundle, found {len(found)}; "
            "add photographs"
        )
    rest = list(found)
    return [found[rest[index]] for index in stratify(values[rest], images)]


def calibrated_on(bundle: Bundle) -> set[str]:
    """SHA-256 of the views that calibrated a bundle."""
    name = f"{REPORTS}/{RANGES_NAME}"
    if name not in bundle.card.files:
        return set()
    content = json.loads(bundle.read(name))
    return {entry["sha256"] for entry in content["images"]}


def score_all(model: bytes, views: Sequence[Image], what: str, report: Report) -> Points:
    """Points of RGB uint8 (384, 384, 3) views; FP16 rounds as on a GPU (`fp16_twin`)."""
    return score_model(onnx.load_from_string(model), views, lambda done: report(what, done, len(views)))


def score_model(model: onnx.ModelProto, views: Sequence[Image], report: Callable[[int], None]) -> Points:
    """The same for a graph in memory."""
    scores = []
    with OnnxBackend(rounded_twin(model).SerializeToString()) as backend:
        for start in range(0, len(views), backend.batch):
            scores.append(backend.infer(np.stack(views[start : start + backend.batch])))
            report(min(start + backend.batch, len(views)))
    return np.concatenate(scores)


def openvino_scores(model: onnx.ModelProto, views: Sequence[Image], report: Report) -> Points | None:
    """The same in OpenVINO, whose INT8 kernels are others; None where it is not installed."""
    from fthnet_kit.edge.inference.openvino_runtime import OpenVinoBackend

    try:
        backend = OpenVinoBackend(model.SerializeToString())
    except MissingExtraError:
        return None
    scores = []
    with backend:
        for number, view in enumerate(views):
            scores.append(backend.infer(view[np.newaxis]))
            report("scoring in int8 on OpenVINO", number + 1, len(views))
    return np.concatenate(scores)


def noise_floor(bundle: Bundle, paths: Sequence[Path], report: Report) -> float:
    """Standard deviation over 20 crops, mean over up to 24 photographs, in points."""
    chosen = [paths[round(i)] for i in np.linspace(0, len(paths) - 1, min(NOISE_IMAGES, len(paths)))]
    deviations = []
    with OnnxBackend(bundle.model("fp32")) as backend:
        for number, path in enumerate(chosen):
            views = prepare_file(path, bundle.card.preprocessing, NOISE_VIEWS)
            deviations.append(float(np.std(backend.infer(views), ddof=1)))
            report("measuring the noise floor", number + 1, len(chosen))
    return float(np.mean(deviations))
