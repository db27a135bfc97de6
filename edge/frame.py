"""One picture from a source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fthnet_kit.edge.formats import jpeg
from fthnet_kit.edge.image import Image


@dataclass(frozen=True)
class Frame:
    """One picture from a camera, a video or a folder.

    Attributes:
        image: BGR uint8 (H, W, 3).
        index: 0-based count of pictures that the source has delivered.
        captured_ns: `time.monotonic_ns()` when the picture came, before it was decoded.
        name: file name, for pictures that come from files.
        skipped: older pictures just before it that the source passed over.
        truth: what the simulated camera did to this picture; None for all other sources.
    """

    image: Image
    index: int
    captured_ns: int
    name: str | None = None
    skipped: int = 0
    truth: Mapping[str, float | bool] | None = None

    def decoded(self) -> Frame:
        """Itself."""
        return self


@dataclass(frozen=True)
class EncodedFrame:
    """A JPEG as a camera sent it. Taking it costs next to nothing; only those that are needed are decoded.

    Attributes:
        data: the file.
        index, captured_ns, name, skipped: as of `Frame`.
    """

    data: bytes
    index: int
    captured_ns: int
    name: str | None = None
    skipped: int = 0

    def decoded(self) -> Frame:
        """The picture.

        Raises:
            PictureError: it lost a part, or is no JPEG.
        """
        return Frame(jpeg.decode(self.data), self.index, self.captured_ns, self.name, self.skipped)


AnyFrame = Frame | EncodedFrame
