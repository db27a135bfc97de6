"""Releases that this device has accepted: an older bundle, however well signed, is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from fthnet_kit.edge.errors import BundleError
from fthnet_kit.edge.files import read_regular, state_folder, write_atomically
from fthnet_kit.edge.trust.manifest import SignedManifest

RELEASES_NAME = "bundle-releases.json"
MOST_BYTES = 1 << 20
EXPECTED = "expected the releases that were accepted here"
LOG = logging.getLogger(__name__)


def releases_file() -> Path:
    """Where the greatest release of each key and model is kept."""
    return state_folder() / RELEASES_NAME


def accept_release(manifest: SignedManifest, folder: Path, *, note: bool = True) -> None:
    """Compare a release with the greatest that was noted here, and `note` it.

    Raises:
        BundleError: this bundle is older than one that was accepted, or the note cannot be read.
    """
    path = releases_file()
    known = _read(path)
    greatest = known.get(_name(manifest), 0)
    if manifest.release < greatest:
        raise BundleError(
            f"{folder}: expected release {greatest} or later of {manifest.name}, found release {manifest.release}: an "
            "older bundle was put back; `fthnet bundle rollback` does so on purpose"
        )
    if note and manifest.release > greatest:
        _write(path, {**known, _name(manifest): manifest.release})


def forget_later_releases(manifest: SignedManifest) -> None:
    """Let a bundle be the newest again, for a rollback on purpose."""
    path = releases_file()
    _write(path, {**_read(path), _name(manifest): manifest.release})


def _name(manifest: SignedManifest) -> str:
    return f"{manifest.key} {manifest.name}"


def _read(path: Path) -> dict[str, int]:
    try:
        content = json.loads(read_regular(path, MOST_BYTES))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(
            f"{path}: expected the releases that were accepted here, found {error}; remove the file"
        ) from error
    if not isinstance(content, dict) or not all(type(value) is int for value in content.values()):
        raise BundleError(
            f"{path}: expected the releases that were accepted here, found something else; remove the file"
        )
    return content


def _write(path: Path, content: dict[str, int]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())
    except OSError as error:
        LOG.warning("%s: releases cannot be noted (%s): an older bundle would not be found", path, error.strerror)
