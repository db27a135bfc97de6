"""TIFF: the picture and not its thumbnail, whole, in colours that are read right.

OpenCV decodes the first page whatever it is, and hides what its decoder (libtiff) reports of damage. So the pages are
read here, the one that is the picture is chosen, its compressed strips are checked, and only then it is decoded.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from fthnet_kit.edge.errors import PictureError
from fthnet_kit.edge.formats import jpeg
from fthnet_kit.edge.formats.alpha import on_black
from fthnet_kit.edge.formats.levels import WHITE_16
from fthnet_kit.edge.formats.lzw import unpacked_size
from fthnet_kit.edge.formats.zeroed import has_empty_strip, has_hole
from fthnet_kit.edge.image import Image, check_size, to_bgr8

BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MOST_PAGES = 1_000
REDUCED, MASK = 1, 4  # flags of tag 254
NEW_SUBFILE, SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 254, 255, 256, 257, 258, 259, 262
STRIP_OFFSETS, SAMPLES, STRIP_ROWS, STRIP_SIZES, MOST, PLANAR = 273, 277, 278, 279, 281, 284
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_SIZES, SUB_PAGES, INKS, EXTRA = 322, 323, 324, 325, 330, 332, 338
SAMPLE_FORMAT, JPEG_TABLES, DNG_VERSION = 339, 347, 50_706
WHITE_IS_ZERO, PALETTE, CMYK, YCBCR = 0, 3, 5, 6
DARK_IS_ZERO = (1, 2)
GRAY_OR_COLOUR = (WHITE_IS_ZERO, 1, 2, PALETTE)
NONE, LZW, JPEG, DEFLATE, OLD_DEFLATE, PACKBITS = 1, 5, 7, 8, 32_946, 32_773
CODES = {1: "B", 3: "H", 4: "I", 7: "B", 13: "I", 16: "Q", 18: "Q"}  # struct codes of the types of tags
UNASSOCIATED = 2  # kind of alpha: colours are not multiplied by it


@dataclass(frozen=True)
class Page:
    """One directory of a TIFF: where it stands, and its tags with whole numbers."""

    offset: int
    tags: dict[int, tuple[int, ...]]

    def value(self, tag: int, default: int = 0) -> int:
        """The first number of a tag."""
        return self.tags.get(tag, (default,))[0]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.value(WIDTH), self.value(HEIGHT)

    @property
    def is_reduced(self) -> bool:
        """Whether it says that it is a thumbnail or a mask of another page."""
        return bool(self.value(NEW_SUBFILE) & (REDUCED | MASK)) or self.value(SUBFILE) == 2


@dataclass(frozen=True)
class Piece:
    """A strip or tile: its bytes, how many it unpacks to, at least and at most, and how many a row has."""

    data: bytes
    least: int
    most: int
    row: int


def decode(data: bytes) -> Image:
    """BGR uint8 (H, W, 3) of the picture in a TIFF, upright.

    Raises:
        PictureError: damaged, several pages that could be meant, or of a kind that is not read right.
    """
    try:
        pages = _pages(data)
    except (struct.error, IndexError) as error:
        raise _damaged("one without a readable directory") from error
    page = _picture(pages)
    check_size(*page.size)
    _refuse_unread(page)
    pieces = list(_pieces(data, page))
    for piece in pieces:
        _check(piece, page)
    if page.value(COMPRESSION, NONE) == NONE and page.value(PHOTOMETRIC) in DARK_IS_ZERO and page.value(BITS, 1) >= 8:
        _refuse_zeroed(pieces, page)
    image = cv2.imdecode(np.frombuffer(_starting_at(data, page), np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise PictureError(
            "expected a TIFF that OpenCV decodes, found another; save it again, or as PNG", "unsupported"
        )
    if image.ndim == 3 and not _has_alpha(page):
        image = image[:, :, :3]
    return to_bgr8(on_black(image, _white(page)))


def _damaged(found: str) -> PictureError:
    return PictureError(f"expected a whole TIFF, found {found}; copy or take it again", kind="damaged")


def _pages(data: bytes) -> list[Page]:
    """All directories, those below others too."""
    order, big = ("<" if data[:1] == b"I" else ">"), data[2:4] in (b"+\0", b"\0+")
    queue = [struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]]
    pages: dict[int, Page] = {}
    while queue and len(pages) < MOST_PAGES:
        offset = queue.pop(0)
        if offset == 0 or offset in pages:
            continue
        page, following = _page(data, offset, order, big)
        pages[offset] = page
        queue += [following, *page.tags.get(SUB_PAGES, ())]
    return list(pages.values())


def _page(data: bytes, offset: int, order: str, big: bool) -> tuple[Page, int]:
    """A directory, and where the next one stands (0: nowhere)."""
    count_as, entry_as, width = ("Q", "HHQ", 20) if big else ("H", "HHI", 12)
    word = "Q" if big else "I"
    (count,) = struct.unpack_from(order + count_as, data, offset)
    first = offset + struct.calcsize(order + count_as)
    tags = {}
    for at in range(first, first + min(count, len(data)) * width, width):
        tag, kind, length = struct.unpack_from(order + entry_as, data, at)
        if kind not in CODES or length == 0:
            continue
        size, inside = struct.calcsize(CODES[kind]) * length, struct.calcsize("=" + word)
        place = at + width - inside
        where = place if size <= inside else struct.unpack_from(order + word, data, place)[0]
        if size > len(data):
            raise _damaged("one with a broken directory")
        tags[tag] = struct.unpack_from(f"{order}{length}{CODES[kind]}", data, where)
    return Page(offset, tags), struct.unpack_from(order + word, data, first + count * width)[0]


def _picture(pages: list[Page]) -> Page:
    """The page that is the picture: the only one that is no thumbnail.

    A page of at most half the width and height of another is one, too, whether it says so or not.
    """
    if any(DNG_VERSION in page.tags for page in pages):
        raise PictureError(
            "expected a picture, found raw data of a camera (DNG); convert it to PNG or TIFF", "unsupported"
        )
    full = [page for page in pages if not page.is_reduced and min(page.size) > 0]
    if not full:
        raise PictureError(
            "expected a TIFF with a picture, found nothing but thumbnails; export it again", "unsupported"
        )
    largest = max(full, key=lambda page: page.size[0] * page.size[1])
    full = [page for page in full if 2 * page.size[0] > largest.size[0] or 2 * page.size[1] > largest.size[1]]
    if len(full) > 1:
        sizes = ", ".join("{}x{}".format(*page.size) for page in full[:4])
        raise PictureError(
            f"expected one picture, found a TIFF with {len(full)} full pages ({sizes}); save each as a file of its own",
            "unclear",
        )
    return largest


def _refuse_unread(page: Page) -> None:
    """Raises PictureError for what would be decoded to wrong colours."""
    bits, samples, colours = set(page.tags.get(BITS, (1,))), page.value(SAMPLES, 1), page.value(PHOTOMETRIC, -1)
    packed = page.value(COMPRESSION, NONE)
    deep = max(bits) > 8
    found = None
    if colours == YCBCR and packed != JPEG:
        found = "colours in YCbCr without JPEG"
    elif colours not in (*GRAY_OR_COLOUR, CMYK, YCBCR):
        found = f"colours of another kind (photometric interpretation {colours}; 8 is CIELAB)"
    elif (
        len(bits) > 1 or max(bits) not in (1, 2, 4, 8, 10, 12, 14, 16) or set(page.tags.get(SAMPLE_FORMAT, (1,))) != {1}
    ):
        found = f"samples of {', '.join(map(str, sorted(bits)))} bits, or signed, or floating"
    elif packed not in (NONE, LZW, JPEG, DEFLATE, OLD_DEFLATE, PACKBITS):
        found = f"compression {packed}"
    elif deep and (colours in (WHITE_IS_ZERO, CMYK, PALETTE) or (samples > 1 and page.value(PLANAR, 1) == 2)):
        found = f"{max(bits)} bits in inverted, CMYK, palette or planar form"
    elif samples > 4 or (samples == 2 and page.value(EXTRA) == UNASSOCIATED):
        found = f"{samples} samples a pixel"
    elif colours == CMYK and (samples != 4 or page.value(INKS, 1) != 1):
        found = "inks other than CMYK"
    if found is not None:
        raise PictureError(
            "expected a TIFF in gray, RGB or CMYK of whole numbers, plain or packed by LZW, Deflate, PackBits or JPEG, "
            f"found {found}; save it as RGB in 8 or 16 bits",
            "unsupported",
        )


def _pieces(data: bytes, page: Page) -> Iterator[Piece]:
    """Strips or tiles of a page, in order.

    Raises:
        PictureError: one is missing or ends beyond the file.
    """
    tiled = TILE_OFFSETS in page.tags
    offsets = page.tags.get(TILE_OFFSETS if tiled else STRIP_OFFSETS, ())
    sizes = page.tags.get(TILE_SIZES if tiled else STRIP_SIZES, ())
    width, height = page.size
    across, rows = (
        (page.value(TILE_WIDTH), page.value(TILE_HEIGHT)) if tiled else (width, page.value(STRIP_ROWS, height))
    )
    rows = rows if tiled else min(rows, height)
    samples = page.value(SAMPLES, 1)
    planes, together = (samples, 1) if page.value(PLANAR, 1) == 2 else (1, samples)
    if min(across, rows) <= 0:
        raise _damaged("one with a broken directory")
    down = -(-height // rows)
    if len(offsets) != len(sizes) or len(offsets) != planes * down * -(-width // across):
        raise _damaged(f"one with {len(offsets)} strips or tiles of another number")
    row = (across * together * page.value(BITS, 1) + 7) // 8
    for number, (offset, size) in enumerate(zip(offsets, sizes, strict=True)):
        if size == 0 or offset + size > len(data):
            raise _damaged(f"one cut short after {len(data)} bytes")
        last = not tiled and number % down == down - 1
        least = row * (height - rows * (down - 1) if last else rows)
        yield Piece(data[offset : offset + size], least, row * rows, row)


def _check(piece: Piece, page: Page) -> None:
    """Raises PictureError for a strip or tile that does not unpack to its pixels."""
    packed = page.value(COMPRESSION, NONE)
    if packed == JPEG:
        tables = bytes(page.tags.get(JPEG_TABLES, ()))
        fault = jpeg.check(b"\xff\xd8" + tables[2:-2] + piece.data[2:])
        if fault is not None:
            raise _damaged(f"one with a damaged strip or tile ({fault})")
        return
    size: int | None = len(piece.data)
    if packed == LZW:
        size = unpacked_size(piece.data, piece.most)
    elif packed in (DEFLATE, OLD_DEFLATE):
        size = _inflated_size(piece)
    elif packed == PACKBITS:
        size = _packbits_size(piece.data, piece.most)
    if size is None or size < piece.least or (size > piece.most and packed != NONE):
        raise _damaged("one with a damaged strip or tile")


def _refuse_zeroed(pieces: list[Piece], page: Page) -> None:
    """Raises PictureError if a part of a picture without packing became zeros."""
    planes = page.value(SAMPLES, 1) if page.value(PLANAR, 1) == 2 else 1
    together = 1 if TILE_OFFSETS in page.tags else len(pieces) // planes
    for first in range(0, len(pieces), together):
        sheet = pieces[first : first + together]
        content = np.frombuffer(b"".join(piece.data[: piece.most] for piece in sheet), np.uint8)
        rows = sheet[0].most // sheet[0].row
        if has_hole(content, sheet[0].row) or has_empty_strip(content, sheet[0].row, rows):
            raise _damaged("one of which a part is zeros")


def _inflated_size(piece: Piece) -> int | None:
    """Size of what zlib unpacks, with its checksum; None for a damaged stream."""
    stream = zlib.decompressobj()
    try:
        size = len(stream.decompress(piece.data, piece.most + 1))
    except zlib.error:
        return None
    return size if stream.eof else None


def _packbits_size(data: bytes, most: int) -> int | None:
    at = size = 0
    while at < len(data) and size < most:
        head = data[at]
        if head < 128:
            at, size = at + head + 2, size + head + 1
        else:
            at, size = at + (2 if head > 128 else 1), size + (257 - head if head > 128 else 0)
    return size if at <= len(data) else None


def _starting_at(data: bytes, page: Page) -> bytes:
    """The file with this page as its first."""
    order = "<" if data[:1] == b"I" else ">"
    if data[2:4] in (b"+\0", b"\0+"):
        return data[:8] + struct.pack(order + "Q", page.offset) + data[16:]
    return data[:4] + struct.pack(order + "I", page.offset) + data[8:]


def _has_alpha(page: Page) -> bool:
    """Whether the fourth channel is to be put on black after decoding; in 8 bits, libtiff does it if asked."""
    if page.value(PHOTOMETRIC) == CMYK:
        return False
    return EXTRA not in page.tags or (page.value(EXTRA) == UNASSOCIATED and page.value(BITS, 1) > 8)


def _white(page: Page) -> int | None:
    """The value of white after decoding; None if a page of 16 bits does not say that it uses fewer."""
    bits = page.value(BITS, 1)
    if bits <= 8:
        return None
    if bits < 16:  # OpenCV moves them to the top
        return ((1 << bits) - 1) << (16 - bits)
    most = set(page.tags.get(MOST, ()))
    if len(most) == 1 and 255 <= (highest := most.pop()) <= WHITE_16 and highest & (highest + 1) == 0:
        return highest
    return None
