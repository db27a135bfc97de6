"""Whose eye it is: set for one eye, ended when that has left, and unknown in between."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.files import parse_json, read_regular
from fthnet_kit.edge.outputs.best_shot.dicom_context import MOST_BYTES, DicomContext
from fthnet_kit.edge.reporting.json_schema import schema_problem

LOG = logging.getLogger("fthnet")


@dataclass(frozen=True)
class EyeContext:
    """What is to be known of one eye; `assets/eye_context.schema.json` describes it. Empty means unknown."""

    laterality: Literal["R", "L", "B"] | None = None
    patient_name: str = ""
    patient_id: str = ""
    birth_date: str = ""
    sex: Literal["", "M", "F", "O"] = ""
    accession_number: str = ""
    study_id: str = ""
    referring_physician: str = ""
    study_instance_uid: str = ""
    pupil_dilated: bool | None = None

    @classmethod
    def parse(cls, content: str | bytes) -> EyeContext | None:
        """Read JSON; None where it is an empty object, which ends a context.

        Raises:
            InputError: no JSON, an unknown key, or a value that cannot be; no value is repeated, as it may be a name.
        """
        try:
            found = parse_json(content)
        except ValueError as error:
            raise InputError("eye: expected its context as JSON, found something else") from error
        problem = schema_problem(found, _schema())
        if problem is not None:
            key = problem.place or "the object"
            raise InputError(
                f"eye: {key}: expected what eye_context.schema.json allows, found a key or value that it does not"
            )
        if not found:
            return None
        eye = cls(**found)
        try:
            eye.applied_to(DicomContext(pixel_spacing_mm=1.0)).check()
        except InputError as error:
            raise InputError(
                f"eye: expected another {str(error).split(':')[1].strip()}, found one that cannot be"
            ) from error
        return eye

    @classmethod
    def of(cls, context: DicomContext) -> EyeContext | None:
        """The eye's part of a context; None where it says nothing."""
        eye = cls(**{field.name: getattr(context, field.name) for field in fields(cls)})
        return None if eye == cls() else eye

    def applied_to(self, device: DicomContext) -> DicomContext:
        """The context of one photograph: this eye, before that camera."""
        return replace(device, **vars(self))

    def same_study(self, other: EyeContext) -> bool:
        """Whether both are of one patient and one order, so that their photographs belong into one study."""
        keys = ("patient_id", "accession_number", "study_id", "study_instance_uid")
        return bool(self.patient_id) and all(getattr(self, key) == getattr(other, key) for key in keys)

    def to_json(self) -> bytes:
        """What `parse` reads."""
        return (
            json.dumps({name: value for name, value in vars(self).items() if value not in ("", None)}) + "\n"
        ).encode()


@lru_cache(maxsize=1)
def _schema() -> Any:
    return json.loads((files("fthnet_kit.edge") / "assets" / "eye_context.schema.json").read_text(encoding="utf-8"))


class EyeFile:
    """Watches a file for the context of the next eye: `fthnet eye` writes it, or a worklist client does.

    What it holds at the start is not taken: it may be of yesterday. What cannot be read ends the context, in one line.

    Args:
        path: of the file; need not be there.
        set_eye: called with each context, from a thread of this object.
    """

    LOOK_EVERY_S = 0.25

    def __init__(self, path: Path, set_eye: Callable[[EyeContext | None], object]) -> None:
        self.path = path
        self._set_eye = set_eye
        self._seen = self._stamp()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="eye file", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._closing.set()
        self._thread.join(2.0)

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _watch(self) -> None:
        while not self._closing.wait(self.LOOK_EVERY_S):
            stamp = self._stamp()
            if stamp != self._seen:
                self._seen = stamp
                self._set_eye(self._read() if stamp is not None else None)

    def _read(self) -> EyeContext | None:
        try:
            return EyeContext.parse(read_regular(self.path, MOST_BYTES))
        except (InputError, OSError) as error:
            LOG.warning("%s: not taken, the eye is unknown: %s", self.path, error)
            return None
