"""TIFF: the full picture, whole, in its colours; or refused with the reason."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from fthnet_kit.edge.errors import PictureError
from fthnet_kit.edge.formats.lzw import unpacked_size
from fthnet_kit.edge.formats.read import read_image

Pixels = npt.NDArray[np.generic]
SHORT, LONG = 3, 4


@dataclass
class Page:
    """A page of RGB or gray pixels (H, W[, S]) for `tiff_of`, and tags that differ from the plain ones."""

    pixels: Pixels
    tags: dict[int, int | Sequence[int]] = field(default_factory=dict)
    pack: Callable[[bytes], bytes] = bytes
    rows: int = 16


def tiff_of(*pages: Page, order: str = "<", big: bool = False) -> bytes:
    """A TIFF with its directories before its pixels, as cameras write it."""
    word, count_as, entry, step = ("Q", "Q", "HHQ", 20) if big else ("I", "H", "HHI", 12)
    data = bytearray(b"II" if order == "<" else b"MM")
    data += struct.pack(order + "HHH", 43, 8, 0) if big else struct.pack(order + "H", 42)
    link = len(data)
    data += bytes(struct.calcsize("=" + word))
    for page in pages:
        pixels = (
            page.pixels.astype(page.pixels.dtype.newbyteorder(order)) if page.pixels.dtype.kind == "u" else page.pixels
        )
        height, width = pixels.shape[:2]
        samples = pixels.shape[2] if pixels.ndim == 3 else 1
        strips = [page.pack(pixels[row : row + page.rows].tobytes()) for row in range(0, height, page.rows)]
        tags: dict[int, int | Sequence[int]] = {
            **{256: width, 257: height, 258: [8 * pixels.dtype.itemsize] * samples, 259: 1},
            **{262: 2 if samples > 2 else 1, 273: [0] * len(strips), 277: samples, 278: page.rows},
            **{279: [len(strip) for strip in strips], 284: 1},
            **page.tags,
        }
        start = len(data)
        struct.pack_into(order + word, data, link, start)
        after = start + struct.calcsize(order + count_as) + step * len(tags) + struct.calcsize("=" + word)
        extra = bytearray()
        at = after + sum(4 * len(v) for v in tags.values() if not isinstance(v, int))
        offsets = [at + sum(len(strip) for strip in strips[:n]) for n in range(len(strips))]
        tags[273] = offsets
        directory = bytearray(struct.pack(order + count_as, len(tags)))
        for tag, value in sorted(tags.items()):
            values = [value] if isinstance(value, int) else list(value)
            packed = struct.pack(f"{order}{len(values)}I", *values)
            inside = struct.calcsize("=" + word)
            if len(packed) <= inside:
                place = packed.ljust(inside, b"\0")
            else:
                place = struct.pack(order + word, after + len(extra))
                extra += packed
            directory += struct.pack(order + entry, tag, LONG, len(values)) + place
        link = start + len(directory)
        directory += bytes(struct.calcsize("=" + word))
        data += directory + extra.ljust(at - after, b"\0") + b"".join(strips)
    return bytes(data)


def lzw(data: bytes) -> bytes:
    """Packed by libtiff: the only strip of a picture of one row."""
    buffer = io.BytesIO()
    Pillow.frombytes("L", (len(data), 1), data).save(buffer, "TIFF", compression="tiff_lzw")
    with Pillow.open(buffer) as picture:
        (offset,), (size,) = picture.tag_v2[273], picture.tag_v2[279]
    return buffer.getvalue()[offset : offset + size]


def packbits(data: bytes) -> bytes:
    return b"".join(bytes([len(part) - 1]) + part for part in (data[at : at + 128] for at in range(0, len(data), 128)))


@pytest.fixture(scope="module")
def picture() -> Pixels:
    """Smooth colours and some grain, RGB (90, 70, 3)."""
    y, x = np.mgrid[:90, :70]
    grain = np.random.default_rng(0).integers(0, 40, (90, 70, 3))
    return (np.dstack([2 * x + 40, x + y, 2 * y]) + grain).clip(0, 255).astype(np.uint8)


def bgr(pixels: Pixels) -> Pixels:
    return np.ascontiguousarray(pixels[:, :, ::-1])


PACK_BITS = 32773
PACKINGS = {1: bytes, 5: lzw, 8: zlib.compress, 32_946: zlib.compress, 32_773: packbits}


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packing", PACKINGS)
def test_whole_pictures_are_read_in_every_packing(picture: Pixels, packing: int, order: str, big: bool) -> None:
    data = tiff_of(Page(picture, {259: packing}, PACKINGS[packing]), order=order, big=big)
    assert np.array_equal(read_image(data), bgr(picture))


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_what_libtiff_writes_is_read(picture: Pixels, compression: str | None) -> None:
    buffer = io.BytesIO()
    Pillow.fromarray(picture).save(buffer, "TIFF", compression=compression)
    assert np.array_equal(read_image(buffer.getvalue()), bgr(picture))


def test_jpeg_inside_is_read_and_checked(picture: Pixels) -> None:
    buffer = io.BytesIO()
    Pillow.fromarray(picture).save(buffer, "TIFF", compression="jpeg")
    whole = buffer.getvalue()
    with Pillow.open(buffer) as found:
        expected = bgr(np.asarray(found.convert("RGB")))
        at, size = found.tag_v2[273][0], found.tag_v2[279][0]
    assert np.abs(read_image(whole).astype(int) - expected).max() <= 4
    with pytest.raises(PictureError, match="damaged strip"):
        read_image(whole[: at + size // 2] + bytes(size // 4) + whole[at + size // 2 + size // 4 :])


@pytest.mark.parametrize("packing", [packing for packing in PACKINGS if packing not in (1, PACK_BITS)])
@given(data=st.data())
def test_packed_pictures_that_lost_bytes_are_refused(picture: Pixels, packing: int, data: st.DataObject) -> None:
    """Bytes taken out, zeros in their place, or the end cut off."""
    whole = tiff_of(Page(picture, {259: packing}, PACKINGS[packing]))
    start = whole.index(PACKINGS[packing](picture[:16].tobytes()))
    length = data.draw(st.integers(200, 2_000))
    at = data.draw(st.integers(start, len(whole) - length))
    how = data.draw(st.sampled_from(["hole", "zeros", "cut"]))
    rest = {"hole": whole[at + length :], "zeros": bytes(length) + whole[at + length :], "cut": b""}[how]
    with pytest.raises(PictureError) as caught:
        read_image(whole[:at] + rest)
    assert caught.value.kind == "damaged"


def test_pack_bits_that_lost_bytes_are_refused(picture: Pixels) -> None:
    """Not every loss shows: by chance what is left may unpack to the right length."""
    whole = tiff_of(Page(picture, {259: PACK_BITS}, PACKINGS[PACK_BITS]))
    middle = len(whole) // 2
    for damaged in (whole[:middle] + whole[middle + 2_000 :], whole[:middle]):
        with pytest.raises(PictureError) as caught:
            read_image(damaged)
        assert caught.value.kind == "damaged"


def test_plain_pictures_cut_short_are_refused(picture: Pixels) -> None:
    whole = tiff_of(Page(picture))
    for length in (len(whole) - 1, len(whole) // 2, 300, 12, 5):
        with pytest.raises(PictureError, match="expected a whole TIFF"):
            read_image(whole[:length])


@given(st.binary(min_size=1, max_size=6_000) | st.binary(min_size=1, max_size=8).map(lambda part: part * 9_000))
def test_lzw_sizes_are_those_of_what_was_packed(content: bytes) -> None:
    content = content[:30_000]
    assert unpacked_size(lzw(content), len(content)) == len(content)


@pytest.mark.parametrize("first", ["thumbnail", "picture"])
@pytest.mark.parametrize("mark", [{254: 1}, {255: 2}, {254: 4}, {}])
def test_the_thumbnail_is_never_taken_for_the_picture(picture: Pixels, first: str, mark: dict[int, int]) -> None:
    pages = [Page(picture[::2, ::2], mark), Page(picture)]
    assert np.array_equal(read_image(tiff_of(*(pages if first == "thumbnail" else pages[::-1]))), bgr(picture))


def test_a_large_thumbnail_that_says_so_is_one(picture: Pixels) -> None:
    assert np.array_equal(read_image(tiff_of(Page(picture[:80], {254: 1}), Page(picture))), bgr(picture))


def test_pages_below_the_first_are_looked_at(picture: Pixels) -> None:
    plain = tiff_of(Page(picture[::2, ::2], {254: 1, 330: 0}), Page(picture))
    second = len(tiff_of(Page(picture[::2, ::2], {254: 1, 330: 0})))
    alone = tiff_of(Page(picture[::2, ::2], {254: 1, 330: second}), Page(picture))
    (count,) = struct.unpack_from("<H", alone, 8)
    unlinked = bytearray(alone)
    unlinked[10 + 12 * count : 14 + 12 * count] = bytes(4)
    assert len(plain) == len(alone)
    assert np.array_equal(read_image(bytes(unlinked)), bgr(picture))


def test_several_full_pages_are_told(picture: Pixels) -> None:
    with pytest.raises(PictureError, match=r"TIFF with 2 full pages \(70x90, 70x80\)") as caught:
        read_image(tiff_of(Page(picture), Page(picture[:80])))
    assert caught.value.kind == "unclear"


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({254: 1}, "nothing but thumbnails"),
        ({50_706: 1}, "raw data of a camera"),
        ({262: 8}, "photometric interpretation 8"),
        ({262: 9}, "photometric interpretation 9"),
        ({262: 32_803}, "photometric interpretation 32803"),
        ({262: 6}, "YCbCr without JPEG"),
        ({262: 5}, "inks other than CMYK"),
        ({339: [2, 2, 2]}, "or signed, or floating"),
        ({258: [8, 8, 16]}, "samples of 8, 16 bits"),
        ({259: 50_000}, "compression 50000"),
    ],
)
def test_what_would_be_read_to_wrong_colours_is_refused(
    picture: Pixels, tags: dict[int, int | Sequence[int]], message: str
) -> None:
    with pytest.raises(PictureError, match=message) as caught:
        read_image(tiff_of(Page(picture, tags)))
    assert caught.value.kind == "unsupported"
    assert "\n" not in str(caught.value)


def test_floating_point_and_deep_planes_are_refused(picture: Pixels) -> None:
    with pytest.raises(PictureError, match="samples of 32 bits"):
        read_image(tiff_of(Page(picture.astype(np.float32))))
    with pytest.raises(PictureError, match="16 bits in inverted, CMYK, palette or planar form"):
        read_image(tiff_of(Page(picture.astype(np.uint16) * 257, {284: 2})))
    with pytest.raises(PictureError, match="16 bits in inverted"):
        read_image(tiff_of(Page(picture[:, :, 0].astype(np.uint16) * 257, {262: 0})))


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "P", "L", "1"])
def test_other_colours_agree_with_pillow(picture: Pixels, mode: str) -> None:
    stored = Pillow.fromarray(picture).convert(mode)
    buffer = io.BytesIO()
    stored.save(buffer, "TIFF")
    expected = bgr(np.asarray(stored.convert("RGB")))
    try:
        found = read_image(buffer.getvalue())
    except PictureError as error:
        assert mode == "YCbCr"
        assert error.kind == "unsupported"
    else:
        assert np.abs(found.astype(int) - expected).max() <= 2


def test_white_is_zero_is_inverted(picture: Pixels) -> None:
    gray = picture[:, :, 0]
    assert np.array_equal(read_image(tiff_of(Page(255 - gray, {262: 0})))[:, :, 0], gray)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize(("extra", "share"), [(None, 0.5), (0, 1.0), (1, 1.0), (2, 0.5)])
def test_alpha_is_black_where_colours_are_not_multiplied_yet(
    picture: Pixels, depth: type, extra: int | None, share: float
) -> None:
    full = np.iinfo(depth).max
    deep = picture.astype(depth) * (full // 255)
    pixels = np.dstack([deep, np.full(deep.shape[:2], full // 2 + 1, depth)])
    found = read_image(tiff_of(Page(pixels, {} if extra is None else {338: extra})))
    assert np.abs(found.astype(float) - share * bgr(picture)).max() <= 1


@pytest.mark.parametrize("held", range(1, 9))
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_orientation_is_applied_once(picture: Pixels, depth: type, held: int) -> None:
    stored = picture.astype(depth) * (np.iinfo(depth).max // 255)
    seen = {
        1: picture,
        2: picture[:, ::-1],
        3: picture[::-1, ::-1],
        4: picture[::-1],
        5: picture.transpose(1, 0, 2),
        6: np.rot90(picture, -1),
        7: picture[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(picture),
    }[held]
    assert np.array_equal(read_image(tiff_of(Page(stored, {274: held}))), bgr(seen))


def test_a_huge_size_is_refused_before_decoding(picture: Pixels) -> None:
    with pytest.raises(PictureError) as caught:
        read_image(tiff_of(Page(picture, {256: 200_000})))
    assert caught.value.kind == "too_large"


@given(data=st.data())
def test_broken_headers_are_one_error(picture: Pixels, data: st.DataObject) -> None:
    whole = bytearray(tiff_of(Page(picture[::2, ::2], {254: 1}), Page(picture)))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(4, 260))] = data.draw(st.integers(0, 255))
    try:
        read_image(bytes(whole))
    except PictureError as error:
        assert "\n" not in str(error)


def field_of(photograph: Pixels, masked: bool) -> Pixels:
    """The kit's photograph as RGB (450, 600, 3), with black beside it, exactly black if it is masked."""
    picture = np.zeros((450, 600, 3), np.uint8)
    picture[:, 75:525] = Pillow.fromarray(photograph[:, :, ::-1]).resize((450, 450))
    if masked:
        picture[picture.max(axis=2) < 16] = 0
    return picture


