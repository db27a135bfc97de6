"""Writes `preprocess.json`: what preprocessing makes of known pictures, as block means.

Run it after a deliberate change of preprocessing: `python tests/golden/make_preprocess_golden.py`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np

from fthnet_kit.edge.model.preprocess import Preprocessing, find_field, prepare

HERE = Path(__file__).parent
BLOCK = 48


def pictures() -> dict[str, np.ndarray]:
    """The photograph at several sizes and placements, gray, 16-bit, and pictures without a field."""
    photograph = cv2.imread(str(HERE.parents[1] / "edge" / "assets" / "retina.jpg"))
    wide = cv2.copyMakeBorder(cv2.resize(photograph, (700, 700), interpolation=cv2.INTER_AREA), 20, 0, 301, 99, 0)
    return {
        "photograph": photograph,
        "wide": wide,
        "cut above and below": wide[100:600],
        "enlarged": cv2.resize(photograph, (300, 300), interpolation=cv2.INTER_AREA),
        "gray": cv2.cvtColor(photograph, cv2.COLOR_BGR2GRAY),
        "16-bit": photograph.astype(np.uint16) * 257,
        "black": np.zeros((480, 640, 3), np.uint8),
        "one pixel": np.full((1, 1, 3), 200, np.uint8),
    }


def golden() -> list[dict[str, object]]:
    """Field and block means of every picture in every way of preprocessing."""
    rows: list[dict[str, object]] = []
    for name, picture in pictures().items():
        for crop in ("square", "none"):
            for views in (1, 5, 20):
                made = prepare(picture, Preprocessing(field_crop=crop, seed=7), views)  # type: ignore[arg-type]
                blocks = made.reshape(len(made), 384 // BLOCK, BLOCK, 384 // BLOCK, BLOCK, 3).mean(axis=(2, 4))
                kept = blocks if views == 1 else blocks.mean(axis=(1, 2))
                rows.append({"picture": name, "crop": crop, "views": views, "means": np.round(kept, 2).tolist()})
        if picture.ndim == 3 and picture.dtype == np.uint8:
            rows.append({"picture": name, "field": list(vars(find_field(picture)).values())})
    return rows


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "preprocess.json"
    target.write_text(json.dumps(golden(), separators=(",", ":")) + "\n")
