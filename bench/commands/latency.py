"""The command that measures latency: `fthnet bench latency`, or ``python bench/latency.py``."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fthnet_kit.edge.cli.options import bundle_argument, views_option
from fthnet_kit.edge.model.choices import BACKENDS, PRECISIONS, BackendName, Precision

if TYPE_CHECKING:
    from fthnet_kit.bench.speed.latency import MeasuringPlan
    from fthnet_kit.edge.model.preprocess import Views


@click.command()
@bundle_argument
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="auto",
    show_default=True,
    help="Number format of the network.",
)
@click.option(
    "--backend", type=click.Choice(BACKENDS), default="auto", show_default=True, help="What runs the network."
)
@click.option("--cuda-graph", is_flag=True, help="On TensorRT: launch the network as one CUDA graph.")
@click.option("--threads", type=click.IntRange(1), help="Threads of one inference on a CPU. Default: all cores.")
@views_option
@click.option(
    "--source",
    metavar="URI",
    help="Pictures to score: a camera, video, folder. Default: 1080p frames of the simulated camera, as JPEG.",
)
@click.option("--runs", type=click.IntRange(1), help="Scores in the steady state, at least.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="Length of the steady state. Default: 20.")
@click.option(
    "--minutes", type=click.FloatRange(0, min_open=True), help="Soak: so long, with tests for drift and leaks."
)
@click.option(
    "--fps",
    type=click.FloatRange(1, 1000),
    default=30.0,
    show_default=True,
    help="Frames a second of the live loop's camera.",
)
@click.option("--quick", is_flag=True, help="The steady state alone: no live loop, cold starts and idle pauses.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write everything, raw samples too.")
@click.option("--html", "html_file", type=click.Path(path_type=Path), help="Write a page.")
@click.option(
    "--compare",
    metavar="WHAT",
    help="A JSON file of an earlier run; or a precision or backend, run in turn with this one. Ratio with interval.",
)
def latency(
    bundle: Path | None,
    precision: Precision,
    backend: BackendName,
    cuda_graph: bool,
    threads: int | None,
    views: Views | None,
    source: str | None,
    runs: int | None,
    seconds: float | None,
    minutes: float | None,
    fps: float,
    quick: bool,
    json_file: Path | None,
    html_file: Path | None,
    compare: str | None,
) -> None:
    """Latency of a BUNDLE (default: the shipped one) on this machine, stage by stage, and why it may be unstable.

    Stages: decode (or grab), preprocess, gate, infer, post; on TensorRT also h2d, gpu_compute, d2h and enqueue, in
    trtexec's terms. Then the live loop (frame age, drops), cold start, first inference, and after a pause.
    """
    from fthnet_kit.bench.results.results_file import read_results, write_file, write_results
    from fthnet_kit.bench.speed.comparison import compare_in_turn, compare_with_file, other_of
    from fthnet_kit.bench.speed.latency import Pictures, encode, measure, measure_cold_start, simulated_frames
    from fthnet_kit.bench.speed.latency_page import latency_page, latency_tables
    from fthnet_kit.edge.files import make_folder
    from fthnet_kit.edge.inference.open_backend import as_picked
    from fthnet_kit.edge.inference.scorer import QualityScorer
    from fthnet_kit.edge.model.bundle import Bundle
    from fthnet_kit.edge.reporting.console import busy, open_console

    plan = plan_of(runs, seconds, minutes, fps, quick=quick)
    opened = Bundle.open(bundle)
    for file in (json_file, html_file):
        if file is not None:
            make_folder(file.parent)  # fails before minutes of measuring, not after
    if backend == precision == "auto":
        backend, precision, threads = as_picked(opened, threads, None)
    earlier = read_results(Path(compare)) if compare and Path(compare).is_file() else None
    other = other_of(compare) if compare and earlier is None else None
    errors = open_console(stderr=True)
    pictures = Pictures(source)

    def scorer(other_precision: Precision = precision, other_backend: BackendName = backend) -> partial[QualityScorer]:
        return partial(
            QualityScorer.from_bundle,
            opened.folder,
            other_precision,
            views,
            other_backend,
            threads,
            cuda_graph=cuda_graph,
        )

    with busy(errors, "measuring") as say:
        content = measure(scorer(), opened, precision, pictures, plan, say)
        if plan.cold_starts:
            with tempfile.TemporaryDirectory() as folder:
                picture = Path(folder) / "frame.jpg"
                picture.write_bytes(encode(simulated_frames(1, 1920, 1080)[0]).tobytes())
                arguments = [str(opened.folder), precision, backend, str(threads or 0)]
                content["cold_start"] = measure_cold_start(arguments, picture, plan.cold_starts, say)
        if earlier is not None:
            content["comparison"] = compare_with_file(content, earlier, str(compare))
        elif other is not None:
            say(f"{compare} in turn")
            content["comparison"] = compare_in_turn(scorer(), scorer(**other), str(compare), pictures, plan.limit)
    pictures.close()
    output = open_console()
    for part in latency_tables(content):
        output.print(part)
    if json_file is not None:
        write_results(json_file, content)
        click.echo(f"results: {json_file}")
    if html_file is not None:
        write_file(html_file, latency_page(content))
        click.echo(f"page: {html_file}")


def plan_of(
    runs: int | None, seconds: float | None, minutes: float | None, fps: float, *, quick: bool
) -> MeasuringPlan:
    """The plan that the options ask for."""
    from fthnet_kit.bench.speed.latency import MeasuringPlan
    from fthnet_kit.bench.speed.timing import Limit

    if minutes is not None:
        limit = Limit(runs or 0, 60 * minutes)
    elif runs is not None:
        limit = Limit(runs, seconds or 0.0)
    else:
        limit = Limit(seconds=seconds or 20.0)
    if quick:
        return MeasuringPlan(limit, capture_s=0.0, fps=fps, idle_s=(), cold_starts=0, soak=minutes is not None)
    return MeasuringPlan(limit, fps=fps, soak=minutes is not None)
