"""The one way from an image to network input; training, calibration, parity, bench and runtime all call it.

Input: BGR uint8 (H, W, 3), OpenCV's order; gray, BGRA and 16-bit are converted by `to_bgr8`.
Output of `prepare`: RGB uint8 (N, 384, 384, 3), one row a view. Normalisation, layout and the factor 100
live inside the ONNX graph.

Steps, each named in the model card (`Preprocessing`):

1. field crop: ``square`` takes the bounding square of the illuminated retinal field, padded with black;
   ``none`` takes the whole frame, as the authors do;
2. resize to 512x512, area-averaging when it shrinks (the authors: PIL bilinear with antialiasing,
   aspect ratio ignored, which `none` follows);
3. views of 384x384: ``1`` the centre, ``5`` corners and centre, ``20`` seeded random crops with
   horizontal flips (the released test protocol averages 20).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.image import Image, check_size, to_bgr8

Views = Literal[1, 5, 20]

RESIZE = 512
INPUT = 384
MARGIN = (RESIZE - INPUT) // 2
VIEW_COUNTS = (1, 5, 20)

FIELD_PROBE = 128  # longest side of the thumbnail in which the field is looked for
FIELD_MIN_LEVEL = 8  # a pixel this dark is never field: black borders of real cameras stay below
FIELD_LEVEL = 0.12  # of the bright level (95th percentile): the field's edge
FIELD_MIN_SIDE = 0.25  # of the shorter frame side: a smaller blob is a reflex, not a field
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
    """

    field_crop: Literal["square", "none"] = "square"
    normalisation: Literal["imagenet", "none"] = "imagenet"
    views: Views = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.field_crop not in ("square", "none"):
            raise ValueError(f"field_crop: expected 'square' or 'none', found {self.field_crop!r}")
        if self.normalisation not in ("imagenet", "none"):
            raise ValueError(f"normalisation: expected 'imagenet' or 'none', found {self.normalisation!r}")
        if self.views not in VIEW_COUNTS:
            raise ValueError(f"views: expected one of {VIEW_COUNTS}, found {self.views!r}")


@dataclass(frozen=True)
class Box:
    """A rectangle of a frame in pixels; it may reach beyond the frame, where pixels count as black."""

    x: int
    y: int
    width: int
    height: int


def find_field(image: Image) -> Box:
    """Bounding square of the illuminated retinal field: the largest connected region brighter than the border.

    Its side is a multiple of 8 (from 2048 pixels on: of 32). Where the field cannot be told from the
    border (a black frame, a lone reflex), it is the square around the whole frame.
    """
    height, width = image.shape[:2]
    step = max(1, max(height, width) // FIELD_PROBE)
    probe = image[min(step, height) // 2 :: step, min(step, width) // 2 :: step].max(axis=2)
    probe = cv2.medianBlur(np.ascontiguousarray(probe), 5) if min(probe.shape) >= 5 else probe
    level = max(FIELD_MIN_LEVEL, FIELD_LEVEL * float(np.percentile(probe, 95)))
    _, _, stats, _ = cv2.connectedComponentsWithStats((probe > level).astype(np.uint8), connectivity=8)
    x, y, w, h = 0, 0, width, height
    if len(stats) > 1:
        left, top, columns, rows, _ = (int(v) for v in max(stats[1:], key=lambda row: row[cv2.CC_STAT_AREA]))
        if max(columns, rows) * step >= FIELD_MIN_SIDE * min(height, width):
            x, y = left * step, top * step
            w, h = min(columns * step, width - x), min(rows * step, height - y)
    side = max(w, h)
    side += -side % _grid(side)
    return Box(x + (w - side) // 2, y + (h - side) // 2, side, side)


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


def _grid(side: int) -> int:
    """What a side must be a multiple of for a centre view on whole pixels, even after `shrink` halved it twice."""
    return 8 if side < 4 * RESIZE else 32


def shrink(image: Image, width: int, height: int) -> Image:
    """Resize by area averaging where it shrinks, bilinearly where it enlarges."""
    while image.shape[1] >= 4 * width and image.shape[0] >= 4 * height and not (image.shape[0] | image.shape[1]) & 1:
        image = cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)
    shrinks = image.shape[1] >= width and image.shape[0] >= height
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def canonical(image: Image, preprocessing: Preprocessing) -> Image:
    """The whole field at 512x512, BGR: what every view is cut from."""
    return shrink(cut(image, field_box(image, preprocessing)), RESIZE, RESIZE)


def centre(image: Image, preprocessing: Preprocessing) -> Image:
    """The centre 384x384 of `canonical`, BGR, without resizing what it does not show."""
    box = field_box(image, preprocessing)
    sides = (box.width, box.height)
    if min(sides) < RESIZE or any(side % _grid(side) for side in sides):
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
    """
    bgr = to_bgr8(image)
    check_size(bgr.shape[1], bgr.shape[0])
    views = preprocessing.views if views is None else views
    offsets = view_offsets(views, preprocessing.seed)
    if views == 1:
        return cv2.cvtColor(centre(bgr, preprocessing), cv2.COLOR_BGR2RGB)[np.newaxis]
    rgb = cv2.cvtColor(canonical(bgr, preprocessing), cv2.COLOR_BGR2RGB)
    tiles = [rgb[top : top + INPUT, left : left + INPUT] for top, left, _ in offsets]
    return np.stack([tile[:, ::-1] if flip else tile for tile, (_, _, flip) in zip(tiles, offsets, strict=True)])
