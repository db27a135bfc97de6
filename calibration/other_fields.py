"""Which field of the retina a picture shows: macula and optic disc, wherever they lie in it, or neither.

Where training photographs all have the macula in the middle and the disc beside it, a network never learns that these
belong to a gradable picture, and passes an even, blurred periphery. Macula and disc lie on one horizontal band of an
upright photograph, so what is above or below shows neither: `other_field`. That alone would teach that the macula
belongs in the middle; `decentred` shows the same photograph as from a camera that aims at the disc.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from fthnet_kit.calibration.local_faults import AXIS, LIT, brightest_channel, disc_cell
from fthnet_kit.edge.capture.degradations import Rng
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.model.preprocess import INPUT, RESIZE

OTHER_FIELD_KEPT = 0.35  # share of its score that a photograph keeps when it shows another field
MIDDLE_BAND = (0.10, 0.13)  # from the middle of the field to the window, of the field's height
RIM = (0.04, 0.09)  # from the window to the rim
IN_FIELD = 0.92  # of the chord at the window's outer edge: some fields are a little smaller
LARGEST_ZOOM = 1.9  # the rest of the picture is filled by reflection: neither blur nor symmetry is the cue
LEAST_LIT = 0.97  # of the window; else the photograph's field does not reach there

RADIUS = 0.96 * RESIZE / 2  # of the field, within its soft rim
NO_MACULA = 0.3  # share of that radius within which nothing is mirrored
AIM = (0.10, 0.36)  # how far a camera aims beside the macula, towards the disc, of the field's width
AIM_HEIGHT = 0.12  # and above or below it
SPREAD = (0.75, 1.0)  # of the field's width that it then shows
REACH = int(RESIZE * (AIM[1] + SPREAD[1] / 2)) + 1  # from the middle of a field to the farthest pixel shown


def other_field(field: Image, rng: Rng) -> Image | None:
    """A picture of the retina above or below macula and disc.

    Args:
        field: BGR uint8 (512, 512, 3), upright; not changed.
        rng: which side, how much, how enlarged.

    Returns:
        BGR uint8 (384, 384, 3), or None if the field is dark there.
    """
    radius = RESIZE / 2
    far = radius - rng.uniform(*RIM) * RESIZE
    near = rng.uniform(*MIDDLE_BAND) * RESIZE
    half = int(IN_FIELD * np.sqrt(radius**2 - far**2))
    middle, up = int(radius), rng.random() < 0.5
    top, bottom = (middle - int(far), middle - int(near)) if up else (middle + int(near), middle + int(far))
    window = field[top:bottom, middle - half : middle + half]
    if np.mean(brightest_channel(window[::4, ::4]) > LIT) < LEAST_LIT:
        return None
    height, width = window.shape[:2]
    zoom = min(rng.uniform(1.0, LARGEST_ZOOM), INPUT / height, INPUT / width)
    window = cv2.resize(window, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
    down, right = INPUT - window.shape[0], INPUT - window.shape[1]
    above, left = int(rng.integers(down + 1)), int(rng.integers(right + 1))
    return cv2.copyMakeBorder(window, above, down - above, left, right - left, cv2.BORDER_REFLECT_101)


def decentred(field: Image, rng: Rng) -> Image:
    """A photograph as from a camera that aims towards the disc: both show, the macula away from the middle.

    What lies outside the photograph's field is filled with its other side, mirrored at the rim.

    Args:
        field: BGR uint8 (512, 512, 3), upright; not changed.
        rng: where the camera aims, how much it shows.

    Returns:
        BGR uint8 (384, 384, 3).
    """
    side = 1 if AXIS[disc_cell(field[::4, ::4])[1]] > 0 else -1
    size = int(RESIZE * rng.uniform(*SPREAD))
    aim = np.array([rng.uniform(-AIM_HEIGHT, AIM_HEIGHT), side * rng.uniform(*AIM)]) * RESIZE
    top, left = (REACH + aim - size / 2).astype(int)
    shown = cv2.remap(field, _sources()[top : top + size, left : left + size], None, cv2.INTER_NEAREST)
    return cv2.resize(shown, (INPUT, INPUT), interpolation=cv2.INTER_LINEAR)


@cache
def _sources() -> npt.NDArray[np.int16]:
    """Which pixel (x, y) of a field each pixel around its middle shows, int16 (2 REACH, 2 REACH, 2)."""
    axis = np.arange(-REACH, REACH, dtype=np.float64) + 0.5
    y, x = np.meshgrid(axis, axis, indexing="ij")
    radius = np.hypot(x, y)
    beyond = radius > RADIUS
    nearer = np.where(beyond, np.maximum(2 * RADIUS - radius, NO_MACULA * RADIUS) / radius, 1)
    places = np.stack([np.where(beyond, -x, x) * nearer, y * nearer], axis=-1)
    return np.floor(places + RESIZE / 2).astype(np.int16)
