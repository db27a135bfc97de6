"""Looks: another camera, another light, another eye. They cost nothing but what they clip or blacken."""

from __future__ import annotations

import cv2
import numpy as np

from fthnet_kit.calibration.dim_labels import FULL_LEVEL, median_level
from fthnet_kit.calibration.local_faults import X, Y, lit_cells
from fthnet_kit.edge.capture.degradations import Rng
from fthnet_kit.edge.image import Image

CAST_SHARE = 0.35  # photographs in the colours of another camera
GREY_SHARE = 0.25  # photographs with less colour, down to none
COLOUR_LEFT = (0.0, 0.7)  # share of it
GREY_OF = ((0.0, 0.5, 0.1), (0.25, 1.0, 0.6))  # what a grey is made of, BGR: most of all green, as without red light
LOOK_STOPS = (-2.8, 0.8)  # stops of linear light
LOOK_GAMMA = (0.65, 1.6)
LEAST_LEVEL = 40  # median of the field's brightest channel below which no look darkens a photograph
FALL_OFF = {"side": 0.55, "rim": 0.2, "middle": 0.25}  # to where, how often
LEAST_LIGHT = 0.2  # share of the linear light that is left where it is weakest
SPOT, LARGEST_SPOT = (1.0, 3.5), 12.0  # mean radius of a picture's spots, and the largest, in pixels
SPOT_LIGHT = (0.5, 1.35)  # what a spot does to the level


def jitter_colour(image: Image, rng: Rng) -> Image:
    """Cameras differ: gain of each channel and of all by up to 8 %, in some a strong cast, in some little colour.

    Neither is a fault: some cameras hardly show blue, dark eyes and red-free light are grey. A network that has seen
    outer eyes in odd colours takes a yellow retina for one, and another that never saw a grey one takes that for poor.
    """
    gain = rng.uniform(0.92, 1.08) * rng.uniform(0.92, 1.08, size=3)
    if rng.random() < CAST_SHARE:
        gain = gain * rng.uniform((0.05, 0.75, 0.8), (1.15, 1.15, 1.15))
    if rng.random() < GREY_SHARE:
        grey, colour = rng.uniform(*GREY_OF), rng.uniform(*COLOUR_LEFT)
        return cv2.transform(image, np.diag(gain) @ (colour * np.eye(3) + (1 - colour) * grey / grey.sum()))
    tables = np.clip(np.arange(256)[:, None] * gain, 0, 255).astype(np.uint8)
    return cv2.LUT(image, tables.reshape(1, 256, 3))


def expose(image: Image, rng: Rng) -> Image:
    """Another exposure and gamma, as cameras and eyes differ: `LOOK_STOPS` of linear light, `LOOK_GAMMA`.

    A field whose median level is `LEAST_LEVEL` or less grows no darker; a dim one may come in full light.
    """
    level = (median_level(image) or 255) / 255
    brightest = max(LOOK_STOPS[1], 2.2 * np.log2(FULL_LEVEL / 255 / level))
    gain, gamma = 2 ** (rng.uniform(LOOK_STOPS[0], brightest) / 2.2), rng.uniform(*LOOK_GAMMA)
    gain = max(gain, min(level, LEAST_LEVEL / 255) ** (1 / gamma) / level)
    levels = np.clip(np.arange(256) / 255 * gain, 0, 1) ** gamma
    return cv2.LUT(image, np.round(255 * levels).astype(np.uint8))


def fall_off(image: Image, rng: Rng) -> Image:
    """Light that grows weaker to a side, to the rim or to the middle, down to `LEAST_LIGHT`: no lamp is even."""
    kind = str(rng.choice(list(FALL_OFF), p=list(FALL_OFF.values())))
    angle, power = rng.uniform(0, 2 * np.pi), rng.uniform(0.7, 2.0)
    centre = rng.uniform(-0.3, 0.3, 2)
    radius = np.hypot(X - centre[0], Y - centre[1])
    distance = {"side": X * np.cos(angle) + Y * np.sin(angle), "rim": radius, "middle": -radius}[kind]
    share = (distance - distance.min()) / (distance.max() - distance.min())
    light = 1 - rng.uniform(0, 1 - LEAST_LIGHT) * share**power
    levels = np.round(255 * light ** (1 / 2.2)).astype(np.uint8)
    levels = cv2.resize(levels, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return cv2.multiply(image, cv2.merge([levels] * 3), scale=1 / 255)


def glow(image: Image, rng: Rng) -> Image:
    """Light that leaks in at the rim, all around or from one side, and grows towards it: it costs what it clips.

    Outside the field, where the camera's mask is, nothing glows.
    """
    angle, shift = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.5)
    radius = np.hypot(X + shift * np.cos(angle), Y + shift * np.sin(angle))
    light = np.clip((radius - rng.uniform(0.7, 1.3)) / rng.uniform(0.1, 0.8), 0, 1) * lit_cells(image)
    colour = rng.uniform(60, 255) * rng.uniform((0.3, 0.8, 1.0), (1.0, 1.0, 1.0))
    levels = np.round(light[..., None] * colour).astype(np.uint8)
    return cv2.add(image, cv2.resize(levels, image.shape[1::-1], interpolation=cv2.INTER_LINEAR))


def dirty(image: Image, rng: Rng) -> Image:
    """Dirt on a lens or sensor, or pigment: sharp spots, however blurred the retina is, are no detail of an eye."""
    size = len(image)
    light = np.full((size, size), 128, np.uint8)
    places = rng.integers(0, size, (int(rng.integers(5, 120)), 2))
    radii = np.minimum(rng.exponential(rng.uniform(*SPOT), len(places)), LARGEST_SPOT)
    for (x, y), radius, level in zip(
        places.tolist(), radii.tolist(), rng.uniform(*SPOT_LIGHT, len(places)), strict=True
    ):
        cv2.circle(light, (x, y), int(radius), 128 * level, -1, cv2.LINE_AA)
    light = cv2.GaussianBlur(light, (0, 0), float(rng.uniform(0.5, 1.2)))
    return cv2.multiply(image, cv2.merge([light] * 3), scale=1 / 128)
