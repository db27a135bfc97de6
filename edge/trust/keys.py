"""Ed25519 keys in PEM files: the private one for who signs, the public one for every device."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from fthnet_kit.edge.errors import InputError, MissingExtraError, found_instead
from fthnet_kit.edge.files import read_regular, read_secret

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

MOST_KEY_BYTES = 1 << 14
KEY_ID_LENGTH = 16  # hexadecimal digits of the SHA-256 of a public key
OWNER_ONLY = 0o600


def make_key(private: Path) -> Path:
    """Make a key pair: `private`, readable by its owner alone, and its public half beside it with the suffix ``.pub``.

    Returns:
        The public key's file.

    Raises:
        InputError: one of the files is there already, or cannot be written.
        MissingExtraError: `cryptography` is not installed.
    """
    need_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    public_file = private.with_name(f"{private.name}.pub")
    for path, content, mode in ((private, secret, OWNER_ONLY), (public_file, public, 0o644)):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
        except OSError as error:
            raise InputError(f"{path}: expected a key that can be made, found {error.strerror}") from error
    return public_file


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """A private key; warns where everybody on this machine can read it.

    Raises:
        InputError: no Ed25519 key in PEM without a password.
        MissingExtraError: `cryptography` is not installed.
    """
    need_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(read_secret(path, "a private key").encode(), None)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: expected a private key of `fthnet bundle keygen`, found {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path}: expected an Ed25519 key, found another kind")
    return key


def read_public_key(path: Path) -> Ed25519PublicKey:
    """A public key.

    Raises:
        InputError: no Ed25519 public key in PEM.
        MissingExtraError: `cryptography` is not installed.
    """
    need_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(read_regular(path.resolve(), MOST_KEY_BYTES))
    except OSError as error:
        raise InputError(f"{path}: expected a public key, found {found_instead(error)}") from error
    except ValueError as error:
        raise InputError(f"{path}: expected a public key of `fthnet bundle keygen`, found another file") from error
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{path}: expected an Ed25519 key, found another kind")
    return key


def key_id(key: Ed25519PublicKey) -> str:
    """What a key is called: the first digits of the SHA-256 of its 32 bytes."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:KEY_ID_LENGTH]


def need_cryptography() -> None:
    """Raises MissingExtraError where `cryptography` is not installed."""
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("cryptography", "sign", purpose="a signature") from error