@pytest.mark.parametrize("masked", [False, True], ids=["noisy border", "black border"])
@settings(max_examples=20)
@given(data=st.data())
def test_plain_pictures_of_which_a_part_became_zeros_are_refused(
    photograph: Pixels, masked: bool, data: st.DataObject
) -> None:
    picture = field_of(photograph, masked)
    rows = data.draw(st.sampled_from([1, 16, 500]), label="rows of a strip")
    whole = tiff_of(Page(picture, rows=rows))
    np.testing.assert_array_equal(read_image(whole), bgr(picture))
    size = data.draw(st.sampled_from([512, 4096, 16_384]), label="size")
    row, column = data.draw(st.tuples(st.integers(150, 290), st.integers(200, 340)), label="place in the field")
    at = whole.index(picture.tobytes()) + 3 * (600 * row + column)
    damaged = whole[:at] + bytes(size) + whole[at + size :]
    with pytest.raises(PictureError, match="of which a part is zeros"):
        read_image(damaged)


@pytest.mark.parametrize("strip", [9, 14])
def test_plain_pictures_without_a_strip_are_refused(photograph: Pixels, strip: int) -> None:
    picture = field_of(photograph, masked=True)
    whole = tiff_of(Page(picture, rows=16))
    at = whole.index(picture.tobytes()) + strip * 16 * 1800
    with pytest.raises(PictureError, match="of which a part is zeros"):
        read_image(whole[:at] + bytes(2 * 16 * 1800) + whole[at + 2 * 16 * 1800 :])


