"""The kit beside its peers, run in turn: how many times faster one is than the other.

``python -m fthnet_kit.bench.speed.peers BUNDLE``: PyTorch eager, a plain `torch.onnx.export` in ONNX Runtime, and the
kit's FP32 and INT8 graphs there; medians over alternating runs with the same number of threads, so that a machine
that slows down slows all of them. Ratios are what may be quoted. With ``--profile`` also where ONNX Runtime spends
its time.
"""

from __future__ import annotations

import collections
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import click
import numpy as np

from fthnet_kit.convert.network.checkpoint import load_checkpoint
from fthnet_kit.convert.onnx_graph.export import ScoringGraph
from fthnet_kit.edge.cli.options import bundle_argument
from fthnet_kit.edge.files import write_atomically
from fthnet_kit.edge.formats.read import read_image
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.inference.backend import INPUT_NAME, OUTPUT_NAME
from fthnet_kit.edge.inference.onnx_runtime import OnnxBackend, session_options
from fthnet_kit.edge.model.bundle import CHECKPOINT_NAME, Bundle
from fthnet_kit.edge.model.preprocess import prepare

WARM_UP = 5


def medians(runners: Mapping[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Median milliseconds of each runner; all run once in every round."""
    times: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(WARM_UP + runs):
        for name, run in runners.items():
            started = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - started))
    return {name: float(np.median(values[WARM_UP:])) for name, values in times.items()}


def eager(bundle: Bundle, view: Image, threads: int) -> Callable[[], object]:
    """PyTorch eager, FP32, as it comes."""
    import torch

    torch.set_num_threads(threads)
    graph = ScoringGraph(load_checkpoint(bundle.folder / CHECKPOINT_NAME).network, bundle.card.preprocessing).eval()
    image = torch.from_numpy(view)

    def run() -> object:
        with torch.inference_mode():
            return graph(image)

    return run


def plain_export(bundle: Bundle, view: Image, threads: int) -> Callable[[], object]:
    """The same network as `torch.onnx.export` writes it, in ONNX Runtime."""
    import torch

    graph = ScoringGraph(load_checkpoint(bundle.folder / CHECKPOINT_NAME).network, bundle.card.preprocessing).eval()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, which is told to be the older one
        torch.onnx.export(
            graph,
            (torch.from_numpy(view),),
            f"{folder}/plain.onnx",
            dynamo=False,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            opset_version=17,
        )
        backend = OnnxBackend(Path(folder) / "plain.onnx", threads=threads)
    return lambda: backend.infer(view)


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
    """Median milliseconds of every peer: ``eager``, ``plain export``, ``fp32``, ``int8``."""
    photograph = read_image(Path(str(files("fthnet_kit.edge") / "assets" / "retina.jpg")))
    view = prepare(photograph, bundle.card.preprocessing, 1)
    ours = {name: OnnxBackend(bundle.model(name), threads=threads) for name in ("fp32", "int8")}
    runners = {"eager": eager(bundle, view, threads), "plain export": plain_export(bundle, view, threads)}
    runners |= {name: lambda backend=backend: backend.infer(view) for name, backend in ours.items()}  # type: ignore[misc]
    return medians(runners, runs)


@click.command()
@bundle_argument
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--runs", type=click.IntRange(1), default=50, show_default=True)
@click.option("--profile", "profiled", is_flag=True, help="Also show where ONNX Runtime spends its time.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the medians.")
def main(bundle: Path | None, threads: int, runs: int, profiled: bool, json_file: Path | None) -> None:
    """Medians of alternating runs of PyTorch eager, a plain export, and this kit's FP32 and INT8, on a BUNDLE."""
    opened = Bundle.open(bundle)
    found = measure_peers(opened, threads, runs)
    for name, milliseconds in found.items():
        click.echo(f"{name:<12} {milliseconds:7.1f} ms")
    eager_ms, plain, fp32, int8 = (found[name] for name in ("eager", "plain export", "fp32", "int8"))
    click.echo(
        f"fp32 / eager {fp32 / eager_ms:.2f}, fp32 / plain export {fp32 / plain:.2f}, int8 / fp32 {int8 / fp32:.2f}"
    )
    if json_file is not None:
        content = {
            "model": f"{opened.card.name} {opened.card.version}",
            "threads": threads,
            "runs": runs,
            "median_ms": found,
        }
        write_atomically(json_file, (json.dumps(content, indent=2) + "\n").encode())
    if profiled:
        photograph = read_image(Path(str(files("fthnet_kit.edge") / "assets" / "retina.jpg")))
        view = prepare(photograph, opened.card.preprocessing, 1)
        for name in ("fp32", "int8"):
            click.echo(f"{name}, milliseconds a run:")
            for operator, milliseconds in profile(opened.model(name).content, view, threads, runs)[:12]:  # type: ignore[arg-type]
                click.echo(f"  {operator:<24} {milliseconds:6.2f}")


if __name__ == "__main__":
    main()
