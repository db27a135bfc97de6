"""JPEG: whole ones are read as OpenCV reads them, whatever a camera adds; what lost a part is refused."""

from __future__ import annotations

import csv
import io
import os
import random
import re
import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pil

from fthnet_kit.edge.errors import PictureError
from fthnet_kit.edge.formats.jpeg import check, decode
from fthnet_kit.edge.formats.jpeg_file import HUFFMAN, Scan, file_of, parse

ROOT = Path(__file__).parents[3]
PHOTOGRAPH = cv2.imread(str(ROOT / "edge" / "assets" / "retina.jpg"))
FUNDUS = cv2.resize(PHOTOGRAPH, (640, 600), interpolation=cv2.INTER_AREA)
SAMPLING = {"444": 0x111111, "422": 0x211111, "420": 0x221111, "440": 0x121111}
IN_BULK = int(os.environ.get("FTHNET_JPEGS", "300"))
LOSSES = int(os.environ.get("FTHNET_LOSSES", "60"))
LIKE_THE_WHOLE = 2.0  # gray levels, mean: what a loss in the last bits of a progressive JPEG may change unnoticed


def opencv(image: np.ndarray, quality: int = 90, sampling: str = "420", restart: int = 0, **flags: bool) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_RST_INTERVAL, restart]
    options += [cv2.IMWRITE_JPEG_PROGRESSIVE, int(flags.get("progressive", False))]
    options += [cv2.IMWRITE_JPEG_OPTIMIZE, int(flags.get("optimize", False))]
    if image.ndim == 3:
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLING[sampling]]
    return cv2.imencode(".jpg", image, options)[1].tobytes()


def pillow(image: np.ndarray, **options: object) -> bytes:
    out = io.BytesIO()
    Pil.fromarray(image[:, :, ::-1] if image.ndim == 3 else image).save(out, "JPEG", **options)
    return out.getvalue()


