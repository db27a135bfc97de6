"""The commands that make and convert models: `fthnet export`, `train`, `quantize` and `verify`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from fthnet_kit.calibration.options import data_option
from fthnet_kit.edge.cli.options import signature_option, tell_unsigned


@contextmanager
def progress_report() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on stderr that shows one task after the other."""
    from rich.progress import TaskID

    from fthnet_kit.edge.reporting.console import open_console, open_progress

    with open_progress(open_console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield report


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@signature_option
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
    from fthnet_kit.edge.files import write_files
    from fthnet_kit.edge.model.bundle import Bundle

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
    tell_unsigned(bundle)
    click.echo(f"calibration photographs: {bundle.parent / sheet}")
    click.echo(f"reports: {bundle / 'reports' / 'quantization.html'}")
    if failed:
        raise ParityError(f"the gate does not hold for {', '.join(failed)}; not installed, see the report")
