"""`fthnet cameras`: the cameras of this machine, and what keeps one from being used."""

from __future__ import annotations

import click

NETWORK = (
    "Network cameras are not searched for: run one by its address, rtsp://HOST/PATH or http://HOST/PATH, which its "
    "manual or its maker's search program names it."
)


@click.command()
def cameras() -> None:
    """List the cameras of this machine: address, name, modes, who uses one now, and what is missing.

    The address is what `fthnet run --source` takes. Modes are listed if v4l2-ctl is installed.
    """
    from fthnet_kit.edge.cli.doctor import findings_table
    from fthnet_kit.edge.deployment.cameras import list_cameras
    from fthnet_kit.edge.reporting.console import open_console

    open_console().print(findings_table(list_cameras()))
    click.echo(NETWORK)
