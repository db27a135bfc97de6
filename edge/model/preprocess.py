"""The one way from an image to network input; training, calibration, parity, bench and runtime all call it.

Input: BGR uint8 (H, W, 3), OpenCV's order; gray, BGRA and 16-bit are converted by `to_bgr8`.
Output of `prepare`: RGB uint8 (N, 384, 384, 3), one row a view. Normalisation, layout and the factor 100
live inside the ONNX graph.

Steps, each named in the model card (`Preprocessing`):

1. field crop: ``square`` takes the bounding square of the illuminated retinal field (`field`), padded with black;
   ``none`` takes the whole frame, as the authors do;
2. resize to 512x512: ``area`` averages areas when it shrinks; ``pil`` is Pillow's antialiased bilinear resize
   (`pillow_resize`), which the authors' pipeline has, on the whole frame with its aspect ratio ignored;
3. views of 384x384: ``1`` the centre, ``5`` corners and centre, ``20`` seeded random crops with
   horizontal flips (the released test protocol averages 20).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from fthnet_kit.edge.errors import AmbiguousFieldError, InputError
from fthnet_kit.edge.formats.read import read_image
from fthnet_kit.edge.image import Image, check_size, to_bgr8
from fthnet_kit.edge.model.field import Box, find_field, grid
from fthnet_kit.edge.model.pillow_resize import pillow_resize

Views = Literal[1, 5, 20]

RESIZE = 512
INPUT = 384
MARGIN = (RESIZE - INPUT) // 2
VIEW_COUNTS = (1, 5, 20)

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB, of values in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """How a model wants its images. Stored in the model card; unknown values are refused.

    Attributes:
        field_crop: ``square`` (bounding square of the retinal field) or ``none`` (whole frame).
        normalisation: ``imagenet`` (mean and deviation, the authors' test configuration) or ``none``
            (their FTHNet3 training configuration); it happens inside the ONNX graph.
        views: views averaged into one score unless the caller asks for another number.
        seed: seed of the 20 random views.
        resize: ``area`` (the kit's models) or ``pil`` (Pillow's antialiased bilinear, the authors' models).
    """

    field_crop: Literal["square", "none"] = "square"
    normalisation: Literal["imagenet", "none"] = "imagenet"
    views: Views = 1
    seed: int = 0
    resize: Literal["area", "pil"] = "area"

    def __post_init__(self) -> None:
        if self.field_crop not in ("square", "none"):
            raise ValueError(f"field_crop: expected 'square' or 'none', found {self.field_crop!r}")
        if self.normalisation not in ("imagenet", "none"):
            raise ValueError(f"normalisation: expected 'imagenet' or 'none', found {self.normalisation!r}")
        if self.views not in VIEW_COUNTS:
            raise ValueError(f"views: expected one of {VIEW_COUNTS}, found {self.views!r}")
        if self.resize not in ("area", "pil"):
            raise ValueError(f"resize: expected 'area' or 'pil', found {self.resize!r}")

    def to_dict(self) -> dict[str, Any]:
        """As a card states it; a card without `resize` means ``area``, as cards older than the choice do."""
        return {key: value for key, value in asdict(self).items() if (key, value) != ("resize", "area")}


def field_box(image: Image, preprocessing: Preprocessing) -> Box:
    """The part of the frame that is resized to 512x512."""
    if preprocessing.field_crop == "square":
        return find_field(image)
    return Box(0, 0, image.shape[1], image.shape[0])


def cut(image: Image, box: Box) -> Image:
    """The pixels of `box`, black where it reaches beyond the frame. A view of `image` where it does not."""
    height, width = image.shape[:2]
    top, bottom = max(0, -box.y), max(0, box.y + box.height - height)
    left, right = max(0, -box.x), max(0, box.x + box.width - width)
    inside = image[max(0, box.y) : box.y + box.height, max(0, box.x) : box.x + box.width]
    if top or bottom or left or right:
        return cv2.copyMakeBorder(inside, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(0, 0, 0))
    return inside


def shrink(image: Image, width: int, height: int) -> Image:
    """Resize by area averaging where it shrinks, bilinearly where it enlarges."""
    while image.shape[1] >= 4 * width and image.shape[0] >= 4 * height and not (image.shape[0] | image.shape[1]) & 1:
        image = cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)
    shrinks = image.shape[1] >= width and image.shape[0] >= height
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def canonical(image: Image, preprocessing: Preprocessing) -> Image:
    """The whole field at 512x512, BGR: what every view is cut from."""
    field = cut(image, field_box(image, preprocessing))
    return pillow_resize(field, RESIZE) if preprocessing.resize == "pil" else shrink(field, RESIZE, RESIZE)


def centre(image: Image, preprocessing: Preprocessing) -> Image:
    """The centre 384x384 of `canonical`, BGR, without resizing what it does not show."""
    box = field_box(image, preprocessing)
    if preprocessing.resize == "pil":
        return pillow_resize(cut(image, box), RESIZE, MARGIN)
    sides = (box.width, box.height)
    if min(sides) < RESIZE or any(side % grid(side) for side in sides):
        return shrink(cut(image, box), RESIZE, RESIZE)[MARGIN : MARGIN + INPUT, MARGIN : MARGIN + INPUT]
    inner = Box(box.x + box.width // 8, box.y + box.height // 8, box.width * 3 // 4, box.height * 3 // 4)
    return shrink(cut(image, inner), INPUT, INPUT)


def view_offsets(views: int, seed: int) -> list[tuple[int, int, bool]]:
    """Top, left and horizontal flip of each 384x384 view inside the 512x512 image.

    Raises:
        InputError: `views` is not 1, 5 or 20.
    """
    far = RESIZE - INPUT
    if views == 1:
        return [(MARGIN, MARGIN, False)]
    if views == 5:
        return [(MARGIN, MARGIN, False), (0, 0, False), (0, far, False), (far, 0, False), (far, far, False)]
    if views == 20:
        rng = np.random.default_rng(seed)
        return [
            (int(top), int(left), bool(flip))
            for top, left, flip in rng.integers(0, (far + 1, far + 1, 2), size=(20, 3))
        ]
    raise InputError(f"views: expected one of {VIEW_COUNTS}, found {views}")


def prepare(image: npt.NDArray[np.generic], preprocessing: Preprocessing, views: int | None = None) -> Image:
    """Network input of one image: RGB uint8 (views, 384, 384, 3), C-contiguous.

    Args:
        image: BGR uint8 (H, W, 3), or what `to_bgr8` accepts.
        preprocessing: how the model wants its images, from its card.
        views: 1, 5 or 20; default: the card's.

    Raises:
        InputError: the image's type, shape or size, or the number of views.
        AmbiguousFieldError: the field is to be cut out and cannot be found.
    """
    return prepare_with_centre(image, preprocessing, views)[0]


def prepare_file(path: Path, preprocessing: Preprocessing, views: int | None = None) -> Image:
    """`prepare` of a picture file.

    Raises:
        PictureError, AmbiguousFieldError: as `read_image` and `prepare`; both name the file.
    """
    image = read_image(path)
    with _naming(path):
        return prepare(image, preprocessing, views)


def canonical_file(path: Path, preprocessing: Preprocessing) -> Image:
    """`canonical` of a picture file; errors name it."""
    image = read_image(path)
    with _naming(path):
        return canonical(image, preprocessing)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except AmbiguousFieldError as error:
        raise AmbiguousFieldError(f"{path}: {str(error).removeprefix('image: ')}") from None


def prepare_with_centre(
    image: npt.NDArray[np.generic] | None, preprocessing: Preprocessing, views: int | None = None
) -> tuple[Image, Image]:
    """`prepare`, and the centre view, which the retina gate judges whatever the views are.

    Returns:
        The network input, and the centre as RGB uint8 (384, 384, 3).
    """
    bgr = to_bgr8(image)
    check_size(bgr.shape[1], bgr.shape[0])
    views = preprocessing.views if views is None else views
    offsets = view_offsets(views, preprocessing.seed)
    if views == 1:
        middle = cv2.cvtColor(centre(bgr, preprocessing), cv2.COLOR_BGR2RGB)
        return middle[np.newaxis], middle
    rgb = cv2.cvtColor(canonical(bgr, preprocessing), cv2.COLOR_BGR2RGB)
    tiles = [rgb[top : top + INPUT, left : left + INPUT] for top, left, _ in offsets]
    stack = np.stack([tile[:, ::-1] if flip else tile for tile, (_, _, flip) in zip(tiles, offsets, strict=True)])
    return stack, rgb[MARGIN : MARGIN + INPUT, MARGIN : MARGIN + INPUT]
