"""Options that several commands have, so that they mean the same in all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fthnet_kit.edge.model.choices import BACKENDS, PRECISIONS
from fthnet_kit.edge.trust.policy import VARIABLE, require_key

if TYPE_CHECKING:
    from fthnet_kit.edge.model.preprocess import Views

Function = TypeVar("Function", bound=Callable[..., Any])
Option = Callable[[Function], Function]

PATH = click.Path(path_type=Path)

signature_option = click.option(
    "--require-signature",
    metavar="KEY.pub",
    type=PATH,
    envvar=VARIABLE,
    expose_value=False,
    callback=lambda context, parameter, value: require_key(value),
    help="Refuse a bundle that this key has not signed, that was altered, or that is older than one accepted before.",
)


def tell_unsigned(bundle: Path) -> None:
    """Say that nobody vouches for a bundle that was just made or changed."""
    click.echo(f"unsigned: `fthnet bundle sign {bundle}` says whose it is, and devices can ask for that")


def bundle_argument(function: Function) -> Function:
    """A bundle, and the key that it must be signed with."""
    return signature_option(click.argument("bundle", required=False, type=PATH)(function))


threads_option = click.option("--threads", type=click.IntRange(1), help="Threads of one inference. Default: all cores.")
views_option = click.option(
    "--views", type=click.Choice(["1", "5", "20"]), help="Views averaged. Default: the model card's."
)
backend_option = click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    default="auto",
    show_default=True,
    help="auto: with precision auto what `fthnet bench pick` found the fastest here; otherwise TensorRT where the "
    "bundle has an engine for this GPU, and else ONNX Runtime on the CPU.",
)


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
        signature_option,
        click.option("--bundle", type=PATH, help="Bundle folder. Default: the demonstration bundle of the kit."),
    ):
        function = option(function)
    return function


LOG_WIDTH = 160  # of a table in a file or pipe


def views_of(text: str | None) -> Views | None:
    """The number of views that an option names."""
    return None if text is None else int(text)  # type: ignore[return-value]
