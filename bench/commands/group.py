"""The commands that measure: `fthnet bench`, `fthnet session` and `fthnet severity`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fthnet_kit.calibration.options import FQS_FOLDER
from fthnet_kit.edge.cli.lazy_group import LazyGroup
from fthnet_kit.edge.cli.options import PATH, bits_option, bundle_argument, output_option, threads_option
from fthnet_kit.edge.cli.settings import setting

if TYPE_CHECKING:
    from fthnet_kit.edge.guidance.texts import Language

BENCHES = {
    "latency": "fthnet_kit.bench.commands.latency:latency",
    "pick": "fthnet_kit.bench.commands.pick:pick",
    "accuracy": "fthnet_kit.bench.commands.accuracy:accuracy",
    "report": "fthnet_kit.bench.commands.report:report",
    "best-shot": "fthnet_kit.bench.quality.best_shot:best_shot",
    "live": "fthnet_kit.bench.endurance.live_load:live",
    "soak": "fthnet_kit.bench.endurance.fault_soak:soak",
}


@click.command(cls=LazyGroup, commands_by_name=BENCHES)
def bench() -> None:
    """Measure latency and accuracy on this machine, and report them."""


@click.command()
@click.argument("records", type=PATH)
@output_option("Also draw it: a PNG or SVG file.")
@setting("guidance.language")
def session(records: Path, output: Path | None, language: Language) -> None:
    """How the score followed a simulated session.

    RECORDS is what `fthnet run --source sim: --records RECORDS` wrote. Prints the Spearman correlation
    between the score and each thing that the simulator did, over frames with the eye in view.
    """
    from fthnet_kit.bench.quality.session import analyse, plot, read_session
    from fthnet_kit.edge.guidance.texts import Words

    words = Words(language)
    found = read_session(records)
    report = analyse(found)
    click.echo(words.count("session_frames", report.frames))
    for factor, value in report.spearman.items():
        sign = "+" if value >= 0 else ""
        click.echo(f"  {words.say(f'factor_{factor}'):<14} {sign}{words.number(value, 3)}")
    if output is not None:
        plot(found, report, output)
        click.echo(words.say("plot_at", path=output))


@click.command()
@bundle_argument
@click.option("--data", "folder", required=True, type=PATH, help=FQS_FOLDER)
@bits_option
@click.option(
    "--split",
    type=click.Choice(["val", "train"]),
    default="val",
    show_default=True,
    help="Photographs to use.",
)
@click.option(
    "--images",
    "count",
    type=click.IntRange(1),
    default=50,
    show_default=True,
    help="Photographs to degrade: those of the highest MOS.",
)
@threads_option
@output_option("Also write severity.json and .png here.")
def severity(
    bundle: Path | None, folder: Path, split: str, count: int, threads: int | None, output: Path | None
) -> None:
    """How far the score of BUNDLE (default: the shipped one) falls with each synthetic degradation.

    Degrades the best photographs of a split in ten ways at rising severities and scores their centre view.
    Prints the mean score at each severity, its Spearman correlation with the severity (SRCC; -1: it falls
    throughout), and the points lost at severity 1. Then what the score makes of looks that are no fault (half a stop
    brighter or darker, another gamma, little light, no colour), of lids, shadows and black areas over 30 and 50 % of
    the field, of photographs blurred until no vessel is left, with and without the noise of a sensor, and whether it
    follows the brightness of the photographs. Seeded by file name: a second run prints the same.
    """
    from fthnet_kit.bench.quality.looks import looks_table, measure_looks
    from fthnet_kit.bench.quality.severity import best_images, measure_severity, severity_table, write_report
    from fthnet_kit.calibration.labelled_images import of_split, read_image_set
    from fthnet_kit.edge.files import make_folder
    from fthnet_kit.edge.inference.onnx_runtime import OnnxBackend
    from fthnet_kit.edge.model.bundle import Bundle
    from fthnet_kit.edge.reporting.console import open_console, tracked
    from fthnet_kit.edge.reporting.plots import load_pyplot

    opened = Bundle.open(bundle)
    images = best_images(of_split(read_image_set(folder), split), count)  # type: ignore[arg-type]
    if output is not None:  # fails before minutes of scoring, not after
        load_pyplot("the picture of the severities")
        make_folder(output)
    console = open_console()
    with OnnxBackend(opened.model(), threads=threads) as backend, tracked(images, "scoring") as shown:
        report = measure_severity(backend, opened.card.preprocessing, shown)
        looks = measure_looks(backend, opened.card.preprocessing, images, opened.card.thresholds)
    click.echo(
        f"{opened.card.title}: mean score over the {len(images)} best photographs "
        f"(split {split}, MOS {images[-1].mos:g} to {images[0].mos:g}), centre view, by severity"
    )
    console.print(severity_table(report))
    click.echo(f"The same {len(images)} photographs under looks that are no fault, partly covered, and blurred away")
    console.print(looks_table(looks))
    click.echo(f"rank correlation of score and brightness: {looks.follows_brightness():+.2f}")
    if output is not None:
        write_report(report, opened.card, output, looks)
        click.echo(f"report: {output / 'severity.json'}, {output / 'severity.png'}")
