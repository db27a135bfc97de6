"""Two places for bundles on a device: one runs, the other takes the next one, and a link says which.

    SLOTS/a/  SLOTS/b/         bundles
    SLOTS/current -> a         what `fthnet run --bundle SLOTS/current` opens; switched in one step
    SLOTS/.failed-starts       how often in a row a run could not open it

Whatever ends a step half-way, a cut of the power too, `current` names the bundle that it named before.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fthnet_kit.edge.errors import BundleError, InputError
from fthnet_kit.edge.files import read_regular, write_atomically
from fthnet_kit.edge.model.bundle import REPORTS, Bundle
from fthnet_kit.edge.trust.manifest import drop_signature
from fthnet_kit.edge.trust.releases import forget_later_releases

SLOTS = ("a", "b")
CURRENT = "current"
INCOMING = ".incoming"
FAILED_STARTS = ".failed-starts"
MOST_FAILED_STARTS = 3
REFERENCE_NAME = "reference.json"
REFERENCE_POINTS = 0.05  # what a score of a reference picture may differ on this device
MOST_BYTES = 1 << 26
LOG = logging.getLogger("fthnet")


@dataclass(frozen=True)
class Slots:
    """The slots of a device. A method that switches does so in one step, on the disk."""

    folder: Path

    @property
    def active(self) -> str | None:
        """Name of the slot that runs; None before the first."""
        try:
            name = str((self.folder / CURRENT).readlink())
        except OSError:
            return None
        return name if name in SLOTS else None

    @property
    def other(self) -> str:
        """Name of the slot that takes the next bundle."""
        return SLOTS[1] if self.active == SLOTS[0] else SLOTS[0]

    def install(self, bundle: Path) -> str:
        """Copy a bundle into the slot that does not run; returns its name.

        Raises:
            BundleError: the bundle, or its copy, is not whole, or not signed with the key that is asked for.
            InputError: the slots cannot be written.
        """
        Bundle.open(bundle, release="compare")
        incoming, slot = self.folder / INCOMING, self.folder / self.other
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(incoming, ignore_errors=True)
            shutil.copytree(bundle, incoming, symlinks=True)
            _make_durable(incoming)
            Bundle.open(incoming, release="compare").check_weights()
            shutil.rmtree(slot, ignore_errors=True)
            incoming.rename(slot)
            _sync(self.folder)
        except OSError as error:
            raise InputError(f"{self.folder}: expected slots that can be written, found {error}") from error
        return slot.name

    def activate(self) -> str:
        """Run the other slot's bundle from the next start on, once it has shown that it scores as it should.

        Raises:
            BundleError: no whole bundle there, or it fails its health check; what ran goes on.
            InputError: the slots cannot be written.
        """
        name = self.other
        check_health(Bundle.open(self._filled(name), release="compare"))
        self._switch(name)
        return name

    def rollback(self) -> str:
        """Run the other slot's bundle again; a signed one may be older than what runs.

        Raises:
            BundleError: no whole bundle there.
            InputError: the slots cannot be written.
        """
        name = self.other
        bundle = Bundle.open(self._filled(name), release="ignore")
        if bundle.signed is not None:
            forget_later_releases(bundle.signed)
        self._switch(name)
        return name

    def _filled(self, name: str) -> Path:
        if not (self.folder / name).is_dir():
            raise BundleError(
                f"{self.folder / name}: expected a bundle there, found none; `fthnet bundle install` first"
            )
        return self.folder / name

    def _switch(self, name: str) -> None:
        link = self.folder / f".{CURRENT}"
        try:
            link.unlink(missing_ok=True)
            link.symlink_to(name)
            link.replace(self.folder / CURRENT)
            (self.folder / FAILED_STARTS).unlink(missing_ok=True)
            _sync(self.folder)
        except OSError as error:
            raise InputError(f"{self.folder}: expected slots that can be written, found {error}") from error

    def begin_start(self) -> None:
        """Count a start; after three that did not succeed, go back to the other bundle."""
        path = self.folder / FAILED_STARTS
        try:
            failed = int(read_regular(path, 64))
        except (OSError, ValueError):
            failed = 0
        if failed >= MOST_FAILED_STARTS and (self.folder / self.other).is_dir():
            try:
                name = self.rollback()
            except (BundleError, InputError) as error:
                LOG.warning("the bundle failed to start %d times, and the other cannot replace it: %s", failed, error)
            else:
                LOG.warning("the bundle failed to start %d times: back to slot %s", failed, name)
            failed = 0
        _write_quietly(path, f"{failed + 1}\n".encode())

    def end_start(self) -> None:
        """The bundle is open and runs."""
        try:
            (self.folder / FAILED_STARTS).unlink(missing_ok=True)
        except OSError as error:
            LOG.warning("%s: cannot be removed: %s", self.folder / FAILED_STARTS, error.strerror)


def slots_of(bundle: Path | None) -> Slots | None:
    """The slots that a bundle's path names by their link ``current``; None for all other paths."""
    if bundle is None or bundle.name != CURRENT or not bundle.is_symlink():
        return None
    found = Slots(bundle.parent)
    return found if found.active else None


