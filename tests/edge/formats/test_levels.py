"""Bits: 10 to 15 bits in 16-bit files give the picture of 8 bits, or are refused with the option named."""

from __future__ import annotations

import json
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fthnet_kit.edge.errors import PictureError
from fthnet_kit.edge.formats.levels import assume_bits, assumed_bits
from fthnet_kit.edge.formats.read import read_image
from tests.edge.formats.test_tiff import Page, tiff_of

FUNDUS = cv2.resize(cv2.imread(str(Path("edge/assets/retina.jpg"))), (240, 240), interpolation=cv2.INTER_AREA)
BITS = (9, 10, 12, 14, 15)


def of_bits(bits: int, image: np.ndarray = FUNDUS) -> np.ndarray:
    """The picture with `bits` bits in 16."""
    return np.round(image.astype(float) * ((1 << bits) - 1) / 255).astype(np.uint16)


def png(image: np.ndarray, *chunks: bytes) -> bytes:
    data = cv2.imencode(".png", image)[1].tobytes()
    return data[:33] + b"".join(chunks) + data[33:]


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def apart(found: np.ndarray, expected: np.ndarray = FUNDUS) -> int:
    return int(np.abs(found.astype(int) - expected).max())


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("form", ["png", "tiff", "gray"])
def test_fewer_bits_that_nobody_tells_are_refused(bits: int, form: str) -> None:
    deep = of_bits(bits)
    data = {
        "png": lambda: png(deep),
        "tiff": lambda: tiff_of(Page(deep[:, :, ::-1])),
        "gray": lambda: png(deep[:, :, 1]),
    }[form]()
    with pytest.raises(PictureError, match=f"give --bits {bits}") as caught:
        read_image(data)
    assert caught.value.kind == "unclear"
    assert "\n" not in str(caught.value)
    expected = np.repeat(FUNDUS[:, :, 1:2], 3, 2) if form == "gray" else FUNDUS
    assert apart(read_image(data, bits), expected) == 0
    with assume_bits(bits):
        assert apart(read_image(data), expected) == 0
    assert assumed_bits() is None


@given(brightest=st.integers(256, 32_767))
def test_no_picture_without_bright_values_is_taken_for_a_dark_one(brightest: int) -> None:
    deep = (FUNDUS.astype(np.uint32) * brightest // int(FUNDUS.max())).astype(np.uint16)
    with pytest.raises(PictureError, match="or --bits 16 for a dark picture"):
        read_image(png(deep))
    assert apart(read_image(png(deep), 16), (deep.astype(np.uint32) + 128) // 257) <= 1


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_a_full_range_is_read_as_it_is_whatever_its_origin(bits: int) -> None:
    """Values shifted to the top, or scaled."""
    shifted = of_bits(bits) << (16 - bits)
    scaled = np.round(of_bits(bits) * (65_535 / ((1 << bits) - 1))).astype(np.uint16)
    assert apart(read_image(png(shifted))) <= 1
    assert apart(read_image(png(scaled))) == 0
    assert apart(read_image(png(scaled, chunk(b"sBIT", bytes([bits] * 3))))) == 0


def test_a_png_that_says_sixteen_bits_is_dark() -> None:
    dark = of_bits(14) // 2
    found = read_image(png(dark, chunk(b"sBIT", b"\x10\x10\x10")))
    assert apart(found, (dark.astype(np.uint32) + 128) // 257) <= 1


def test_dark_pictures_of_eight_bits_stay_what_they_are() -> None:
    dark = FUNDUS // 5
    assert apart(read_image(png(dark)), dark) == 0
    assert apart(read_image(png(dark.astype(np.uint16) * 257)), dark) == 0
    assert read_image(png(np.zeros((20, 30), np.uint16))).max() == 0


@pytest.mark.parametrize("bits", BITS)
def test_a_png_says_its_bits(bits: int) -> None:
    assert apart(read_image(png(of_bits(bits), chunk(b"sBIT", bytes([bits] * 3))))) == 0
    gray = read_image(png(of_bits(bits)[:, :, 1], chunk(b"sBIT", bytes([bits]))))
    assert apart(gray, np.repeat(FUNDUS[:, :, 1:2], 3, 2)) == 0


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_says_its_highest_value(bits: int, order: str) -> None:
    deep = of_bits(bits)[:, :, ::-1]
    assert apart(read_image(tiff_of(Page(deep, {281: [(1 << bits) - 1] * 3}), order=order))) == 0
    with pytest.raises(PictureError, match="give --bits"):  # a highest value that was found is no scale
        read_image(tiff_of(Page(deep, {281: [int(deep.max()) - 5] * 3}), order=order))


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_a_tiff_with_packed_bits_is_scaled(bits: int) -> None:
    rows = []
    for row in of_bits(bits)[:, :, ::-1].reshape(240, -1):
        packed = np.unpackbits(row.astype(">u2").view(np.uint8)).reshape(-1, 16)[:, 16 - bits :]
        rows.append(np.packbits(packed.ravel()))
    page = Page(np.array(rows), {256: 240, 258: [bits] * 3, 262: 2, 277: 3})
    assert apart(read_image(tiff_of(page))) == 0


@pytest.mark.parametrize("white", [100, 255, 1023, 4095, 16_383, 65_535])
def test_a_pnm_says_its_white(white: int) -> None:
    values = np.round(FUNDUS[:, :, ::-1].astype(float) * white / 255)
    data = b"P6\n# made by a camera\n240 240\n%d\n" % white + values.astype("u1" if white < 256 else ">u2").tobytes()
    assert apart(read_image(data)) <= (2 if white < 255 else 0)


def test_a_jpeg_2000_says_its_bits() -> None:
    coded = cv2.imencode(".jp2", of_bits(16))[1].tobytes()
    at = coded.index(b"\xff\x4f\xff\x51")
    assert apart(read_image(coded)) <= 2
    assert coded[at + 42] == 15


def test_values_beyond_the_bits_are_refused() -> None:
    with pytest.raises(PictureError, match=r"expected values up to 1023, found .*--bits"):
        read_image(png(of_bits(14)), 10)


def test_alpha_of_sixteen_bits_does_not_count(tmp_path: Path) -> None:
    deep = np.dstack([of_bits(12), np.full((240, 240), 65_535, np.uint16)])
    with pytest.raises(PictureError, match="give --bits 12"):
        read_image(png(deep))
    assert apart(read_image(png(deep), 12)) == 0


def test_the_command_scores_as_the_picture_of_eight_bits(
    tmp_path: Path, fthnet: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (tmp_path / "deep.png").write_bytes(png(of_bits(14)))
    (tmp_path / "plain.png").write_bytes(png(FUNDUS))
    done = fthnet("score", "--json", tmp_path)
    assert done.returncode == 3
    assert "deep.png" in done.stderr and "--bits 14" in done.stderr
    done = fthnet("score", "--json", "--bits", 14, tmp_path)
    assert done.returncode == 0
    deep, plain = (json.loads(line)["score"] for line in done.stdout.splitlines())
    assert deep == plain
