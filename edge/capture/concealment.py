"""Which pictures of a video FFmpeg made up in part.

What its decoders (H.264, MPEG-1, -2 and -4) cannot read of a picture they fill from pictures around it, and they put a
copy in the place of one that is missing. OpenCV hands these out like any other, and passes no option on that would stop
it (`OPENCV_FFMPEG_CAPTURE_OPTIONS` reaches the demuxer alone). Only FFmpeg's log says so, in the thread that decodes:
with one decoder thread, in the one that grabs. So the log is listened to, and what arrives goes on to where FFmpeg
itself would have written it.
"""

from __future__ import annotations

import atexit
import ctypes
from functools import cache
from pathlib import Path
from threading import get_ident
from typing import Any

import cv2

LIBRARIES = Path("/proc/self/maps")
REPORTS = (b"concealing %d DC, %d AC, %d MV errors", b"Frame num gap")  # parts; whole pictures of H.264
MESSAGE = (ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)  # whose, level, format, its values
HELD_BACK = 16  # pictures at most that a decoder keeps to bring them into order

KEY = ord("I")
NEEDED = ("CAP_PROP_N_THREADS", "CAP_PROP_FRAME_TYPE")  # OpenCV 4.6 lacks one

_reports: set[int] = set()  # threads whose decoder made something up


class Concealment:
    """Follows one decoder, picture by picture: what is made up stays so until a picture rests on no other.

    A picture that comes out soon after a report may have been decoded before it, and a key picture that comes out so
    soon may lie before the damage; so neither ends it.

    Attributes:
        is_made_up: whether the last picture may be, in part.
    """

    def __init__(self) -> None:
        self.is_made_up = False
        self._unsure = 0
        _listen()

    def grab(self, capture: cv2.VideoCapture) -> bool:
        """Grab the next picture. Returns whether there was one."""
        _reports.discard(get_ident())
        grabbed = capture.grab()
        self.tell(reported=get_ident() in _reports, is_key=int(capture.get(cv2.CAP_PROP_FRAME_TYPE)) == KEY)
        return grabbed

    def tell(self, *, reported: bool, is_key: bool) -> None:
        """A picture came.

        Args:
            reported: the decoder made something up meanwhile.
            is_key: this picture rests on no other.
        """
        if reported:
            self._unsure, self.is_made_up = HELD_BACK, True
        elif self._unsure:
            self._unsure -= 1
        elif is_key:
            self.is_made_up = False


def concealment_of(capture: cv2.VideoCapture) -> Concealment | None:
    """For an opened video or stream with one decoder thread; None if this OpenCV does not tell enough."""
    if capture.getBackendName() != "FFMPEG" or not all(hasattr(cv2, name) for name in NEEDED):
        return None
    return Concealment()


def _listen() -> None:
    """Listen from now on. OpenCV sets a listener of its own when it opens its first video, so this comes after it."""
    library = _library()
    if library is not None:
        library.av_log_set_callback(_listener)


@cache
def _library() -> Any:
    """The libavutil that OpenCV uses; None if there is none, or if it cannot be found."""
    try:
        names = sorted({line.split(maxsplit=5)[5].strip() for line in _lines() if "/libavutil" in line})
    except OSError:
        return None
    names = names if len(names) < 2 else [name for name in names if "opencv" in name]  # PyAV brings one, too
    if len(names) != 1:
        return None
    library = ctypes.CDLL(names[0])
    library.av_log_set_callback.argtypes = [ctypes.c_void_p]
    library.av_log_set_callback.restype = None
    library.av_log_default_callback.argtypes = MESSAGE
    library.av_log_default_callback.restype = None
    atexit.register(library.av_log_set_callback, ctypes.cast(library.av_log_default_callback, ctypes.c_void_p))
    return library


def _lines() -> list[str]:
    return LIBRARIES.read_text(errors="replace").splitlines()


def _hear(whose: int, level: int, form: bytes, values: int) -> None:
    if form.startswith(REPORTS):
        _reports.add(get_ident())
    _library().av_log_default_callback(whose, level, form, values)


_listener = ctypes.CFUNCTYPE(None, *MESSAGE)(_hear)
