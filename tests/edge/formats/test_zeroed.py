"""Holes of zeros in unpacked pictures, on real photographs."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from fthnet_kit.edge.formats.zeroed import LIT, has_empty_strip, has_hole

IN_BULK = int(os.environ.get("FTHNET_HOLES", "30"))
BLACK = 8  # gray levels below which a camera may have set its border to 0
SETS = ("fundus", "drimdb_val", "hei_med", "fqs_sample")


def photographs(data: Path) -> list[Path]:
    found = [path for each in SETS for path in sorted((data / each).rglob("*")) if path.suffix in (".jpg", ".png")]
    return found[:: max(1, len(found) // IN_BULK)]


def masked(image: np.ndarray, below: int) -> np.ndarray:
    """Exactly black where it is dark, as (bytes,)."""
    return np.where(image.max(axis=2, keepdims=True) < below, np.uint8(0), image).reshape(-1)


@pytest.mark.slow
def test_photographs_have_no_hole_in_bulk(data: Path) -> None:
    """`FTHNET_HOLES=2000 pytest -m slow -k hole_in_bulk` takes all, in about four minutes."""
    taken = photographs(data)
    for path in taken:
        image = cv2.imread(str(path))
        width = 3 * image.shape[1]
        for below in (0, BLACK, LIT):
            content = masked(image, below)
            assert not has_hole(content, width), path
            assert not any(has_empty_strip(content, width, rows) for rows in (8, 16)), path
    assert len(taken) >= min(IN_BULK, 1600)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "share"), [(512, 0.8), (4096, 0.8), (16_384, 0.8)])
def test_holes_in_photographs_are_found_in_bulk(data: Path, size: int, share: float) -> None:
    rng = np.random.default_rng(size)
    holes, found = 0, 0
    for path in photographs(data):
        image = cv2.imread(str(path))
        content = masked(image, BLACK)
        at = int(rng.integers(len(content) - size))
        if np.count_nonzero(content[at : at + size]) < size // 2:  # mostly in the border
            continue
        content[at : at + size] = 0
        holes, found = holes + 1, found + has_hole(content, 3 * image.shape[1])
    print(f"{found} of {holes}")
    assert found >= share * holes > 0
