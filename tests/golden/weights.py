"""Seeded weights and inputs of the golden outputs in `fthnet.json`: the same numbers on every machine."""

from __future__ import annotations

import zlib

import numpy as np


def weight(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Value of one parameter; LayerNorm scales sit around one."""
    values = np.random.default_rng([seed, zlib.crc32(key.encode())]).standard_normal(shape)
    if len(shape) > 1:
        return (values * 1.2 / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    around = 1.0 if "norm" in key and key.endswith("weight") else 0.0
    return (values * 0.1 + around).astype(np.float32)


def image(seed: int, n: int = 3) -> np.ndarray:
    """Normalised network input (n, 3, 384, 384)."""
    return np.random.default_rng([seed, 7]).standard_normal((n, 3, 384, 384)).astype(np.float32)
