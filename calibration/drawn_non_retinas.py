"""Pictures that show no retina, drawn: outer eyes, rooms, surfaces. Training teaches that they score nothing.

A fundus camera also sees what stands before it while the operator aligns: lids and lashes, the outer eye,
a hand, the examination room. Nobody labels such frames, and without them a network has never learned
that a sharp eyelid is not a sharp retina. They are drawn at random, wide in colour and shape rather than
faithful, so that they are distinct from every retina and need no further data.
"""

from __future__ import annotations

import cv2
import numpy as np

from fthnet_kit.edge.capture.degradations import Rng
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.model.preprocess import RESIZE

Colour = tuple[float, float, float]  # BGR
SIZE = RESIZE
MIDDLE = SIZE / 2


def not_retina(rng: Rng) -> Image:
    """One picture without a retina: BGR uint8 (512, 512, 3)."""
    kind = rng.random()
    picture = outer_eye(rng) if kind < 0.65 else room(rng) if kind < 0.85 else surface(rng)
    return _photograph(picture, rng)


def outer_eye(rng: Rng) -> Image:
    """Skin, an almond of sclera with vessels, iris and pupil, reflexes, lashes; near or far, turned."""
    canvas = _texture(_colour(rng, (60, 80, 110), (190, 210, 250)), rng, contrast=rng.uniform(10, 50))
    half = rng.uniform(140, 420)  # half the lid opening, in pixels: a close-up reaches beyond the picture
    upper, lower = half * rng.uniform(0.3, 0.8), half * rng.uniform(0.2, 0.6)
    x = np.linspace(-1, 1, 60)
    lids = [
        np.stack([MIDDLE + half * x, MIDDLE + sign * height * (1 - x * x)], 1)
        for sign, height in ((-1, upper), (1, lower))
    ]
    almond = np.zeros((SIZE, SIZE), np.uint8)
    cv2.fillPoly(almond, [np.concatenate([lids[0], lids[1][::-1]]).astype(np.int32)], 255)
    eye = _texture(_colour(rng, (150, 160, 190), (235, 240, 255)), rng, contrast=15)
    for _ in range(int(rng.integers(0, 25))):
        _vessel(eye, rng)
    _iris(eye, half * rng.uniform(0.3, 0.55), rng)
    soft = cv2.GaussianBlur(almond, (0, 0), rng.uniform(0.8, 4))[..., None] / 255.0
    canvas = (canvas * (1 - soft) + eye * soft).astype(np.uint8)
    for lid, sign in zip(lids, (-1, 1), strict=True):
        _lashes(canvas, lid, sign * half * rng.uniform(0.05, 0.5), rng)
    if rng.random() < 0.2:
        _wires(canvas, rng)
    _reflexes(canvas, rng, spread=half * 0.25)
    shift = rng.uniform(-130, 130, size=2)
    turn = cv2.getRotationMatrix2D((MIDDLE, MIDDLE), rng.uniform(-40, 40), rng.uniform(0.8, 1.3))
    turn[:, 2] += shift
    return cv2.warpAffine(canvas, turn, (SIZE, SIZE), borderMode=cv2.BORDER_REFLECT_101)


