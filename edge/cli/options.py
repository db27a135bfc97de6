"""Options that several commands have, so that they mean the same in all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fthnet_kit.edge.cli.settings import Function, Option, setting, setting_options
from fthnet_kit.edge.trust.policy import VARIABLE, require_key

PATH = click.Path(path_type=Path)
SIGNED = {  # what the option of `model.require_signature` does beyond being an option
    "metavar": "KEY.pub",
    "envvar": VARIABLE,
    "expose_value": False,
    "callback": lambda context, parameter, value: require_key(value),
}

signature_option = setting("model.require_signature", **SIGNED)
threads_option = setting("model.threads")
views_option = setting("model.views")
backend_option = setting("model.backend")
model_options = setting_options("model", require_signature=SIGNED)  # every command that scores pictures has them


def tell_unsigned(bundle: Path) -> None:
    """Say that nobody vouches for a bundle that was just made or changed."""
    click.echo(f"unsigned: `fthnet bundle sign {bundle}` says whose it is, and devices can ask for that")


def bundle_argument(function: Function) -> Function:
    """A bundle, and the key that it must be signed with."""
    return signature_option(click.argument("bundle", required=False, type=PATH)(function))


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
