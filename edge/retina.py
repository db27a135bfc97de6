"""The gate before the network, which asks whether the picture can show a lit retina at all.

Cheap, explained, and on the safe side: it refuses what cannot be a retina in white light (a black
frame, a lens cap, a white wall, a gray room) and lets everything else through to the network. It does
not recognise retinas: an outer eye or a face passes and is left to the score.
"""

from __future__ import annotations

import numpy as np

from fthnet_kit.edge.preprocess import Image

STRIDE = 4
DARK_LEVEL = 16  # gray levels of the brighter parts; darker than this, nothing was lit
RED_SHARE = 0.5  # of the lit pixels: choroid and retina reflect more red than blue


def shows_retina(view: Image) -> bool:
    """Whether a view may show a retina.

    Args:
        view: RGB uint8 (384, 384, 3), as `preprocess.prepare` makes it.
    """
    sample = view[::STRIDE, ::STRIDE].reshape(-1, 3)
    brightness = sample.max(axis=1)
    bright = np.percentile(brightness, 95)
    if bright < DARK_LEVEL:
        return False
    lit = sample[brightness > 0.25 * bright]
    return bool(np.mean(lit[:, 0] > lit[:, 2]) >= RED_SHARE)
