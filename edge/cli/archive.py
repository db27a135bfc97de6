"""`fthnet archive`: score many photographs, once each, and say what came of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fthnet_kit.edge.cli.lazy_group import ListingGroup
from fthnet_kit.edge.cli.options import bits_option, model_options
from fthnet_kit.edge.errors import InputError, OptionError
from fthnet_kit.edge.model.choices import BackendName, Precision

if TYPE_CHECKING:
    from fthnet_kit.edge.archive.shard import ShardDone, ShardTask
    from fthnet_kit.edge.archive.summary import Summary
    from fthnet_kit.edge.model.preprocess import Views

SECONDS_A_LINE = 10.0  # between two lines of progress, where no terminal watches
SHOWN = 5
GPU_BACKENDS = ("tensorrt", "onnxruntime-cuda", "onnxruntime-tensorrt")

folder_argument = click.argument("folder", type=click.Path(path_type=Path))


@click.group(cls=ListingGroup)
def archive() -> None:
    """Score an archive of photographs into Parquet files that survive kills; check and summarise them.

    Needs the extra `parquet`.
    """


@archive.command("score")
@click.argument("inputs", nargs=-1, required=True, metavar="IN...")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder of the archive's rows.")
@model_options
@bits_option
@click.option(
    "--path-column",
    metavar="NAME",
    help="Column of names in a table. Default: file, path, file_name or another usual one.",
)
@click.option("--shard-size", type=click.IntRange(1), default=256, show_default=True, help="Pictures a file.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Processes (with --ray: actors), one session each. Default: a process a core; on a GPU 1.",
)
@click.option(
    "--max-failure-rate",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    help="Stop with exit code 3 once more than this share of all pictures is quarantined.",
)
@click.option("--shard-index", type=click.IntRange(0), help="Number of this task, for a Slurm array.")
@click.option("--shard-count", type=click.IntRange(1), help="Number of tasks of the array.")
@click.option(
    "--ray",
    "ray_address",
    is_flag=False,
    flag_value="",
    metavar="[ADDRESS]",
    help="Run on Ray Data (extra `ray`): the cluster at ADDRESS, or one on this machine.",
)
def score_command(
    inputs: tuple[str, ...],
    output: Path,
    bundle: Path | None,
    views: Views | None,
    precision: Precision,
    backend: BackendName,
    cuda_graph: bool,
    threads: int | None,
    path_column: str | None,
    shard_size: int,
    workers: int | None,
    max_failure_rate: float,
    shard_index: int | None,
    shard_count: int | None,
    ray_address: str | None,
) -> None:
    """Score every picture behind IN once: one row each, with a score or the reason why there is none.

    IN: files, folders, globs; a .txt list; a .csv, .tsv or .parquet table with a column of names; an address such as
    s3://bucket/folder. The same command goes on after a kill; another bundle, option or list of inputs is refused.
    """
    from fthnet_kit.edge.archive.inputs import list_inputs, load_pyarrow
    from fthnet_kit.edge.archive.local import run_local
    from fthnet_kit.edge.archive.ray_data import run_on_ray
    from fthnet_kit.edge.archive.run_file import ArchiveRun, ModelOptions
    from fthnet_kit.edge.archive.shard import ShardTask
    from fthnet_kit.edge.archive.table import missing_shards, write_quarantine
    from fthnet_kit.edge.device.cores import available_cores
    from fthnet_kit.edge.formats.levels import assumed_bits

    load_pyarrow("parquet")
    if (shard_index is None) != (shard_count is None) or (shard_index or 0) >= (shard_count or 1):
        raise OptionError("--shard-index: expected a number from 0 to below --shard-count, and both or neither")
    names = list_inputs(inputs, path_column)
    cores = available_cores()
    workers = workers or (1 if backend in GPU_BACKENDS else cores)
    threads = threads or max(1, cores // workers)
    options = ModelOptions(bundle, precision, backend, views, cuda_graph, threads, assumed_bits())
    run = ArchiveRun.of(options, names, shard_size)
    run.claim(output)
    ours = range(shard_index or 0, run.shards, shard_count or 1)
    left = set(missing_shards(run, output)) & set(ours)
    tasks = [ShardTask(output, run, options, k, tuple(names[i] for i in run.ids(k))) for k in ours if k in left]
    if tasks:
        runner = (
            run_local(tasks, min(workers, len(tasks)))
            if ray_address is None
            else run_on_ray(tasks, workers, ray_address)
        )
        try:
            _follow(runner, tasks, most_failures=max_failure_rate * run.inputs)
        finally:
            quarantined = write_quarantine(run, output)
    else:
        quarantined = write_quarantine(run, output)
    if quarantined > max_failure_rate * run.inputs:
        raise InputError(_too_many(quarantined, output))
    missing = missing_shards(run, output)
    rest = f", {len(missing)} of {run.shards} shards are left to other tasks" if missing else ""
    click.echo(f"{output}: {run.inputs:,} pictures in {run.shards} shards, {quarantined:,} quarantined{rest}")


def _too_many(quarantined: int, output: Path) -> str:
    return (
        f"{output}: expected at most --max-failure-rate, found {quarantined:,} pictures that cannot be scored; "
        "quarantine.csv names them"
    )


def _follow(runner: Iterator[ShardDone], tasks: Sequence[ShardTask], most_failures: float) -> None:
    """Show how far the work is, until it is done or too much of it failed."""
    from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

    from fthnet_kit.edge.reporting.console import open_console, open_progress

    console = open_console(stderr=True, soft_wrap=True)
    total = sum(len(task.names) for task in tasks)
    rows = failed = 0
    started = said = time.monotonic()
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with open_progress(console, *columns, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("pictures", total=total)
        for done in runner:
            rows, failed = rows + done.rows, failed + done.failed
            now = time.monotonic()
            rate = rows / max(now - started, 1e-9)
            words = f"{rate:.1f} pictures a second, {failed} quarantined"
            progress.update(bar, completed=rows, description=words)
            if not console.is_terminal and now - said > SECONDS_A_LINE:
                said = now
                console.print(f"{rows:,} of {total:,}, {words}, {_clock((total - rows) / rate)} left")
            if failed > most_failures:
                break
    if total and failed <= most_failures:
        seconds = time.monotonic() - started
        console.print(f"{rows:,} pictures in {_clock(seconds)}, {rows / max(seconds, 1e-9):.1f} a second")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


@archive.command("verify")
@folder_argument
def verify_command(folder: Path) -> None:
    """Check that there is exactly one row an input, made from what run.json pins.

    Prints one line a problem; exit code 3 if there is any, or a shard is missing.
    """
    from fthnet_kit.edge.archive.run_file import ArchiveRun
    from fthnet_kit.edge.archive.table import verify

    found = verify(folder)
    for problem in found.problems:
        click.echo(problem)
    run = ArchiveRun.read(folder)
    click.echo(f"{found.rows:,} rows for {run.inputs:,} inputs, {found.quarantined:,} quarantined")
    if found.missing:
        some = ", ".join(map(str, found.missing[:SHOWN])) + (", …" if len(found.missing) > SHOWN else "")
        click.echo(f"missing: {len(found.missing)} of {run.shards} shards ({some})")
    if found.problems or found.missing:
        raise InputError(f"{folder}: expected one row an input, found it incomplete or altered; see above")


@archive.command("summary")
@folder_argument
@click.option("-o", "--output", type=click.Path(path_type=Path), help="HTML page. Default: FOLDER/summary.html.")
def summary_command(folder: Path, output: Path | None) -> None:
    """Histogram, worst and best, reasons and folders: a table here, an HTML page, and summary.json beside it."""
    from fthnet_kit.edge.archive.summary import summarise, summary_page
    from fthnet_kit.edge.files import make_folder, write_files

    summary = summarise(folder)
    page = output or folder / "summary.html"
    make_folder(page.parent)
    write_files(page.parent, {page.name: summary_page(folder, summary), f"{page.stem}.json": summary.to_json()})
    _print_summary(summary)
    click.echo(str(page))


def _print_summary(summary: Summary) -> None:
    from rich.table import Table

    from fthnet_kit.edge.archive.summary import FOLDER_COLUMNS, folder_cells
    from fthnet_kit.edge.reporting.console import open_console

    table = Table()
    for column in FOLDER_COLUMNS:
        table.add_column(column, justify="left" if column == "folder" else "right", overflow="fold")
    for folder in summary.folders[:EXTREME_FOLDERS]:
        table.add_row(*folder_cells(folder))
    open_console().print(table)
    counts = {**summary.verdicts, **summary.reasons}
    middle = "-" if summary.median is None else f"{summary.median:.1f}"
    click.echo(f"median {middle}; " + ", ".join(f"{name} {count:,}" for name, count in counts.items()))


EXTREME_FOLDERS = 20  # folders in the terminal; the page has more
