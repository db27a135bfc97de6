"""The kit beside its peers, run in turn: how many times faster one is than the other.

``python -m fthnet_kit.bench.speed.peers BUNDLE``: PyTorch eager, a plain `torch.onnx.export` in ONNX Runtime, OpenVINO
alone on the kit's files, and the kit's backends; medians over alternating runs, each in a process of its own with the
same number of threads, so that a machine that slows down slows all of them. Ratios are what may be quoted. With
``--profile`` also where ONNX Runtime spends its time.
"""

from __future__ import annotations

import collections
import json
import tempfile
import warnings
from collections.abc import Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path

import click
import numpy as np

from fthnet_kit.bench.speed.in_turn import Opener, Runner, in_turn
from fthnet_kit.bench.speed.pick import candidates, open_choice
from fthnet_kit.convert.network.checkpoint import load_checkpoint
from fthnet_kit.convert.onnx_graph.export import ScoringGraph
from fthnet_kit.edge.cli.options import bundle_argument
from fthnet_kit.edge.files import write_atomically
from fthnet_kit.edge.formats.read import read_image
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.inference.backend import INPUT_NAME, OUTPUT_NAME
from fthnet_kit.edge.inference.onnx_runtime import OnnxBackend, session_options
from fthnet_kit.edge.inference.pick import Choice
from fthnet_kit.edge.model.bundle import CHECKPOINT_NAME, Bundle
from fthnet_kit.edge.model.choices import Precision
from fthnet_kit.edge.model.preprocess import prepare

WARM_UP = 5


def kit_view(bundle: Bundle) -> Image:
    """The centre view of the kit's photograph, uint8 (1, 384, 384, 3) RGB."""
    photograph = read_image(Path(str(files("fthnet_kit.edge") / "assets" / "retina.jpg")))
    return np.ascontiguousarray(prepare(photograph, bundle.card.preprocessing, 1))


def open_eager(folder: Path, threads: int) -> Runner:
    """PyTorch eager, FP32, as it comes."""
    import torch

    torch.set_num_threads(threads)
    bundle = Bundle.open(folder)
    graph = ScoringGraph(load_checkpoint(bundle.folder / CHECKPOINT_NAME).network, bundle.card.preprocessing).eval()
    image = torch.from_numpy(kit_view(bundle))

    def run(_: object) -> object:
        with torch.inference_mode():
            return graph(image)

    return run


def open_plain_export(folder: Path, threads: int) -> Runner:
    """The same network as `torch.onnx.export` writes it, in ONNX Runtime."""
    import torch

    bundle = Bundle.open(folder)
    view = kit_view(bundle)
    graph = ScoringGraph(load_checkpoint(bundle.folder / CHECKPOINT_NAME).network, bundle.card.preprocessing).eval()
    with tempfile.TemporaryDirectory() as written, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns that it is the older one
        torch.onnx.export(
            graph,
            (torch.from_numpy(view),),
            f"{written}/plain.onnx",
            dynamo=False,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            opset_version=17,
        )
        backend = OnnxBackend(Path(written) / "plain.onnx", threads=threads)
    return lambda _: backend.infer(view)


def open_openvino_alone(folder: Path, precision: Precision, threads: int) -> Runner:
    """OpenVINO itself on the kit's file, in the arithmetic that the file names."""
    import openvino

    bundle = Bundle.open(folder)
    view = kit_view(bundle)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    model = openvino.compile_model(
        openvino.Core().read_model(bundle.model(precision, "openvino").content), "CPU", settings
    )
    request = model.create_infer_request()
    return lambda _: request.infer({INPUT_NAME: view})[OUTPUT_NAME]


def profile(model: bytes, view: Image, threads: int, runs: int) -> Sequence[tuple[str, float]]:
    """Milliseconds a run of each operator in ONNX Runtime, the longest first."""
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        options = session_options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        for _ in range(runs):
            session.run([OUTPUT_NAME], {INPUT_NAME: view})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    total: collections.Counter[str] = collections.Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            total[event["args"]["op_name"]] += event["dur"] / 1e3 / runs
    return total.most_common()


def measure_peers(bundle: Bundle, threads: int, runs: int) -> dict[str, float]:
    """Median milliseconds of ``eager``, ``plain export``, ``fp32``, ``int8``, and OpenVINO's where it is installed."""
    folder = bundle.folder
    openers: dict[str, Opener] = {
        "eager": partial(open_eager, folder, threads),
        "plain export": partial(open_plain_export, folder, threads),
    }
    for choice in candidates(bundle):
        if choice.backend in ("onnxruntime", "openvino"):
            name = choice.precision if choice.backend == "onnxruntime" else f"openvino {choice.precision}"
            openers[name] = partial(open_choice, folder, Choice(choice.backend, choice.precision, threads), 1)
        if choice.backend == "openvino":
            alone = partial(open_openvino_alone, folder, choice.precision, threads)
            openers[f"openvino alone {choice.precision}"] = alone
    times = np.median(in_turn(openers, [None] * (runs + WARM_UP), WARM_UP), axis=0)
    return dict(zip(openers, (float(ms) for ms in times), strict=True))


def ratios(found: dict[str, float]) -> str:
    """What may be quoted."""
    pairs = [("fp32", "eager"), ("fp32", "plain export"), ("int8", "fp32")]
    for form in ("fp32", "int8"):
        pairs += [(f"openvino {form}", f"openvino alone {form}"), (f"openvino {form}", "fp32")]
    here = [pair for pair in pairs if set(pair) <= set(found)]
    return ", ".join(f"{one} / {other} {found[one] / found[other]:.2f}" for one, other in here)


@click.command()
@bundle_argument
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--runs", type=click.IntRange(1), default=50, show_default=True)
@click.option("--profile", "profiled", is_flag=True, help="Also show where ONNX Runtime spends its time.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the medians.")
def main(bundle: Path | None, threads: int, runs: int, profiled: bool, json_file: Path | None) -> None:
    """Medians of alternating runs of PyTorch eager, a plain export, OpenVINO alone and this kit, on a BUNDLE."""
    opened = Bundle.open(bundle)
    found = measure_peers(opened, threads, runs)
    for name, milliseconds in found.items():
        click.echo(f"{name:<20} {milliseconds:7.1f} ms")
    click.echo(ratios(found))
    if json_file is not None:
        content = {
            "model": f"{opened.card.name} {opened.card.version}",
            "threads": threads,
            "runs": runs,
            "median_ms": found,
        }
        write_atomically(json_file, (json.dumps(content, indent=2) + "\n").encode())
    if profiled:
        view = kit_view(opened)
        for name in ("fp32", "int8"):
            click.echo(f"{name}, milliseconds a run:")
            for operator, milliseconds in profile(opened.model(name).content, view, threads, runs)[:12]:  # type: ignore[arg-type]
                click.echo(f"  {operator:<24} {milliseconds:6.2f}")


if __name__ == "__main__":
    main()
