"""Command: from photographs to a bundle."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from fthnet_kit.calibration.options import FQS_FOLDER, bundle_output, data_option, identity_options, replace_option
from fthnet_kit.edge.cli.options import tell_unsigned


@click.command()
@data_option(FQS_FOLDER)
@bundle_output
@click.option(
    "--minutes",
    required=True,
    type=click.FloatRange(0, min_open=True),
    help="How long it may take, from the first photograph read to the bundle.",
)
@click.option(
    "--config",
    type=click.Choice(["small", "base"]),
    help="small: 5.5 M parameters; base: the released 14.9 M. Default: small, or that of --from. With --from and "
    "--new-head: widen its backbone to this.",
)
@click.option("--from", "start", type=click.Path(path_type=Path), help="Fine-tune this checkpoint.")
@click.option("--new-head", is_flag=True, help="With --from: keep the backbone, renew taps and hypernetwork.")
@click.option("--head-only", is_flag=True, help="With --from: keep the backbone, go on with taps and hypernetwork.")
@click.option("--pool", type=click.Choice(["soft", "avg"]), help="Pooling of --from, where its file does not say it.")
@click.option("--batch", type=click.IntRange(2, 256), default=8, show_default=True, help="Images a step; even.")
@click.option(
    "--at-once",
    type=click.IntRange(2, 256),
    help="Images of a step that are computed together; even. Less memory, the same step. Default: all.",
)
@click.option(
    "--peak-lr", type=click.FloatRange(0, min_open=True), help="Highest learning rate. Default: 3e-4, fine-tuning 1e-4."
)
@click.option(
    "--relight",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="With --from: how far labels of dim photographs are raised to what its weights say of them in full light.",
)
@click.option(
    "--sharpness",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Share of each label that the sharpness of vessels makes up, where graders saw too small pictures to tell.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of everything random.")
@click.option("--group-column", help="Column that names the patient. Default: patient or patient_id, if there is one.")
@identity_options
@click.option("--training-data", default="", help="What it was trained on, for the card. Default: counts and folders.")
@click.option("--intended-use", help="Intended use, for the card.")
@replace_option
def train(
    folders: tuple[Path, ...],
    bundle: Path,
    minutes: float,
    config: str | None,
    start: Path | None,
    new_head: bool,
    head_only: bool,
    pool: str | None,
    batch: int,
    at_once: int | None,
    peak_lr: float | None,
    relight: float,
    sharpness: float,
    seed: int,
    group_column: str | None,
    name: str,
    model_version: str,
    manufacturer: str,
    training_data: str,
    intended_use: str | None,
    replace: bool,
) -> None:
    """Train or fine-tune FTHNet on photographs with scores, and make a bundle of it.

    Keeps to --minutes within 10 %, measurements and export included. A run that was killed goes on where it was
    when the same command is given again; its state lies in BUNDLE.training.
    """
    from rich.progress import BarColumn, TimeRemainingColumn

    from fthnet_kit.calibration.trainer import Progress, Recipe
    from fthnet_kit.convert.bundle.folder import refuse_existing
    from fthnet_kit.convert.bundle.train_to_bundle import TrainingRun, train_to_bundle
    from fthnet_kit.convert.bundle.write import Identity
    from fthnet_kit.edge.reporting.console import open_console, open_progress

    refuse_existing(bundle, replace=replace)
    identity = Identity(name, model_version, manufacturer, training_data=training_data)
    if intended_use:
        identity = dataclasses.replace(identity, intended_use=intended_use)
    rate = peak_lr or (1e-4 if start and not new_head else 3e-4)
    together = at_once and at_once - at_once % 2
    for option, is_given in (("--relight", relight), ("--head-only", head_only)):
        if is_given and (new_head or not start):
            raise click.UsageError(f"{option}: expected --from and no --new-head, found weights that have seen nothing")
    recipe = Recipe(
        minutes,
        batch=batch - batch % 2,
        peak_lr=rate,
        seed=seed,
        new_head=new_head,
        at_once=together,
        relight=relight,
        sharpness=sharpness,
        head_only=head_only,
    )
    run = TrainingRun(folders, config, start, pool, recipe, bundle, identity, group_column, replace)
    with open_progress(open_console(stderr=True), BarColumn(), TimeRemainingColumn(), transient=True) as bar:
        task = bar.add_task("reading photographs", total=minutes)

        def report(progress: Progress) -> None:
            last = progress.last
            found = (
                f"SRCC {last.agreement.srcc:.3f} PLCC {last.agreement.plcc:.3f} RMSE {last.agreement.rmse:.1f}"
                if last
                else ""
            )
            bar.update(
                task,
                completed=progress.minutes,
                description=f"{progress.stage}: {progress.images} images, loss {progress.loss:.3f} {found}",
            )

        result = train_to_bundle(run, report)
    for entry in result.accuracy:
        metrics = ", ".join(
            f"{key} {m['value']:.3f} [{m['low']:.3f}, {m['high']:.3f}]" for key, m in entry["metrics"].items()
        )
        click.echo(f"{entry['data']}, {entry['images']} images, {entry['views']} views: {metrics}")
    for fact in result.facts:
        click.echo(fact)
    for warning in result.warnings:
        click.echo(f"warning: {warning}", err=True)
    tell_unsigned(bundle)
    click.echo(f"bundle: {bundle}")
