"""A bundle: a folder that carries one trained FTHNet to a device and says everything about itself."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from fthnet_kit.edge.errors import BundleError
from fthnet_kit.edge.model.card import CARD_NAME, ModelCard
from fthnet_kit.edge.model.choices import Precision

REPORTS = "reports"  # folder of a bundle
RANGES_NAME = "ranges.json"  # in it: the ranges of INT8
CHECKPOINT_NAME = "checkpoint.safetensors"
FP32_NAME = "fthnet.fp32.onnx"
CONVERTED_NAMES = {form: f"fthnet.{form}.onnx" for form in ("fp16", "int8", "int8-cpu")}


@dataclass(frozen=True)
class Bundle:
    """A folder whose card is valid and whose files are the ones that the card names."""

    folder: Path
    card: ModelCard

    @classmethod
    def open(cls, folder: Path | str | None = None) -> Bundle:
        """Open a bundle and check the SHA-256 of each of its files.

        Args:
            folder: the bundle; default: the demonstration bundle that the kit ships.

        Raises:
            BundleError: no folder, no valid card, a missing or an altered file.
        """
        folder = shipped_bundle() if folder is None else Path(folder)
        if not folder.is_dir():
            raise BundleError(f"{folder}: expected a bundle folder, found none; `fthnet export` makes one")
        if not (folder / CARD_NAME).is_file():
            raise BundleError(f"{folder}: expected a bundle with {CARD_NAME}, found none; `fthnet export` makes one")
        card = ModelCard.read(folder / CARD_NAME)
        for name, expected in card.files.items():
            check_file(folder / name, expected)
        return cls(folder, card)

    def model_path(self, precision: Precision = "auto", provider: str = "cpu") -> Path:
        """ONNX file of a precision for an execution provider.

        ``auto`` takes FP32: what is best on a device is for its own measurement to say. ``int8`` takes the
        form that the provider runs fast: ``int8-cpu`` in ONNX Runtime on a CPU, ``int8`` in OpenVINO and TensorRT.

        Raises:
            BundleError: the bundle has no such file, or its gate did not hold.
        """
        if precision in ("auto", "fp32"):
            name = FP32_NAME
        else:
            form = "int8-cpu" if precision == "int8" and provider == "cpu" else precision
            name = CONVERTED_NAMES[form]
            gates = self.card.precisions
            judged = gates.get(f"{form}-{provider}", gates.get(form, {}))  # on the runtime itself, if it was there
            if not judged.get("holds"):
                raise BundleError(
                    f"{self.folder}: expected {name} whose gate holds for precision {precision}, found none in the "
                    "card; `fthnet quantize` makes it"
                )
        if name not in self.card.files:
            raise BundleError(f"{self.folder}: expected {name} for precision {precision}, found none in the card")
        return self.folder / name


def shipped_bundle() -> Path:
    """Folder of the demonstration bundle inside the installed package."""
    return Path(str(files("fthnet_kit.edge") / "demo"))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_file(path: Path, expected: str) -> None:
    """Compare a file with its hash in the card.

    Raises:
        BundleError: missing, unreadable or altered.
    """
    try:
        found = sha256_of(path)
    except OSError as error:
        raise BundleError(f"{path}: expected a file named in the card, found none ({error.strerror})") from error
    if found != expected:
        raise BundleError(
            f"{path}: expected SHA-256 {expected[:12]}…, found {found[:12]}…: the file was altered or damaged; "
            "copy the bundle again"
        )
