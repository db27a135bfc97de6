"""Network cameras, through FFmpeg: RTSP, and MJPEG over HTTP."""

from __future__ import annotations

import time

import cv2

from fthnet_kit.edge.capture.backlog import Backlog
from fthnet_kit.edge.capture.opencv_source import VideoCapture, fourcc_of
from fthnet_kit.edge.errors import CameraError

OPEN_TIMEOUT_MS = 4000  # the first time
QUICK_OPEN_TIMEOUT_MS = 1500  # of one that is known to open in less than a third of it
PATIENT_OPEN_EVERY = 4  # attempts that ran out of time: the camera may have become slower
READ_TIMEOUT_MS = 1500
DECODER_THREADS = 1  # H.264 holds back a picture for each more: 170 ms at 30 fps on six cores


class NetworkStream(VideoCapture):
    """A stream that may stall, vanish and come back.

    Args:
        url: ``rtsp://…``, ``http://…``, ``https://…``.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url, live=True, backend=cv2.CAP_FFMPEG)
        self._has_timestamps = url.startswith("rtsp://")
        self._opened_in_ms: float | None = None
        self._timeouts = 0

    def open(self) -> None:
        """Open, or open again after `close`.

        Raises:
            CameraError: nothing answers, or not in time.
        """
        began = time.monotonic()
        try:
            super().open()
        except CameraError:
            self._timeouts += 1e3 * (time.monotonic() - began) >= QUICK_OPEN_TIMEOUT_MS
            raise
        self._opened_in_ms, self._timeouts = 1e3 * (time.monotonic() - began), 0

    def _parameters(self) -> list[int]:
        parameters = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, self._open_timeout_ms()]
        parameters += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_TIMEOUT_MS]
        threads = getattr(cv2, "CAP_PROP_N_THREADS", None)  # OpenCV 4.6 has none
        return parameters if threads is None else [*parameters, threads, DECODER_THREADS]

    def _open_timeout_ms(self) -> int:
        """Patience with one attempt: short with a camera known to be quick, so that its return is noticed soon."""
        if self._opened_in_ms is None or self._timeouts % PATIENT_OPEN_EVERY == PATIENT_OPEN_EVERY - 1:
            return OPEN_TIMEOUT_MS
        return round(min(max(3 * self._opened_in_ms, QUICK_OPEN_TIMEOUT_MS), OPEN_TIMEOUT_MS))

    def _ask_for_encoded(self, capture: cv2.VideoCapture) -> bool:
        return fourcc_of(capture) == "MJPG" and capture.set(cv2.CAP_PROP_FORMAT, -1)

    def _new_backlog(self) -> Backlog:
        return Backlog(timestamps=self._has_timestamps and not self._encoded)

    def _grab(self) -> int | None:
        began_ns = time.monotonic_ns()
        arrived_ns = super()._grab()
        if arrived_ns is None or arrived_ns - began_ns >= 1e6 * READ_TIMEOUT_MS:
            return None  # nothing came in time: what this is was left over in the decoder
        return arrived_ns
