"""What the live loop reads frames from."""

from __future__ import annotations

import re
from typing import Protocol

from fthnet_kit.edge.frame import AnyFrame

SECRETS = re.compile(r"(://)[^/?#\s]+(?=@)|([?&](?:pwd|pass|passwd|password|token|key)=)[^&#\s]+", re.IGNORECASE)


class CorruptFrameError(Exception):
    """One picture of a source cannot be read; the next one may be fine."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


class Source(Protocol):
    """A camera, a video or a folder.

    Attributes:
        live: frames come when the camera takes them and are lost when nobody reads; otherwise the source
            waits for its reader.
        fps: nominal frames a second, None where unknown.
    """

    live: bool
    fps: float | None

    @property
    def ended(self) -> bool:
        """There will be no further frame: the end of a file or of a simulated session."""

    def open(self) -> None:
        """Open, or open again after `close`. Raises CameraError where there is nothing to open."""

    def read(self) -> AnyFrame | None:
        """The next frame; None when it `ended`, or when a camera gave nothing.

        Raises:
            CorruptFrameError: this picture cannot be read.
        """

    def close(self) -> None:
        """Release the device or file."""


def without_password(uri: str) -> str:
    """A source's address as it may be shown: without users, passwords and keys."""
    return SECRETS.sub(lambda found: f"{found[1] or found[2]}…", uri)
