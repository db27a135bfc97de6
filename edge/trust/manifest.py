"""What a bundle's signature covers: a canonical list of every file, and the release that it is."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from fthnet_kit.edge.errors import BundleError, InputError, found_instead
from fthnet_kit.edge.files import open_regular, read_regular, write_atomically
from fthnet_kit.edge.trust.keys import key_id, read_public_key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MANIFEST_NAME = "signed_manifest.json"
SIGNATURE_NAME = "signed_manifest.sig"
OWN_NAMES = (MANIFEST_NAME, SIGNATURE_NAME)
ENGINES = "engines"
ENGINE_SUFFIXES = (".engine", ".json")  # what a signature covers there; timing caches change with every build
PURPOSE = b"fthnet-edge-kit bundle 1\n"  # signed with the manifest, so that no signature stands for something else
MOST_MANIFEST_BYTES = 1 << 20
MOST_FILE_BYTES = 1 << 30
SIGNATURE_BYTES = 64
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class SignedFile:
    """Size and SHA-256 of one file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class SignedManifest:
    """Contents of `signed_manifest.json`.

    Attributes:
        name, version: of the card, for the reader.
        release: counts up with every bundle that is handed out; a device refuses one that is smaller than it has seen.
        key: id of the key that signed it.
        signed_at: when (ISO 8601, UTC).
        files: by their path in the bundle.
    """

    name: str
    version: str
    release: int
    key: str
    signed_at: str
    files: Mapping[str, SignedFile]

    def to_bytes(self) -> bytes:
        """Canonical JSON: the same manifest gives the same bytes."""
        content = {
            "schema": 1,
            "name": self.name,
            "version": self.version,
            "release": self.release,
            "key": self.key,
            "signed_at": self.signed_at,
            "files": {name: {"bytes": file.size, "sha256": file.sha256} for name, file in self.files.items()},
        }
        return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, content: bytes, where: str) -> SignedManifest:
        """Parse; only the canonical bytes of a manifest are one.

        Raises:
            BundleError: anything else.
        """
        try:
            found: dict[str, Any] = json.loads(content)
            files = {name: SignedFile(file["bytes"], file["sha256"]) for name, file in found["files"].items()}
            del found["files"], found["schema"]
            manifest = cls(**found, files=files)
            sound = manifest.to_bytes() == content and all(map(_is_sound, files.items()))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            sound = False
        if not sound or type(manifest.release) is not int or manifest.release < 1:
            raise BundleError(
                f"{where}: expected a manifest of `fthnet bundle sign`, found something else; sign it again"
            )
        return manifest

    def compare(self, folder: Path, name: str, size: int, sha256: str) -> None:
        """Raises BundleError where a file is not the signed one."""
        signed = self.files.get(name)
        if signed is None:
            raise BundleError(f"{folder / name}: expected a file that the signature covers, found one that it does not")
        if (signed.size, signed.sha256) != (size, sha256):
            raise BundleError(
                f"{folder / name}: expected {signed.size} bytes with SHA-256 {signed.sha256[:12]}… as signed, found "
                f"{size} bytes with {sha256[:12]}…: the file was altered after it was signed"
            )

    def compare_file(self, folder: Path, name: str) -> None:
        """The same for a file that is read here."""
        size, sha256 = _measured(folder / name)
        self.compare(folder, name, size, sha256)

    def check_files(self, folder: Path, known: Mapping[str, str]) -> None:
        """Compare every file of a bundle with its signed size and hash.

        Args:
            folder: the bundle.
            known: SHA-256 of files that are compared elsewhere with just this hash, by name; the others are read here.

        Raises:
            BundleError: a file was altered, is missing, or is not covered.
        """
        here = set(covered_files(folder))
        if missing := sorted(set(self.files) - here):
            raise BundleError(
                f"{folder / missing[0]}: expected a file that was signed, found none: the bundle is incomplete"
            )
        for name in sorted(here):
            if PurePosixPath(name).parts[0] == ENGINES:
                continue  # compared when one is loaded: a device may build others
            if name in known:
                self.compare(folder, name, (folder / name).lstat().st_size, known[name])
            else:
                self.compare_file(folder, name)

    @property
    def origin(self) -> str:
        """For the reader."""
        return f"signed by {self.key}, release {self.release}"


