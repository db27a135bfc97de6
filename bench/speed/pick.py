"""The fastest way to run a bundle on this machine: every backend, precision and number of threads, in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fthnet_kit.bench.speed.comparison import comparison
from fthnet_kit.bench.speed.in_turn import Runner, in_turn
from fthnet_kit.edge.device.cores import available_cores
from fthnet_kit.edge.errors import BundleError
from fthnet_kit.edge.formats.read import read_image
from fthnet_kit.edge.inference.engine_manifest import ENGINES
from fthnet_kit.edge.inference.open_backend import open_backend
from fthnet_kit.edge.inference.pick import Choice
from fthnet_kit.edge.model.bundle import Bundle
from fthnet_kit.edge.model.choices import BackendName, Precision
from fthnet_kit.edge.model.preprocess import Views, prepare

Report = Callable[[str], None]
FORMS: dict[BackendName, tuple[Precision, ...]] = {
    "onnxruntime": ("fp32", "int8"),  # a CPU computes FP16 through casts, which is slower than FP32
    "openvino": ("fp32", "int8"),
    "onnxruntime-cuda": ("fp32", "fp16"),
}


def candidates(bundle: Bundle) -> list[Choice]:
    """What can run a bundle here: backends that are installed, precisions whose gate holds, engines that were built.

    The first is what ``auto`` takes without a measurement on a CPU: ONNX Runtime in FP32.
    """
    import onnxruntime

    installed: list[BackendName] = ["onnxruntime"]
    if find_spec("openvino") is not None:
        installed.append("openvino")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        installed.append("onnxruntime-cuda")
    found = [Choice(backend, form) for backend in installed for form in FORMS[backend] if _holds(bundle, form, backend)]
    engines = {path.name.split(".")[1] for path in (bundle.folder / ENGINES).glob("*/fthnet.*.engine")}
    return [*found, *(Choice("tensorrt", form) for form in ("fp16", "int8", "fp32") if form in engines)]


def _holds(bundle: Bundle, precision: Precision, backend: BackendName) -> bool:
    try:
        bundle.model_path(precision, {"onnxruntime": "cpu", "onnxruntime-cuda": "cuda"}.get(backend, backend))
    except BundleError:
        return False
    return True


def thread_counts(cores: int) -> list[int]:
    """Fewer threads than cores, largest first: one a core where each core counts twice, and one alone."""
    return [count for count in dict.fromkeys((cores // 2, 1)) if 1 <= count < cores]


def measure_picks(bundle: Bundle, runs: int, report: Report = lambda what: None) -> tuple[Choice, dict[str, Any]]:
    """Measure all candidates in turn, then the fastest one's numbers of threads.

    Another choice takes the place of ONNX Runtime in FP32 only where the interval of the ratio proves it faster.

    Args:
        bundle: what is to run.
        runs: inferences of each candidate that count.
        report: hears what is being measured.

    Returns:
        The choice, and the evidence: every candidate with its median and its ratio to the first, 95 % interval.

    Raises:
        EngineError: a backend that is installed does not run.
    """
    choices = candidates(bundle)
    report(f"{len(choices)} candidates in turn")
    rows = _ranked(bundle, choices, runs)
    best = _fastest(rows)
    threads = [] if best["choice"].backend not in ("onnxruntime", "openvino") else thread_counts(available_cores())
    if threads:
        form = best["choice"]
        report(f"{form.backend} {form.precision} with {', '.join(map(str, threads))} threads")
        others = [Choice(form.backend, form.precision, count) for count in threads]
        finer = _ranked(bundle, list(dict.fromkeys((choices[0], form, *others))), runs)
        rows += finer[-len(others) :]
        best = _fastest(finer)
    evidence = {
        "kit_version": version("fthnet-edge-kit"),
        "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "model": f"{bundle.card.name} {bundle.card.version}",
        "views": bundle.card.preprocessing.views,
        "runs": runs,
        "candidates": [{**asdict(row["choice"]), "median_ms": row["median_ms"], "ratio": row["ratio"]} for row in rows],
    }
    return best["choice"], evidence


def _ranked(bundle: Bundle, choices: Sequence[Choice], runs: int) -> list[dict[str, Any]]:
    """Median, and ratio to the first with its interval, of each."""
    openers = {str(choice): partial(open_choice, bundle.folder, choice) for choice in choices}
    times = in_turn(openers, [None] * (runs + 5))
    rows = []
    for place, choice in enumerate(choices):
        found = comparison([str(choice), str(choices[0])], times[:, place], times[:, 0], paired=True)
        rows.append({"choice": choice, "median_ms": found["median_ms"][0], "ratio": found["ratio"]})
    return rows


def _fastest(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    proved = [row for row in rows if row["ratio"]["high"] < 1]
    return min(proved, key=lambda row: row["median_ms"], default=rows[0])


def open_choice(folder: Path, choice: Choice, views: Views | None = None) -> Runner:
    """Runs a bundle on the kit's photograph; default views: its card's."""
    bundle = Bundle.open(folder)
    photograph = read_image(Path(str(files("fthnet_kit.edge") / "assets" / "retina.jpg")))
    images = prepare(photograph, bundle.card.preprocessing, views or bundle.card.preprocessing.views)
    backend = open_backend(bundle, choice.precision, choice.backend, choice.threads)
    return lambda _: backend.infer(images)
