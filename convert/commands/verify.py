"""Command: how far each precision is from FP32."""

from __future__ import annotations

from pathlib import Path

import click

from fthnet_kit.calibration.options import data_option
from fthnet_kit.convert.commands.quantize import progress_report
from fthnet_kit.edge.cli.options import bundle_argument, output_option


@click.command()
@bundle_argument
@data_option("Photographs: a folder in FQS form, or of images. Those that calibrated the bundle are left out.")
@click.option("--images", type=click.IntRange(32), default=256, show_default=True, help="Most photographs to use.")
@output_option("Folder for the report: JSON, HTML, PNG.")
def verify(bundle: Path | None, folders: tuple[Path, ...], images: int, output: Path | None) -> None:
    """What every precision of a BUNDLE costs against FP32, in score points.

    Exit code 0 where every gate holds, 7 where one does not. Without BUNDLE: the one that the kit ships.
    """
    from fthnet_kit.convert.precision.verify import verify as run
    from fthnet_kit.convert.precision.verify_report import noise_line, verification_reports, verification_table
    from fthnet_kit.edge.errors import BundleError, InputError, ParityError
    from fthnet_kit.edge.model.bundle import CONVERTED_NAMES, Bundle
    from fthnet_kit.edge.reporting.console import open_console

    opened = Bundle.open(bundle)
    if not any(name in opened.card.files for name in CONVERTED_NAMES.values()):
        raise BundleError(f"{opened.folder}: expected converted graphs to verify, found none; run `fthnet quantize`")
    with progress_report() as report:
        found = run(opened, folders, images, report)
    console = open_console()
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
