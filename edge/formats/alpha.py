"""Alpha: what is transparent is black."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fthnet_kit.edge.formats.levels import eight_bits
from fthnet_kit.edge.image import Image


def on_black(image: npt.NDArray[np.integer[Any]], white: int | None = None) -> Image:
    """The picture in 8 bits without alpha: of BGRA (H, W, 4), what is transparent becomes black.

    Args:
        image: uint8 or uint16, with or without alpha, which always uses the whole range.
        white: as `eight_bits` takes it, of the colours.

    Raises:
        PictureError: as `eight_bits`.
    """
    if image.ndim < 3 or image.shape[2] != 4:
        return eight_bits(image, white)
    colours = eight_bits(image[:, :, :3], white).astype(np.uint16)
    alpha = eight_bits(image[:, :, 3:], np.iinfo(image.dtype).max)
    return ((colours * alpha + 127) // 255).astype(np.uint8)
