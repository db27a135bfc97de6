"""A bundle: a folder that carries one trained FTHNet to a device and says everything about itself."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

from fthnet_kit.edge.errors import BundleError
from fthnet_kit.edge.files import open_regular, read_regular
from fthnet_kit.edge.model import delta
from fthnet_kit.edge.model.card import CARD_NAME, MOST_CARD_BYTES, ModelCard
from fthnet_kit.edge.model.choices import FORMS, Precision, form_of
from fthnet_kit.edge.model.model_file import MOST_BYTES, ModelFile
from fthnet_kit.edge.model.weights import weights_sha256
from fthnet_kit.edge.trust.manifest import SignedManifest, is_signed, read_manifest
from fthnet_kit.edge.trust.policy import required_key
from fthnet_kit.edge.trust.releases import accept_release

ReleaseRule = Literal["note", "compare", "ignore"]
REPORTS = "reports"  # folder of a bundle
RANGES_NAME = "ranges.json"  # in it: the ranges of INT8
CHECKPOINT_NAME = "checkpoint.safetensors"
FP32_NAME = FORMS["fp32"].file
CONVERTED_NAMES = {name: form.file for name, form in FORMS.items() if form.budget}


@dataclass(frozen=True)
class Bundle:
    """A folder whose card is valid and whose files are the ones that the card names.

    A file that repeats most of another one may lie there as its `delta`, as in the wheel: `read` gives its content.

    Attributes:
        folder: where it lies.
        card: what it says of itself.
        card_sha256: SHA-256 of the bytes that the card was read from.
        signed: what the signature covers; None where no key was asked for.
    """

    folder: Path
    card: ModelCard
    card_sha256: str = ""
    signed: SignedManifest | None = None

    @classmethod
    def open(
        cls,
        folder: Path | str | None = None,
        require_signature: Path | str | None = None,
        *,
        release: ReleaseRule = "note",
    ) -> Bundle:
        """Open a bundle and check the SHA-256 of each of its files.

        Args:
            folder: the bundle; default: the demonstration bundle that the kit ships.
            require_signature: public key that it must be signed with; default: that of `trust.policy`, mostly none.
            release: ``note`` a signed bundle's release, so that an older one is refused from now on; only ``compare``
                it with what was noted; or ``ignore`` it.

        Raises:
            BundleError: with a key: unsigned, signed by another, altered, incomplete, or older than one that was
                accepted here. In any case: no folder, no valid card, a missing or an altered file, or something in
                the folder that is neither a file nor a folder.
        """
        folder = shipped_bundle() if folder is None else Path(folder)
        if not folder.is_dir():
            raise BundleError(f"{folder}: expected a bundle, found no such folder; `fthnet export` makes one")
        if not (folder / CARD_NAME).is_file():
            raise BundleError(f"{folder}: expected a bundle with {CARD_NAME}, found none; `fthnet export` makes one")
        refuse_special_files(folder)
        content = read_file(folder / CARD_NAME, MOST_CARD_BYTES)
        sha256 = hashlib.sha256(content).hexdigest()
        key = Path(require_signature) if require_signature else required_key()
        signed = None if key is None else read_manifest(folder, key)
        if signed is not None:
            signed.compare(folder, CARD_NAME, len(content), sha256)
        card = ModelCard.from_bytes(content, str(folder / CARD_NAME))
        if signed is not None:
            signed.check_files(folder, {**card.files, CARD_NAME: sha256})
        for name, expected in card.files.items():
            check_part(folder / name, expected)
        if signed is not None and release != "ignore":
            accept_release(signed, folder, note=release == "note")
        return cls(folder, replace(card, origin=_origin(folder, signed)), sha256, signed)

    def read(self, name: str) -> bytes:
        """Content of a file that the card names; the bytes that are returned are the ones whose hash was compared.

        Raises:
            BundleError: missing, unreadable, altered, or not in the card.
        """
        if name not in self.card.files:
            raise BundleError(f"{self.folder}: expected {name}, found none in the card; `fthnet export` makes it")
        content = read_part(self.folder / name)
        compare(self.folder / name, self.card.files[name], hashlib.sha256(content).hexdigest())
        return content

    def model(self, precision: Precision = "auto", provider: str = "cpu") -> ModelFile:
        """The graph of `model_path`: its bytes, checked against the card.

        Raises:
            BundleError: as `model_path` and `read`.
            EngineError: no ONNX graph, or one that refers to other files.
        """
        path = self.model_path(precision, provider)
        return ModelFile(str(path), self.read(path.name)).checked()

    def check_weights(self) -> None:
        """Compare the checkpoint's parameters with `weights_sha256` of the card; nothing where there is no checkpoint.

        Raises:
            BundleError: other weights than the card states, or a damaged checkpoint.
        """
        if CHECKPOINT_NAME in self.card.files:
            path = self.folder / CHECKPOINT_NAME
            found = weights_sha256(self.read(CHECKPOINT_NAME), str(path))
            if found != self.card.weights_sha256:
                raise BundleError(
                    f"{path}: expected weights with SHA-256 {self.card.weights_sha256[:12]}… as the card states, found "
                    f"{found[:12]}…: card and weights are not of one model; export the bundle again"
                )

    def model_path(self, precision: Precision = "auto", provider: str = "cpu") -> Path:
        """ONNX file of a precision for an execution provider.

        ``auto`` takes FP32: what is best on a device is for its own measurement to say. ``int8`` takes the
        form that the provider runs fast: ``int8-cpu`` in ONNX Runtime on a CPU, ``int8`` in OpenVINO and TensorRT.

        Raises:
            BundleError: the bundle has no such file, or its gate did not hold.
        """
        form = form_of(precision, onnxruntime_cpu=provider == "cpu")
        name = form.file
        if form.budget is not None:
            gates = self.card.precisions
            judged = gates.get(f"{form.name}-{provider}", gates.get(form.name, {}))  # on the runtime itself, if judged
            if not judged.get("holds"):
                raise BundleError(
                    f"{self.folder}: expected {name} whose gate holds for precision {precision}, found none in the "
                    "card; `fthnet quantize` makes it"
                )
        if name not in self.card.files:
            raise BundleError(f"{self.folder}: expected {name} for precision {precision}, found none in the card")
        return self.folder / name


def _origin(folder: Path, signed: SignedManifest | None) -> str:
    """Whose a bundle is, as far as that was asked."""
    if signed is not None:
        return signed.origin
    return "intact, its signature not checked" if is_signed(folder) else "intact, unsigned"


def shipped_bundle() -> Path:
    """Folder of the demonstration bundle inside the installed package."""
    return Path(str(files("fthnet_kit.edge") / "demo"))


def is_demonstration(card: ModelCard) -> bool:
    """Whether a card's weights are those of the demonstration model that the kit ships, whatever it is called."""
    return card.weights_sha256 == _shipped_weights()


