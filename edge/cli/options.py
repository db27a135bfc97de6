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


def output_option(text: str) -> Option[Any]:
    """``--output``, for a report that nobody must have."""
    return click.option("-o", "--output", type=PATH, help=text)


LOG_WIDTH = 160  # of a table in a file or pipe