def _is_sound(item: tuple[str, SignedFile]) -> bool:
    name, file = item
    path = PurePosixPath(name)
    plain = not path.is_absolute() and ".." not in path.parts and str(path) == name != "."
    return plain and type(file.size) is int and file.size >= 0 and bool(SHA256.fullmatch(file.sha256))


def covered_files(folder: Path) -> Iterator[str]:
    """Paths of the files of a bundle that a signature covers."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = (Path(parent) / name).relative_to(folder)
            in_engines = path.parts[0] == ENGINES
            if path.as_posix() in OWN_NAMES or (in_engines and path.suffix not in ENGINE_SUFFIXES):
                continue
            yield path.as_posix()


def _measured(path: Path) -> tuple[int, str]:
    """Size and SHA-256 of a file of a bundle.

    Raises:
        BundleError: it cannot be read.
    """
    try:
        with open_regular(path, MOST_FILE_BYTES) as file:
            digest, size = hashlib.sha256(), 0
            while block := file.read(1 << 20):
                digest.update(block)
                size += len(block)
    except OSError as error:
        raise BundleError(f"{path}: expected a file of a bundle, found {found_instead(error)}") from error
    return size, digest.hexdigest()


def is_signed(folder: Path) -> bool:
    """Whether a bundle carries a signature, true or not."""
    return any((folder / name).exists() for name in OWN_NAMES)


def sign_manifest(folder: Path, key: Ed25519PrivateKey, name: str, version: str, release: int) -> SignedManifest:
    """Sign every file of a bundle as it lies there.

    Args:
        folder: a bundle that was opened, and so is whole.
        key: the private key.
        name, version: of the card.
        release: 1 or more.

    Raises:
        InputError: the bundle cannot be written.
        BundleError: a file cannot be read.
    """
    files = {each: SignedFile(*_measured(folder / each)) for each in covered_files(folder)}
    signed_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
    manifest = SignedManifest(name, version, release, key_id(key.public_key()), signed_at, files)
    content = manifest.to_bytes()
    try:
        (folder / SIGNATURE_NAME).unlink(missing_ok=True)
        write_atomically(folder / MANIFEST_NAME, content)
        write_atomically(folder / SIGNATURE_NAME, key.sign(PURPOSE + content))
    except OSError as error:
        raise InputError(f"{folder}: expected a bundle that can be written, found {error.strerror}") from error
    return manifest


def read_manifest(folder: Path, public_key: Path) -> SignedManifest:
    """The manifest of a bundle that a key has signed; the files themselves are not looked at yet.

    Raises:
        BundleError: unsigned, signed with another key, or altered.
        InputError: the key cannot be read.
        MissingExtraError: `cryptography` is not installed.
    """
    key = read_public_key(public_key)
    from cryptography.exceptions import InvalidSignature

    try:
        content = read_regular(folder / MANIFEST_NAME, MOST_MANIFEST_BYTES)
        signature = read_regular(folder / SIGNATURE_NAME, SIGNATURE_BYTES)
    except OSError as error:
        raise BundleError(
            f"{folder}: expected a bundle signed by {key_id(key)} ({public_key}), found it unsigned; "
            "`fthnet bundle sign` signs one"
        ) from error
    try:
        key.verify(signature, PURPOSE + content)
    except InvalidSignature as error:
        stated = SignedManifest.from_bytes(content, str(folder / MANIFEST_NAME)).key
        if stated != key_id(key):
            raise BundleError(
                f"{folder}: expected a bundle signed by {key_id(key)} ({public_key}), found the unknown key {stated}"
            ) from error
        raise BundleError(
            f"{folder}: expected the signature of {stated}, found that its manifest was altered"
        ) from error
    return SignedManifest.from_bytes(content, str(folder / MANIFEST_NAME))


def drop_signature(folder: Path) -> bool:
    """Remove a signature that no longer covers the bundle; whether there was one."""
    found = is_signed(folder)
    for name in OWN_NAMES:
        (folder / name).unlink(missing_ok=True)
    return found
