"""How well scores part photographs that experts called good from those they called bad.

``python -m fthnet_kit.bench.separation FOLDER``: the folder holds `labels.csv` (``file_name, quality`` with
``good``, ``bad`` or ``outlier``: no retina) and the photographs, beside it or in `images/`. That is the form
in which DRIMDB (Sevik et al. 2014) is usually unpacked.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from fthnet_kit.calibration.metrics import Scores, auc
from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.images import read_image
from fthnet_kit.edge.scorer import QualityScorer

DRAWS = 2000
REFUSED = -1.0  # a picture without a score lies below all that have one


def read_labels(folder: Path) -> list[tuple[Path, str]]:
    """Photographs and their classes.

    Raises:
        InputError: no table, or not the columns.
    """
    try:
        with (folder / "labels.csv").open(newline="", encoding="utf-8-sig") as file:
            rows = [(row["file_name"], row["quality"]) for row in csv.DictReader(file)]
    except (OSError, KeyError, UnicodeDecodeError) as error:
        raise InputError(f"{folder}: expected labels.csv with file_name and quality, found none ({error})") from error
    images = folder / "images" if (folder / "images").is_dir() else folder
    return [(images / name, quality) for name, quality in rows]


def auc_interval(higher: Scores, lower: Scores, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the AUC over photographs resampled within each class."""
    rng = np.random.default_rng(seed)
    values = [auc(rng.choice(higher, len(higher)), rng.choice(lower, len(lower))) for _ in range(DRAWS)]
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def score_paths(scorer: QualityScorer, paths: Sequence[Path]) -> Scores:
    """Scores, `REFUSED` where there is none."""
    values = (scorer.score(read_image(path)).value for path in paths)
    return np.array([REFUSED if value is None else value for value in values])


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--bundle", type=click.Path(path_type=Path), help="Default: the demonstration bundle.")
def main(folder: Path, bundle: Path | None) -> None:
    """AUC of good against bad, and what outliers score."""
    labels = read_labels(folder)
    with QualityScorer.from_bundle(bundle) as scorer:
        scores = score_paths(scorer, [path for path, _ in labels])
        usable = scorer.card.thresholds.usable
    classes = np.array([quality for _, quality in labels])
    good, bad, outliers = (scores[classes == quality] for quality in ("good", "bad", "outlier"))
    if not len(good) or not len(bad):
        raise InputError(f"{folder}: expected good and bad photographs, found {len(good)} and {len(bad)}")
    low, high = auc_interval(good, bad)
    click.echo(f"AUC of {len(good)} good against {len(bad)} bad: {auc(good, bad):.3f} [{low:.3f}, {high:.3f}]")
    for name, values in (("good", good), ("bad", bad), ("outlier", outliers)):
        if len(values):
            refused = int(np.sum(values < usable))
            click.echo(
                f"{name}: mean {values.mean():.1f}, {refused} of {len(values)} below the reject threshold {usable:g}"
            )
    if len(outliers):
        click.echo(
            "outliers: " + ", ".join(f"{value:.1f}" for value in outliers) + f" ({REFUSED:g}: refused by the gate)"
        )


if __name__ == "__main__":
    main()
