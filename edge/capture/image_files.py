"""Image files as a source, read in full."""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import time
from collections import Counter
from pathlib import Path

from fthnet_kit.edge.capture.source import CorruptFrameError
from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.formats.dicom import is_dicom
from fthnet_kit.edge.formats.read import IMAGE_SUFFIXES, UNREAD_SUFFIXES, read_image
from fthnet_kit.edge.frame import Frame

LOG = logging.getLogger("fthnet")
KEPT_FOLDERS = ("@eaDir", "__MACOSX")


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

    A file that is named is taken whatever its ending. Folders and globs give what ends like an image, and DICOM files
    without an ending, but no hidden files and folders and what file managers keep (`@eaDir`, `__MACOSX`); pictures
    that the kit does not read are counted in one log line a name.

    Raises:
        InputError: a name that leads to no image.
    """
    found: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_file():
            found.append(path)
            continue
        candidates = _below(path) if path.is_dir() else _matching(name)
        images = [candidate for candidate in candidates if _is_image(candidate)]
        unread = Counter(suffix for each in candidates if (suffix := each.suffix.lower()) in UNREAD_SUFFIXES)
        if unread:
            kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(unread.items()))
            LOG.warning("%s: left out %s: the kit does not read them; convert them to PNG or TIFF", name, kinds)
        if not images and not path.exists() and not glob.has_magic(name):
            raise InputError(f"{name}: expected an image, a folder of images or a video, found no such file")
        if not images:
            raise InputError(f"{name}: expected an image, a folder of images or a video, found none")
        found.extend(images)
    return found


def _is_image(path: Path) -> bool:
    """Whether a file ends like an image, or is a DICOM file without an ending (``IM0001``, ``1.2.840.99``)."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return True
    if suffix.lstrip(".").isdigit() or not suffix:
        with contextlib.suppress(OSError), path.open("rb") as file:
            return is_dicom(file.read(132))
    return False


def _below(folder: Path) -> list[Path]:
    """Files in a folder and in those below it; what may not be looked at, or goes meanwhile, is left out."""
    inside: list[Path] = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not _is_kept(name)]
        inside += [Path(place, name) for name in names if not _is_kept(name)]
    return sorted(path for path in inside if _is_file(path))


def _is_file(path: Path) -> bool:
    """Whether there is a file that may be looked at."""
    try:
        return path.is_file()
    except OSError:
        return False


def _is_kept(part: str) -> bool:
    """Whether a file or folder is one that a system keeps for itself."""
    return part.startswith(".") or part in KEPT_FOLDERS


def _matching(pattern: str) -> list[Path]:
    """Files of a glob; folders at its beginning that exist as written are taken as written (`exam [od]/*.png`)."""
    parts = Path(pattern).parts
    literal = Path()
    while parts and (literal / parts[0]).is_dir():
        literal, parts = literal / parts[0], parts[1:]
    rest = str(Path(*parts)) if parts else ""
    paths = (Path(path) for path in glob.glob(str(Path(glob.escape(str(literal))) / rest), recursive=True))  # noqa: PTH207  (a pattern may be absolute)
    return sorted(path for path in paths if not any(_is_kept(part) for part in path.relative_to(literal).parts))
