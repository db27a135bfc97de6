"""A video source through OpenCV: files and pipelines as they are; cameras and streams build on it."""

from __future__ import annotations

import re
import time

import cv2

from fthnet_kit.edge.capture.backlog import Backlog
from fthnet_kit.edge.capture.source import CorruptFrameError, without_password
from fthnet_kit.edge.errors import CameraError, InputError
from fthnet_kit.edge.formats import jpeg
from fthnet_kit.edge.frame import Frame
from fthnet_kit.edge.image import Image, to_bgr8

CATCH_UP_NS = 250_000_000  # at most, in one read: a source without a pace of its own always has a picture waiting


class VideoCapture:
    """A video file, or a GStreamer pipeline, whose appsink drops older pictures itself.

    Of MJPEG from a network or a USB camera OpenCV hands out the encoded pictures, and they are decoded here: its own
    decoder fills what a truncated JPEG lacks, stretches pictures of another resolution to the first one's, and says
    nothing about either.

    Args:
        target: what `cv2.VideoCapture` opens.
        live: a camera or stream; of a file every picture is read.
        backend: `cv2.CAP_FFMPEG`, `cv2.CAP_GSTREAMER`…
    """

    def __init__(self, target: int | str, *, live: bool, backend: int = cv2.CAP_ANY) -> None:
        self.target = target
        self.live = live
        self.fps: float | None = None
        self.ended = False
        self._backend = backend
        self._capture: cv2.VideoCapture | None = None
        self._encoded = False
        self._index = 0
        self._skipped = 0
        self._backlog: Backlog | None = None

    @property
    def name(self) -> str:
        """The target, without a password."""
        return without_password(str(self.target))

    def open(self) -> None:
        """Open, or open again after `close`.

        Raises:
            CameraError: there is no such camera or stream.
            InputError: OpenCV cannot open the file.
        """
        capture = cv2.VideoCapture(self.target, self._backend, self._parameters())
        if capture.isOpened():
            self._set_up(capture)
        if not capture.isOpened():
            capture.release()
            if self.live:
                raise CameraError(
                    f"{self.name}: expected a camera or stream, found none; is it plugged in and free?{self._hint()}"
                )
            raise InputError(f"{self.name}: expected a video, found something that OpenCV cannot open")
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps < 1000 else None
        self._encoded = self._ask_for_encoded(capture)
        self._backlog = self._new_backlog()
        self._capture = capture

    def _parameters(self) -> list[int]:
        """OpenCV's open-time parameters."""
        return []

    def _set_up(self, capture: cv2.VideoCapture) -> None:
        """What is to be done before the first picture."""

    def _ask_for_encoded(self, capture: cv2.VideoCapture) -> bool:
        """Whether pictures come as JPEG from now on."""
        return False

    def _new_backlog(self) -> Backlog | None:
        """Of what keeps older pictures in a buffer."""
        return None

    def _hint(self) -> str:
        """OpenCV fails without a word where it was built without what a source needs."""
        if self._backend == cv2.CAP_GSTREAMER and not re.search(r"GStreamer:\s*YES", cv2.getBuildInformation()):
            return " This OpenCV has no GStreamer, as pip's have none: use the system's (docs/jetson.md)"
        return ""

    def read(self) -> Frame | None:
        """The newest frame of a camera, the next one of a file.

        Its time is taken after the grab, before decoding, less the time that it is known to have waited.
        """
        captured_ns = self._grab_newest() if self._backlog else self._grab()
        if captured_ns is None:
            self.ended = not self.live
            return None
        index, self._index = self._index, self._index + 1
        try:
            frame = Frame(self._retrieve(), index, captured_ns, skipped=self._skipped)
        except (cv2.error, InputError) as error:
            message = " ".join(str(error).split())
            raise CorruptFrameError(self.name, f"{self.name}: frame {index} cannot be decoded: {message}") from error
        self._skipped = 0
        return frame

    def _grab_newest(self) -> int | None:
        """Grab, passing over pictures behind which fresher ones wait; when the last one came, None without one."""
        assert self._capture is not None and self._backlog is not None
        give_up_ns = time.monotonic_ns() + CATCH_UP_NS
        while True:
            idle_ns = time.monotonic_ns() - time.thread_time_ns()
            arrived_ns = self._grab()
            if arrived_ns is None:
                return None
            waited_ns = arrived_ns - time.thread_time_ns() - idle_ns
            more = self._backlog.holds_more(arrived_ns, waited_ns, self._capture.get(cv2.CAP_PROP_POS_MSEC))
            if not more or arrived_ns > give_up_ns:
                return arrived_ns - self._backlog.late_ns
            self._skipped += 1

    def _grab(self) -> int | None:
        """When the next picture came, by the monotonic clock in ns; None where none did."""
        try:
            if self._capture is None or not self._capture.grab():
                return None
        except cv2.error:
            return None
        return time.monotonic_ns()

    def _retrieve(self) -> Image:
        """The picture that was grabbed."""
        assert self._capture is not None
        ok, image = self._capture.retrieve()
        if not ok or image is None or image.size == 0:
            raise InputError("expected a picture, found none")
        if not self._encoded:
            return to_bgr8(image)
        return jpeg.decode(image.tobytes())

    def close(self) -> None:
        """Release the capture."""
        capture, self._capture, self._backlog = self._capture, None, None
        if capture is not None:
            capture.release()


def fourcc_of(capture: cv2.VideoCapture) -> str:
    """The four letters of a codec or pixel format."""
    return (int(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF).to_bytes(4, "little").decode("latin-1")
