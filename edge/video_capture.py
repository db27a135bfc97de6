"""Cameras, streams and video files through OpenCV, without its surprises.

- A reader that is slower than the camera gets pictures from ever deeper in the buffers of driver and network
  (OpenCV issue 13145): they are seconds old, and OpenCV says nothing. Here they are passed over (`Backlog`).
- FFmpeg decodes H.264 with a thread a core, which holds back a picture a thread: 170 ms at 30 fps on six cores.
  Streams are decoded by one thread.
- Of an MJPEG stream OpenCV hands out the encoded pictures, and they are decoded here: its own decoder fills what
  a truncated JPEG lacks, stretches pictures of another resolution to the first one's, and says nothing about either.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

import cv2

from fthnet_kit.edge.errors import CameraError, InputError
from fthnet_kit.edge.frame import Frame
from fthnet_kit.edge.images import decode, is_truncated_jpeg
from fthnet_kit.edge.preprocess import Image, to_bgr8
from fthnet_kit.edge.source import CorruptFrameError

OPEN_TIMEOUT_MS = 4000  # of a stream, the first time
QUICK_OPEN_TIMEOUT_MS = 1500  # of one that is known to open in less than a third of it
PATIENT_OPEN_EVERY = 4  # attempts that ran out of time: the camera may have become slower
READ_TIMEOUT_MS = 1500
PROMPT_NS = 2_000_000  # a grab that waits less found its picture waiting; measured: 0.5 ms and less
FASTER = 0.9  # of the camera's own interval: pictures that come faster have waited
CATCH_UP_NS = 250_000_000  # at most, in one read: a source without a pace of its own always has a picture waiting
LONGEST_STEP_NS = 1_000_000_000  # from one timestamp to the next; a longer one, or one back, starts the clock anew
PASSWORDS = re.compile(r"(?<=://)[^/@\s]+(?=@)")
CAMERA_OPTIONS = {
    "width": cv2.CAP_PROP_FRAME_WIDTH,
    "height": cv2.CAP_PROP_FRAME_HEIGHT,
    "fps": cv2.CAP_PROP_FPS,
    "exposure": cv2.CAP_PROP_EXPOSURE,
}


class Backlog:
    """Whether a picture that was just grabbed had waited in a buffer, and for how long.

    A grab that had to wait for its picture found all buffers empty. One that had not may have found the newest
    picture or one of many; there only a stream's timestamps (RTSP) tell: many wait where pictures come faster
    than the camera took them, and where they come later after their timestamps than they did with empty buffers.
    Without timestamps (V4L2, MJPEG over HTTP) the next picture is the surer one.

    What the camera itself, or the network, holds back is not seen.

    Attributes:
        late_ns: how long the last picture had waited, where timestamps tell.
    """

    def __init__(self, *, timestamps: bool) -> None:
        self.late_ns = 0
        self._timestamps = timestamps
        self._arrived_ns = 0
        self._stamp_ns = -LONGEST_STEP_NS
        self._delay_ns = 0  # from timestamp to arrival, with empty buffers

    def holds_more(self, arrived_ns: int, waited_ns: int, stamp_ms: float) -> bool:
        """Whether fresher pictures may wait behind the one that was grabbed.

        Args:
            arrived_ns: monotonic clock when the grab returned.
            waited_ns: for how long it did nothing; decoding is not waiting.
            stamp_ms: the picture's timestamp, by the camera's clock.
        """
        waited = waited_ns >= PROMPT_NS
        stamp_ns = round(1e6 * stamp_ms)
        step_ns, passed_ns = stamp_ns - self._stamp_ns, arrived_ns - self._arrived_ns
        delay_ns = arrived_ns - stamp_ns
        self._arrived_ns, self._stamp_ns = arrived_ns, stamp_ns
        if not self._timestamps or not 0 < step_ns < LONGEST_STEP_NS:
            self._delay_ns, self.late_ns = delay_ns, 0
            return not waited
        self._delay_ns = delay_ns if waited else min(delay_ns, self._delay_ns)
        self.late_ns = delay_ns - self._delay_ns
        return not waited and (passed_ns < FASTER * step_ns or self.late_ns > step_ns)


class VideoCapture:
    """A camera, stream or video file through OpenCV.

    Args:
        target: what `cv2.VideoCapture` opens.
        live: a camera or stream, whose older pictures are passed over; of a file every picture is read.
        backend: `cv2.CAP_V4L2`, `cv2.CAP_FFMPEG`…
        options: of a camera, names of `CAMERA_OPTIONS`.
        fourcc: four letters of the pixel format that a camera shall give.
    """

    def __init__(
        self,
        target: int | str,
        *,
        live: bool,
        backend: int = cv2.CAP_ANY,
        options: Mapping[str, float] | None = None,
        fourcc: str | None = None,
    ) -> None:
        self.target = target
        self.live = live
        self.fps: float | None = None
        self.ended = False
        self._backend = backend
        self._options = dict(options or {})
        self._fourcc = fourcc
        self._capture: cv2.VideoCapture | None = None
        self._encoded = False
        self._index = 0
        self._skipped = 0
        self._backlog: Backlog | None = None
        self._opened_in_ms: float | None = None
        self._timeouts = 0

    @property
    def _is_stream(self) -> bool:
        """Whether it comes over a network, through FFmpeg."""
        return self.live and self._backend == cv2.CAP_FFMPEG

    @property
    def name(self) -> str:
        """The target, without a password."""
        return PASSWORDS.sub("…", str(self.target))

    def open(self) -> None:
        """Open and apply the options.

        Raises:
            CameraError: OpenCV cannot open it (a camera or stream).
            InputError: the same for a file.
        """
        began = time.monotonic()
        capture = cv2.VideoCapture(self.target, self._backend, self._parameters())
        if not capture.isOpened():
            capture.release()
            self._timeouts += 1e3 * (time.monotonic() - began) >= QUICK_OPEN_TIMEOUT_MS
            if self.live:
                raise CameraError(
                    f"{self.name}: expected a camera or stream, found none; is it plugged in and free?{self._hint()}"
                )
            raise InputError(f"{self.name}: expected a video, found something that OpenCV cannot open")
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps < 1000 else None
        self._opened_in_ms, self._timeouts = 1e3 * (time.monotonic() - began), 0
        self._encoded = self._is_stream and _fourcc(capture) == b"MJPG" and capture.set(cv2.CAP_PROP_FORMAT, -1)
        self._backlog = self._new_backlog()
        self._capture = capture

    def _new_backlog(self) -> Backlog | None:
        """Of what keeps pictures in a buffer; not files, nor GStreamer, whose appsink drops the older ones itself."""
        if not self.live or self._backend == cv2.CAP_GSTREAMER:
            return None
        return Backlog(timestamps=str(self.target).startswith("rtsp://") and not self._encoded)

    def _hint(self) -> str:
        """OpenCV fails without a word where it was built without what a source needs."""
        if self._backend == cv2.CAP_GSTREAMER and not re.search(r"GStreamer:\s*YES", cv2.getBuildInformation()):
            return " This OpenCV has no GStreamer, as pip's have none: use the system's (docs/jetson.md)"
        return ""

    def _parameters(self) -> list[int]:
        """OpenCV's open-time parameters: formats for cameras, timeouts for streams."""
        if self._is_stream:
            timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, self._open_timeout_ms()]
            timeouts += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_TIMEOUT_MS]
            threads = getattr(cv2, "CAP_PROP_N_THREADS", None)  # OpenCV 4.6 has none
            return timeouts if threads is None else [*timeouts, threads, 1]
        parameters = [cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*self._fourcc)] if self._fourcc else []
        for name, value in self._options.items():
            parameters += [CAMERA_OPTIONS[name], round(value)]
        return parameters

    def _open_timeout_ms(self) -> int:
        """Patience with one attempt: short with a camera known to be quick, so that its return is noticed soon."""
        if self._opened_in_ms is None or self._timeouts % PATIENT_OPEN_EVERY == PATIENT_OPEN_EVERY - 1:
            return OPEN_TIMEOUT_MS
        return round(min(max(3 * self._opened_in_ms, QUICK_OPEN_TIMEOUT_MS), OPEN_TIMEOUT_MS))

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
        began_ns = time.monotonic_ns()
        try:
            if self._capture is None or not self._capture.grab():
                return None
        except cv2.error:
            return None
        arrived_ns = time.monotonic_ns()
        if self._is_stream and arrived_ns - began_ns >= 1e6 * READ_TIMEOUT_MS:
            return None  # nothing came in time: what this is was left over in the decoder
        return arrived_ns

    def _retrieve(self) -> Image:
        """The picture that was grabbed."""
        assert self._capture is not None
        ok, image = self._capture.retrieve()
        if not ok or image is None or image.size == 0:
            raise InputError("expected a picture, found none")
        if not self._encoded:
            return to_bgr8(image)
        data = image.tobytes()
        decoded = None if is_truncated_jpeg(data) else decode(data)
        if decoded is None:
            raise InputError(f"expected a whole JPEG, found {len(data)} bytes of something else")
        return decoded

    def close(self) -> None:
        """Release the capture."""
        capture, self._capture, self._backlog = self._capture, None, None
        if capture is not None:
            capture.release()


def _fourcc(capture: cv2.VideoCapture) -> bytes:
    """The four letters of a stream's codec."""
    return (int(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF).to_bytes(4, "little")
