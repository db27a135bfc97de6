"""How far scores agree with labels: PLCC, SRCC and RMSE with 95 % bootstrap intervals.

``python -m fthnet_kit.bench.accuracy --data DIR --views 1 --views 20``: DIR is in FQS form.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from fthnet_kit.calibration.image_set import of_split, read_image_sets
from fthnet_kit.calibration.metrics import accuracy_metrics
from fthnet_kit.edge.images import read_image
from fthnet_kit.edge.precision import PRECISIONS, Precision
from fthnet_kit.edge.preprocess import Views
from fthnet_kit.edge.scorer import QualityScorer


def table_row(views: int, images: int, metrics: dict[str, dict[str, float]]) -> str:
    """One line: views, photographs, each metric with its interval."""
    values = ", ".join(f"{name} {m['value']:.3f} [{m['low']:.3f}, {m['high']:.3f}]" for name, m in metrics.items())
    return f"{images} photographs, {views} views: {values}"


@click.command()
@click.option("--data", "folders", required=True, multiple=True, type=click.Path(path_type=Path))
@click.option("--split", type=click.Choice(["train", "val"]), default="val", show_default=True)
@click.option("--views", multiple=True, type=click.Choice(["1", "5", "20"]), default=["1"], show_default=True)
@click.option("--precision", type=click.Choice(PRECISIONS), default="auto", show_default=True)
@click.option("--bundle", type=click.Path(path_type=Path), help="Default: the demonstration bundle.")
def main(
    folders: tuple[Path, ...], split: str, views: tuple[str, ...], precision: Precision, bundle: Path | None
) -> None:
    """Agreement of scores with the labels of folders in FQS form; a photograph without a score counts as 0."""
    images = of_split(read_image_sets(folders), split)  # type: ignore[arg-type]
    labels = np.array([image.mos for image in images])
    for count in views:
        number: Views = int(count)  # type: ignore[assignment]
        with QualityScorer.from_bundle(bundle, precision, number) as scorer:
            scores = np.array([scorer.score(read_image(image.path)).value or 0.0 for image in images])
        click.echo(table_row(number, len(images), accuracy_metrics(scores, labels)))


if __name__ == "__main__":
    main()