def room(rng: Rng) -> Image:
    """Furniture, clothes, lamps: overlapping boxes and ellipses of dull colours, often badly lit."""
    canvas = _texture(_colour(rng, (20, 20, 20), (200, 200, 200)), rng, contrast=20)
    for _ in range(int(rng.integers(4, 22))):
        x, y = (int(v) for v in rng.uniform(-50, SIZE + 50, 2))
        width, height = (int(v) for v in rng.uniform(15, 260, 2))
        colour = _colour(rng, (10, 10, 10), (230, 230, 230))
        if rng.random() < 0.6:
            corners = cv2.boxPoints(((x, y), (width, height), float(rng.choice([0, 0, rng.uniform(0, 180)]))))
            cv2.fillPoly(canvas, [corners.astype(np.int32)], colour)
        else:
            cv2.ellipse(canvas, (x, y), (width // 2, height // 2), float(rng.uniform(0, 180)), 0, 360, colour, -1)
    if rng.random() < 0.6:
        canvas = (canvas * rng.uniform(0.03, 0.3)).astype(np.uint8)
    _reflexes(canvas, rng, spread=200)
    return canvas


def surface(rng: Rng) -> Image:
    """A wall, a hand, a lens cap, a cloth: one colour, mottled."""
    canvas = _texture(_colour(rng, (0, 0, 0), (255, 255, 255)), rng, contrast=rng.uniform(0, 70))
    if rng.random() < 0.5:
        _reflexes(canvas, rng, spread=200)
    return canvas


def _photograph(canvas: Image, rng: Rng) -> Image:
    """Light from one side, a colour cast, exposure, blur, sometimes a round black border."""
    axis = np.linspace(-1, 1, SIZE, dtype=np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    light = 1 + rng.uniform(0, 0.7) * (np.cos(angle) * axis[None, :] + np.sin(angle) * axis[:, None])
    if rng.random() < 0.3:
        radius = np.hypot(axis[:, None], axis[None, :])
        light = light * np.clip((rng.uniform(0.75, 1.0) - radius) / rng.uniform(0.01, 0.3), 0, 1)
    blue = rng.uniform(0.05, 1.0) if rng.random() < 0.5 else 1.0
    cast = np.array([blue, rng.uniform(0.6, 1.1), rng.uniform(0.8, 1.2)]) * rng.uniform(0.5, 1.4)
    lit = np.clip(canvas * np.clip(light, 0, 2)[..., None] * cast.astype(np.float32), 0, 255).astype(np.uint8)
    return cv2.GaussianBlur(lit, (0, 0), rng.uniform(0.5, 5)) if rng.random() < 0.6 else lit


def _colour(rng: Rng, low: Colour, high: Colour) -> Colour:
    """A colour between two, brightness shared by the channels more than hue."""
    share = np.clip(rng.random() + rng.uniform(-0.15, 0.15, 3), 0, 1)
    b, g, r = (float(v) for v in np.array(low) + share * (np.array(high) - np.array(low)))
    return b, g, r


def _texture(colour: Colour, rng: Rng, contrast: float) -> Image:
    """One colour with cloudy noise at two scales."""
    cloud = np.zeros((SIZE, SIZE), np.float32)
    for cells, share in ((int(rng.integers(2, 8)), 0.7), (int(rng.integers(20, 120)), 0.3)):
        noise = rng.standard_normal((cells, cells), dtype=np.float32)
        cloud += share * cv2.resize(noise, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    return np.clip(np.array(colour, np.float32) + contrast * cloud[..., None], 0, 255).astype(np.uint8)


def _vessel(canvas: Image, rng: Rng) -> None:
    """A thin red wriggling line on the sclera."""
    steps = rng.normal(0, 7, (30, 2)) + rng.normal(0, 8, 2)
    points = rng.uniform(0, SIZE, 2) + np.cumsum(steps, axis=0)
    colour = _colour(rng, (40, 40, 130), (130, 130, 210))
    cv2.polylines(canvas, [points.astype(np.int32)], False, colour, int(rng.integers(1, 4)), cv2.LINE_AA)


def _iris(canvas: Image, radius: float, rng: Rng) -> None:
    """A disc with radial fibres, and a pupil that is black, gray with cataract, or red with the fundus's light."""
    centre = (int(MIDDLE + rng.uniform(-0.7, 0.7) * radius), int(MIDDLE + rng.uniform(-0.4, 0.4) * radius))
    colour = (
        _colour(rng, (10, 20, 25), (150, 120, 110)) if rng.random() < 0.5 else _colour(rng, (5, 25, 45), (50, 90, 140))
    )
    cv2.circle(canvas, centre, int(radius), colour, -1, cv2.LINE_AA)
    for angle in rng.uniform(0, 2 * np.pi, int(rng.integers(20, 90))):
        tip = (int(centre[0] + radius * np.cos(angle)), int(centre[1] + radius * np.sin(angle)))
        shade = tuple(float(np.clip(c * rng.uniform(0.5, 1.6), 0, 255)) for c in colour)
        cv2.line(canvas, centre, tip, shade, int(rng.integers(1, 4)), cv2.LINE_AA)
    pupil = [(5.0, 5.0, 8.0), _colour(rng, (60, 70, 80), (180, 190, 200)), _colour(rng, (10, 30, 90), (60, 110, 220))]
    cv2.circle(canvas, centre, int(radius * rng.uniform(0.25, 0.85)), pupil[int(rng.integers(3))], -1, cv2.LINE_AA)


def _lashes(canvas: Image, lid: np.ndarray, length: float, rng: Rng) -> None:
    """Dark curved hairs along a lid."""
    colour = _colour(rng, (0, 0, 0), (40, 50, 60))
    for _ in range(int(rng.integers(0, 70))):
        root = lid[int(rng.integers(3, len(lid) - 3))]
        lean = (root[0] - MIDDLE) * rng.uniform(0.1, 0.6)
        tip = root + np.array([lean, length * rng.uniform(0.4, 1.2)])
        bend = (root + tip) / 2 + np.array([0, -0.3 * length * rng.random()])
        points = np.stack([root, bend, tip]).astype(np.int32)
        cv2.polylines(canvas, [points], False, colour, int(rng.integers(1, 4)), cv2.LINE_AA)


def _wires(canvas: Image, rng: Rng) -> None:
    """The bright wires of a lid speculum."""
    for _ in range(int(rng.integers(2, 5))):
        points = rng.uniform(0, SIZE, (3, 2)).astype(np.int32)
        cv2.polylines(
            canvas,
            [points],
            False,
            _colour(rng, (120, 120, 120), (230, 230, 230)),
            int(rng.integers(4, 10)),
            cv2.LINE_AA,
        )


def _reflexes(canvas: Image, rng: Rng, spread: float) -> None:
    """Images of the lamp: small, white, near the middle."""
    for _ in range(int(rng.integers(0, 4))):
        x, y = (int(v) for v in MIDDLE + rng.normal(0, spread, 2))
        axes = (int(rng.integers(2, 22)), int(rng.integers(2, 22)))
        cv2.ellipse(canvas, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, (255, 250, 245), -1, cv2.LINE_AA)
