"""The command `fthnet bench accuracy`."""

from __future__ import annotations

from pathlib import Path

import click

from fthnet_kit.calibration.options import data_option
from fthnet_kit.edge.cli.options import backend_option, bundle_argument, output_option, threads_option
from fthnet_kit.edge.model.choices import NAMED_PRECISIONS

VIEW_NAMES = ("1", "5", "20")


def parse_views(ctx: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, ...]:
    """Numbers of views in a list such as ``1,5,20``, each once; empty without a list."""
    names = [name.strip() for name in text.split(",")] if text is not None else []
    for name in names:
        if name not in VIEW_NAMES:
            raise click.BadParameter(f"expected some of {', '.join(VIEW_NAMES)} with commas between, found {text!r}")
    return tuple(dict.fromkeys(int(name) for name in names))


@click.command()
@bundle_argument
@data_option(
    "Folder in FQS form (images, and a table with file_name and meanOpinionScore), or with classes (labels.csv "
    "with file_name and quality: good, bad, outlier). May be repeated; each is measured by itself."
)
@click.option(
    "--views",
    callback=parse_views,
    help="Views averaged into a score: 1, 5, 20, or several with commas. Default: the model card's; 20 with folds.",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(NAMED_PRECISIONS),
    help="May be repeated. Default: every one that the bundle has and this machine runs; FP16 on a CPU is only "
    "emulated and left out.",
)
@backend_option
@threads_option
@click.option(
    "--split",
    type=click.Choice(["val", "train", "all"]),
    help="Photographs of a folder in FQS form: the table's column `split`, or a seeded tenth as val without one. "
    "Default: val, and all with folds. Photographs that trained the model make its figures too favourable.",
)
@click.option("--fold-column", help="Column of the score table with each photograph's fold: metrics for each fold too.")
@click.option("--images", "limit", type=click.IntRange(1), help="Most photographs of a folder, a seeded choice.")
@output_option("Also write accuracy.json, .html and .png here.")
def accuracy(
    bundle: Path | None,
    folders: tuple[Path, ...],
    views: tuple[int, ...],
    precisions: tuple[str, ...],
    backend: str,
    threads: int | None,
    split: str | None,
    fold_column: str | None,
    limit: int | None,
    output: Path | None,
) -> None:
    """How far the scores of BUNDLE (default: the shipped one) agree with people's labels, in every precision.

    Against mean opinion scores: PLCC, SRCC, KRCC and RMSE, with no logistic fit before them. Against classes: the
    AUC of good against bad. All with 95 % bootstrap intervals, seeded. Simple measures of the same views (mean
    gradient, variance of the Laplacian, contrast) stand in the same table, with what the model has more than each.
    Between the precisions: how far scores move, how many verdicts flip, and how much each metric changes. A
    photograph in which no retina is seen counts as 0, and among classes as below all others.
    """
    from fthnet_kit.bench.quality.accuracy import FOLD_VIEWS, measure_accuracy, read_data
    from fthnet_kit.bench.quality.accuracy_page import data_line, head_lines, sections, write_reports
    from fthnet_kit.edge.files import make_folder
    from fthnet_kit.edge.model.bundle import Bundle
    from fthnet_kit.edge.reporting.console import open_console, open_progress
    from fthnet_kit.edge.reporting.plots import load_pyplot

    opened = Bundle.open(bundle)
    data = [read_data(folder, split, fold_column, limit) for folder in folders]  # type: ignore[arg-type]
    counts = views or (FOLD_VIEWS if fold_column else opened.card.preprocessing.views,)
    if output is not None:  # fails before minutes of scoring, not after
        load_pyplot("the picture of the accuracy")
        make_folder(output)
    errors = open_console(stderr=True)
    with open_progress(errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("scoring", total=sum(len(photographs.paths) for photographs in data))
        report = measure_accuracy(
            opened,
            data,
            counts,  # type: ignore[arg-type]
            precisions,  # type: ignore[arg-type]
            backend,  # type: ignore[arg-type]
            threads,
            lambda: bar.advance(task),
        )
    for line in head_lines(report):
        click.echo(line)
    console = open_console()
    for place in range(len(data)):
        click.echo(f"\n{data_line(report, place)}")
        for section in sections(report, place):
            console.print(section.for_terminal())
    if output is not None:
        write_reports(report, output)
        click.echo(f"report: {output / 'accuracy.html'}, {output / 'accuracy.json'}, {output / 'accuracy.png'}")
