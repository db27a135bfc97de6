"""Picture files of every kind: alpha, sizes that headers claim, typed errors; which files of a folder are taken."""

from __future__ import annotations

import json
import logging
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fthnet_kit.edge.capture.image_files import find_images
from fthnet_kit.edge.errors import InputError, PictureError
from fthnet_kit.edge.formats.read import read_image
from tests.edge.formats.test_jpeg import CLEAN, FUNDUS, KINDS

SMALL = FUNDUS[::4, ::3]  # as wide as no other, and quickly turned
LOSSLESS = (".png", ".tif", ".bmp", ".ppm")


def encoded(suffix: str, image: np.ndarray = FUNDUS) -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_files_and_bytes_give_the_same_picture(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"a{suffix}").write_bytes(encoded(suffix))
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}"), FUNDUS)
    np.testing.assert_array_equal(read_image(encoded(suffix)), FUNDUS)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 255), st.integers(0, 255), st.sampled_from([".png", ".tif", ".webp"]))
def test_what_is_transparent_is_black_whatever_lies_under_it(alpha: int, under: int, suffix: str) -> None:
    image = np.full((40, 40, 4), under, np.uint8)
    image[:20, :, 3], image[20:, :, 3] = 255, alpha
    found = read_image(cv2.imencode(suffix, image, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes())
    assert np.all(found[:20] == under)
    assert np.all(np.abs(found[20:].astype(int) - under * alpha / 255) <= 0.5)


HEADERS = {
    "png": b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + struct.pack(">II", 14_000, 9) + b"\x08\x02\0\0\0",
    "gif named jpg": b"GIF89a" + struct.pack("<HH", 14_000, 14_000) + bytes(38),
    "webp": b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0\x2f" + struct.pack("<I", 13_999 | 13_999 << 14) + bytes(8),
    "extended webp": b"RIFF\x1a\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + (13_999).to_bytes(3, "little") * 2,
    "lossy webp": b"RIFF\x1a\0\0\0WEBPVP8 \x0d\0\0\0\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 14_000, 14_000),
    "bmp": b"BM" + bytes(16) + struct.pack("<ii", 9, -14_000),
    "old bmp": b"BM" + bytes(12) + struct.pack("<IHH", 12, 14_000, 9),
    "pnm": b"P6\n# 9 9\n14000 9\n255\n",
    "bitmap": b"P4 14000 9\n",
    "jpeg 2000": b"\xff\x4f\xff\x51" + struct.pack(">HHIIII", 47, 0, 14_009, 9, 9, 0) + bytes(20) + b"\x07\x01\x01",
    "tiff": b"II*\0\x08\0\0\0\x02\0"
    + struct.pack("<HHII", 256, 4, 1, 14_000)
    + struct.pack("<HHII", 257, 4, 1, 9)
    + bytes(4),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_sizes_are_checked_before_decoding(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(PictureError, match="12000 pixels") as caught:
        read_image(HEADERS[kind])
    assert caught.value.kind == "too_large"


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\x20ftypavif" + bytes(400),
        b"\0\0\0\x20ftypheic" + bytes(400),
        b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 14000 +X 14000\n" + bytes(400),
        b"\x59\xa6\x6a\x95" + struct.pack(">II", 14_000, 14_000) + bytes(400),
        b"PF\n14000 14000\n-1.0\n" + bytes(400),
        b"P7\nWIDTH 14000\nHEIGHT 14000\nDEPTH 3\nMAXVAL 255\nENDHDR\n" + bytes(400),
        b"RIFF\x1a\0\0\0AVI " + bytes(400),
    ],
)
def test_formats_without_a_known_header_are_not_decoded(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(PictureError) as caught:
        read_image(data)
    assert caught.value.kind == "unsupported"


def exif(held: int, order: str = "<") -> bytes:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(order + "IHHHIHHI", 8, 1, 274, 3, 1, held, 0, 0)


def with_exif(suffix: str, held: int, order: str, late: bool) -> bytes:
    """A PNG with an `eXIf` chunk before or after its pixels, or a WebP with an `EXIF` one."""
    data, block = encoded(suffix, SMALL), exif(held, order)
    if suffix == ".png":
        chunk = struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
        at = len(data) - 12 if late else 33
        return data[:at] + chunk + data[at:]
    height, width = SMALL.shape[:2]
    flags = b"\x08\0\0\0" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    block = b"Exif\0\0" + block if late else block
    body = (
        b"WEBP" + b"VP8X" + struct.pack("<I", 10) + flags + data[12:] + b"EXIF" + struct.pack("<I", len(block)) + block
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("held", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_orientation_is_applied_once_as_opencv_does(suffix: str, late: bool, order: str, held: int) -> None:
    data = with_exif(suffix, held, order, late)
    plain = read_image(encoded(suffix, SMALL))
    turned = {
        1: plain,
        2: plain[:, ::-1],
        3: plain[::-1, ::-1],
        4: plain[::-1],
        5: plain.transpose(1, 0, 2),
        6: np.rot90(plain, -1),
        7: plain[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(plain),
    }[held]
    np.testing.assert_array_equal(read_image(data), turned)
    if not late:  # OpenCV reads some EXIF blocks only where they usually stand
        np.testing.assert_array_equal(read_image(data), cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".ppm", ".jp2", ".webp", ".gif"])
def test_files_that_end_early_are_refused(suffix: str) -> None:
    whole = encoded(suffix)
    for share in (0.3, 0.6, 0.95):
        with pytest.raises(PictureError) as caught:
            read_image(whole[: int(share * len(whole))])
        assert caught.value.kind == "damaged"


def test_errors_name_the_file_and_say_of_what_kind_they_are(tmp_path: Path) -> None:
    (tmp_path / "half.jpg").write_bytes(CLEAN[:20_000])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    kinds = {"half.jpg": "damaged", "text.png": "unsupported", "empty.png": "unsupported", "none.png": "missing"}
    for name, kind in kinds.items():
        with pytest.raises(PictureError, match="expected") as caught:
            read_image(tmp_path / name)
        assert caught.value.kind == kind
        assert str(caught.value).startswith(str(tmp_path / name))


def test_a_folder_gives_its_photographs_and_says_what_it_leaves_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    taken = ["a.JPG", "b.jfif", "c.ppm", "d.jp2", "sub/e.webp"]
    for name in [*taken, "._a.jpg", "@eaDir/a.jpg", "__MACOSX/a.jpg", ".thumbnails/a.jpg", "f.heic", "g.dng", "h.dng"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(CLEAN)
    (tmp_path / "folder.png").mkdir()
    with caplog.at_level(logging.WARNING, "fthnet"):
        assert find_images([str(tmp_path)]) == sorted(tmp_path / name for name in taken)
    assert "2 .dng, 1 .heic" in caplog.text


def test_a_hidden_folder_that_is_named_is_taken(tmp_path: Path) -> None:
    (tmp_path / ".camera").mkdir()
    (tmp_path / ".camera" / "a.png").write_bytes(encoded(".png"))
    for name in (tmp_path / ".camera", tmp_path / ".camera" / "*.png"):
        assert find_images([str(name)]) == [tmp_path / ".camera" / "a.png"]


@pytest.mark.parametrize("folder", ["eye [od]", "[abc]", "plain", "a [os]/b [1]"])
def test_globs_take_folders_as_they_are_written(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "a").mkdir(exist_ok=True)
    for name in ("x [os].png", "y.jpg"):
        (tmp_path / folder / name).write_bytes(CLEAN)
    assert find_images([f"{tmp_path / folder}/*.png"]) == [tmp_path / folder / "x [os].png"]
    assert find_images([f"{tmp_path}/**/[y]*.jpg"]) == [tmp_path / folder / "y.jpg"]
    monkeypatch.chdir(tmp_path)
    assert find_images([f"{folder}/*"]) == [Path(folder) / "x [os].png", Path(folder) / "y.jpg"]
    with pytest.raises(InputError, match="found none"):
        find_images([f"{folder}/*.bmp"])


def test_names_with_brackets_stand_in_the_table_and_damage_is_never_scored(
    tmp_path: Path, fthnet: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (tmp_path / "P001 [os].jpg").write_bytes(CLEAN)
    (tmp_path / "IM[").mkdir()
    (tmp_path / "IM[" / "OD].jpg").write_bytes(CLEAN)
    (tmp_path / "lost [od].jpg").write_bytes(KINDS["baseline"][:20_000] + KINDS["baseline"][23_000:])
    done = fthnet("score", tmp_path)
    assert done.returncode == 3
    assert "P001 [os].jpg" in done.stdout and "IM[/OD].jpg" in done.stdout
    assert "lost [od].jpg" in done.stderr and "lost a part" in done.stderr
    assert "Traceback" not in done.stderr
    lines = fthnet("score", tmp_path, "--json").stdout.splitlines()
    assert {Path(json.loads(line)["file"]).name for line in lines} == {"P001 [os].jpg", "OD].jpg"}


@pytest.mark.parametrize("suffix", [".bmp", ".ppm", ".pgm"])
@pytest.mark.parametrize("size", [512, 4096])
def test_unpacked_pictures_of_which_a_part_became_zeros_are_refused(
    suffix: str, size: int, photograph: np.ndarray
) -> None:
    flag = cv2.IMREAD_GRAYSCALE if suffix == ".pgm" else cv2.IMREAD_COLOR
    picture = cv2.resize(cv2.imdecode(cv2.imencode(".png", photograph)[1], flag), (400, 400))
    picture[picture < 16] = 0
    whole = cv2.imencode(suffix, picture)[1].tobytes()
    read_image(whole)
    at = len(whole) // 2
    with pytest.raises(PictureError, match="of which a part is zeros"):
        read_image(whole[:at] + bytes(size) + whole[at + size :])
