"""Sources of frames, by URI.

=========================================  ==================================================
``0``, ``/dev/video2``, ``/dev/v4l/…``     camera (V4L2/UVC), with options:
                                           ``0?width=1920&height=1080&fps=30&fourcc=MJPG``,
                                           ``exposure=100`` (manual from then on, by the camera's own unit)
``csi://0?width=1920&height=1080&fps=30``  a Jetson's CSI camera, through GStreamer
``gst:videotestsrc ! videoconvert``        any GStreamer pipeline that gives BGR pictures
``rtsp://…``, ``http://…``                 network camera (RTSP; MJPEG or single JPEGs over HTTP)
``recording.mp4``                          video file
``photos/``, ``photos/*.png``, ``a.jpg``   folder, glob or single image
``sim:?seconds=20&fps=15&seed=3``          the simulated handheld camera; with ``photograph=FILE`` before that eye
=========================================  ==================================================

Files are read in full; cameras are live: whoever reads late misses frames, and gets the newest.
"""

from __future__ import annotations

import math
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlsplit

import cv2

from fthnet_kit.edge.capture.http_camera import HttpCamera
from fthnet_kit.edge.capture.image_files import ImageFiles, find_images
from fthnet_kit.edge.capture.network_stream import NetworkStream
from fthnet_kit.edge.capture.opencv_source import VideoCapture
from fthnet_kit.edge.capture.simulated_camera import Session, SimulatedCamera
from fthnet_kit.edge.capture.source import Source, without_password
from fthnet_kit.edge.capture.usb_camera import CAMERA_OPTIONS, UsbCamera
from fthnet_kit.edge.errors import InputError

LARGEST_OPTION = 1e9
NETWORK_SCHEMES = ("rtsp", "http", "https")
LONGEST_URI = 4096
MOST_CAMERAS = 1024  # numbers of devices
WITHOUT_PLACE = {
    "sim": "the simulated camera is sim:, with its options sim:?seconds=20",
    "csi": "a Jetson's camera is csi://0",
    "gst": "a GStreamer pipeline is gst:PIPELINE",
    "usb": "a USB camera is its number, such as 0, or its file, such as /dev/video0",
    "rtsp": "a network camera is rtsp://HOST/PATH",
    "http": "a network camera is http://HOST/PATH",
}
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".webm", ".mjpg", ".mjpeg")


def make_source(uri: str) -> Source:
    """The source that a URI names; not yet opened.

    Raises:
        InputError: no such file, an unknown option, or a folder without images.
    """
    _refuse_unprintable(uri)
    if uri.startswith("sim:"):
        return SimulatedCamera(_session(uri[len("sim:") :].lstrip("?")))
    if uri.startswith(("rtsp://", "http://", "https://")):
        return NetworkStream(uri) if uri.startswith("rtsp://") else HttpCamera(uri)
    if uri.startswith("gst:"):
        return VideoCapture(_ending_in_appsink(uri.removeprefix("gst:").strip()), live=True, backend=cv2.CAP_GSTREAMER)
    device, _, query = uri.partition("?")
    if device.startswith("csi://"):
        return VideoCapture(_csi_pipeline(device, query), live=True, backend=cv2.CAP_GSTREAMER)
    if device.isdecimal() or device.startswith(("/dev/video", "/dev/v4l/")):
        return _camera(device, query)
    return _files(uri)


def _refuse_unprintable(uri: str) -> None:
    """Control characters, and what no file system or network can name."""
    try:
        parts = urlsplit(uri if "://" in uri else "")
        parts.port  # noqa: B018  (raises where it is none)
    except ValueError as error:
        raise InputError(f"source: expected an address, found {without_password(uri)[:60]!r} ({error})") from error
    if parts.scheme in NETWORK_SCHEMES and not parts.hostname:
        raise InputError(f"source: expected {parts.scheme}://HOST/…, found no host")
    if "\0" in uri or "\n" in uri or "\r" in uri or len(uri) > LONGEST_URI:
        raise InputError(
            f"source: expected one line of at most {LONGEST_URI} characters, found {without_password(uri)[:60]!r}"
        )


