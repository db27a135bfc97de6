"""A USB camera for OpenCV's own V4L2 backend, on machines without one.

A library that is loaded before all others plays it (`v4l2_stand_in.c`), so what is tested runs in a process of its own:

    camera = UsbCamera(tmp_path, {"MJPG": [(640, 480)]})
    subprocess.Popen([sys.executable, "-c", "…", camera.uri("fourcc=MJPG")], env=camera.environment)
    camera.misbehave("stall")
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import pytest

from fthnet_kit.bench.endurance.faulty_camera import STAMP_BITS, STAMP_PIXELS, VARIANTS, ServedPictures, encode
from fthnet_kit.edge.formats.read import read_image
from fthnet_kit.edge.image import Image

SOURCE = Path(__file__).parent / "v4l2_stand_in.c"
FLAGS = ("-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread")
DEVICE = "/dev/video97"
FPS = 30
TRANSFER_S = 0.01  # from the moment at which a picture is taken to its arrival


def compiler() -> str | None:
    return next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)


@functools.cache
def library() -> Path:
    """This test session's library; skips where it cannot be built."""
    command = compiler()
    if command is None or not sys.platform.startswith("linux"):
        pytest.skip("the USB camera stand-in needs Linux and a C compiler")
    folder = Path(tempfile.mkdtemp(prefix="v4l2-stand-in-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    built = folder / "v4l2_stand_in.so"
    done = subprocess.run([command, *FLAGS, str(SOURCE), "-o", str(built)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return built


class UsbCamera:
    """The camera: healthy from the start, at 30 fps.

    Args:
        folder: an empty one, for its pictures.
        formats: sizes of each pixel format, `MJPG` or `YUYV`.
        stamped_s: for so many seconds from now, each picture carries the moment at which it is taken (`read_stamp`);
            None: no two in a row are the same, without an end.
        padding: behind each picture, as some cameras send it.
    """

    def __init__(
        self,
        folder: Path,
        formats: Mapping[str, Sequence[tuple[int, int]]],
        *,
        stamped_s: float | None = None,
        padding: bytes = b"",
    ) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._began = time.monotonic()
        self.behave()
        for fourcc, sizes in formats.items():
            for width, height in sizes:
                place = folder / f"{fourcc}-{width}x{height}"
                place.mkdir()
                for index, image in enumerate(self._images(width, height, stamped_s)):
                    data = encode(image) if fourcc == "MJPG" else cv2.cvtColor(image, cv2.COLOR_BGR2YUV_YUYV).tobytes()
                    (place / str(index)).write_bytes(data + padding)

    def _images(self, width: int, height: int, stamped_s: float | None) -> list[Image]:
        pictures = ServedPictures(width, height, stamped=False)
        encoded = [pictures.get("healthy", index) for index in range(VARIANTS)]
        images = [read_image(data) for data in encoded]
        if stamped_s is None:
            return images
        count = round(stamped_s * FPS)
        return [stamp_at(images[index % VARIANTS], self._began + index / FPS) for index in range(count)]

    @property
    def environment(self) -> dict[str, str]:
        """For a process that shall see the camera."""
        began = {"V4L2_STAND_IN_BEGAN": f"{self._began:.6f}", "V4L2_STAND_IN_DEVICE": DEVICE}
        return {**os.environ, "LD_PRELOAD": str(library()), "V4L2_STAND_IN": str(self.folder), **began}

    @staticmethod
    def uri(options: str = "") -> str:
        return DEVICE + ("?" + options if options else "")

    def misbehave(self, mode: str) -> None:
        """One of the modes that `v4l2_stand_in.c` lists."""
        (self.folder / "next").write_text(mode)
        (self.folder / "next").replace(self.folder / "mode")

    def behave(self) -> None:
        self.misbehave("healthy")


def stamp_at(image: Image, moment_s: float) -> Image:
    """A copy with a moment drawn in, for `read_stamp`."""
    value = int(1e3 * moment_s) % 2**STAMP_BITS
    stamped = image.copy()
    for bit in range(STAMP_BITS):
        stamped[STAMP_PIXELS * bit : STAMP_PIXELS * (bit + 1), :STAMP_PIXELS] = 255 * (value >> bit & 1)
    return stamped
