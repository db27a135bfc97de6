"""The command that fits a model to a site: `fthnet thresholds`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fthnet_kit.calibration.options import FQS_FOLDER, data_option, points_option
from fthnet_kit.edge.cli.options import bundle_argument, output_option, tell_unsigned, threads_option, views_option

if TYPE_CHECKING:
    from fthnet_kit.edge.model.preprocess import Views


@click.command()
@bundle_argument
@data_option(FQS_FOLDER)
@click.option(
    "--sensitivity",
    required=True,
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of the ungradable photographs that must be rejected, and of those not good that must not be "
    "called good; for instance 0.95.",
)
@click.option(
    "--split",
    type=click.Choice(["val", "train", "all"]),
    default="val",
    show_default=True,
    help="Photographs to use. Scores of photographs that the model was trained on are too favourable.",
)
@points_option("--usable-mos", 40.0, "A photograph labelled below this MOS is ungradable.")
@points_option("--good-mos", 60.0, "A photograph labelled below this MOS is not good.")
@views_option
@threads_option
@output_option("Also write thresholds.json, .png and .html here.")
@click.option("--apply", is_flag=True, help="Write the thresholds into the bundle's model card.")
def thresholds(
    bundle: Path | None,
    folders: tuple[Path, ...],
    sensitivity: float,
    split: str,
    usable_mos: float,
    good_mos: float,
    views: Views | None,
    threads: int | None,
    output: Path | None,
    apply: bool,
) -> None:
    """Fit the thresholds of BUNDLE (default: the shipped one) to labelled photographs of a site.

    A picture that scores below the threshold `usable` is rejected, one below `good` is not called good. Each
    is the lowest threshold, in steps of 0.01 points, at which --sensitivity of the photographs labelled below
    the MOS cut-off score below the threshold, so that as few of the others as possible are turned away; `good`
    is raised to `usable` where it would be lower. A picture in which no retina is seen counts as rejected.

    Prints sensitivity and specificity (share of the others that are kept) with 95 % Wilson intervals, each
    threshold with its 95 % bootstrap interval over photographs, and what the card's present thresholds reach.
    Changes nothing unless --apply is given.
    """
    import numpy as np

    from fthnet_kit.calibration.labelled_images import of_split, read_image_sets
    from fthnet_kit.calibration.thresholds import (
        FitTarget,
        apply_thresholds,
        fit_thresholds,
        refuse_other_views,
        require_classes,
        score_images,
    )
    from fthnet_kit.calibration.thresholds_report import ThresholdReport
    from fthnet_kit.edge.files import make_folder
    from fthnet_kit.edge.inference.onnx_runtime import OnnxBackend
    from fthnet_kit.edge.inference.scorer import QualityScorer
    from fthnet_kit.edge.model.bundle import Bundle
    from fthnet_kit.edge.reporting.console import open_console, tracked
    from fthnet_kit.edge.reporting.plots import load_pyplot

    target = FitTarget(sensitivity, usable_mos, good_mos)
    opened = Bundle.open(bundle)
    used_views = views or opened.card.preprocessing.views
    if apply:
        refuse_other_views(opened, used_views)
    images = read_image_sets(folders)
    images = images if split == "all" else of_split(images, split)  # type: ignore[arg-type]
    mos = np.array([image.mos for image in images])
    require_classes(mos, target)
    if output is not None:  # fails before minutes of scoring, not after
        load_pyplot("the picture of the thresholds")
        make_folder(output)
    console = open_console()
    backend = OnnxBackend(opened.model(), threads=threads)
    with QualityScorer(opened.card, backend, used_views) as scorer, tracked(images, "scoring") as shown:
        scores = score_images(scorer, shown)
    fit = fit_thresholds(scores, mos, target)
    report = ThresholdReport(fit, opened.card, images, scores, split, used_views)
    click.echo(report.summary())
    console.print(report.table())
    if output is not None:
        report.write(output)
        click.echo(f"report: {output / 'thresholds.html'}")
    if apply:
        old, new = opened.card.thresholds, fit.thresholds
        path = apply_thresholds(opened, new)
        tell_unsigned(opened.folder)
        click.echo(f"{path}: usable {old.usable:.2f} → {new.usable:.2f}, good {old.good:.2f} → {new.good:.2f}")
    else:
        click.echo("the model card is unchanged; --apply writes these thresholds into it")
