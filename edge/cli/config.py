"""`fthnet config`: write, check and show the configuration; and the option that makes a command read one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fthnet_kit.edge.cli.lazy_group import ListingGroup

if TYPE_CHECKING:
    from fthnet_kit.edge.deployment.config_sections import Config

META_KEY = "fthnet.config"
VARIABLE = "FTHNET_CONFIG"
Function = TypeVar("Function", bound=Callable[..., Any])


def config_option(function: Function) -> Function:
    """The option `--config FILE`: the file's values become the command's defaults, so the command line overrides it.

    The command has no parameter for it; keys without an option are in `current_config()`.
    """
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        envvar=VARIABLE,
        is_eager=True,
        expose_value=False,
        callback=_apply,
        help=f"Configuration file; options on the command line override it. Also by {VARIABLE}.",
    )(function)


def current_config() -> Config:
    """The configuration of the command that runs; the defaults where it has none."""
    from fthnet_kit.edge.deployment.config_sections import Config

    context = click.get_current_context(silent=True)
    found = None if context is None else context.meta.get(META_KEY)
    return Config() if found is None else found


def _apply(context: click.Context, _parameter: click.Parameter, path: Path | None) -> None:
    if path is None or context.resilient_parsing:
        return
    from fthnet_kit.edge.deployment.config_file import default_map, load_config

    config = load_config(path)
    context.meta[META_KEY] = config
    context.default_map = {**(context.default_map or {}), **default_map(config)}


@click.group("config", cls=ListingGroup)
def config_group() -> None:
    """Write, check and show the configuration of `fthnet run`."""


@config_group.command()
@click.argument("path", type=click.Path(path_type=Path), default="fthnet.toml")
def init(path: Path) -> None:
    """Write a file with every key, its default and what it means; nothing is overwritten.

    PATH: fthnet.toml where none is given.
    """
    from fthnet_kit.edge.deployment.config_file import render
    from fthnet_kit.edge.deployment.config_sections import Config
    from fthnet_kit.edge.errors import InputError
    from fthnet_kit.edge.files import make_folder, open_private

    try:
        make_folder(path.parent)
        with os.fdopen(open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "w", encoding="utf-8") as file:
            file.write(render(Config()))
    except FileExistsError as error:
        raise InputError(f"{path}: expected no file, found one, which stays as it is; choose another name") from error
    except OSError as error:
        raise InputError(f"{path}: expected a place for a file, found: {error.strerror}") from error
    click.echo(f"written: {path}; set camera.source in it, then: fthnet run --config {path}")


@config_group.command()
@click.argument("path", type=click.Path(path_type=Path))
def check(path: Path) -> None:
    """Check a file: keys, values, and whether the files it names are there."""
    from fthnet_kit.edge.deployment.config_file import load_config, missing_files
    from fthnet_kit.edge.errors import InputError

    config = load_config(path)
    if missing := missing_files(config):
        raise InputError(f"{path}: expected files that are there, found none for {', '.join(missing)}")
    click.echo(f"{path}: valid; it sets {len(config.keys_set)} keys")


@config_group.command()
@click.argument("path", type=click.Path(path_type=Path))
def show(path: Path) -> None:
    """Show all values that a file leads to, and which of them are defaults; passwords in URLs are hidden."""
    from fthnet_kit.edge.deployment.config_file import load_config, render

    click.echo(render(load_config(path), explained=False), nl=False)
