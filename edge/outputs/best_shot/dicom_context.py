"""Who and what was photographed, as DICOM asks for it."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from fthnet_kit.edge.errors import InputError, MissingExtraError
from fthnet_kit.edge.files import parse_json, read_regular

MOST_BYTES = 1 << 20  # bytes of a context file
Code = tuple[str, str, str]  # value, scheme, meaning
DEVICE_TYPES: dict[str, Code] = {  # codes of CID 4202
    "fundus_camera": ("409898007", "SCT", "Fundus Camera"),
    "direct_ophthalmoscope": ("409900009", "SCT", "Direct Ophthalmoscope"),
    "indirect_ophthalmoscope": ("409901008", "SCT", "Indirect Ophthalmoscope"),
    "external_camera": ("409903006", "SCT", "External Camera"),
}
LATERALITY: dict[str, Code] = {  # CID 244
    "R": ("24028007", "SCT", "Right"),
    "L": ("7771000", "SCT", "Left"),
    "B": ("51440002", "SCT", "Bilateral"),
}


@dataclass(frozen=True)
class DicomContext:
    """What DICOM asks for and the camera cannot know; read from a JSON file with these names.

    Attributes:
        laterality: which eye, ``R``, ``L`` or ``B``; None where it is unknown: Image Laterality is then empty,
            though it is Type 1, for a file that names the wrong eye is worse than one that an archive refuses.
        device_type: one of `DEVICE_TYPES`.
        pixel_spacing_mm: on the retina; the standard requires it of a fundus camera.
        field_of_view_deg, pupil_dilated: of this acquisition; None means not known.
        patient_name (``Family^Given``), patient_id, birth_date (``YYYYMMDD``), sex (``M``, ``F``, ``O``):
            empty by default; without name and id the file is marked as holding no patient's identity.
        accession_number, study_id, referring_physician: of the study.
        study_instance_uid, photograph_series_uid, report_series_uid: made where they are empty.
        manufacturer, model, serial_number: of the camera.
        lossy_ratio: compression ratio where the camera's stream was JPEG; None for an uncompressed
            stream. What was lossy once stays marked for ever.
        burned_in_annotation: whether the camera writes text into its picture.
        state_diagnostic_quality: also state the verdict in the codes of CID 7036; only for a model whose
            thresholds were validated for such a statement.
        uid_root: prefix of new identifiers, ``1.2.3.``; default: pydicom's.
    """

    laterality: Literal["R", "L", "B"] | None = None
    device_type: str = "fundus_camera"
    pixel_spacing_mm: float | None = None
    field_of_view_deg: float | None = None
    pupil_dilated: bool | None = None
    patient_name: str = ""
    patient_id: str = ""
    birth_date: str = ""
    sex: Literal["", "M", "F", "O"] = ""
    accession_number: str = ""
    study_id: str = ""
    referring_physician: str = ""
    study_instance_uid: str = ""
    photograph_series_uid: str = ""
    report_series_uid: str = ""
    manufacturer: str = ""
    model: str = ""
    serial_number: str = ""
    lossy_ratio: float | None = None
    burned_in_annotation: bool = False
    state_diagnostic_quality: bool = False
    uid_root: str | None = None

    @classmethod
    def read(cls, path: Path) -> DicomContext:
        """The context in a JSON file, checked.

        Raises:
            InputError: unreadable, a key that is unknown, or a value that cannot be.
        """
        try:
            content = parse_json(read_regular(path.resolve(), MOST_BYTES))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: expected the DICOM context as JSON, found {error}") from error
        names = [field.name for field in fields(cls)]
        if not isinstance(content, dict) or set(content) - set(names):
            found = sorted(set(content) - set(names)) if isinstance(content, dict) else type(content).__name__
            raise InputError(f"{path}: expected an object with keys among {', '.join(names)}, found {found}")
        context = cls(**content)
        context.check()
        return context

    def check(self) -> None:
        """Whether a photograph can be written with this.

        Raises:
            InputError: it cannot; the message names the key.
        """
        texts = [field.name for field in fields(self) if field.type == "str"]
        flags = ("burned_in_annotation", "state_diagnostic_quality")
        checks: tuple[tuple[str, bool, str], ...] = (
            *((name, _is_text(getattr(self, name)), "one line of at most 64 characters") for name in texts),
            *((name, isinstance(getattr(self, name), bool), "true or false") for name in flags),
            ("laterality", self.laterality in (None, *LATERALITY), "R, L or B, or nothing where it is unknown"),
            ("device_type", self.device_type in tuple(DEVICE_TYPES), f"one of {', '.join(DEVICE_TYPES)}"),
            (
                "pixel_spacing_mm",
                _is_positive(self.pixel_spacing_mm, missing=self.device_type != "fundus_camera"),
                "mm on the retina (the standard requires it of a fundus camera)",
            ),
            ("field_of_view_deg", _is_positive(self.field_of_view_deg, missing=True), "degrees"),
            ("lossy_ratio", _is_positive(self.lossy_ratio, missing=True), "a ratio such as 10"),
            ("pupil_dilated", self.pupil_dilated in (None, True, False), "true or false"),
            ("sex", self.sex in ("", "M", "F", "O"), "M, F or O"),
            ("birth_date", not self.birth_date or _is_date(self.birth_date), "YYYYMMDD"),
            ("uid_root", self.uid_root is None or _is_uid(str(self.uid_root) + "1"), "digits and dots, 1.2.3."),
            *(
                (name, not getattr(self, name) or _is_uid(getattr(self, name)), "a UID")
                for name in ("study_instance_uid", "photograph_series_uid", "report_series_uid")
            ),
        )
        for name, fine, expected in checks:
            if not fine:
                raise InputError(f"DICOM context: {name}: expected {expected}, found {getattr(self, name)!r}")

    def with_study(self) -> DicomContext:
        """The same context with identifiers for the study and its two series, for files that belong together.

        Raises:
            MissingExtraError: pydicom is not installed.
        """
        return replace(
            self,
            study_instance_uid=self.study_instance_uid or new_uid(self),
            photograph_series_uid=self.photograph_series_uid or new_uid(self),
            report_series_uid=self.report_series_uid or new_uid(self),
        )


def load_pydicom() -> Any:
    """The library.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import pydicom
        import pydicom.errors
        import pydicom.uid
    except ImportError as error:
        raise MissingExtraError("pydicom", "dicom", purpose="writing DICOM files") from error
    return pydicom


def new_uid(context: DicomContext) -> str:
    """A UID that was never used, below the root of the context."""
    uid = load_pydicom().uid
    return str(uid.generate_uid(uid.PYDICOM_ROOT_UID if context.uid_root is None else context.uid_root))


def _is_text(text: object) -> bool:
    return isinstance(text, str) and len(text) <= 64 and not re.search(r"[\\\x00-\x1f]", text)


def _is_date(text: object) -> bool:
    try:
        return isinstance(text, str) and len(text) == 8 and bool(datetime.strptime(text, "%Y%m%d"))
    except ValueError:
        return False


def _is_positive(number: object, *, missing: bool) -> bool:
    if number is None:
        return missing
    return isinstance(number, int | float) and not isinstance(number, bool) and 0 < number < 1e6


def _is_uid(text: object) -> bool:
    return isinstance(text, str) and len(text) <= 64 and bool(re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+", text))
