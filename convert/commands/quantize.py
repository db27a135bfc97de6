"""The commands that make and convert models: `fthnet export`, `train`, `quantize` and `verify`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from fthnet_kit.edge.cli.options import (
    FQS_FOLDER,
    bundle_argument,
    bundle_output,
    data_option,
    identity_options,
    output_option,
    points_option,
    replace_option,
)


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@bundle_output
@click.option(
    "--pool", type=click.Choice(["soft", "avg"]), help="FTHNet4 pools soft, FTHNet3 avg; weights do not show it."
)
@click.option(
    "--batch", type=click.IntRange(1, 64), default=1, show_default=True, help="Static batch size of the graph."
)
@click.option(
    "--field-crop",
    type=click.Choice(["square", "none"]),
    default="square",
    show_default=True,
    help="Crop to the retinal field, or take the whole frame as the authors do.",
)
@click.option(
    "--normalisation",
    type=click.Choice(["imagenet", "none"]),
    default="imagenet",
    show_default=True,
    help="What the checkpoint was trained with.",
)
@click.option(
    "--views", type=click.Choice(["1", "5", "20"]), default="1", show_default=True, help="Views averaged by default."
)
@identity_options
@click.option(
    "--training-data",
    default="Not stated by whoever exported this model.",
    help="What it was trained on, for the card.",
)
@points_option("--usable", 40.0, "Score from which a picture is usable.")
@points_option("--good", 60.0, "Score from which a picture is good.")
@click.option("--half-checkpoint", is_flag=True, help="Store the safetensors file in float16.")
@click.option("--images", type=click.Path(path_type=Path), help="Photographs for the parity check: a folder or glob.")
@replace_option
def export(
    checkpoint: Path,
    bundle: Path,
    pool: str | None,
    batch: int,
    field_crop: str,
    normalisation: str,
    views: str,
    name: str,
    model_version: str,
    manufacturer: str,
    training_data: str,
    usable: float,
    good: float,
    half_checkpoint: bool,
    images: Path | None,
    replace: bool,
) -> None:
    """Make a bundle from an FTHNet CHECKPOINT (the authors' .pth or safetensors).

    Exports to ONNX with normalisation, layout and the factor 100 inside, compares ONNX Runtime with
    PyTorch on real photographs, and writes nothing where they differ by more than 0.01 points.
    """
    from fthnet_kit.convert.bundle.folder import refuse_existing
    from fthnet_kit.convert.bundle.write import Identity, write_bundle
    from fthnet_kit.convert.network.checkpoint import load_checkpoint
    from fthnet_kit.edge.capture.image_files import find_images
    from fthnet_kit.edge.errors import InputError
    from fthnet_kit.edge.model.preprocess import Preprocessing
    from fthnet_kit.edge.model.score import Thresholds

    refuse_existing(bundle, replace=replace)
    try:
        thresholds = Thresholds(usable=usable, good=good)
    except ValueError as error:
        raise InputError(str(error)) from error
    parity = write_bundle(
        load_checkpoint(checkpoint, pool),  # type: ignore[arg-type]
        bundle,
        Identity(name, model_version, manufacturer, thresholds, training_data=training_data),
        Preprocessing(field_crop=field_crop, normalisation=normalisation, views=int(views)),  # type: ignore[arg-type]
        batch=batch,
        half_checkpoint=half_checkpoint,
        images=find_images([str(images)]) if images else (),
        replace=replace,
    )
    click.echo(
        f"parity: ONNX Runtime against PyTorch on {len(parity.images)} images: "
        f"max {parity.worst:.6f}, mean {parity.mean:.6f} points (budget {parity.budget})"
    )
    click.echo(f"bundle: {bundle}")


@click.command()
@data_option(FQS_FOLDER)
@bundle_output
@click.option("--minutes", required=True, type=click.FloatRange(0, min_open=True), help="How long to train.")
@click.option(
    "--config",
    type=click.Choice(["small", "base"]),
    default="small",
    show_default=True,
    help="small: 5.5 M parameters; base: the released 14.9 M.",
)
@click.option("--from", "start", type=click.Path(path_type=Path), help="Fine-tune this checkpoint.")
@click.option("--pool", type=click.Choice(["soft", "avg"]), help="Pooling of --from, where its file does not say it.")
@click.option("--batch", type=click.IntRange(2, 256), default=8, show_default=True, help="Images a step; even.")
@click.option("--peak-lr", type=click.FloatRange(0, min_open=True), help="Default: 3e-4, fine-tuning 1e-4.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of everything random.")
@click.option("--group-column", default="patient", show_default=True, help="Column that names the patient.")
@identity_options
@click.option("--training-data", default="", help="What it was trained on, for the card. Default: counts and folders.")
@click.option("--intended-use", help="Intended use, for the card.")
@replace_option
def train(
    folders: tuple[Path, ...],
    bundle: Path,
    minutes: float,
    config: str,
    start: Path | None,
    pool: str | None,
    batch: int,
    peak_lr: float | None,
    seed: int,
    group_column: str,
    name: str,
    model_version: str,
    manufacturer: str,
    training_data: str,
    intended_use: str | None,
    replace: bool,
) -> None:
    """Train or fine-tune FTHNet on photographs with scores, and make a bundle of it.

    A run that was killed goes on where it was when the same command is given again; its state lies in
    BUNDLE.training.
    """
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from fthnet_kit.calibration.trainer import Progress, Recipe
    from fthnet_kit.convert.bundle.folder import refuse_existing
    from fthnet_kit.convert.bundle.train_to_bundle import TrainingRun, train_to_bundle
    from fthnet_kit.convert.bundle.write import Identity

    refuse_existing(bundle, replace=replace)
    identity = Identity(name, model_version, manufacturer, training_data=training_data)
    if intended_use:
        identity = dataclasses.replace(identity, intended_use=intended_use)
    recipe = Recipe(minutes, batch=batch - batch % 2, peak_lr=peak_lr or (1e-4 if start else 3e-4), seed=seed)
    run = TrainingRun(folders, config, start, pool, recipe, bundle, identity, group_column, replace)
    columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("loading photographs", total=minutes)

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
                description=f"{progress.images} images, loss {progress.loss:.3f} {found}",
            )

        accuracy = train_to_bundle(run, report)
    for entry in accuracy:
        metrics = ", ".join(
            f"{key} {m['value']:.3f} [{m['low']:.3f}, {m['high']:.3f}]" for key, m in entry["metrics"].items()
        )
        click.echo(f"{entry['data']}, {entry['images']} images, {entry['views']} views: {metrics}")
    click.echo(f"bundle: {bundle}")


@contextmanager
def progress_report() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on stderr that shows one task after the other."""
    from rich.console import Console
    from rich.progress import Progress, TaskID

    with Progress(console=Console(stderr=True)) as bar:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield report


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@data_option("Photographs to calibrate and judge with: a folder in FQS form, or of images.")
@click.option("--images", type=click.IntRange(32), default=128, show_default=True, help="Photographs to calibrate on.")
@click.option("--held-out", type=click.IntRange(32), default=256, show_default=True, help="Photographs to judge on.")
def quantize(bundle: Path, folders: tuple[Path, ...], images: int, held_out: int) -> None:
    """Convert a BUNDLE to FP16 and INT8, and keep what costs little enough.

    Writes fthnet.fp16.onnx, fthnet.int8.onnx (Q/DQ and FP16, for TensorRT and OpenVINO) and fthnet.int8-cpu.onnx (for
    ONNX Runtime), each only where its gate holds on photographs that did not calibrate it: FP16 mean 0.1 and max 0.5
    points from FP32; INT8 mean 0.5, p99 2.0, SRCC 0.998, 80 % of the weighted layers' MACs in INT8. INT8 is also judged
    on OpenVINO where that is installed. The reports are kept in any case and show what each layer costs. A contact
    sheet of the calibration photographs is written beside the bundle, which itself names but does not show them.
    Nothing is run on a GPU: FP16 is judged on a twin of the graph that rounds where a GPU would.
    """
    from fthnet_kit.calibration.int8_photographs import contact_sheet
    from fthnet_kit.calibration.int8_ranges_file import ranges_file
    from fthnet_kit.convert.bundle.add_precisions import install_outcome
    from fthnet_kit.convert.precision.quantize import Quantizer
    from fthnet_kit.convert.precision.quantize_report import quantization_reports
    from fthnet_kit.edge.errors import ParityError
    from fthnet_kit.edge.model.bundle import Bundle
    from fthnet_kit.edge.files import write_files

    bundle = bundle.resolve()
    opened = Bundle.open(bundle)
    with progress_report() as report:
        outcome = Quantizer(opened, report).run(folders, images, held_out)
    ranges = ranges_file(opened.card, outcome.calibration, outcome.layers)
    install_outcome(opened, outcome, ranges, quantization_reports(outcome, opened.card))
    sheet = f"{bundle.name}.calibration-images.jpg"
    write_files(bundle.parent, {sheet: contact_sheet(outcome.calibration)})
    click.echo(
        f"calibrated on {len(outcome.calibration)}, judged on {len(outcome.held_out)} photographs; "
        f"INT8 for {100 * outcome.int8_macs:.1f} % of the MACs"
    )
    failed = []
    for form, cost in outcome.costs.items():
        shortfalls = outcome.shortfalls(form)
        failed += [form] if shortfalls else []
        click.echo(
            f"{form:<13} mean {cost.mean:.3f}, p99 {cost.p99:.3f}, max {cost.worst:.3f} points, SRCC {cost.srcc:.4f}, "
            f"{cost.flips} verdicts changed: {'; '.join(shortfalls) or 'gate holds'}"
        )
    click.echo(f"calibration photographs: {bundle.parent / sheet}")
    click.echo(f"reports: {bundle / 'reports' / 'quantization.html'}")
    if failed:
        raise ParityError(f"the gate does not hold for {', '.join(failed)}; not installed, see the report")


@click.command()
@bundle_argument
@data_option("Photographs: a folder in FQS form, or of images. Those that calibrated the bundle are left out.")
@click.option("--images", type=click.IntRange(32), default=256, show_default=True, help="Most photographs to use.")
@output_option("Folder for the report: JSON, HTML, PNG.")
def verify(bundle: Path | None, folders: tuple[Path, ...], images: int, output: Path | None) -> None:
    """What every precision of a BUNDLE costs against FP32, in score points.

    Exit code 0 where every gate holds, 7 where one does not. Without BUNDLE: the one that the kit ships.
    """
    from rich.console import Console

    from fthnet_kit.convert.precision.verify import verify as run
    from fthnet_kit.convert.precision.verify_report import noise_line, verification_reports, verification_table
    from fthnet_kit.edge.errors import BundleError, InputError, ParityError
    from fthnet_kit.edge.model.bundle import CONVERTED_NAMES, Bundle

    opened = Bundle.open(bundle)
    if not any(name in opened.card.files for name in CONVERTED_NAMES.values()):
        raise BundleError(f"{opened.folder}: expected converted graphs to verify, found none; run `fthnet quantize`")
    with progress_report() as report:
        found = run(opened, folders, images, report)
    console = Console()
    if not console.is_terminal:
        console.width = 160
    console.print(verification_table(found))
    console.print(noise_line(found))
    if output is not None:
        try:
            output.mkdir(parents=True, exist_ok=True)
            for name, content in verification_reports(found, opened.card).items():
                (output / name).write_bytes(content)
        except OSError as error:
            raise InputError(f"{output}: expected a folder that can be written, found {error.strerror}") from error
        console.print(f"report: {output / 'verify.html'}")
    failed = [f"{form}: {'; '.join(found.shortfalls(form))}" for form in found.costs if found.shortfalls(form)]
    if failed:
        raise ParityError(f"the gate does not hold: {', '.join(failed)}")
