"""A real RTSP camera on loopback: GStreamer's RTSP server, H.264 or JPEG. Run by the system's Python.

    /usr/bin/python3 tests/edge/rtsp_server.py PORT

Prints `ready` when it listens. Killing and stopping it is up to whoever started it.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

Gst.init(None)
H264 = "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=15 ! rtph264pay name=pay0 config-interval=1"
ENCODER = H264 if Gst.ElementFactory.find("x264enc") else "jpegenc ! rtpjpegpay name=pay0"
PIPELINE = (
    "videotestsrc is-live=true pattern=ball foreground-color=0xffc06030 ! "
    f"video/x-raw,width=320,height=240,framerate=30/1 ! videoconvert ! video/x-raw,format=I420 ! {ENCODER}"
)

server = GstRtspServer.RTSPServer()
server.set_service(sys.argv[1])
server.set_address("127.0.0.1")
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(f"( {PIPELINE} )")
factory.set_shared(True)
server.get_mount_points().add_factory("/live", factory)
if not server.attach(None):
    sys.exit("the port is taken")
print("ready", flush=True)
GLib.MainLoop().run()
