"""A real RTSP camera on loopback: GStreamer's RTSP server, H.264 or JPEG. Run by the system's Python.

    /usr/bin/python3 tests/edge/rtsp_server.py PORT [x264enc|openh264enc|jpegenc]

Each picture carries the time at which it was made, as `fthnet_kit.bench.endurance.faulty_camera.read_stamp` reads it.
Prints `ready` when it listens. Killing and stopping it is up to whoever started it.
"""

import sys
import time

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

WIDTH, HEIGHT, FPS = 640, 480, 30
BITS, SQUARE = 32, 12
SKIN = bytes((20, 40, 150))

Gst.init(None)
ENCODERS = {
    "x264enc": "tune=zerolatency speed-preset=ultrafast key-int-max=15 ! rtph264pay name=pay0 config-interval=1",
    "openh264enc": "complexity=low gop-size=15 ! h264parse ! rtph264pay name=pay0 config-interval=1",
    "jpegenc": "! rtpjpegpay name=pay0",
}
FIRST = sys.argv[2] if len(sys.argv) > 2 else next(name for name in ENCODERS if Gst.ElementFactory.find(name))
ENCODER = f"{FIRST} {ENCODERS[FIRST]}"
PIPELINE = (
    "appsrc name=sensor is-live=true do-timestamp=true format=time max-buffers=1 leaky-type=downstream "
    f"caps=video/x-raw,format=BGR,width={WIDTH},height={HEIGHT},framerate={FPS}/1 "
    f"! videoconvert ! video/x-raw,format=I420 ! {ENCODER}"
)


def picture() -> bytes:
    """Plain, with the time in ms down the left edge."""
    now_ms = int(1e3 * time.monotonic()) % 2**BITS
    rows = []
    for bit in range(BITS):
        square = bytes((255 * (now_ms >> bit & 1),)) * (3 * SQUARE)
        rows += [square + SKIN * (WIDTH - SQUARE)] * SQUARE
    return b"".join(rows) + SKIN * (WIDTH * (HEIGHT - BITS * SQUARE))


def on_media(_: GstRtspServer.RTSPMediaFactory, media: GstRtspServer.RTSPMedia) -> None:
    """Someone watches: push pictures until nobody does."""
    sensor = media.get_element().get_by_name("sensor")
    playing = [True]
    media.connect("unprepared", lambda _: playing.clear())

    def push() -> bool:
        if playing:
            sensor.emit("push-buffer", Gst.Buffer.new_wrapped(picture()))
        return bool(playing)

    GLib.timeout_add(1000 // FPS, push)


server = GstRtspServer.RTSPServer()
server.set_service(sys.argv[1])
server.set_address("127.0.0.1")
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(f"( {PIPELINE} )")
factory.set_shared(True)
factory.connect("media-configure", on_media)
server.get_mount_points().add_factory("/live", factory)
if not server.attach(None):
    sys.exit("the port is taken")
print("ready", flush=True)
GLib.MainLoop().run()
