"""Options of the commands that run offline."""

from __future__ import annotations

from typing import Any

import click

from fthnet_kit.edge.cli.options import PATH, bits_option
from fthnet_kit.edge.cli.settings import Function, Option

POINTS = click.FloatRange(0, 100)  # points of a score or a MOS
FQS_FOLDER = "Folder in FQS form: images and a table with file_name and meanOpinionScore."
bundle_output = click.option("-o", "--output", "bundle", required=True, type=PATH, help="Bundle folder to make.")
replace_option = click.option("--replace", is_flag=True, help="Replace an existing bundle.")


def data_option(text: str) -> Option[Any]:
    """``--data``, repeated, as `folders`, and how its pictures are read (``--bits``)."""
    folders = click.option(
        "--data", "folders", required=True, multiple=True, type=PATH, help=f"{text} May be repeated."
    )
    return lambda function: folders(bits_option(function))


def points_option(name: str, default: float | None, text: str) -> Option[Any]:
    """An option of 0 to 100 points."""
    return click.option(name, type=POINTS, default=default, show_default=default is not None, help=text)


def identity_options(function: Function) -> Function:
    """What a new bundle is called."""
    for option in (
        click.option("--manufacturer", default="unnamed", show_default=True, help="Manufacturer for the card."),
        click.option("--model-version", default="0.0.0", show_default=True, help="Model version for the card."),
        click.option("--name", default="FTHNet", show_default=True, help="Model name for the card."),
    ):
        function = option(function)
    return function
