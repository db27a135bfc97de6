"""The commands that measure: so far `fthnet session`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("records", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Also draw it: a PNG or SVG file.")
def session(records: Path, output: Path | None) -> None:
    """How the score followed a simulated session.

    RECORDS is what `fthnet run --source sim: --records RECORDS` wrote. Prints the Spearman correlation
    between the score and each thing that the simulator did, over frames with the eye in view.
    """
    from fthnet_kit.bench.session import analyse, plot, read_session

    found = read_session(records)
    report = analyse(found)
    click.echo(f"{report.frames} scored frames with the eye in view; Spearman of score against true")
    for factor, value in report.spearman.items():
        click.echo(f"  {factor:<10} {value:+.3f}")
    if output is not None:
        plot(found, report, output)
        click.echo(f"plot: {output}")
