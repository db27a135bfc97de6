"""How far the kit's resize is from the authors' PIL resize, in score points.

``python -m fthnet_kit.bench.quality.pil_difference FOLDER``: scores every photograph of a folder twice with the
same model, once as the kit prepares it and once with Pillow's antialiased bilinear resize to 512x512
(torchvision's `Resize` on a PIL image, as in the authors' pipeline) of the same crop.
"""

from __future__ import annotations

from pathlib import Path

import click
import cv2
import numpy as np

from fthnet_kit.edge.capture.image_files import find_images
from fthnet_kit.edge.cli.options import signature_option
from fthnet_kit.edge.errors import InputError, MissingExtraError
from fthnet_kit.edge.formats.read import read_image
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.inference.scorer import QualityScorer
from fthnet_kit.edge.model.preprocess import INPUT, MARGIN, RESIZE, Preprocessing, cut, field_box, prepare


def prepare_with_pil(image: Image, preprocessing: Preprocessing) -> Image:
    """The centre view with Pillow's resize: RGB uint8 (1, 384, 384, 3)."""
    try:
        from PIL import Image as Pillow
    except ImportError as error:
        raise MissingExtraError("pillow", "dev", purpose="comparing with Pillow") from error
    crop = cv2.cvtColor(np.ascontiguousarray(cut(image, field_box(image, preprocessing))), cv2.COLOR_BGR2RGB)
    whole = np.asarray(Pillow.fromarray(crop).resize((RESIZE, RESIZE), Pillow.Resampling.BILINEAR))
    return whole[np.newaxis, MARGIN : MARGIN + INPUT, MARGIN : MARGIN + INPUT]


@click.command()
@click.argument("images", nargs=-1, required=True)
@signature_option
@click.option("--bundle", type=click.Path(path_type=Path), help="Default: the demonstration bundle.")
def main(images: tuple[str, ...], bundle: Path | None) -> None:
    """Score differences, the kit's resize minus Pillow's."""
    differences = []
    with QualityScorer.from_bundle(bundle, views=1) as scorer:
        for path in find_images(list(images)):
            try:
                image = read_image(path)
            except InputError as error:
                click.echo(f"skipped: {error}", err=True)
                continue
            ours = scorer.backend.infer(prepare(image, scorer.card.preprocessing, 1))[0]
            theirs = scorer.backend.infer(prepare_with_pil(image, scorer.card.preprocessing))[0]
            differences.append(float(ours - theirs))
    size = np.abs(differences)
    click.echo(
        f"{len(size)} images, {scorer.card.title}: |difference| mean {size.mean():.2f}, "
        f"p95 {np.percentile(size, 95):.2f}, max {size.max():.2f} points; mean difference {np.mean(differences):+.2f}"
    )


if __name__ == "__main__":
    main()
