"""Network cameras over RTSP, through FFmpeg."""

from __future__ import annotations

import time

import cv2

from fthnet_kit.edge.capture.opencv_source import VideoCapture
from fthnet_kit.edge.capture.patience import READ_TIMEOUT_S, Patience
from fthnet_kit.edge.capture.reachable import why_unreachable
from fthnet_kit.edge.capture.rtsp_redirect import refuse_other_hosts
from fthnet_kit.edge.capture.stream_clock import StreamClock
from fthnet_kit.edge.errors import CameraError

REFUSED_S = 1.0  # an answer that comes sooner is a refusal; a camera that is slow is not asked twice
AGAIN_S = 0.3


class NetworkStream(VideoCapture):
    """A stream that may stall, vanish and come back.

    Args:
        url: ``rtsp://…``.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url, live=True, backend=cv2.CAP_FFMPEG)
        self._patience = Patience()

    def open(self) -> None:
        """Open, or open again after `close`.

        Raises:
            CameraError: nothing answers, or not in time, or the camera sends to another host.
        """
        with self._patience.attempt():
            answered, began_s = refuse_other_hosts(str(self.target)), time.monotonic()
            try:
                super().open()
            except CameraError:
                if not answered or time.monotonic() - began_s > REFUSED_S:
                    raise
                time.sleep(AGAIN_S)  # GStreamer's server says 503 while it takes down what it prepared for the question
                super().open()

    def _parameters(self) -> list[int]:
        parameters = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(1e3 * self._patience.timeout_s)]
        parameters += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(1e3 * READ_TIMEOUT_S)]
        return parameters + super()._parameters()

    def _why(self) -> str:
        return why_unreachable(str(self.target))

    def _new_clock(self, began_ns: int) -> StreamClock:
        return StreamClock(began_ns)

    def _grab(self) -> int | None:
        began_ns = time.monotonic_ns()
        arrived_ns = super()._grab()
        if arrived_ns is None or arrived_ns - began_ns >= 1e9 * READ_TIMEOUT_S:
            return None  # nothing came in time: what this is was left over in the decoder
        return arrived_ns
