"""How far the kit's area resize is from the authors' PIL resize, in score points.

``python -m fthnet_kit.bench.quality.pil_difference FOLDER``: scores every photograph of a folder twice with the
same model, once resized by area averaging and once by Pillow's antialiased bilinear resize to 512x512
(torchvision's `Resize` on a PIL image, as in the authors' pipeline), of the same crop.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import numpy as np

from fthnet_kit.edge.capture.image_files import find_images
from fthnet_kit.edge.cli.options import signature_option
from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.formats.read import read_image
from fthnet_kit.edge.inference.scorer import QualityScorer
from fthnet_kit.edge.model.preprocess import prepare


@click.command()
@click.argument("images", nargs=-1, required=True)
@signature_option
@click.option("--bundle", type=click.Path(path_type=Path), help="Bundle folder. Default: the demonstration bundle.")
def main(images: tuple[str, ...], bundle: Path | None) -> None:
    """Score differences, the kit's resize minus Pillow's."""
    differences = []
    with QualityScorer.from_bundle(bundle, views=1) as scorer:
        preprocessing = scorer.card.preprocessing
        for path in find_images(list(images)):
            try:
                image = read_image(path)
            except InputError as error:
                click.echo(f"skipped: {error}", err=True)
                continue
            ours = scorer.backend.infer(prepare(image, replace(preprocessing, resize="area"), 1))[0]
            theirs = scorer.backend.infer(prepare(image, replace(preprocessing, resize="pil"), 1))[0]
            differences.append(float(ours - theirs))
    size = np.abs(differences)
    click.echo(
        f"{len(size)} images, {scorer.card.title}: |difference| mean {size.mean():.2f}, "
        f"p95 {np.percentile(size, 95):.2f}, max {size.max():.2f} points; mean difference {np.mean(differences):+.2f}"
    )


if __name__ == "__main__":
    main()
