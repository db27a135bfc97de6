"""MJPEG over HTTP: the pictures of a multipart answer, as they come.

Cameras differ: with and without Content-Length, with dashes in the boundary that they declare, with no boundary
declared, with parts that are no pictures. What all of them do is accepted; a part that ends in the middle is
recognised by its bytes when the picture is decoded.
"""

from __future__ import annotations

import http.client
import re

from fthnet_kit.edge.capture.wire import Wire

CHUNK = 1 << 18
LARGEST_PICTURE = 1 << 26  # bytes; a fundus photograph of 20 megapixels has some 2^23
LARGEST_HEAD = 1 << 14
NEXT_PICTURE = re.compile(rb"\n\r?\n.", re.DOTALL)  # something behind a head
END_OF_PICTURE = b"\xff\xd9"
PICTURES = (b"image/jpeg", b"image/jpg", b"image/pjpeg")


class Multipart:
    """The JPEG parts of an answer.

    Args:
        answer: an answer whose body has not been read.
        wire: what it is read from.
        boundary: as declared; without one it is the body's first line.
    """

    def __init__(self, answer: http.client.HTTPResponse, wire: Wire, boundary: str | None) -> None:
        self._answer = answer
        self._wire = wire
        self._held = bytearray()
        self._delimiter = b"--" + boundary.lstrip("-").encode("latin-1") if boundary else b""

    def next(self) -> tuple[bytes, int]:
        """The next picture, still encoded, and the monotonic time in ns at which it began to come.

        Raises:
            EOFError: there will be none.
            OSError, http.client.HTTPException: the connection is lost, or silent for too long.
            ValueError: what comes is no multipart answer.
        """
        while True:
            kind, length = self._head()
            if not self._held:
                self._fill()
            arrived_ns, empty_ns = self._wire.since_ns, self._wire.empty_ns
            picture = self._up_to_delimiter() if length is None else self._take(length)
            if NEXT_PICTURE.search(
                self._held, 0, LARGEST_HEAD
            ):  # they came together, and the wire knows when the last did
                arrived_ns = empty_ns
            if kind is None or kind in PICTURES:
                return picture, arrived_ns

    def _head(self) -> tuple[bytes | None, int | None]:
        """Content type and length of the next part, None for what it does not say; its body is next."""
        self._pass_delimiter()
        kind, length = None, None
        while line := self._line():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-type":
                kind = value.partition(b";")[0].strip().lower()
            elif name.lower() == b"content-length":
                length = int(value)
        if length is not None and not 0 <= length <= LARGEST_PICTURE:
            raise ValueError(f"expected a picture, found one of {length} bytes")
        return kind, length

    def _pass_delimiter(self) -> None:
        while not self._delimiter:
            self._delimiter = self._line()
        while (at := self._held.find(self._delimiter)) < 0:
            del self._held[: max(0, len(self._held) - len(self._delimiter))]
            self._fill()
        del self._held[: at + len(self._delimiter)]
        if self._line().startswith(b"--"):
            raise EOFError("the last part")

    def _line(self) -> bytes:
        """The next line, without its end."""
        while (at := self._held.find(b"\n")) < 0:
            if len(self._held) > LARGEST_HEAD:
                raise ValueError("expected the head of a picture, found something else")
            self._fill()
        line = bytes(self._held[:at])
        del self._held[: at + 1]
        return line.strip()

    def _take(self, length: int) -> bytes:
        while len(self._held) < length:
            self._fill()
        taken = bytes(memoryview(self._held)[:length])
        del self._held[:length]
        return taken

    def _up_to_delimiter(self) -> bytes:
        """A part that does not say how long it is. It may be whole long before the next delimiter comes."""
        looked_at = 0
        while (at := self._held.find(self._delimiter, looked_at)) < 0:
            if len(self._held) > LARGEST_PICTURE:
                raise ValueError("expected a picture, found no end of it")
            if self._held[-4:].rstrip(b"\r\n").endswith(END_OF_PICTURE) and self._wire.is_empty():
                return self._take(len(self._held))
            looked_at = max(0, len(self._held) - len(self._delimiter))
            self._fill()
        return self._take(at)

    def _fill(self) -> None:
        """Read what has come, or wait for something."""
        chunk = self._answer.read1(CHUNK)
        if not chunk:
            raise EOFError("the end of the stream")
        self._held += chunk
