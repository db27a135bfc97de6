"""The commands of the runtime: `fthnet run` and `fthnet score`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fthnet_kit.edge.backend_names import BACKENDS, BackendName
from fthnet_kit.edge.precision import PRECISIONS, Precision

if TYPE_CHECKING:
    from rich.console import Console

    from fthnet_kit.edge.live import LiveLoop, LiveSummary
    from fthnet_kit.edge.preprocess import Views
    from fthnet_kit.edge.sinks import BestFrame, RecordsFile, Sink

LOG_WIDTH = 160  # of a table in a file or pipe
Function = TypeVar("Function", bound=Callable[..., Any])


def model_options(function: Function) -> Function:
    """Options of every command that runs a model."""
    for option in (
        click.option("--threads", type=click.IntRange(1), help="Threads of one inference. Default: all cores."),
        click.option(
            "--backend",
            type=click.Choice(BACKENDS),
            default="auto",
            show_default=True,
            help="auto: TensorRT where the bundle has an engine for this GPU, otherwise ONNX Runtime on the CPU.",
        ),
        click.option("--cuda-graph", is_flag=True, help="On TensorRT: launch the network as one CUDA graph."),
        click.option("--precision", type=click.Choice(PRECISIONS), default="auto", show_default=True),
        click.option("--views", type=click.Choice(["1", "5", "20"]), help="Views averaged. Default: the model card's."),
        click.option(
            "--bundle",
            type=click.Path(path_type=Path),
            help="Bundle folder. Default: the demonstration bundle that the kit ships.",
        ),
    ):
        function = option(function)
    return function


@click.command()
@click.option(
    "--source",
    required=True,
    metavar="URI",
    help="0, /dev/video0?width=1920&height=1080, csi://0 (Jetson), gst:PIPELINE, rtsp://…, http://…, a video, "
    "a folder or glob of images, or sim:?seconds=20&fps=15&seed=3.",
)
@model_options
@click.option("--records", type=click.Path(path_type=Path), help="Append one JSON record a result to this file.")
@click.option("--save-best", type=click.Path(path_type=Path), help="Keep the best frame in this folder.")
@click.option("--max-frames", type=click.IntRange(1), help="Stop after this many scored frames.")
@click.option("--rebuild", is_flag=True, help="Build the TensorRT engine first where there is none that may run here.")
def run(
    source: str,
    bundle: Path | None,
    views: str | None,
    precision: Precision,
    backend: BackendName,
    cuda_graph: bool,
    threads: int | None,
    records: Path | None,
    save_best: Path | None,
    max_frames: int | None,
    rebuild: bool,
) -> None:
    """Score the frames of a camera, live.

    Cameras drop what comes while a frame is scored; files are read in full. Ctrl-C or SIGTERM ends
    cleanly. Without a frame, or with one that must not be scored, the score is empty and says why.
    """
    from rich.console import Console

    from fthnet_kit.edge.cameras import make_source
    from fthnet_kit.edge.live import LiveLoop
    from fthnet_kit.edge.scorer import QualityScorer
    from fthnet_kit.edge.sinks import BestFrame, RecordsFile
    from fthnet_kit.edge.terminal import TerminalView

    console = Console(highlight=False, soft_wrap=True)
    make_source(source)  # a wrong URI is told before a model is loaded
    if rebuild:
        rebuild_engine(bundle, precision)
    with QualityScorer.from_bundle(
        bundle, precision, views_of(views), backend, threads, cuda_graph=cuda_graph
    ) as scorer:
        facts = scorer.backend.describe()
        console.print(
            f"{scorer.card.name} {scorer.card.version} on {facts['library']}, {facts['provider']}, "
            f"{facts['threads']} threads, views {scorer.views}"
        )
        loop = LiveLoop(lambda: make_source(source), scorer)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: loop.stop())
        records_file = RecordsFile(records) if records else None
        best = BestFrame(save_best) if save_best else None
        sinks: list[Sink] = [sink for sink in (records_file, best) if sink is not None]
        with TerminalView(console, source) as view:
            score_until_done(loop, [*sinks, view], max_frames)
    print_summary(console, loop.summary, best, records_file)


def rebuild_engine(bundle: Path | None, precision: Precision) -> None:
    """Build the bundle's engine for this machine if it has none that may run here.

    In a process of its own: the builder's memory, on a Jetson the GPU's too, is free again before the camera starts.
    """
    from fthnet_kit.edge.backends import checked_engine, engine_precision
    from fthnet_kit.edge.bundle import Bundle
    from fthnet_kit.edge.engine_manifest import EngineRefusedError
    from fthnet_kit.edge.errors import EngineError

    try:
        checked_engine(Bundle.open(bundle), engine_precision(precision))
    except EngineRefusedError as refused:
        click.echo(f"building the engine: {refused}", err=True)
        command = [sys.executable, "-m", "fthnet_kit.edge.cli", *refused.rebuild]
        code = subprocess.run(command, check=False).returncode  # noqa: S603  (our own command)
        if code:
            raise EngineError(
                f"expected an engine, found that its build ended with exit code {code}; its reason stands above"
            ) from refused


def score_until_done(loop: LiveLoop, sinks: Sequence[Sink], max_frames: int | None) -> None:
    """Hand every result of the loop to every sink; close the sinks however it ends."""
    try:
        for result in loop.results():
            for sink in sinks:
                sink.offer(result)
            if max_frames is not None and loop.summary.scored >= max_frames:
                break
    finally:
        for sink in sinks:
            sink.close()


def print_summary(
    console: Console, summary: LiveSummary, best: BestFrame | None, records_file: RecordsFile | None
) -> None:
    """Durations, counts, and where the results lie."""
    from fthnet_kit.edge.terminal import summary_table

    console.print(summary_table(summary))
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(summary.reasons.items())) or "none"
    console.print(
        f"captured {summary.captured}, dropped {summary.dropped}, reconnects {summary.reconnects}, "
        f"without a score: {reasons}"
    )
    if best is not None and best.best is not None and best.best.score.value is not None:
        console.print(f"best frame: {best.best.score.value:.1f}, {best.folder / 'best.png'}")
    if records_file is not None:
        lost = f", {records_file.lost} lost" if records_file.lost else ""
        console.print(f"records: {records_file.written} in {records_file.path}{lost}")


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE…")
@model_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line instead of a table.")
def score(
    images: tuple[str, ...],
    bundle: Path | None,
    views: str | None,
    precision: Precision,
    backend: BackendName,
    cuda_graph: bool,
    threads: int | None,
    as_json: bool,
) -> None:
    """Score still images: files, folders, globs.

    What cannot be read is reported on stderr and skipped, and the exit code is 3.
    """
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    from fthnet_kit.edge.cameras import find_images
    from fthnet_kit.edge.errors import InputError
    from fthnet_kit.edge.images import read_image
    from fthnet_kit.edge.scorer import QualityScorer

    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    paths = find_images(list(images))
    table = Table()
    table.add_column("image", overflow="fold")
    for column in ("score", "verdict", "ms"):
        table.add_column(column, justify="right")
    unreadable = 0
    with QualityScorer.from_bundle(
        bundle, precision, views_of(views), backend, threads, cuda_graph=cuda_graph
    ) as scorer:
        for path in track(
            paths, "scoring", console=errors, transient=True, disable=len(paths) < 5 or not errors.is_terminal
        ):
            try:
                result = scorer.score(read_image(path))
            except InputError as error:
                unreadable += 1
                errors.print(f"skipped: {error}", markup=False)
                continue
            if as_json:
                click.echo(json.dumps({"file": str(path), **result.to_dict()}))
            else:
                value = "-" if result.value is None else f"{result.value:.1f}"
                table.add_row(str(path), value, result.verdict or result.reason or "", f"{result.total_ms:.0f}")
    if not as_json and table.row_count:
        Console(width=None if sys.stdout.isatty() else LOG_WIDTH).print(table)
    if unreadable:
        raise InputError(
            f"{unreadable} of {len(paths)} images could not be read and were skipped; they are named above"
        )


def views_of(text: str | None) -> Views | None:
    """The number of views that an option names."""
    return None if text is None else int(text)  # type: ignore[return-value]
