"""Command: from a checkpoint to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fthnet_kit.calibration.options import bundle_output, identity_options, points_option, replace_option
from fthnet_kit.edge.cli.options import tell_unsigned

if TYPE_CHECKING:
    from fthnet_kit.edge.model.preprocess import Preprocessing


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@bundle_output
@click.option(
    "--pool", type=click.Choice(["soft", "avg"]), help="FTHNet4 pools soft, FTHNet3 avg; weights do not show it."
)
@click.option(
    "--batch", type=click.IntRange(1, 64), default=1, show_default=True, help="Static batch size of the graph."
)
@click.option(
    "--field-crop",
    type=click.Choice(["square", "none"]),
    help="Crop to the retinal field, or take the whole frame as the authors do. Default: square, of .pth none.",
)
@click.option(
    "--resize",
    type=click.Choice(["area", "pil"]),
    help="Area averaging, or Pillow's antialiased bilinear as the authors do. Default: area, of .pth pil.",
)
@click.option(
    "--normalisation",
    type=click.Choice(["imagenet", "none"]),
    default="imagenet",
    show_default=True,
    help="What the checkpoint was trained with.",
)
@click.option(
    "--views", type=click.Choice(["1", "5", "20"]), default="1", show_default=True, help="Views averaged by default."
)
@identity_options
@click.option(
    "--training-data",
    default="Not stated by whoever exported this model.",
    help="What it was trained on, for the card.",
)
@click.option(
    "--intended-use", help="What it is for, and what not, for the card. Default: no diagnosis, not validated."
)
@points_option("--usable", 40.0, "Score from which a picture is usable.")
@points_option("--good", 60.0, "Score from which a picture is good.")
@click.option("--half-checkpoint", is_flag=True, help="Store the safetensors file in float16.")
@click.option("--images", type=click.Path(path_type=Path), help="Photographs for the parity check: a folder or glob.")
@replace_option
def export(
    checkpoint: Path,
    bundle: Path,
    pool: str | None,
    batch: int,
    field_crop: str | None,
    resize: str | None,
    normalisation: str,
    views: str,
    name: str,
    model_version: str,
    manufacturer: str,
    training_data: str,
    intended_use: str | None,
    usable: float,
    good: float,
    half_checkpoint: bool,
    images: Path | None,
    replace: bool,
) -> None:
    """Make a bundle from an FTHNet CHECKPOINT (the authors' .pth or safetensors).

    A .pth is prepared for as the authors do: the whole frame, Pillow's resize. Safetensors, the kit's own form:
    the retinal field, area averaging.

    Exports to ONNX with normalisation, layout and the factor 100 inside, compares ONNX Runtime with
    PyTorch on real photographs, and writes nothing where they differ by more than 0.01 points.
    """
    from fthnet_kit.convert.bundle.folder import refuse_existing
    from fthnet_kit.convert.bundle.write import Identity, write_bundle
    from fthnet_kit.convert.network.checkpoint import load_checkpoint
    from fthnet_kit.edge.capture.image_files import find_images
    from fthnet_kit.edge.errors import OptionError
    from fthnet_kit.edge.model.score import Thresholds

    refuse_existing(bundle, replace=replace)
    try:
        thresholds = Thresholds(usable=usable, good=good)
    except ValueError as error:
        raise OptionError(str(error)) from error
    parity = write_bundle(
        load_checkpoint(checkpoint, pool),  # type: ignore[arg-type]
        bundle,
        Identity(
            name,
            model_version,
            manufacturer,
            thresholds,
            training_data=training_data,
            intended_use=intended_use or Identity.intended_use,
        ),
        preprocessing_for(checkpoint, field_crop, normalisation, int(views), resize),
        batch=batch,
        half_checkpoint=half_checkpoint,
        images=find_images([str(images)]) if images else (),
        replace=replace,
    )
    click.echo(
        f"parity: ONNX Runtime against PyTorch on {len(parity.images)} images: "
        f"max {parity.worst:.6f}, mean {parity.mean:.6f} points (budget {parity.budget})"
    )
    tell_unsigned(bundle)
    click.echo(f"bundle: {bundle}")


def preprocessing_for(
    checkpoint: Path, field_crop: str | None, normalisation: str, views: int, resize: str | None
) -> Preprocessing:
    """What a checkpoint's images go through; where nothing is asked for, what its form stands for.

    A `.pth` is the authors' form: the whole frame, Pillow's resize. Safetensors are the kit's: the field, areas.
    """
    from fthnet_kit.edge.model.preprocess import Preprocessing

    own = checkpoint.suffix == ".safetensors"
    return Preprocessing(
        field_crop=field_crop or ("square" if own else "none"),  # type: ignore[arg-type]
        normalisation=normalisation,  # type: ignore[arg-type]
        views=views,  # type: ignore[arg-type]
        resize=resize or ("area" if own else "pil"),  # type: ignore[arg-type]
    )