@cache
def _shipped_weights() -> str | None:
    path = shipped_bundle() / CARD_NAME
    return ModelCard.read(path).weights_sha256 if path.is_file() else None


def sha256_of(path: Path) -> str:
    """SHA-256 of a regular file, hexadecimal; raises OSError as `open_regular` does."""
    with open_regular(path, MOST_BYTES) as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_file(path: Path, most: int) -> bytes:
    """Content of a file of a bundle.

    Raises:
        BundleError: missing, unreadable, no regular file, or larger than `most` bytes.
    """
    try:
        return read_regular(path, most)
    except OSError as error:
        raise BundleError(_cannot_read(path, error)) from error


def read_part(path: Path) -> bytes:
    """Content of a file that the card names; where its delta lies in its place, what that stands for.

    Raises:
        BundleError: neither is there, unreadable, or too large.
    """
    packed = path.with_name(path.name + delta.SUFFIX)
    if path.exists() or not packed.is_file():
        return read_file(path, MOST_BYTES)
    content = read_file(packed, MOST_BYTES)
    try:
        return delta.restore(content, read_file(path.with_name(delta.base_of(content)), MOST_BYTES), MOST_BYTES)
    except ValueError as error:
        raise BundleError(f"{packed}: {error}; copy the bundle again") from error


def check_part(path: Path, expected: str) -> None:
    """Compare a file, or what its delta stands for, with its hash in the card.

    Raises:
        BundleError: missing, unreadable or altered.
    """
    try:
        found = sha256_of(path) if path.exists() else hashlib.sha256(read_part(path)).hexdigest()
    except OSError as error:
        raise BundleError(_cannot_read(path, error)) from error
    compare(path, expected, found)


def compare(path: Path, expected: str, found: str) -> None:
    """Raises BundleError where a file's hash is not the one that the card names."""
    if found != expected:
        raise BundleError(
            f"{path}: expected SHA-256 {expected[:12]}…, found {found[:12]}…: the file was altered or damaged; "
            "copy the bundle again"
        )


def refuse_special_files(folder: Path) -> None:
    """Raises BundleError for a link, pipe, socket or device anywhere in a bundle: its content is not the bundle's."""
    for path, mode in _contents(folder):
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            kind = "a symbolic link" if stat.S_ISLNK(mode) else "a special file"
            raise BundleError(f"{path}: expected only files and folders in a bundle, found {kind}; copy it with cp -rL")


def _contents(folder: Path) -> Iterator[tuple[str, int]]:
    """Path and mode of everything below a folder; folders that are links are named, not entered."""
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = str(Path(parent, name))
            yield path, os.lstat(path).st_mode


def _cannot_read(path: Path, error: OSError) -> str:
    return f"{path}: expected a file of a bundle, found {error.strerror or error}; copy the bundle again"
