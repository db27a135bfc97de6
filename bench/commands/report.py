"""The command that gathers results: `fthnet bench report`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The page to write. Default: report.html in DIR.")
def report(folder: Path, output: Path | None) -> None:
    """One page from all results in DIR, to read, print or attach to a design review.

    DIR holds JSON files of `fthnet bench latency`, `accuracy`, `live`, `soak` and `best-shot`, and of `fthnet
    severity`. Other JSON files are named at the end of the page.
    """
    from fthnet_kit.bench.report.summary_page import read_folder, report_page
    from fthnet_kit.bench.results.results_file import write_file

    found, others, left_out = read_folder(folder)
    target = output or folder / "report.html"
    write_file(target, report_page(found, others, left_out))
    for reason in left_out:
        click.echo(f"left out: {reason}", err=True)
    click.echo(f"{len(found) + len(others)} results, {len(left_out)} other files; page: {target}")
