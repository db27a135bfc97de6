"""`fthnet records`: check, export and draw what `fthnet run --records` wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import click

from fthnet_kit.edge.cli.lazy_group import ListingGroup
from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.files import make_folder, replacing
from fthnet_kit.edge.outputs.records.export import write_csv, write_parquet
from fthnet_kit.edge.outputs.records.plot import NOTES_SHOWN, draw
from fthnet_kit.edge.outputs.records.verify import Verification, verify


@click.group(cls=ListingGroup)
def records() -> None:
    """Check, export and draw the records of a run.

    PATH is the file that `fthnet run --records` wrote, with all its closed files; or one closed file; or
    the folder that holds them.
    """


@records.command("verify")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--head", metavar="HASH", help="Also find this chain value, which an earlier check printed as the head.")
@click.option(
    "--key", metavar="KEY.pub", type=click.Path(path_type=Path), help="Device's key: check signed checkpoints."
)
@click.option("--running", is_flag=True, help="With --key: the run goes on, its newest records are not signed yet.")
def verify_command(path: Path, head: str | None, key: Path | None, running: bool) -> None:
    """Find altered, removed, inserted and swapped lines.

    Prints one line a problem; exit code 3 if there is any. A chain that was written anew, and lines that are missing
    at the end, do not show in the chain alone: give the device's public key as --key if the run had a --records-key,
    or note the head that this prints, elsewhere, and give it as --head later.
    """
    noted = None if head is None else head.strip().lower()
    found = verify(path, noted, key, running=running)
    for problem in found.problems:
        click.echo(str(problem))
    for note in found.notes[:NOTES_SHOWN]:
        click.echo(f"note: {note}")
    if len(found.notes) > NOTES_SHOWN:
        click.echo(f"note: {len(found.notes) - NOTES_SHOWN} more of these")
    click.echo(summary_line(found))
    if found.head is not None:
        click.echo(f"head: {found.head}")
    if found.signed_seq is not None:
        click.echo(f"signed: up to record {found.signed_seq}")
    troubles = [f"{len(found.problems)} problem{'s' * (len(found.problems) != 1)}"] if found.problems else []
    if noted is not None:
        if found.noted_seq is None:
            troubles.append("no record with the noted head: cut off, written anew, or removed")
        else:
            click.echo(
                f"noted head: record {found.noted_seq}, {(found.last_seq or 0) - found.noted_seq} before the last"
            )
    if troubles:
        raise InputError(f"{path}: expected a whole chain, found {' and '.join(troubles)}")


def summary_line(found: Verification) -> str:
    """Such as ``whole: 120 records (0 to 119) in 2 files, 3 lost``."""
    span = "" if found.first_seq is None else f" ({found.first_seq} to {found.last_seq})"
    lost = f", {found.lost} lost, as the records say" if found.lost else ""
    state = "broken" if found.problems else "whole"
    return f"{state}: {found.records} records{span} in {found.files} file{'s' * (found.files != 1)}{lost}"


@records.command("export")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="FILE.csv or FILE.parquet.")
def export_command(path: Path, output: Path) -> None:
    """Write the records as one flat table, a row a record.

    What a record holds inside others becomes a column of its own, such as stage_infer_ms or
    truth_defocus. Parquet needs the extra `parquet`.
    """
    writers: dict[str, Callable[[Path, BinaryIO], int]] = {".csv": write_csv, ".parquet": write_parquet}
    if output.suffix.lower() not in writers:
        raise InputError(f"{output}: expected a name ending in .csv or .parquet, found {output.suffix or 'no ending'}")
    make_folder(output.parent)
    try:
        with replacing(output, private=True) as file:
            rows = writers[output.suffix.lower()](path, file)
    except OSError as error:
        raise InputError(f"{output}: expected a place to write, found {error.strerror or error}") from error
    click.echo(f"{rows} records: {output}")


@records.command("plot")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="A PNG or SVG file.")
def plot_command(path: Path, output: Path) -> None:
    """Draw score, verdict, gaps with their reasons, and latency over time."""
    drawn, count = draw(path, output)
    thinned = f" (every {count // drawn}th of {count})" if drawn and count // drawn > 1 else ""
    click.echo(f"{drawn} records{thinned}: {output}")
