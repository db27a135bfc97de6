"""Why a network camera cannot be opened, in words."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

PORTS = {"rtsp": 554, "http": 80, "https": 443}
PATIENCE_S = 1.0


def why_unreachable(url: str) -> str:
    """What a connection to a camera's address meets, and what to do; it is tried once more, for a second at most."""
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or PORTS[parts.scheme]), PATIENCE_S).close()
    except OSError as error:
        return what_was_met(url, error)
    return what_was_met(url, None)


def what_was_met(url: str, error: BaseException | None) -> str:
    """An error of a connection in words, with what to do.

    Args:
        url: ``rtsp://…`` or ``http://…``, of which messages show only host and port.
        error: None where the machine answers.
    """
    parts = urlsplit(url)
    place = f"{parts.hostname}:{parts.port or PORTS[parts.scheme]}"
    if isinstance(error, ConnectionRefusedError):
        return f"that {place} refuses the connection; is the camera on, and the port right?"
    if isinstance(error, socket.gaierror):
        return f"no machine of the name {parts.hostname}; is the address right?"
    if isinstance(error, TimeoutError):
        return f"no answer from {place}; is the camera on, and in the same network?"
    if isinstance(error, OSError):
        return f"{error.strerror or error} at {place}; is the camera on, and in the same network?"
    return f"that {place} answers, but gives no pictures; are path, user and password right?"
