"""A video source through OpenCV: files and pipelines as they are; cameras and streams build on it."""

from __future__ import annotations

import logging
import re
import time

import cv2

from fthnet_kit.edge.capture.concealment import Concealment, concealment_of
from fthnet_kit.edge.capture.source import CorruptFrameError, without_password
from fthnet_kit.edge.capture.stream_clock import StreamClock, idle_ns
from fthnet_kit.edge.errors import CameraError, InputError
from fthnet_kit.edge.frame import AnyFrame, EncodedFrame, Frame
from fthnet_kit.edge.image import to_bgr8

LOG = logging.getLogger("fthnet")
CATCH_UP_NS = 250_000_000  # at most, in one read; what is late even so says that it is
COUNTED = (".mp4", ".mov", ".m4v", ".avi")  # containers that say how many pictures they hold; others say how long
DECODER_THREADS = 1  # H.264 holds back a picture for each more: 170 ms at 30 fps on six cores
EARLY_S = 0.5  # a file that ends this much early is reported; sound may be longer than the pictures


class VideoCapture:
    """A video file, or a GStreamer pipeline, whose appsink drops older pictures itself.

    Of MJPEG OpenCV hands out the encoded pictures: its own decoder fills what a truncated JPEG lacks, stretches
    pictures of another resolution to the first one's, and says nothing about either.

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
        self._declared = 0.0
        self._last_ms = 0.0
        self._clock: StreamClock | None = None
        self._concealment: Concealment | None = None

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
        began_ns = time.monotonic_ns()
        capture = cv2.VideoCapture(self.target, self._backend, self._parameters())
        if capture.isOpened():
            self._set_up(capture)
        if not capture.isOpened():
            capture.release()
            if self.live:
                raise CameraError(f"{self.name}: expected a camera or stream, found {self._why()}")
            raise InputError(
                f"{self.name}: expected a whole video, found something that OpenCV cannot open; copy or record it again"
            )
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps < 1000 else None
        self._encoded = self._ask_for_encoded(capture)
        self._declared = max(0.0, capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self._clock = self._new_clock(began_ns)
        self._concealment = None if self._encoded else concealment_of(capture)
        self._capture = capture

    def _parameters(self) -> list[int]:
        """OpenCV's open-time parameters."""
        threads = getattr(cv2, "CAP_PROP_N_THREADS", None)  # OpenCV 4.6 has none
        return [] if threads is None or self._backend != cv2.CAP_FFMPEG else [threads, DECODER_THREADS]

    def _set_up(self, capture: cv2.VideoCapture) -> None:
        """What is to be done before the first picture."""

    def _ask_for_encoded(self, capture: cv2.VideoCapture) -> bool:
        """Whether pictures come as JPEG from now on."""
        is_jpeg = self._backend == cv2.CAP_FFMPEG and fourcc_of(capture) == "MJPG"
        return is_jpeg and capture.set(cv2.CAP_PROP_FORMAT, -1)

    def _new_clock(self, began_ns: int) -> StreamClock | None:
        """Of what keeps older pictures in a buffer."""
        return None

    def _why(self) -> str:
        """What was found instead of a camera, and what to do."""
        return f"none; is it plugged in and free?{self._hint()}"

    def _hint(self) -> str:
        """OpenCV fails without a word where it was built without what a source needs."""
        if self._backend == cv2.CAP_GSTREAMER and not re.search(r"GStreamer:\s*YES", cv2.getBuildInformation()):
            return " This OpenCV has no GStreamer, as pip's have none: use the system's (docs/jetson.md)"
        return ""

    def read(self) -> AnyFrame | None:
        """The newest frame of a camera, the next one of a file.

        Its time is taken after the grab, before decoding, less the time that it may have waited.

        Raises:
            CorruptFrameError: this picture cannot be decoded or is made up, or the file ended and pictures are missing.
        """
        captured_ns = self._grab_newest()
        if captured_ns is None:
            self._end()
            return None
        index, self._index = self._index, self._index + 1
        if self._concealment is not None and self._concealment.is_made_up:
            self._skipped = 0
            raise CorruptFrameError(self.name, f"{self.name}: frame {index} lost a part, which the decoder made up")
        try:
            frame = self._retrieve(index, captured_ns)
        except (cv2.error, InputError) as error:
            message = " ".join(str(error).split())
            raise CorruptFrameError(self.name, f"{self.name}: frame {index} cannot be decoded: {message}") from error
        self._skipped = 0
        return frame

    def _end(self) -> None:
        """No picture came: the end of a file, which is reported if it came too early."""
        if self.live or self.ended:
            return
        self.ended = True
        lost = self._lost()
        if lost:
            message = f"{self.name}: {lost}: the video is cut or damaged; copy or record it again"
            LOG.warning(message)
            raise CorruptFrameError(self.name, message)

    def _lost(self) -> str:
        """What of the declared pictures was not found; empty if nothing is missing."""
        if str(self.target).lower().endswith(COUNTED):
            return f"expected {self._declared:.0f} pictures, found {self._index}" * (self._index < self._declared)
        expected_s, found_s = self._declared / (self.fps or 1.0), self._last_ms / 1e3
        is_early = self.fps is not None and found_s < expected_s - EARLY_S
        return f"expected {expected_s:.1f} s, found {found_s:.1f} s ({self._index} pictures)" * is_early

    def _grab_newest(self) -> int | None:
        """Grab, passing over pictures behind which fresher ones wait; when it was taken, None without one."""
        if self._clock is None or self._capture is None:
            arrived_ns = self._grab()
            if arrived_ns is not None and self._capture is not None and not self.live:
                self._last_ms = self._capture.get(cv2.CAP_PROP_POS_MSEC)
            return arrived_ns
        give_up_ns = time.monotonic_ns() + CATCH_UP_NS
        while True:
            idle_before_ns = idle_ns()
            arrived_ns = self._grab()
            if arrived_ns is None:
                return None
            self._clock.tell(arrived_ns, idle_ns() - idle_before_ns, self._capture.get(cv2.CAP_PROP_POS_MSEC))
            if not self._clock.more or arrived_ns > give_up_ns:
                return self._clock.captured_ns
            self._skipped += 1

    def _grab(self) -> int | None:
        """When the next picture came, by the monotonic clock in ns; None where none did."""
        try:
            if self._capture is None or not self._grab_one(self._capture):
                return None
        except cv2.error:
            return None
        return time.monotonic_ns()

    def _grab_one(self, capture: cv2.VideoCapture) -> bool:
        return capture.grab() if self._concealment is None else self._concealment.grab(capture)

    def _retrieve(self, index: int, captured_ns: int) -> AnyFrame:
        """The picture that was grabbed."""
        assert self._capture is not None
        ok, image = self._capture.retrieve()
        if not ok or image is None or image.size == 0:
            raise InputError("expected a picture, found none")
        if self._encoded:
            return EncodedFrame(image.tobytes(), index, captured_ns, skipped=self._skipped)
        return Frame(to_bgr8(image), index, captured_ns, skipped=self._skipped)

    def close(self) -> None:
        """Release the capture."""
        capture, self._capture, self._clock = self._capture, None, None
        if capture is not None:
            capture.release()


def fourcc_of(capture: cv2.VideoCapture) -> str:
    """The four letters of a codec or pixel format."""
    return (int(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF).to_bytes(4, "little").decode("latin-1")
