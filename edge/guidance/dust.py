"""Specks that stay where they are while the eye moves."""

from __future__ import annotations

from collections import deque

import numpy as np

from fthnet_kit.edge.guidance.measures import Map, Measures
from fthnet_kit.edge.image import Image

DUST_CONTRAST = 0.08  # darker or brighter than its surroundings, whichever part of the eye lies behind
DUST_STEADY = 1.5  # between its strongest and weakest: what a part of the eye leaves behind as it passes varies more
PLACES = 9  # positions of the eye over which dust is separated from what moves with the eye
PLACE_STEP = 0.012  # field diameters between two places
SPREAD = 0.05  # field diameters that the places must span: a disc's radius
SAME = 0.6  # correlation of details of one place
VESSEL = 0.12  # contrast of a vessel: more than that counts no more, or dust would decide


class Dust:
    """Tells what stays in its place in the picture while the eye moves: a blemish of the lens or the sensor."""

    def __init__(self) -> None:
        self._maps: deque[tuple[tuple[float, float], Map, Image]] = deque(maxlen=PLACES)
        self._place = (0.0, 0.0)
        self.share = 0.0

    def add(self, measures: Measures, *, clear: bool) -> None:
        """Follow the movement and, where the frame has no other defect, take it into account if the place is new.

        `share` is then the part of the field that differs from its surroundings in all places but one at most.
        """
        if measures.detail is None or measures.inside is None:
            return
        if self._maps and self._maps[0][1].shape != measures.detail.shape:
            self._maps.clear()
        if measures.shift is not None:
            self._place = (self._place[0] + measures.shift[0], self._place[1] + measures.shift[1])
        if not clear:
            return
        if any(self._is_known(place, detail, measures.detail) for place, detail, _ in self._maps):
            return
        self._maps.append((self._place, measures.detail, measures.inside))
        spread = max(np.ptp([place[axis] for place, _, _ in self._maps]) for axis in (0, 1))
        if len(self._maps) < PLACES or spread < SPREAD:
            return
        inside = np.logical_and.reduce([inside for _, _, inside in self._maps])
        details = np.stack([detail[inside] for _, detail, _ in self._maps])
        details.sort(axis=0)
        low, high = details[1], details[-2]  # in all places but one or two
        dark = (high < -DUST_CONTRAST) & (low > DUST_STEADY * high)
        bright = (low > DUST_CONTRAST) & (high < DUST_STEADY * low)
        stays = dark | bright
        self.share = float(np.mean(stays)) if stays.size else 0.0

    def _is_known(self, place: tuple[float, float], kept: Map, detail: Map) -> bool:
        """Whether the eye is where it was: no step away by the tracked movement, or the same vessels in sight."""
        if np.hypot(self._place[0] - place[0], self._place[1] - place[1]) < PLACE_STEP:
            return True
        one, other = np.clip(kept, -VESSEL, VESSEL), np.clip(detail, -VESSEL, VESSEL)
        return bool(np.vdot(one, other) > SAME * np.sqrt(np.vdot(one, one) * np.vdot(other, other)))
