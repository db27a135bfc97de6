"""Files of a bundle that mostly repeat another file of it, as what is different.

The FP16 graph holds the numbers of the FP32 graph, and the INT8 graph for CPUs those of the other one. So the wheel
carries `NAME.delta` in place of NAME, and a bundle is whole where either lies: `restore` gives the same bytes, whose
SHA-256 the card states. This module needs nothing but the standard library: `setup.py` packs by it.

A delta is one line, ``fthnet-delta 1 BASE SIZE``, then pieces until SIZE bytes are there: three unsigned 64-bit
little-endian numbers (offset in BASE, bytes to copy from there, bytes that follow), and those that follow.
"""

from __future__ import annotations

import re
import struct
from itertools import count
from pathlib import Path

SUFFIX = ".delta"
PACKED = {  # the file that each repeats
    "fthnet.fp16.onnx": "fthnet.fp32.onnx",
    "fthnet.int8-cpu.onnx": "fthnet.int8.onnx",
}
HEAD = re.compile(rb"fthnet-delta 1 ([\w.-]{1,99}) (\d{1,10})\n")
PIECE = struct.Struct("<QQQ")
BLOCK = 64  # bytes; the shortest run that is looked for


def base_of(delta: bytes) -> str:
    """Name of the file that a delta repeats; raises ValueError for no delta."""
    return _head(delta)[0]


def restore(delta: bytes, base: bytes, most: int) -> bytes:
    """The file that a delta stands for.

    Raises:
        ValueError: no delta, one of another base, or one of more than `most` bytes.
    """
    _, size, at = _head(delta)
    if size > most:
        raise ValueError(f"expected at most {most} bytes, found a delta of {size}")
    content, source = bytearray(), memoryview(base)
    while len(content) < size:
        if at + PIECE.size > len(delta):
            raise ValueError("expected more pieces, found the end of the delta")
        offset, copied, added = PIECE.unpack_from(delta, at)
        at += PIECE.size
        if copied + added == 0 or offset + copied > len(base) or len(content) + copied + added > size:
            raise ValueError("expected a piece of this base, found one beyond it")
        content += source[offset : offset + copied]
        content += delta[at : at + added]
        at += added
    if at != len(delta) or len(content) != size:
        raise ValueError("expected the end of the delta, found another one")
    return bytes(content)


def make(content: bytes, base: bytes, base_name: str) -> bytes:
    """What is different, for `restore`."""
    blocks = {base[at : at + BLOCK]: at for at in range(len(base) - BLOCK, -1, -BLOCK)}
    delta = bytearray(f"fthnet-delta 1 {base_name} {len(content)}\n".encode())
    at = begin = 0  # where it looks, and where what no piece holds yet begins
    source = copied = 0  # the run that comes before that
    while at < len(content):
        found = blocks.get(content[at : at + BLOCK])
        if found is None:
            at += 1
            continue
        back = next(n for n in count() if n == min(at - begin, found) or content[at - n - 1] != base[found - n - 1])
        delta += _piece(source, copied, content[begin : at - back])
        source, copied = found - back, back + _same(content, at, base, found)
        at = begin = at - back + copied
    return bytes(delta + _piece(source, copied, content[begin:]))


def _piece(offset: int, copied: int, added: bytes) -> bytes:
    return PIECE.pack(offset, copied, len(added)) + added if copied or added else b""


def pack(folder: Path) -> None:
    """Put deltas in place of the files of a bundle that they stand for."""
    for name, base in PACKED.items():
        path = folder / name
        path.with_name(name + SUFFIX).write_bytes(make(path.read_bytes(), (folder / base).read_bytes(), base))
        path.unlink()


def _same(content: bytes, at: int, base: bytes, found: int) -> int:
    """For how many bytes both go on alike."""
    longest = min(len(content) - at, len(base) - found)
    length, step = 0, 1 << 20
    while step and length < longest:
        end = min(step, longest - length)
        if content[at + length : at + length + end] == base[found + length : found + length + end]:
            length += end
        else:
            step //= 2
    return length


def _head(delta: bytes) -> tuple[str, int, int]:
    """Name of the base, size of the file, and where the pieces begin."""
    head = HEAD.match(delta)
    if head is None:
        raise ValueError("expected a delta, found something else")
    return head[1].decode(), int(head[2]), head.end()
