"""Who may see the preview: where it listens, the token that opens it, and which requests are let in."""

from __future__ import annotations

import hmac
import ipaddress
import math
import os
import re
import socket
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.files import read_secret
from fthnet_kit.edge.outputs.preview.doorman import Guesses, Sessions, source_of

if TYPE_CHECKING:
    from tornado.httputil import HTTPServerRequest

COOKIE = "fthnet_preview"
TOKEN_VARIABLE = "FTHNET_TOKEN"  # noqa: S105  (a name, not a secret)
TOKEN_FORM = re.compile(r"[!-~]{1,256}")
TOKEN_BITS = 128  # what nobody guesses
FEWEST_SIGNS = 8  # different characters of a token that is drawn at random
ALPHABETS = tuple(  # a token is counted as drawn from the smallest that holds it
    frozenset(letters)
    for letters in (
        string.digits,
        string.digits + "abcdef",
        string.digits + "ABCDEF",
        string.ascii_lowercase,
        string.digits + string.ascii_lowercase,
        string.ascii_letters,
        string.digits + string.ascii_letters,
        string.digits + string.ascii_letters + "-_+/=",
        "".join(map(chr, range(33, 127))),
    )
)
ADDRESS_FORM = re.compile(r"(?:(?:\[([^\]]+)\]|([^:]+)):)?([0-9]{1,5})", re.ASCII)
LAST_PORT = 65535


@dataclass(frozen=True)
class Address:
    """Where to listen."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``8080``, ``127.0.0.1:8080``, ``0.0.0.0:8080`` or ``[::1]:8080``; a port alone is loopback.

        Raises:
            InputError: not of that form.
        """
        found = ADDRESS_FORM.fullmatch(text.strip())
        expected = f"expected a port or IP-ADDRESS:PORT, such as 8080 or 0.0.0.0:8080, found {text!r}"
        if found is None or int(found[3]) > LAST_PORT:
            raise InputError(expected)
        host = found[1] or found[2] or "127.0.0.1"
        host = "127.0.0.1" if host == "localhost" else host
        try:
            ip = ipaddress.ip_address(host)
        except ValueError as error:
            raise InputError(expected) from error
        if (ip.version == 6) != (found[1] is not None):
            raise InputError(expected)
        return cls(host, int(found[3]))

    @property
    def loopback(self) -> bool:
        """Only this machine can connect."""
        return ipaddress.ip_address(self.host).is_loopback

    def reachable(self) -> Address:
        """The same as others can type it: where all addresses of this machine are served, the one on its network."""
        ip = ipaddress.ip_address(self.host)
        if not ip.is_unspecified:
            return self
        family, elsewhere = (socket.AF_INET, "192.0.2.1") if ip.version == 4 else (socket.AF_INET6, "2001:db8::1")
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:  # asks for the way there, sends nothing
                probe.connect((elsewhere, 9))
                host = str(probe.getsockname()[0])
        except OSError:  # no network
            host = "127.0.0.1" if ip.version == 4 else "::1"
        return Address(host, self.port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, token: str | None = None) -> Address:
    """Where to listen, as `Address.parse` reads it, if that is safe with this token.

    Raises:
        InputError: not of that form, or open to the network without a token.
    """
    try:
        address = Address.parse(text)
    except InputError as error:
        raise InputError(f"--serve: {error}") from error
    if not address.loopback and token is None:
        raise InputError(
            f"--serve {address}: others on the network could see the picture, and a token is missing; give one with "
            f"--serve-token-file FILE or in {TOKEN_VARIABLE}, or serve this machine only: --serve {address.port}"
        )
    return address


def read_token(file: Path | None, environ: Mapping[str, str] = os.environ) -> str | None:
    """The token from a file or, without one, from the environment; None where neither is given.

    Raises:
        InputError: the file cannot be read, or this is no token.
    """
    token = environ.get(TOKEN_VARIABLE) if file is None else read_secret(file, "a token")
    if token is None:
        return None
    token = token.strip()
    if not TOKEN_FORM.fullmatch(token) or len(set(token)) < FEWEST_SIGNS or bits_of(token) < TOKEN_BITS:
        raise InputError(
            f"{file or TOKEN_VARIABLE}: expected a token of {TOKEN_BITS} random bits, as 32 hexadecimal digits or 22 "
            "letters and digits without spaces, found a weaker one; `openssl rand -hex 16` makes one"
        )
    return token


def bits_of(token: str) -> float:
    """How many bits a token has at most, if each of its signs was drawn at random."""
    alphabet = next(letters for letters in ALPHABETS if letters >= set(token))
    return len(token) * math.log2(len(alphabet))


class PauseError(Exception):
    """Too many wrong tokens came from there.

    Attributes:
        seconds: until the next is looked at.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"too many wrong tokens; wait {seconds:.0f} s")
        self.seconds = seconds


class Access:
    """Who may ask: by the Host and Origin that a browser names, and by the token.

    Args:
        address: where the server listens; on loopback only loopback names are served, so that no page can reach it
            under a name of its own (DNS rebinding); elsewhere IP addresses and this machine's own name.
        token: None: everyone who can connect.
    """

    def __init__(self, address: Address, token: str | None) -> None:
        self._loopback = address.loopback
        self._token = token
        self.sessions = Sessions()
        self.guesses = Guesses()
        self._names = {"localhost"} if address.loopback else {"localhost", *_own_names()}

    def knows_host(self, host: str) -> bool:
        """Whether a Host header names this server."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
            ip = ipaddress.ip_address(name) if name not in self._names else None
        except ValueError:
            return False
        return ip is None or ip.is_loopback or not self._loopback

    @property
    def needs_token(self) -> bool:
        """Whether who asks must show one."""
        return self._token is not None

    def is_token(self, given: str, address: str) -> bool:
        """Whether this is the token; a wrong one is counted, and after too many none is looked at for a while.

        Raises:
            PauseError: so long.
        """
        if self._token is None:
            return False
        source = source_of(address)
        if pause_s := self.guesses.pause_s(source):
            raise PauseError(pause_s)
        if hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._token.encode()):
            self.guesses.forget(source)
            return True
        self.guesses.note(source)
        return False

    def admits(self, request: HTTPServerRequest) -> bool:
        """Whether a request carries the token, or the cookie that stands for it, or needs neither.

        Raises:
            PauseError: too many wrong tokens came from where it comes from.
        """
        if self._token is None:
            return True
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        cookie = request.cookies.get(COOKIE)
        if cookie is not None and self.sessions.holds(cookie.value):
            return True
        return scheme.lower() == "bearer" and self.is_token(given.strip(), request.remote_ip or "")

    @staticmethod
    def same_origin(request: HTTPServerRequest) -> bool:
        """Whether the page that asks, if a browser names one, is ours; anyone may open one of ours in a tab.

        Browsers name no Origin with `<img>` and `<script>`: there Sec-Fetch-Site says it, on loopback and with TLS.
        """
        site = request.headers.get("Sec-Fetch-Site", "none")
        if site not in ("none", "same-origin") and request.headers.get("Sec-Fetch-Dest") != "document":
            return False
        origin = request.headers.get("Origin")
        if origin is None:
            return True
        scheme, _, place = origin.partition("://")
        return scheme in ("http", "https") and place.lower() == request.host.lower()


def _own_names() -> set[str]:
    """What others on the network may call this machine."""
    name = socket.gethostname().lower()
    return {name, f"{name.partition('.')[0]}.local"} if name else set()
