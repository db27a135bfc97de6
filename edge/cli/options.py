"""Options that several commands have, so that they mean the same in all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fthnet_kit.edge.cli.settings import Option, setting, setting_options

PATH = click.Path(path_type=Path)

bundle_argument = click.argument("bundle", required=False, type=PATH)
threads_option = setting("model.threads")
views_option = setting("model.views")
backend_option = setting("model.backend")
model_options = setting_options("model")  # of every command that runs a model to score pictures


def bits_option(function: Function) -> Function:
    """``--bits``, for every command that reads pictures from files; it holds until the command ends."""
    return click.option(
        "--bits",
        type=click.IntRange(8, 16),
        expose_value=False,
        callback=_assume_bits,
        help="Bits that values of 16-bit pictures use, if their file does not say it. Default: dark ones are refused.",
    )(function)


def _assume_bits(context: click.Context, _: click.Parameter, bits: int | None) -> None:
    if bits is not None:
        from fthnet_kit.edge.formats.levels import assume_bits

        context.with_resource(assume_bits(bits))


def output_option(text: str) -> Option[Any]:
    """``--output``, for a report that nobody must have."""
    return click.option("-o", "--output", type=PATH, help=text)


def model_options(function: Function) -> Function:
    """Options of every command that runs a model to score pictures."""
    for option in (
        threads_option,
        backend_option,
        click.option("--cuda-graph/--no-cuda-graph", help="On TensorRT: launch the network as one CUDA graph."),
        click.option("--precision", type=click.Choice(PRECISIONS), default="auto", show_default=True),
        views_option,
        click.option("--bundle", type=PATH, help="Bundle folder. Default: the demonstration bundle of the kit."),
    ):
        function = option(function)
    return function


def views_of(text: str | None) -> Views | None:
    """The number of views that an option names."""
    return None if text is None else int(text)  # type: ignore[return-value]
