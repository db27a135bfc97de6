"""Sources of frames, by URI.

=========================================  ==================================================
``0``, ``/dev/video2``                     camera (V4L2/UVC), with options:
                                           ``0?width=1920&height=1080&fps=30&fourcc=MJPG``
``csi://0?width=1920&height=1080&fps=30``  a Jetson's CSI camera, through GStreamer
``gst:videotestsrc ! videoconvert``        any GStreamer pipeline that gives BGR pictures
``rtsp://…``, ``http://…``                 network camera (RTSP, MJPEG over HTTP)
``recording.mp4``                          video file
``photos/``, ``photos/*.png``, ``a.jpg``   folder, glob or single image
``sim:?seconds=20&fps=15&seed=3``          the simulated handheld camera
=========================================  ==================================================

Files are read in full; cameras are live: whoever reads late misses frames.
"""

from __future__ import annotations

import glob
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qsl

import cv2

from fthnet_kit.edge.errors import CameraError, InputError
from fthnet_kit.edge.frame import Frame
from fthnet_kit.edge.images import IMAGE_SUFFIXES, decode, is_truncated_jpeg, read_image
from fthnet_kit.edge.preprocess import Image, to_bgr8
from fthnet_kit.edge.simulated_camera import Session, SimulatedCamera

OPEN_TIMEOUT_MS = 4000  # of a stream, the first time
QUICK_OPEN_TIMEOUT_MS = 1500  # of one that is known to open in less than a third of it
PATIENT_OPEN_EVERY = 4  # attempts that ran out of time: the camera may have become slower
READ_TIMEOUT_MS = 1500
PASSWORDS = re.compile(r"(?<=://)[^/@\s]+(?=@)")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".webm", ".mjpg", ".mjpeg")
CAMERA_OPTIONS = {
    "width": cv2.CAP_PROP_FRAME_WIDTH,
    "height": cv2.CAP_PROP_FRAME_HEIGHT,
    "fps": cv2.CAP_PROP_FPS,
    "exposure": cv2.CAP_PROP_EXPOSURE,
}


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

    def read(self) -> Frame | None:
        """The next frame; None when it `ended`, or when a camera gave nothing.

        Raises:
            CorruptFrameError: this picture cannot be read.
        """

    def close(self) -> None:
        """Release the device or file."""


class VideoCapture:
    """A camera, stream or video file through OpenCV.

    Of an MJPEG stream OpenCV hands out the encoded pictures, and they are decoded here: its own decoder fills what
    a truncated JPEG lacks, stretches pictures of another resolution to the first one's, and says nothing about either.
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
        self._capture = capture

    def _hint(self) -> str:
        """OpenCV fails without a word where it was built without what a source needs."""
        if self._backend == cv2.CAP_GSTREAMER and not re.search(r"GStreamer:\s*YES", cv2.getBuildInformation()):
            return " This OpenCV has no GStreamer, as pip's have none: use the system's (docs/jetson.md)"
        return ""

    def _parameters(self) -> list[int]:
        """OpenCV's open-time parameters: formats for cameras, timeouts for streams."""
        if self._is_stream:
            return [
                cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
                self._open_timeout_ms(),
                cv2.CAP_PROP_READ_TIMEOUT_MSEC,
                READ_TIMEOUT_MS,
            ]
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
        """The next frame; its time is taken after the grab, before decoding."""
        capture, began_ns = self._capture, time.monotonic_ns()
        if capture is None or not _grab(capture):
            self.ended = not self.live
            return None
        captured_ns = time.monotonic_ns()
        if self._is_stream and captured_ns - began_ns >= 1e6 * READ_TIMEOUT_MS:
            return None  # nothing came in time: what this is was left over in the decoder
        index, self._index = self._index, self._index + 1
        try:
            return Frame(self._retrieve(capture), index, captured_ns)
        except (cv2.error, InputError) as error:
            message = " ".join(str(error).split())
            raise CorruptFrameError(self.name, f"{self.name}: frame {index} cannot be decoded: {message}") from error

    def _retrieve(self, capture: cv2.VideoCapture) -> Image:
        """The picture that was grabbed."""
        ok, image = capture.retrieve()
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
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.release()