def ffmpeg(image: np.ndarray, folder: Path) -> bytes:
    """A frame of Motion JPEG, by FFmpeg's own encoder."""
    writer = cv2.VideoWriter(str(folder / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, image.shape[1::-1])
    writer.write(image)
    writer.release()
    data = (folder / "a.avi").read_bytes()
    return data[data.index(b"\xff\xd8\xff") : data.rindex(b"\xff\xd9") + 2]


def as_opencv(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def segment(marker: int, body: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def exif(orientation: int, order: str = "<") -> bytes:
    head = b"II*\0" if order == "<" else b"MM\0*"
    entry = struct.pack(order + "HHIHH", 274, 3, 1, orientation, 0)
    return segment(0xE1, b"Exif\0\0" + head + struct.pack(order + "IH", 8, 1) + entry + bytes(4))


def after_start(data: bytes, extra: bytes) -> bytes:
    return data[:2] + extra + data[2:]


def before_end(data: bytes, extra: bytes) -> bytes:
    return data[:-2] + extra + data[-2:]


def before_restarts(data: bytes, extra: Callable[[], bytes]) -> bytes:
    """Bytes before each restart marker, as webcams leave them there."""
    begin = data.index(b"\xff\xda")
    return data[:begin] + re.sub(rb"\xff[\xd0-\xd7]", lambda match: extra() + match[0], data[begin:])


pictures = st.builds(
    lambda height, width, seed, gray: np.ascontiguousarray(
        cv2.GaussianBlur(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8), (0, 0), 1.5)[
            :, :, 1 if gray else slice(None)
        ]
    ),
    st.integers(1, 120),
    st.integers(1, 120),
    st.integers(0, 99),
    st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(
    pictures,
    st.integers(1, 100),
    st.sampled_from(list(SAMPLING)),
    st.sampled_from([0, 1, 3, 8, 50]),
    st.booleans(),
    st.booleans(),
)
def test_whole_ones_are_read_as_opencv_reads_them(
    image: np.ndarray, quality: int, sampling: str, restart: int, progressive: bool, optimize: bool
) -> None:
    data = opencv(image, quality, sampling, restart, progressive=progressive, optimize=optimize)
    assert check(data) is None
    np.testing.assert_array_equal(decode(data), as_opencv(data))


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("side", range(1, 20))
def test_the_smallest_progressive_pictures(side: int, sampling: str) -> None:
    data = opencv(FUNDUS[300 : 300 + side, 300:330], 50, sampling, progressive=True)
    assert check(data) is None


@settings(max_examples=60, deadline=None)
@given(pictures, st.integers(1, 100), st.integers(0, 2), st.booleans())
def test_whole_ones_of_another_encoder(image: np.ndarray, quality: int, subsampling: int, progressive: bool) -> None:
    data = pillow(image, quality=quality, subsampling=subsampling, progressive=progressive)
    assert check(data) is None
    np.testing.assert_array_equal(decode(data), as_opencv(data))


def test_motion_jpeg_with_and_without_its_huffman_tables(tmp_path: Path) -> None:
    data = ffmpeg(FUNDUS, tmp_path)
    np.testing.assert_array_equal(decode(data), as_opencv(data))
    whole = opencv(FUNDUS)
    bare = file_of(part for part in parse(whole).parts if isinstance(part, Scan) or part[1] != HUFFMAN)
    assert len(bare) < len(whole) - 400
    np.testing.assert_array_equal(decode(bare), as_opencv(whole))


def test_cmyk_is_read_as_opencv_reads_it() -> None:
    out = io.BytesIO()
    Pil.fromarray(FUNDUS[:, :, ::-1]).convert("CMYK").save(out, "JPEG")
    np.testing.assert_array_equal(decode(out.getvalue()), as_opencv(out.getvalue()))
    assert check(out.getvalue()[:20_000] + b"\xff\xd9") is not None


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(10))
def test_upright_by_the_camera(orientation: int, order: str) -> None:
    data = after_start(opencv(FUNDUS), exif(orientation, order))
    np.testing.assert_array_equal(decode(data), as_opencv(data))


CLEAN = opencv(FUNDUS)
OF_CAMERAS = {
    "5 kB after the end": CLEAN + random.Random(1).randbytes(5000),
    "a preview after the end": CLEAN + opencv(FUNDUS[::4, ::4]),
    "a cut preview after the end": CLEAN + opencv(FUNDUS[::4, ::4])[:-500],
    "zeros after the end": CLEAN + bytes(70_000),
    "two start markers": b"\xff\xd8" + CLEAN,
    "a thumbnail": after_start(CLEAN, segment(0xE1, b"Exif\0\0" + opencv(FUNDUS[::8, ::8]))),
    "a comment": after_start(CLEAN, segment(0xFE, b"x" * 999)),
    "an odd colour transform": after_start(CLEAN, segment(0xEE, b"Adobe\0\x64\0\0\0\0\x07")),
    "an odd JFIF version": CLEAN.replace(b"JFIF\0\x01\x01", b"JFIF\0\x07\x09"),
    "zeros between segments": after_start(CLEAN, bytes(608)),
    "fill bytes before a marker": CLEAN.replace(b"\xff\xda", b"\xff\xff\xff\xda"),
    "an odd scan header": re.sub(rb"(\xff\xda\0\x0c\x03.{6})\0\x3f\0", rb"\1\0\0\0", CLEAN, flags=re.DOTALL),
    "one byte before the end": before_end(CLEAN, b"\x5a"),
    "zeros before the end": before_end(CLEAN, bytes(300)),
    "zeros before the end, progressive": before_end(opencv(FUNDUS, progressive=True), bytes(9)),
    "fill bytes before the end": before_end(CLEAN, b"\xff" * 40),
    "bytes before one restart marker": opencv(FUNDUS, restart=40).replace(b"\xff\xd3", b"\x12\x34\xff\xd3", 1),
}


@pytest.mark.parametrize("kind", OF_CAMERAS)
def test_oddities_of_real_cameras_do_not_count(kind: str) -> None:
    assert check(OF_CAMERAS[kind]) is None
    np.testing.assert_array_equal(decode(OF_CAMERAS[kind]), as_opencv(CLEAN))


@pytest.mark.long
@settings(max_examples=20, deadline=None)
@given(st.sampled_from([1, 7, 40, 80]), st.integers(0, 10), st.integers(0, 99))
def test_stray_bytes_of_webcams_do_not_count(restart: int, most: int, seed: int) -> None:
    rng = random.Random(seed)
    data = opencv(FUNDUS, restart=restart)
    stray = before_restarts(data, lambda: rng.randbytes(rng.randint(0, most)).replace(b"\xff", b"\x55"))
    assert check(stray) is None
    np.testing.assert_array_equal(decode(stray), decode(data))


def refused(data: bytes) -> str:
    with pytest.raises(PictureError) as caught:
        decode(data)
    assert caught.value.kind == "damaged"
    assert check(data) == str(caught.value)
    return str(caught.value)


KINDS = {
    "baseline": CLEAN,
    "4:4:4": opencv(FUNDUS, 95, "444"),
    "gray": opencv(FUNDUS[:, :, 1]),
    "own tables": opencv(FUNDUS, optimize=True),
    "restarts": opencv(FUNDUS, restart=40),
    "many restarts": opencv(FUNDUS, restart=3),
    "webcam": before_restarts(opencv(FUNDUS, restart=40), lambda: b"\x12\x34\x56"),
    "with a preview behind": CLEAN + opencv(FUNDUS[::2, ::2]),
}


def end_of(kind: str) -> int:
    return len(CLEAN) if kind == "with a preview behind" else len(KINDS[kind])


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(KINDS)), st.floats(0, 1), st.integers(1024, 6000))
@pytest.mark.slow
def test_what_lost_a_part_is_refused(kind: str, where: float, size: int) -> None:
    whole = KINDS[kind]
    at = 2 + int(where * (end_of(kind) - size - 4))
    refused(whole[:at] + whole[at + size :])