def write_reference(folder: Path, pictures: list[Path]) -> list[float]:
    """Put reference pictures and their FP32 scores into a bundle; its signature, if any, is removed.

    Raises:
        BundleError: the bundle is not whole.
        InputError: a picture cannot be scored, or the bundle cannot be written.
    """
    bundle = Bundle.open(folder)
    entries = []
    try:
        (folder / REPORTS).mkdir(exist_ok=True)
        for number, picture in enumerate(pictures):
            name = f"reference-{number}{picture.suffix.lower()}"
            write_atomically(folder / REPORTS / name, picture.read_bytes())
            entries.append({"file": name, "raw": _raw_score(bundle, folder / REPORTS / name)})
        drop_signature(folder)
        write_atomically(
            folder / REPORTS / REFERENCE_NAME, (json.dumps({"pictures": entries}, indent=2) + "\n").encode()
        )
    except OSError as error:
        raise InputError(f"{folder}: expected pictures and a bundle that can be written, found {error}") from error
    return [float(entry["raw"]) for entry in entries]  # type: ignore[arg-type]


def check_health(bundle: Bundle) -> float:
    """Score a bundle's reference pictures on this device; returns the greatest difference in points.

    Raises:
        BundleError: no reference pictures, or one scores otherwise than the bundle states.
        EngineError: the graph is refused, or fails.
    """
    path = bundle.folder / REPORTS / REFERENCE_NAME
    try:
        stated = {
            str(entry["file"]): float(entry["raw"]) for entry in json.loads(read_regular(path, MOST_BYTES))["pictures"]
        }
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise BundleError(
            f"{path}: expected the reference pictures of the bundle, found none that can be read ({error}); "
            "`fthnet bundle reference` makes them"
        ) from error
    if not stated or any(Path(name).name != name for name in stated):
        raise BundleError(f"{path}: expected names of files beside it, found {', '.join(stated) or 'none'}")
    worst = 0.0
    for name, expected in stated.items():
        found = _raw_score(bundle, bundle.folder / REPORTS / name)
        if not abs(found - expected) <= REFERENCE_POINTS:
            raise BundleError(
                f"{bundle.folder}: expected {expected:.3f} points for {name}, found {found:.3f} here: it "
                "fails its health check and is not activated"
            )
        worst = max(worst, abs(found - expected))
    return worst


def _raw_score(bundle: Bundle, picture: Path) -> float:
    """FP32 points of a picture's view on ONNX Runtime, which every device has; NaN where it shows no score."""
    from fthnet_kit.edge.formats.read import read_image
    from fthnet_kit.edge.inference.onnx_runtime import OnnxBackend
    from fthnet_kit.edge.model.preprocess import prepare

    with OnnxBackend(bundle.model("fp32")) as backend:
        scores = backend.infer(prepare(read_image(picture), bundle.card.preprocessing, 1))
    return float(scores[0]) if bundle.card.plausible.holds(scores) else float(np.nan)


def _make_durable(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            _sync(Path(parent, name))
        _sync(Path(parent))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_quietly(path: Path, content: bytes) -> None:
    try:
        write_atomically(path, content)
    except OSError as error:
        LOG.warning("%s: failed starts cannot be counted: %s", path, error.strerror)
