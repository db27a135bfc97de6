"""What goes wrong in a fundus photograph, as seeded functions of a severity in [0, 1].

Training degrades good photographs with these, the thresholds and accuracy reports probe a model with
them, and the simulated camera uses them to play a handheld session. Every function takes and returns
BGR uint8 (H, W, 3), leaves its input untouched, is the identity at severity 0, and measures lengths in
units of `field`, the diameter of the retinal field in pixels (default: the shorter side of the image),
so that a severity looks the same at any resolution.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from fthnet_kit.edge.image import Image

Rng = np.random.Generator
Degradation = Callable[[Image, float, Rng, float], Image]

DEFOCUS_RADIUS = 0.024  # radius of the blur disc at severity 1, share of the field: second-order vessels vanish
MOTION_LENGTH = 0.06  # path of the image during the exposure at severity 1, share of the field
DARKEST_STOPS = 5.0  # under-exposure at severity 1
BRIGHTEST_STOPS = 2.2  # over-exposure at severity 1
NOISE_SIGMA = 40.0  # gray levels at severity 1
NOISE_TILE = 256
WORST_JPEG = 4
BEST_JPEG = 96


def _disc(radius: float) -> np.ndarray:
    """Pillbox kernel with an anti-aliased rim, sum 1."""
    half = int(np.ceil(radius))
    axis = np.arange(-half, half + 1)
    distance = np.hypot(axis[:, None], axis[None, :])
    kernel = np.clip(radius + 0.5 - distance, 0.0, 1.0)
    return (kernel / kernel.sum()).astype(np.float32)


def _smooth_ramp(shape: tuple[int, ...], angle: float, centre: float, width: float) -> np.ndarray:
    """float32 (H, W) that rises from 0 to 1 across the line at `centre` (-1 to 1 across the image) along `angle`."""
    y = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :]
    position = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    ramp = np.clip((position - centre) / width + 0.5, 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def _modulate(image: Image, gain: np.ndarray) -> Image:
    """`image` times a float gain map that may be coarser than the image."""
    if gain.shape != image.shape[:2]:
        gain = cv2.resize(gain, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    levels = np.clip(gain * 255, 0, 255).astype(np.uint8)
    return cv2.multiply(image, cv2.merge([levels] * 3), scale=1 / 255)


def _blend(image: Image, other: Image, weight: np.ndarray) -> Image:
    """`image` towards `other` by a weight map in [0, 1]."""
    return cv2.add(_modulate(image, 1 - weight), _modulate(other, weight))


def _scale_levels(image: Image, gain: float) -> Image:
    """Multiplies linear light (gamma 2.2) by `gain`, clipping as a sensor does."""
    levels = np.arange(256) / 255
    table = np.clip(levels * gain ** (1 / 2.2), 0, 1) * 255
    return cv2.LUT(image, np.round(table).astype(np.uint8))


def defocus(image: Image, severity: float, rng: Rng, field: float) -> Image:
    """The retina lies out of the focal plane: convolution with a disc, the geometric blur of a circular pupil."""
    radius = DEFOCUS_RADIUS * severity * field
    if radius < 0.3:
        return image.copy()
    reduction = max(1, int(radius / 3))  # a wide disc is indistinguishable at half the resolution
    if reduction == 1:
        return cv2.filter2D(image, -1, _disc(radius), borderType=cv2.BORDER_REFLECT_101)
    size = (max(1, image.shape[1] // reduction), max(1, image.shape[0] // reduction))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    small = cv2.filter2D(small, -1, _disc(radius / reduction), borderType=cv2.BORDER_REFLECT_101)
    return cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def motion_blur(image: Image, severity: float, rng: Rng, field: float) -> Image:
    """Eye or hand moves during the exposure: convolution with a straight path of random direction."""
    length = MOTION_LENGTH * severity * field
    angle = rng.uniform(0, np.pi)
    if length < 0.6:
        return image.copy()
    half = int(np.ceil(length / 2)) + 1
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    path = np.linspace(-length / 2, length / 2, 8 * half)
    rows, columns = half + path * np.sin(angle), half + path * np.cos(angle)
    np.add.at(kernel, (np.round(rows).astype(int), np.round(columns).astype(int)), 1)
    kernel /= kernel.sum()
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)


def under_exposure(image: Image, severity: float, rng: Rng, field: float) -> Image:
    """Too little flash or a small pupil: linear light halves up to five times."""
    return _scale_levels(image, 2 ** (-DARKEST_STOPS * severity))


def over_exposure(image: Image, severity: float, rng: Rng, field: float) -> Image:
    """Too much flash: linear light doubles up to 2.2 times and clips."""
    return _scale_levels(image, 2 ** (BRIGHTEST_STOPS * severity))


def uneven_illumination(image: Image, severity: float, rng: Rng, field: float) -> Image:
    """The light misses part of the pupil: one side of the field falls off to 6 % of its level."""
    ramp = _smooth_ramp((96, 96), rng.uniform(0, 2 * np.pi), rng.uniform(-0.4, 0.1), rng.uniform(1.0, 1.8))
    return _modulate(image, 1 - 0.94 * severity * ramp)


def haze(image: Image, severity: float, rng: Rng, field: float) -> Image:
    """Cataract or corneal scatter: light from everywhere veils the retina and contrast falls."""
    veil = cv2.resize(image, (24, 24), interpolation=cv2.INTER_AREA)
    veil = cv2.GaussianBlur(veil, (0, 0), 4)
    lift = np.array([20, 35, 45]) * rng.uniform(0.6, 1.4)
    lit = veil.max(axis=2, keepdims=True) > 12  # the camera's black border scatters nothing
    veil = np.clip(veil + severity * lift * lit, 0, 255).astype(np.uint8)
    veil = cv2.resize(veil, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    soft = defocus(image, 0.25 * severity, rng, field)
    weight = 0.9 * severity
    return cv2.addWeighted(soft, 1 - weight, veil, weight, 0)


def flare(image: Image, severity: float, rng: Rng, field: float) -> Image:
    """Reflexes of cornea and lashes: a bright crescent from one side and scattered soft spots."""
    size = 128
    angle = rng.uniform(0, 2 * np.pi)
    crescent = _smooth_ramp((size, size), angle, 1.15 - 0.75 * severity, 0.9)
    spots = np.zeros((size, size), np.float32)
    for _ in range(int(rng.integers(0, 2 + round(5 * severity)))):
        where = (int(rng.integers(size)), int(rng.integers(size)))
        cv2.circle(spots, where, int(rng.integers(1, 3 + round(7 * severity))), float(rng.uniform(0.4, 1.0)), -1)
    spots = cv2.GaussianBlur(spots, (0, 0), 1.5)
    weight = severity**0.5 * np.maximum(0.95 * crescent, spots)
    colour = np.array([225, 240, 250]) * rng.uniform(0.85, 1.0)
    light = np.broadcast_to(colour.astype(np.uint8), image.shape)
    return _blend(image, light, np.clip(weight, 0, 1))


def occlusion(image: Image, severity: float, rng: Rng, field: float) -> Image:
    """Lid, lashes or iris cover up to three quarters of the field, from above or below, softly edged and dark."""
    angle = (np.pi / 2) * rng.choice([-1, 1]) + rng.uniform(-0.5, 0.5)
    edge = rng.uniform(0.1, 0.35)
    cover = _smooth_ramp((96, 96), angle, 1.0 + edge / 2 - severity * 1.55, edge)
    lid = np.array([10, 14, 24]) * rng.uniform(0.0, 1.8)
    return _blend(image, np.broadcast_to(lid.astype(np.uint8), image.shape), cover)


def sensor_noise(image: Image, severity: float, rng: Rng, field: float) -> Image:
    """High gain: Gaussian noise, independent in each channel, sigma up to 40 gray levels."""
    tile = rng.standard_normal((NOISE_TILE, NOISE_TILE, 3), dtype=np.float32) * (NOISE_SIGMA * severity)
    rows, columns = (-(-side // NOISE_TILE) for side in image.shape[:2])
    noise = np.tile(np.clip(np.round(tile), -127, 127).astype(np.int16), (rows, columns, 1))
    return cv2.add(image, noise[: image.shape[0], : image.shape[1]], dtype=cv2.CV_8U)


def jpeg(image: Image, severity: float, rng: Rng, field: float) -> Image:
    """Compression for a thin uplink: JPEG quality 96 down to 4."""
    if severity <= 0:
        return image.copy()
    quality = round(BEST_JPEG + (WORST_JPEG - BEST_JPEG) * severity)
    _, packed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR))


DEGRADATIONS: dict[str, Degradation] = {
    "defocus": defocus,
    "motion_blur": motion_blur,
    "under_exposure": under_exposure,
    "over_exposure": over_exposure,
    "uneven_illumination": uneven_illumination,
    "haze": haze,
    "flare": flare,
    "occlusion": occlusion,
    "sensor_noise": sensor_noise,
    "jpeg": jpeg,
}


def degrade(image: Image, name: str, severity: float, seed: int | Rng = 0, field: float | None = None) -> Image:
    """One degradation of `DEGRADATIONS` at `severity`.

    Args:
        image: BGR uint8 (H, W, 3); not changed.
        name: a key of `DEGRADATIONS`.
        severity: 0 (none) to 1 (worst).
        seed: seed or generator for direction, place and noise.
        field: diameter of the retinal field in pixels; default: the image's shorter side.

    Raises:
        ValueError: unknown name or severity outside [0, 1].
    """
    if name not in DEGRADATIONS:
        raise ValueError(f"degradation: expected one of {', '.join(DEGRADATIONS)}, found {name!r}")
    if not 0 <= severity <= 1:
        raise ValueError(f"severity: expected 0 to 1, found {severity}")
    rng = np.random.default_rng(seed)
    if severity == 0:
        return image.copy()
    return DEGRADATIONS[name](image, float(severity), rng, float(field or min(image.shape[:2])))
