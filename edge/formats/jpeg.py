"""JPEG: whole pictures are decoded, damaged ones are refused with the reason.

libjpeg fills what a damaged file lacks with gray or with copies and reports a warning, which OpenCV hides. simplejpeg
(libjpeg-turbo) reports the *first* warning of a decode: here of a probe (`jpeg_probe`), which warns of every scan
that does not end exactly where its codes end.

What real cameras do without harm is accepted: what `jpeg_file` says, zeros at the end of the last scan, and a few
stray bytes at the end of a picture's only scan or of its restart intervals (webcams).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np
import simplejpeg

from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.formats.exif import orientation, upright
from fthnet_kit.edge.formats.jpeg_file import Jpeg, Scan, damaged, file_of, parse
from fthnet_kit.edge.formats.jpeg_probe import EMPTY_COMMENT, interval_probe, probe
from fthnet_kit.edge.image import Image

STRAY = re.compile(r"(\d+) extraneous bytes before marker")
RESTART = re.compile(rb"\xff+[\xd0-\xd7]")
FEW = 8  # stray bytes at one place
HABITUAL = 24  # stray bytes at each restart marker, of webcams that leave some at every fourth or more
LAST_ZEROS = (0, 1, 2)  # zero bytes that may be codes


def decode(data: bytes) -> Image:
    """BGR uint8 (H, W, 3) of a whole JPEG, upright by its EXIF orientation; the pixels of `cv2.imread`.

    Raises:
        PictureError: it lost a part (`damaged`), is too large, or is of a kind that cannot be read.
    """
    jpeg = parse(data)
    _refuse_damage(jpeg)
    plain = file_of(jpeg.parts)
    if len(jpeg.components) == 4:  # CMYK
        image = np.asarray(cv2.imdecode(np.frombuffer(plain, np.uint8), cv2.IMREAD_COLOR))
    else:
        image = simplejpeg.decode_jpeg(plain, "BGR", strict=False)
    return upright(image, orientation(jpeg.exif))


def check(data: bytes) -> str | None:
    """Why `decode` would refuse a JPEG; None for a whole one. It costs less than half of decoding it."""
    try:
        _refuse_damage(parse(data))
    except InputError as error:
        return str(error)
    return None


def _refuse_damage(jpeg: Jpeg) -> None:
    warning = _first_warning(jpeg)
    if warning is not None and not _is_harmless(jpeg, warning):
        raise damaged(f"one that lost a part (decoder: {warning})")


def _first_warning(jpeg: Jpeg) -> str | None:
    """The decoder's first warning about the pixels."""
    probed = probe(jpeg)
    if probed is not None:
        return _warning(probed)
    warning = _warning(file_of([*jpeg.parts, EMPTY_COMMENT]))
    if warning is None and jpeg.interval and len(jpeg.scans) == 1:
        *_, last = _intervals(jpeg)
        warning = _warning(last)
    return warning


def _warning(file: bytes | None) -> str | None:
    """The first warning while a file is decoded, to an eighth of its size; something else where there is no file."""
    if file is None:
        return "no such interval"
    try:
        _, _, space, _ = simplejpeg.decode_jpeg_header(file)
        colours = "CMYK" if space in ("CMYK", "YCCK") else "GRAY"
        simplejpeg.decode_jpeg(file, colours, min_height=1, min_width=1, min_factor=8)
    except ValueError as error:
        return str(error)
    return None


def _is_harmless(jpeg: Jpeg, warning: str) -> bool:
    """Whether the first warning is about stray bytes where cameras leave some, and no other would follow it."""
    count = _stray(warning)
    if count is None:
        return False
    if not jpeg.interval:
        few = count <= FEW and len(jpeg.scans) == 1 and probe(jpeg) is not None
        return few or any(_first_warning(shorter) is None for shorter in _without_zeros(jpeg))
    if len(jpeg.scans) > 1:
        return False
    counts = []
    for file in _intervals(jpeg):
        count = _stray(_warning(file))
        if count is None or count > HABITUAL:
            return False
        counts.append(count)
    return max(counts) <= FEW or 4 * sum(count > 0 for count in counts) >= len(counts)


def _stray(warning: str | None) -> int | None:
    """How many bytes are left over by a warning, 0 without one; None if it is about something else."""
    if warning is None:
        return 0
    found = STRAY.search(warning)
    return None if found is None else int(found[1])


def _without_zeros(jpeg: Jpeg) -> Iterator[Jpeg]:
    """The same picture without zeros at the end of its last scan."""
    *before, scan = jpeg.parts
    if isinstance(scan, Scan) and scan.codes.endswith(b"\0"):
        codes = scan.codes.rstrip(b"\0")
        for zeros in LAST_ZEROS:
            yield replace(jpeg, parts=[*before, Scan(scan.header, codes + bytes(zeros))])


def _intervals(jpeg: Jpeg) -> Iterator[bytes | None]:
    """Probes of all restart intervals of the only scan; None for one that is missing or out of order."""
    codes = jpeg.scans[0].codes
    across, down = jpeg.units
    pieces = RESTART.split(codes)
    if [match[0][-1] & 7 for match in RESTART.finditer(codes)] != [n % 8 for n in range(len(pieces) - 1)]:
        yield None
    for start in range(0, across * down, jpeg.interval):
        units = min(jpeg.interval, across * down - start)
        index = start // jpeg.interval
        yield interval_probe(jpeg, units, pieces[index]) if index < len(pieces) else None
    if len(pieces) > -(-across * down // jpeg.interval):
        yield None
