"""Identity of a checkpoint's parameters, read from its safetensors file without torch."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from fthnet_kit.edge.errors import BundleError

TYPES = {"F16": "<f2", "F32": "<f4"}
LENGTH_BYTES = 8
MOST_HEADER_BYTES = 1 << 24
METADATA = "__metadata__"


def weights_sha256(content: bytes, where: str) -> str:
    """SHA-256 over names, shapes and float32 bytes of all parameters in the order of their names.

    Args:
        content: of a safetensors file, as `fthnet export` writes it.
        where: its name, for the message.

    Raises:
        BundleError: no such file.
    """
    digest = hashlib.sha256()
    try:
        length = int.from_bytes(content[:LENGTH_BYTES], "little")
        if length > MOST_HEADER_BYTES:
            raise ValueError(f"a header of {length} bytes")
        start = LENGTH_BYTES + length
        header = json.loads(content[LENGTH_BYTES:start])
        for name in sorted(set(header) - {METADATA}):
            kind, shape, (begin, end) = (header[name][key] for key in ("dtype", "shape", "data_offsets"))
            values = np.frombuffer(content[start + begin : start + end], TYPES[kind]).reshape(shape)
            digest.update(f"{name} {values.shape}\n".encode())
            digest.update(values.astype("<f4").tobytes())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BundleError(f"{where}: expected a safetensors file of FTHNet, found something else ({error})") from error
    return digest.hexdigest()