def with_password(uri: str, password: str) -> str:
    """A network camera's address with its password, so that it stands in a file and not on a command line.

    Args:
        uri: with the user's name in it, ``rtsp://USER@HOST/…``, and no password.
        password: as it is typed.

    Raises:
        InputError: no such address.
    """
    scheme, separator, rest = uri.partition("://")
    authority, slash, path = rest.partition("/")
    user, at, host = authority.rpartition("@")
    if scheme not in NETWORK_SCHEMES or not separator or not at or not user or ":" in user:
        raise InputError(
            "camera password: expected an address such as rtsp://USER@HOST/stream beside it, with a user and without "
            f"a password, found {without_password(uri)}"
        )
    return f"{scheme}://{user}:{quote(password, safe='')}@{host}{slash}{path}"


def _camera(device: str, query: str) -> UsbCamera:
    options = _options(device, query, {*CAMERA_OPTIONS, "fourcc"})
    fourcc = options.pop("fourcc", None)
    if fourcc is not None and len(fourcc) != 4:
        raise InputError(f"{device}: fourcc: expected four letters such as MJPG, found {fourcc!r}")
    numbers = {name: _number(device, name, text) for name, text in options.items()}
    if ("width" in numbers) != ("height" in numbers):
        raise InputError(f"{device}?{query}: expected width and height together, found one of them")
    target = _device_number(device) if device.isdecimal() else device
    return UsbCamera(target, numbers, fourcc)


def _device_number(device: str) -> int:
    if not device.isascii() or len(device) > 4 or int(device) >= MOST_CAMERAS:
        raise InputError(f"source: expected the number of a camera, 0 to {MOST_CAMERAS - 1}, found {device[:60]!r}")
    return int(device)


def _csi_pipeline(device: str, query: str) -> str:
    """GStreamer's pipeline for a Jetson's CSI camera, by NVIDIA's "Accelerated GStreamer" guide."""
    sensor = device.removeprefix("csi://")
    options = _options(device, query, {"width", "height", "fps"})
    numbers = {name: round(_number(device, name, text)) for name, text in options.items()}
    if not (sensor.isascii() and sensor.isdigit()) or any(value < 1 for value in numbers.values()):
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
    known = {"seconds", "fps", "seed", "width", "height", "realtime", "defect", "photograph"}
    options = _options("sim", query, known)
    defect, photograph = options.pop("defect", ""), options.pop("photograph", None)
    numbers = {name: _number("sim", name, text) for name, text in options.items()}
    for name in ("seed", "width", "height"):
        if name in numbers:
            numbers[name] = int(numbers[name])
    return Session(
        **{**numbers, "realtime": bool(numbers.get("realtime", 1))},  # type: ignore[arg-type]
        defect=defect,
        photograph=None if photograph is None else Path(photograph),
    )


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
        number = float(text)
    except ValueError:
        number = math.nan
    if not abs(number) < LARGEST_OPTION:
        raise InputError(f"{what}: {name}: expected a number below {LARGEST_OPTION:g}, found {text[:60]!r}")
    return number


def _files(uri: str) -> Source:
    path = Path(uri)
    try:
        there = path.is_file()
    except (OSError, ValueError) as error:  # a name that is too long, or that no file system takes
        raise InputError(f"{uri[:60]!r}: expected the name of a file, found {error}") from error
    if uri.lower() in WITHOUT_PLACE and not path.exists():
        raise InputError(f"{uri}: expected a source, found the beginning of one; {WITHOUT_PLACE[uri.lower()]}")
    if there and path.suffix.lower() in VIDEO_SUFFIXES:
        return VideoCapture(str(path), live=False, backend=cv2.CAP_FFMPEG)
    return ImageFiles(find_images([uri]))