def _fourcc(capture: cv2.VideoCapture) -> bytes:
    """The four letters of a stream's codec."""
    return (int(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF).to_bytes(4, "little")


def _grab(capture: cv2.VideoCapture) -> bool:
    """Whether there is a next picture; where OpenCV raises, there is none."""
    try:
        return capture.grab()
    except cv2.error:
        return False


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


def make_source(uri: str) -> Source:
    """The source that a URI names; not yet opened.

    Raises:
        InputError: no such file, an unknown option, or a folder without images.
    """
    if uri.startswith("sim:"):
        return SimulatedCamera(_session(uri[len("sim:") :].lstrip("?")))
    if uri.startswith(("rtsp://", "http://", "https://")):
        return VideoCapture(uri, live=True, backend=cv2.CAP_FFMPEG)
    if uri.startswith("gst:"):
        return VideoCapture(_ending_in_appsink(uri.removeprefix("gst:").strip()), live=True, backend=cv2.CAP_GSTREAMER)
    device, _, query = uri.partition("?")
    if device.startswith("csi://"):
        return VideoCapture(_csi_pipeline(device, query), live=True, backend=cv2.CAP_GSTREAMER)
    if device.isdigit() or device.startswith("/dev/video"):
        return _camera(device, query)
    return _files(uri)


def _camera(device: str, query: str) -> VideoCapture:
    options = _options(device, query, {*CAMERA_OPTIONS, "fourcc"})
    fourcc = options.pop("fourcc", None)
    if fourcc is not None and len(fourcc) != 4:
        raise InputError(f"{device}: fourcc: expected four letters such as MJPG, found {fourcc!r}")
    numbers = {name: _number(device, name, text) for name, text in options.items()}
    target = int(device) if device.isdigit() else device
    return VideoCapture(target, live=True, backend=cv2.CAP_V4L2, options=numbers, fourcc=fourcc)


def _csi_pipeline(device: str, query: str) -> str:
    """GStreamer's pipeline for a Jetson's CSI camera, by NVIDIA's "Accelerated GStreamer" guide."""
    sensor = device.removeprefix("csi://")
    options = _options(device, query, {"width", "height", "fps"})
    numbers = {name: round(_number(device, name, text)) for name, text in options.items()}
    if not sensor.isdigit() or any(value < 1 for value in numbers.values()):
        raise InputError(f"{device}?{query}: expected csi://0?width=1920&height=1080&fps=30, each a positive number")
    width, height, fps = numbers.get("width", 1920), numbers.get("height", 1080), numbers.get("fps", 30)
    return _ending_in_appsink(
        f"nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM),width={width},height={height},"
        f"framerate={fps}/1 ! nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR"
    )


def _ending_in_appsink(pipeline: str) -> str:
    """The same pipeline, giving the newest frame to OpenCV."""
    return pipeline if "appsink" in pipeline else f"{pipeline} ! appsink drop=true max-buffers=1 sync=false"


def _session(query: str) -> Session:
    options = _options("sim", query, {"seconds", "fps", "seed", "width", "height", "realtime", "defect"})
    defect = options.pop("defect", "")
    numbers = {name: _number("sim", name, text) for name, text in options.items()}
    for name in ("seed", "width", "height"):
        if name in numbers:
            numbers[name] = int(numbers[name])
    return Session(**{**numbers, "realtime": bool(numbers.get("realtime", 1))}, defect=defect)  # type: ignore[arg-type]


def _options(what: str, query: str, known: set[str]) -> dict[str, str]:
    try:
        options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=True)) if query else {}
    except ValueError:
        raise InputError(f"{what}: expected options as name=value&name=value, found {query!r}") from None
    unknown = sorted(set(options) - known)
    if unknown:
        raise InputError(f"{what}: expected options among {', '.join(sorted(known))}, found {', '.join(unknown)}")
    return options


def _number(what: str, name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{what}: {name}: expected a number, found {text!r}") from None


def _files(uri: str) -> Source:
    path = Path(uri)
    if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
        return VideoCapture(str(path), live=False, backend=cv2.CAP_FFMPEG)
    return ImageFiles(find_images([uri]))


def find_images(names: list[str]) -> list[Path]:
    """Image files behind names of files, folders and globs, folders in the order of their names.

    A file that is named is taken whatever its ending; folders and globs give what ends like an image.

    Raises:
        InputError: a name that leads to no image.
    """
    found: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_file():
            found.append(path)
            continue
        candidates = (
            sorted(path.rglob("*")) if path.is_dir() else sorted(Path(p) for p in glob.glob(name, recursive=True))  # noqa: PTH207  (a pattern may be absolute)
        )
        images = [candidate for candidate in candidates if candidate.suffix.lower() in IMAGE_SUFFIXES]
        if not images:
            raise InputError(f"{name}: expected an image, a folder of images or a video, found none")
        found.extend(images)
    return found
