"""The model card: who a model is, how to feed it, what its number means."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from fthnet_kit.edge.errors import BundleError
from fthnet_kit.edge.files import parse_json, read_regular
from fthnet_kit.edge.model.preprocess import Preprocessing
from fthnet_kit.edge.model.score import RawRange, Thresholds
from fthnet_kit.edge.reporting.json_schema import schema_problem

CARD_NAME = "model_card.json"
SCHEMA_VERSION = 1
MOST_CARD_BYTES = 1 << 20


@dataclass(frozen=True)
class ModelCard:
    """Contents of `model_card.json`, validated against `assets/model_card.schema.json`.

    Attributes:
        name, version, manufacturer: identity, as DICOM TID 2102 asks for it.
        weights_sha256: SHA-256 over names, shapes and bytes of all parameters, whatever file holds them.
        architecture: FTHNet's configuration.
        preprocessing: how an image becomes network input.
        thresholds: where verdicts change.
        intended_use, training_data: plain words.
        accuracy: what was measured, on which images, with confidence intervals where they were computed.
        files: SHA-256 of every file of the bundle.
        precisions: what each conversion costs against FP32, in points, and whether its gate holds.
        hypernetwork: how alive it is: share of saturated units, points that scores change by another image's taps
            or generated weights, and the rank correlation that is left then. Empty: not measured.
        parent: name, version where it has one, and weights of the model that this one was fine-tuned from.
        raw_range: raw values that the network can plausibly give; None in cards that do not state it.
        origin: whose the bundle is, as far as opening it has shown; no part of the card's file.
    """

    name: str
    version: str
    manufacturer: str
    weights_sha256: str
    architecture: Mapping[str, Any]
    preprocessing: Preprocessing
    thresholds: Thresholds
    intended_use: str
    training_data: str
    accuracy: tuple[Mapping[str, Any], ...]
    files: Mapping[str, str]
    precisions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    hypernetwork: Mapping[str, float] = field(default_factory=dict)
    parent: Mapping[str, str] = field(default_factory=dict)
    raw_range: RawRange | None = None
    origin: str = field(default="unsigned", compare=False)

    @property
    def title(self) -> str:
        """Name and version, and whose it is."""
        return f"{self.name} {self.version} ({self.origin})"

    @property
    def plausible(self) -> RawRange:
        """Raw values that are scores: the card's range, or the default where it states none."""
        return self.raw_range or RawRange()

    @classmethod
    def from_json(cls, text: str, where: str = CARD_NAME) -> ModelCard:
        """Parse and validate; unknown keys are refused.

        Raises:
            BundleError: not JSON, or not a valid card; the message names the first offending key.
        """
        try:
            content = parse_json(text)
        except ValueError as error:
            raise BundleError(f"{where}: expected JSON, found something else ({error})") from error
        schema = json.loads(
            (files("fthnet_kit.edge") / "assets" / "model_card.schema.json").read_text(encoding="utf-8")
        )
        problem = schema_problem(content, schema)
        if problem is not None:
            raise BundleError(f"{where}: {problem.place or 'the card'}: {problem.message.splitlines()[0]}")
        del content["schema"]
        try:
            content["preprocessing"] = Preprocessing(**content["preprocessing"])
            content["thresholds"] = Thresholds(**content["thresholds"])
            if "raw_range" in content:
                content["raw_range"] = RawRange(**content["raw_range"])
        except ValueError as error:
            raise BundleError(f"{where}: {error}") from error
        return cls(**{**content, "accuracy": tuple(content["accuracy"])})

    @classmethod
    def from_bytes(cls, content: bytes, where: str = CARD_NAME) -> ModelCard:
        """The same from the bytes of a file."""
        try:
            return cls.from_json(content.decode(), where)
        except UnicodeDecodeError as error:
            raise BundleError(f"{where}: expected a model card, found no text in UTF-8 ({error})") from error

    @classmethod
    def read(cls, path: Path) -> ModelCard:
        """Card of a bundle.

        Raises:
            BundleError: unreadable or invalid.
        """
        try:
            return cls.from_bytes(read_regular(path, MOST_CARD_BYTES), str(path))
        except OSError as error:
            raise BundleError(f"{path}: expected a model card, found none that can be read ({error})") from error

    def to_json(self) -> str:
        """Stable, human-readable JSON: the same card gives the same bytes."""
        content = {
            "schema": SCHEMA_VERSION,
            "name": self.name,
            "version": self.version,
            "manufacturer": self.manufacturer,
            "weights_sha256": self.weights_sha256,
            "architecture": dict(self.architecture),
            "preprocessing": self.preprocessing.to_dict(),
            "thresholds": vars(self.thresholds),
            **({"raw_range": vars(self.raw_range)} if self.raw_range else {}),
            "intended_use": self.intended_use,
            "training_data": self.training_data,
            "accuracy": list(self.accuracy),
            **({"hypernetwork": dict(self.hypernetwork)} if self.hypernetwork else {}),
            **({"parent": dict(self.parent)} if self.parent else {}),
            **({"precisions": dict(sorted(self.precisions.items()))} if self.precisions else {}),
            "files": dict(sorted(self.files.items())),
        }
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    def with_files(self, hashes: Mapping[str, str]) -> ModelCard:
        """The same card over another set of files."""
        return replace(self, files=dict(hashes))
