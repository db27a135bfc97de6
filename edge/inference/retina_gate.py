"""The gate before the network, which asks whether the picture can show a lit retina at all.

Cheap, explained, and on the safe side: five rules with a number each, any of which refuses. What they
leave (a wall in skin colours, say) is left to the score. The view is the centre of the lit field
(`preprocess`), so the shape of the whole field is seen only as far as it is dark inside the view.

A retina is a smooth, concave, orange-red surface: light falls off slowly, and the sharp things on it
(vessels, the disc, spots) are thin or small. Lids, lashes, the white of the eye, the iris, faces and rooms
are steps of brightness everywhere. docs/GUIDANCE.md has what each rule refuses.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from fthnet_kit.edge.image import Image

SIDE = 96  # pixels to which the view is averaged: a pixel is 1/128 of the field
BLACK = 6  # gray levels added before a logarithm: noise of the dark is no contrast

DARK_LEVEL = 20  # level of the brightest channel in the brighter parts: if darker, nothing was lit
LIT_LEVEL = 0.15  # share of the brighter parts' level: the field
COLOUR_LEVEL = 0.25  # share of their level: bright enough to have a colour
LIT_SHARE = 0.2  # share of the view: less is a lamp or a reflex, not a field
BLUER = 1.4  # blue over red, median: no retina under any camera's white balance
GRAYISH = 0.95  # blue over red, median: most retinas lie far below, pale ones under a cool white balance above
HUES = 1.16  # blue over red, from the reddest tenth to the bluest: a gray thing has one hue, a retina many
STEP = 0.06  # change of log green from one pixel to the next, after smoothing: 6 %, a steep slope
STEP_SHARE = 0.25  # share of the field: vessels and disc cover less
WHITE_LEVEL = 225  # level of the brightest channel: skin and sclera throw back ten times a retina's light and burn out
WHITE_BLUE = 0.5  # share of the brightest channel that the weakest has: white
WHITE_SHARE = 0.2  # share of the view
WHITE_STEP_SHARE = 0.12  # share of the field: a retina behind haze or too much flash is white without steps

NotRetina = Literal["dark", "spot", "colour", "steps", "white"]


def shows_retina(view: Image) -> bool:
    """Whether a view may show a retina.

    Args:
        view: RGB uint8 (384, 384, 3), as `preprocess.prepare` makes it.
    """
    return why_not_retina(view) is None


def why_not_retina(view: Image) -> NotRetina | None:
    """The first rule that a view breaks, None where it may show a retina.

    ``dark``: nothing is lit; ``spot``: only a spot is; ``colour``: gray or blue; ``steps``: brightness changes
    in steps all over (lids, lashes, iris, a room); ``white``: burnt-out white areas with edges (sclera, skin).

    Args:
        view: RGB uint8 (384, 384, 3), as `preprocess.prepare` makes it.
    """
    small = cv2.resize(view, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    red, green, blue = cv2.split(small)
    peak = cv2.max(cv2.max(red, green), blue)
    bright = float(np.percentile(peak, 95))
    if bright < DARK_LEVEL:
        return "dark"
    lit = peak > LIT_LEVEL * bright
    if np.mean(lit) < LIT_SHARE:
        return "spot"
    if _is_gray_or_blue(red, blue, peak > COLOUR_LEVEL * bright):
        return "colour"
    steps = _step_share(green, lit)
    if steps > STEP_SHARE:
        return "steps"
    weakest = cv2.min(cv2.min(red, green), blue)
    white = np.mean((peak >= WHITE_LEVEL) & (weakest > WHITE_BLUE * peak.astype(np.float32)))
    return "white" if white > WHITE_SHARE and steps > WHITE_STEP_SHARE else None


def _is_gray_or_blue(red: Image, blue: Image, coloured: npt.NDArray[np.bool_]) -> bool:
    """Whether blue over red is too high everywhere, or as high as a gray thing's and the same all over."""
    ratio = np.log((_smooth(blue, 1.0) + BLACK) / (_smooth(red, 1.0) + BLACK))[coloured]
    reddest, middle, bluest = np.percentile(ratio, (10, 50, 90))
    return bool(middle > np.log(BLUER) or (middle > np.log(GRAYISH) and bluest - reddest < np.log(HUES)))


def _smooth(channel: Image, sigma: float) -> npt.NDArray[np.float32]:
    return cv2.GaussianBlur(channel.astype(np.float32), (0, 0), sigma)


def _step_share(green: Image, lit: Image) -> float:
    """Part of the field in which log green is steep; the view's border is left out."""
    smooth = np.log(_smooth(green, 2.0) + BLACK)
    slope = cv2.magnitude(
        cv2.Sobel(smooth, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(smooth, cv2.CV_32F, 0, 1, scale=1 / 8)
    )
    inner = slice(4, -4)
    return float(np.mean(slope[inner, inner][lit[inner, inner]] > STEP))
