"""Cameras of this machine, through V4L2: USB (UVC) for the most part.

- OpenCV waits 10 s for a picture, and meanwhile nobody can open a camera anew that has hung. Here it waits
  `PICTURE_TIMEOUT_S`, and a camera is open when its first picture has come: some take seconds to start.
- A camera that lacks what was asked for gives something else, and OpenCV says nothing. Here it is logged.

What OpenCV hides: V4L2's flag on pictures that lost a part on the way (V4L2_BUF_FLAG_ERROR). They are noticed only
as MJPEG, where the end is missing or nothing can be decoded. `fthnet doctor` says where the driver hands them on.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping

import cv2

from fthnet_kit.edge.capture.opencv_source import VideoCapture, fourcc_of
from fthnet_kit.edge.capture.stream_clock import StreamClock
from fthnet_kit.edge.errors import CameraError

LOG = logging.getLogger("fthnet")
FIRST_PICTURE_S = 4.0
PICTURE_TIMEOUT_S = 2  # whole seconds: longer than a stall that must be reported, no longer than a hang may be
SAME = 0.02  # 29.97 fps are 30
LONGEST_TRANSFER_NS = 500_000_000  # from the first picture's timestamp to its arrival; if longer, it has another clock
MANUAL_EXPOSURE = 1  # V4L2_EXPOSURE_MANUAL
ENCODED = ("MJPG", "JPEG")
CAMERA_OPTIONS = {
    "width": cv2.CAP_PROP_FRAME_WIDTH,
    "height": cv2.CAP_PROP_FRAME_HEIGHT,
    "fps": cv2.CAP_PROP_FPS,
    "exposure": cv2.CAP_PROP_EXPOSURE,
}
_logged: set[str] = set()  # what a camera lacks is logged once


class UsbCamera(VideoCapture):
    """A V4L2 camera.

    Args:
        target: its number, or its path.
        options: what to ask it for, names of `CAMERA_OPTIONS`.
        fourcc: four letters of the pixel format to ask for.
    """

    def __init__(
        self, target: int | str, options: Mapping[str, float] | None = None, fourcc: str | None = None
    ) -> None:
        super().__init__(target, live=True, backend=cv2.CAP_V4L2)
        self._options = dict(options or {})
        self._fourcc = fourcc
        self._stamped = False

    def open(self) -> None:
        """Open, or open again after `close`, apply the options, and wait for the first picture.

        Raises:
            CameraError: there is no such camera, someone else has it, or it gives no picture.
        """
        os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(PICTURE_TIMEOUT_S))  # read at the first wait
        super().open()
        self._await_first_picture()

    def _set_up(self, capture: cv2.VideoCapture) -> None:
        """Ask for the options, and log what the camera gives instead."""
        if self._fourcc:
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*self._fourcc))
        for name, value in self._options.items():
            if name == "exposure":  # refused while the camera chooses its exposure itself
                capture.set(cv2.CAP_PROP_AUTO_EXPOSURE, MANUAL_EXPOSURE)
            capture.set(CAMERA_OPTIONS[name], round(value))
        expected, found = self._lacking(capture)
        message = f"{self.name}: expected {' '.join(expected)}, found {' '.join(found)}; the camera has nothing nearer"
        if expected and message not in _logged:
            _logged.add(message)
            LOG.warning(message)

    def _lacking(self, capture: cv2.VideoCapture) -> tuple[list[str], list[str]]:
        """Options that the camera did not take, as they were asked for and as they are."""
        given = {name: capture.get(CAMERA_OPTIONS[name]) for name in self._options}
        other = [name for name, value in self._options.items() if abs(given[name] - value) > SAME * abs(value)]
        expected = [f"{name}={self._options[name]:g}" for name in other]
        found = [f"{name}={given[name]:g}" if given[name] >= 0 else f"no {name}" for name in other]
        fourcc = fourcc_of(capture)
        if self._fourcc not in (None, fourcc):
            return [*expected, f"fourcc={self._fourcc}"], [*found, f"fourcc={fourcc}"]
        return expected, found

    def _ask_for_encoded(self, capture: cv2.VideoCapture) -> bool:
        return fourcc_of(capture) in ENCODED and capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)

    def _new_clock(self, began_ns: int) -> None:
        return None  # not before the first picture has shown whose clock its timestamp is by

    def _await_first_picture(self) -> None:
        """It is often a bad one, and not used."""
        self._stamped = False
        began = tried = time.monotonic()
        while self._grab() is None:
            now = time.monotonic()
            is_out = now - tried < PICTURE_TIMEOUT_S / 2  # it said no at once
            if is_out or now - began >= FIRST_PICTURE_S:
                self.close()
                raise CameraError(
                    f"{self.name}: expected a picture, found none in {now - began:.1f} s; is it still plugged in? "
                    "On a hub, other devices may leave it too little bandwidth"
                )
            tried = now
        delay_ns = time.monotonic_ns() - round(1e6 * self._stamp_ms())
        self._stamped = self._stamp_ms() > 0
        if self._stamped:
            self._clock = StreamClock(round(1e9 * began), own=0 <= delay_ns < LONGEST_TRANSFER_NS)

    def _grab(self) -> int | None:
        arrived_ns = super()._grab()
        if self._stamped and arrived_ns is not None and not self._stamp_ms():
            return None  # a buffer that the driver gives back unfilled, as when the camera is unplugged
        return arrived_ns

    def _stamp_ms(self) -> float:
        """The driver's timestamp of the picture that was grabbed; 0 without one."""
        return 0.0 if self._capture is None else self._capture.get(cv2.CAP_PROP_POS_MSEC)
