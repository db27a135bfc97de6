"""A bundle's folder on disk: made whole beside its place, then put there."""

from __future__ import annotations

from pathlib import Path

from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.model.bundle import RANGES_NAME, REPORTS, sha256_of
from fthnet_kit.edge.model.card import CARD_NAME


def refuse_existing(folder: Path, *, replace: bool) -> None:
    """Raises InputError where a folder is there and must not be replaced, or is no bundle."""
    if not folder.exists():
        return
    if not replace:
        raise InputError(f"{folder}: expected no such folder, found one; choose another name or pass --replace")
    if not (folder / CARD_NAME).is_file():
        raise InputError(f"{folder}: expected a bundle to replace, found something else; choose another name")


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of what a card vouches for: models, checkpoint and ranges file; other reports may be made again."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix in (".onnx", ".safetensors"))
    ranges = f"{REPORTS}/{RANGES_NAME}"
    return {name: sha256_of(folder / name) for name in [*names, ranges] if (folder / name).is_file()}


def install(work: Path, folder: Path, temporary: Path) -> None:
    """Put the finished folder in place; an old bundle is only removed once the new one stands."""
    old = temporary / "old"
    if folder.exists():
        folder.rename(old)
    try:
        work.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