def drawn(kind: str, picture: Pixels) -> Pixels:
    """A whole picture with black in it that is not damage."""
    picture = picture.copy()
    if kind == "cut field, line of text below":
        picture[300:] = 0
        picture[360:375, 40:560] = np.random.default_rng(0).integers(0, 2, (15, 520, 1), np.uint8) * 255
    elif kind == "cut field that fills the width, bar below":
        picture = np.concatenate([picture[:300, 100:500], np.zeros((60, 400, 3), np.uint8)])
        picture[330:] = 200
    elif kind == "black box":
        picture[150:190, 200:420] = 0
    elif kind == "black frame":
        picture[:40] = picture[-40:] = picture[:, :40] = picture[:, -40:] = 0
    elif kind == "two fields":
        picture = np.concatenate([picture, picture], axis=1)
    elif kind == "black":
        picture[:] = 0
    return picture


@pytest.mark.parametrize("rows", [1, 16, 500])
@pytest.mark.parametrize(
    "kind",
    [
        "plain",
        "cut field, line of text below",
        "cut field that fills the width, bar below",
        "black box",
        "black frame",
        "two fields",
        "black",
    ],
)
def test_black_that_is_no_damage_is_read(photograph: Pixels, kind: str, rows: int) -> None:
    picture = drawn(kind, field_of(photograph, masked=True))
    np.testing.assert_array_equal(read_image(tiff_of(Page(picture, rows=rows))), bgr(picture))
