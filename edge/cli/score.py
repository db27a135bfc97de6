"""The command that scores stills: `fthnet score`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fthnet_kit.edge.cli.options import bits_option, model_options
from fthnet_kit.edge.model.choices import BackendName, Precision

if TYPE_CHECKING:
    from fthnet_kit.edge.model.preprocess import Views


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@model_options
@bits_option
@click.option(
    "--annotate",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder for a copy of each picture with its field, score and verdict, or the reason, drawn in.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line instead of a table.")
def score(
    images: tuple[str, ...],
    bundle: Path | None,
    views: Views | None,
    precision: Precision,
    backend: BackendName,
    cuda_graph: bool,
    threads: int | None,
    annotate: Path | None,
    as_json: bool,
) -> None:
    """Score still images: files, folders, globs.

    What cannot be read is reported on stderr and skipped, and the exit code is 3.
    """
    from rich.table import Table

    from fthnet_kit.edge.capture.image_files import find_images
    from fthnet_kit.edge.errors import InputError
    from fthnet_kit.edge.formats.read import read_image
    from fthnet_kit.edge.inference.scorer import QualityScorer
    from fthnet_kit.edge.outputs.annotated import AnnotatedPictures
    from fthnet_kit.edge.reporting.console import open_console, tracked

    errors = open_console(stderr=True, soft_wrap=True)
    paths = find_images(list(images))
    table = Table()
    table.add_column("image", overflow="fold")
    for column in ("score", "verdict", "ms"):
        table.add_column(column, justify="right")
    unreadable = 0
    pictures = None if annotate is None else AnnotatedPictures(annotate)
    with (
        QualityScorer.from_bundle(bundle, precision, views, backend, threads, cuda_graph=cuda_graph) as scorer,
        tracked(paths, "scoring", errors, least=5) as shown,
    ):
        for path in shown:
            try:
                image = read_image(path)
                result = scorer.score(image)
            except InputError as error:
                unreadable += 1
                errors.print(f"skipped: {error}")
                continue
            if pictures is not None:
                pictures.add_still(image, result, path)
            if as_json:
                click.echo(json.dumps({"file": str(path), **result.to_dict()}))
            else:
                value = "-" if result.value is None else f"{result.value:.1f}"
                table.add_row(str(path), value, result.verdict or result.reason or "", f"{result.total_ms:.0f}")
    if not as_json and table.row_count:
        open_console().print(table)
    if unreadable:
        raise InputError(
            f"{unreadable} of {len(paths)} images could not be read and were skipped; they are named above"
        )