@settings(max_examples=200, deadline=None)
@given(st.integers(50, 98), st.booleans(), st.floats(0, 1), st.integers(512, 6000))
@pytest.mark.slow
def test_a_progressive_one_that_lost_a_part_is_refused_or_like_the_whole(
    quality: int, optimize: bool, where: float, size: int
) -> None:
    whole = opencv(FUNDUS, quality, progressive=True, optimize=optimize)
    at = 2 + int(where * (len(whole) - size - 4))
    try:
        found = decode(whole[:at] + whole[at + size :])
    except PictureError as error:
        assert error.kind == "damaged"
    else:
        assert np.abs(found.astype(int) - as_opencv(whole)).mean() <= LIKE_THE_WHOLE


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(list(KINDS)), st.floats(0, 1), st.booleans())
def test_what_ends_early_is_refused(kind: str, where: float, ended: bool) -> None:
    whole = KINDS[kind]
    at = int(where * (end_of(kind) - 40))
    refused(whole[:at] + (b"\xff\xd9" if ended else b""))


@pytest.mark.parametrize("filler", [b"\0", b"\xff\0", b"\xaa"])
@pytest.mark.parametrize("where", [0.1, 0.4, 0.7, 0.9])
@pytest.mark.parametrize("kind", KINDS)
def test_a_hole_is_refused(kind: str, where: float, filler: bytes) -> None:
    at = int(where * (end_of(kind) - 4200))
    refused(KINDS[kind][:at] + filler * (4096 // len(filler)) + KINDS[kind][at + 4096 :])


@pytest.mark.parametrize("scan", range(1, 10))
def test_a_progressive_one_without_one_of_its_scans_is_refused(scan: int) -> None:
    jpeg = parse(opencv(FUNDUS, progressive=True))
    refused(file_of(part for part in jpeg.parts if part is not jpeg.scans[scan]))


def test_other_kinds_are_named() -> None:
    for number, change in [(0xC3, "lossless"), (0xC9, "arithmetic")]:
        data = CLEAN.replace(b"\xff\xc0", bytes([0xFF, number]))
        with pytest.raises(PictureError, match="baseline or progressive") as caught:
            decode(data)
        assert caught.value.kind == "unsupported", change


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 700), st.integers(0, 20))
def test_garbage_is_refused_without_a_crash(garbage: bytes, at: int, cut: int) -> None:
    for data in (garbage, b"\xff\xd8" + garbage, CLEAN[:at] + garbage + CLEAN[at + cut :]):
        assert check(data) is None or "expected" in check(data)


def photographs(data: Path) -> list[Path]:
    with (data / "fundus" / "scores.csv").open() as table:
        return [data / "fundus" / "images" / row["file_name"] for row in csv.DictReader(table)]


def test_48_losses_of_3_kib_are_refused(data: Path) -> None:
    rng = random.Random(14)
    for path in rng.sample(photographs(data), 4):
        whole = path.read_bytes()
        assert check(whole) is None
        for _ in range(12):
            at = rng.randrange(2, len(whole) - 3072 - 2)
            refused(whole[:at] + whole[at + 3072 :])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "unseen"), [("baseline", 0.05), ("restarts", 0.05), ("progressive", 0.4)])
def test_how_many_losses_of_512_bytes_are_unseen(data: Path, kind: str, unseen: float) -> None:
    """In a progressive file the last run of empty blocks, the black of the border, hides a shift of blocks."""
    rng = random.Random(512)
    paths = photographs(data)
    missed = 0
    for count in range(LOSSES):
        image = cv2.imread(str(rng.choice(paths)))
        whole = opencv(image, restart=40 * (kind == "restarts"), progressive=kind == "progressive")
        at = rng.randrange(len(whole) // 8, len(whole) - 600)
        missed += check(whole[:at] + bytes(512 * (count % 2)) + whole[at + 512 :]) is None
    print(f"{kind}: {missed} of {LOSSES} unseen")
    assert missed <= unseen * LOSSES


@pytest.mark.long
def test_whole_ones_in_bulk_are_read(data: Path, tmp_path: Path) -> None:
    """`FTHNET_JPEGS=10000 pytest -m long -k in_bulk` takes about four minutes."""
    rng = random.Random(5)
    paths = photographs(data)
    encoders: list[Callable[[np.ndarray], bytes]] = [
        lambda image: opencv(image, rng.randint(30, 100), rng.choice([*SAMPLING]), optimize=rng.random() < 0.5),
        lambda image: opencv(image, rng.randint(30, 100), rng.choice([*SAMPLING]), progressive=True),
        lambda image: (
            after_start(
                opencv(image, rng.randint(30, 100), restart=rng.choice([1, 4, 40, image.shape[1] // 16 + 1])),
                exif(rng.randint(1, 8)) + segment(0xE2, rng.randbytes(5000)),
            )
            + rng.randbytes(rng.randint(0, 9000))
        ),
        lambda image: pillow(image, quality=rng.randint(30, 100), subsampling=rng.randint(0, 2), optimize=True),
        lambda image: pillow(image, quality=rng.randint(30, 100), progressive=True, subsampling=rng.randint(0, 2)),
        lambda image: ffmpeg(image, tmp_path),
    ]
    for count in range(IN_BULK):
        image = cv2.imread(str(rng.choice(paths)))
        data = encoders[count % len(encoders)](image)
        found = check(data)
        assert found is None, f"{count}: {found}"
