"""Image files as a source, read in full."""

from __future__ import annotations

import glob
import time
from pathlib import Path

from fthnet_kit.edge.capture.source import CorruptFrameError
from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.frame import Frame
from fthnet_kit.edge.image import IMAGE_SUFFIXES, read_image


class ImageFiles:
    """Still images, one after the other, in the order of their names."""

    def __init__(self, paths: list[Path]) -> None:
        self.live = False
        self.fps: float | None = None
        self._paths = paths
        self._index = 0

    @property
    def ended(self) -> bool:
        """Whether all images have been read."""
        return self._index >= len(self._paths)

    def open(self) -> None:
        """Nothing to open."""

    def read(self) -> Frame | None:
        """The next image.

        Raises:
            CorruptFrameError: it cannot be read.
        """
        if self.ended:
            return None
        path, index = self._paths[self._index], self._index
        self._index += 1
        try:
            return Frame(read_image(path), index, time.monotonic_ns(), name=str(path))
        except InputError as error:
            raise CorruptFrameError(str(path), str(error)) from error

    def close(self) -> None:
        """Nothing to release."""


def find_images(names: list[str]) -> list[Path]:
    """Image files behind names of files, folders and globs, folders in the order of their names.

    A file that is named is taken whatever its ending; folders and globs give what ends like an image.

    Raises:
        InputError: a name that leads to no image.
    """
    found: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_file():
            found.append(path)
            continue
        candidates = (
            sorted(path.rglob("*")) if path.is_dir() else sorted(Path(p) for p in glob.glob(name, recursive=True))  # noqa: PTH207  (a pattern may be absolute)
        )
        images = [candidate for candidate in candidates if candidate.suffix.lower() in IMAGE_SUFFIXES]
        if not images:
            raise InputError(f"{name}: expected an image, a folder of images or a video, found none")
        found.extend(images)
    return found
