"""`fthnet doctor`: what this machine has and lacks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fthnet_kit.edge.cli.options import signature_option

if TYPE_CHECKING:
    from rich.table import Table

    from fthnet_kit.edge.deployment.doctor_findings import Finding, Report

COLOURS = {"ok": "green", "note": "yellow", "problem": "bold red"}


@click.command()
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    help="Bundle folder. Default: the demonstration bundle that the kit ships.",
)
@signature_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object, with all facts, instead of a table.")
@click.option("--strict", is_flag=True, help="Exit with code 1 if there is any problem.")
def doctor(bundle: Path | None, as_json: bool, strict: bool) -> None:
    """Tell what this machine has and lacks.

    Problems are findings, not errors: the exit code is 0 as long as the command could look.
    """
    from fthnet_kit.edge.deployment.doctor import examine
    from fthnet_kit.edge.reporting.console import open_console

    report = examine(bundle)
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=2, allow_nan=False))
    else:
        open_console().print(findings_table(report.findings))
        click.echo(count_line(report))
    if strict and report.counts()["problem"]:
        click.get_current_context().exit(1)


def findings_table(findings: Sequence[Finding]) -> Table:
    """One row a finding."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("topic", overflow="fold", min_width=12)
    table.add_column("state", no_wrap=True)
    table.add_column("found", overflow="fold", ratio=1)
    table.add_column("remedy", overflow="fold", ratio=1)
    for finding in findings:
        state = Text(finding.state, style=COLOURS[finding.state])
        table.add_row(Text(finding.topic), state, Text(finding.found), Text(finding.remedy or ""))
    return table


def count_line(report: Report) -> str:
    """Such as ``12 ok, 5 notes, 1 problem``."""
    counts = report.counts()
    parts = [f"{counts['ok']} ok"]
    parts += [f"{counts[state]} {state}{'' if counts[state] == 1 else 's'}" for state in ("note", "problem")]
    return ", ".join(parts)
