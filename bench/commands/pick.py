"""The command that finds the fastest backend of this machine: `fthnet bench pick`."""

from __future__ import annotations

from pathlib import Path

import click

from fthnet_kit.edge.cli.options import PATH, bundle_argument


@click.command()
@bundle_argument
@click.option("--config", type=PATH, help="Keep the choice beside this configuration, for `fthnet run --config`.")
@click.option("--runs", type=click.IntRange(10), default=40, show_default=True, help="Inferences of each candidate.")
@click.option("--dry-run", is_flag=True, help="Measure and print; keep nothing.")
def pick(bundle: Path | None, config: Path | None, runs: int, dry_run: bool) -> None:
    """Find what runs a BUNDLE (default: the shipped one) fastest on this machine, and make `auto` follow it.

    Backends that are installed, precisions within their gate and numbers of threads are timed in turn, each in a
    process of its own. The choice is kept with its evidence beside the configuration, or in ~/.config/fthnet, and holds
    until the model, the library, the processor or the number of cores changes.
    """
    from rich.table import Table

    from fthnet_kit.bench.speed.pick import measure_picks
    from fthnet_kit.edge.inference.pick import pick_file, write_pick
    from fthnet_kit.edge.model.bundle import Bundle
    from fthnet_kit.edge.reporting.console import busy, open_console

    opened = Bundle.open(bundle)
    with busy(open_console(stderr=True), "measuring") as say:
        choice, evidence = measure_picks(opened, runs, say)
    table = Table()
    for column in ("backend", "precision"):
        table.add_column(column)
    for column in ("threads", "median ms", "ratio", "95 %"):
        table.add_column(column, justify="right")
    for row in evidence["candidates"]:
        ratio = row["ratio"]
        figures = (f"{row['median_ms']:.1f}", f"{ratio['value']:.2f}", f"{ratio['low']:.2f} to {ratio['high']:.2f}")
        table.add_row(row["backend"], row["precision"], str(row["threads"] or "all"), *figures)
    open_console().print(table)
    click.echo(f"fastest: {choice}")
    if not dry_run:
        path = pick_file(config)
        write_pick(path, opened, choice, evidence)
        click.echo(f"kept: {path}; --backend auto --precision auto follow it")
