"""A kept frame as DICOM: the photograph, and beside it a report that carries its quality score.

The photograph is an Ophthalmic Photography 8 Bit Image. That object has no attribute for a quality
rating: its modules (PS3.3 A.41) hold none, the "quality rating" modules of PS3.3 belong to wide-field
images, thickness maps and OCT, and the Acquisition Context says under which conditions a picture was
taken, not what an algorithm thought of it afterwards. So the score travels where DICOM puts
measurements: in a structured report (Enhanced SR, TID 1500 "Measurement Report") of the same study that
references the photograph. There the score is a number named (111050, DCM, "Image Quality Assessment"),
and under it stand the four items of TID 2102 "Quality Rating Identification": algorithm name, version,
manufacturer, parameters. The photograph itself names the algorithm in Contributing Equipment, since it
chose the frame.

CID 7036 ("Diagnostic quality", "Limited quality", "Non-diagnostic quality") is a clinical statement. It
is written only where `DicomContext.state_diagnostic_quality` asks for it.

Both objects pass `dciodvfy` without an error (tests/edge/test_dicom_file.py says which version and
what it printed). No conformance is claimed beyond that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timezone
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2

from fthnet_kit.edge.errors import InputError, MissingExtraError
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.model.score import Score, Verdict

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

PHOTOGRAPH_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.5.1"  # Ophthalmic Photography 8 Bit Image Storage
REPORT_CLASS = "1.2.840.10008.5.1.4.1.1.88.22"  # Enhanced SR Storage

Code = tuple[str, str, str]  # value, scheme, meaning
DEVICE_TYPES: dict[str, Code] = {  # of CID 4202
    "fundus_camera": ("409898007", "SCT", "Fundus Camera"),
    "direct_ophthalmoscope": ("409900009", "SCT", "Direct Ophthalmoscope"),
    "indirect_ophthalmoscope": ("409901008", "SCT", "Indirect Ophthalmoscope"),
    "external_camera": ("409903006", "SCT", "External Camera"),
}
EYE: Code = ("81745001", "SCT", "Eye")
RETINA: Code = ("5665001", "SCT", "Retina")
LATERALITY: dict[str, Code] = {  # CID 244
    "R": ("24028007", "SCT", "Right"),
    "L": ("7771000", "SCT", "Left"),
    "B": ("51440002", "SCT", "Bilateral"),
}
IMAGE_QUALITY: Code = ("111050", "DCM", "Image Quality Assessment")
DIAGNOSTIC_QUALITY: dict[Verdict, Code] = {  # CID 7036
    "good": ("RID12", "RADLEX", "Diagnostic quality"),
    "usable": ("RID13", "RADLEX", "Limited quality"),
    "reject": ("RID14", "RADLEX", "Non-diagnostic quality"),
}
SCORE_UNITS: Code = ("{0:100}", "UCUM", "range: 0:100")
WITHOUT_IDENTITY = "No patient identity was entered at acquisition"
LARGEST_SIDE = 65535  # Rows and Columns are 16-bit
JPEG_METHOD = "ISO_10918_1"


@dataclass(frozen=True)
class DicomContext:
    """What DICOM asks for and the camera cannot know; read from a JSON file with these names.

    Attributes:
        laterality: which eye, ``R``, ``L`` or ``B``: Image Laterality is Type 1 and has no value for
            "unknown", so that without it no DICOM file is written.
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
            content = json.loads(path.read_text(encoding="utf-8"))
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
            ("laterality", self.laterality in LATERALITY, "R, L or B (DICOM has no value for an unknown eye)"),
            ("device_type", self.device_type in DEVICE_TYPES, f"one of {', '.join(DEVICE_TYPES)}"),
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
            study_instance_uid=self.study_instance_uid or _new_uid(self),
            photograph_series_uid=self.photograph_series_uid or _new_uid(self),
            report_series_uid=self.report_series_uid or _new_uid(self),
        )


def ophthalmic_photograph(
    image_bgr: Image,
    score: Score,
    context: DicomContext,
    *,
    captured_at: datetime | None = None,
    instance_number: int = 1,
) -> bytes:
    """A DICOM file with one photograph: Ophthalmic Photography 8 Bit Image, RGB, Explicit VR Little Endian.

    Args:
        image_bgr: BGR uint8 (H, W, 3), stored pixel for pixel.
        score: its algorithm, value and verdict are named in Contributing Equipment; the rating itself
            belongs into a `quality_report`.
        context: patient, eye and device.
        captured_at: time of the capture, with a time zone; default: now.
        instance_number: of this photograph in its series.

    Raises:
        InputError: the context lacks what the standard requires, or the picture is no BGR uint8 image.
        MissingExtraError: pydicom is not installed.
    """
    context.check()
    height, width, channels = image_bgr.shape if image_bgr.ndim == 3 else (0, 0, 0)
    if image_bgr.dtype != "uint8" or channels != 3 or not (0 < height <= LARGEST_SIDE and 0 < width <= LARGEST_SIDE):
        raise InputError(f"expected a BGR uint8 image (H, W, 3), found {image_bgr.dtype} {image_bgr.shape}")
    at = _utc(captured_at)
    data = _patient_and_study(context, at)
    data.SOPClassUID, data.SOPInstanceUID = PHOTOGRAPH_CLASS, _new_uid(context)
    data.Modality, data.SeriesNumber = "OP", 1
    data.SeriesInstanceUID = context.photograph_series_uid or _new_uid(context)
    _add_image(data, image_bgr, context, at, instance_number)
    _add_ophthalmic_parameters(data, context)
    data.ContributingEquipmentSequence = [_selecting_algorithm(score)]
    return _file(data)


def quality_report(photograph: bytes, score: Score, context: DicomContext, *, instance_number: int = 1) -> bytes:
    """A DICOM file with the score of a photograph: Enhanced SR, TID 1500 with the items of TID 2102.

    Args:
        photograph: what `ophthalmic_photograph` returned; the report references it and shares its study.
        score: with a value and an algorithm.
        context: the photograph's.
        instance_number: of this report in its series.

    Raises:
        InputError: a score without a value or without its algorithm, or no photograph.
        MissingExtraError: pydicom is not installed.
    """
    pydicom = _pydicom()
    context.check()
    if score.value is None or score.algorithm is None:
        raise InputError("expected a score with a value and its algorithm, found one without")
    try:
        image = pydicom.dcmread(BytesIO(photograph), stop_before_pixels=True)
    except pydicom.errors.InvalidDicomError as error:
        raise InputError(f"expected a DICOM photograph, found {error}") from error
    at = datetime.now(timezone.utc)
    data = _patient_and_study(context, _utc(None))
    for keyword in ("StudyInstanceUID", "StudyDate", "StudyTime"):
        setattr(data, keyword, getattr(image, keyword))
    data.SOPClassUID, data.SOPInstanceUID = REPORT_CLASS, _new_uid(context)
    data.Modality, data.SeriesNumber, data.InstanceNumber = "SR", 2, instance_number
    data.SeriesInstanceUID = context.report_series_uid or _new_uid(context)
    data.ReferencedPerformedProcedureStepSequence = []
    data.PerformedProcedureCodeSequence = []
    data.ContentDate, data.ContentTime = _date(at), _time(at)
    data.CompletionFlag, data.VerificationFlag = "COMPLETE", "UNVERIFIED"
    reference = _dataset(
        ReferencedSOPClassUID=str(image.SOPClassUID), ReferencedSOPInstanceUID=str(image.SOPInstanceUID)
    )
    series = _dataset(SeriesInstanceUID=str(image.SeriesInstanceUID), ReferencedSOPSequence=[reference])
    data.CurrentRequestedProcedureEvidenceSequence = [
        _dataset(StudyInstanceUID=str(image.StudyInstanceUID), ReferencedSeriesSequence=[series])
    ]
    root = _report_content(score, context, reference)
    del root.RelationshipType
    data.update(root)
    return _file(data)


def _report_content(score: Score, context: DicomContext, reference: Dataset) -> Dataset:
    """The content tree: TID 1500 with one measurement group (TID 1501) about one photograph."""
    assert score.algorithm is not None
    assert context.laterality is not None
    identification = [  # TID 2102, its order is significant
        _text("HAS CONCEPT MOD", ("111001", "DCM", "Algorithm Name"), score.algorithm.name),
        _text("HAS CONCEPT MOD", ("111003", "DCM", "Algorithm Version"), score.algorithm.version),
        _text("HAS CONCEPT MOD", ("122405", "DCM", "Algorithm Manufacturer"), score.algorithm.manufacturer),
        _text("HAS CONCEPT MOD", ("111002", "DCM", "Algorithm Parameters"), score.algorithm.parameters),
    ]
    rating = _item("CONTAINS", "NUM", IMAGE_QUALITY, identification)
    units = _code(SCORE_UNITS)
    rating.MeasuredValueSequence = [_dataset(NumericValue=f"{score.value:.3f}", MeasurementUnitsCodeSequence=[units])]
    site = _coded("HAS CONCEPT MOD", ("363698007", "SCT", "Finding Site"), EYE)
    site.ContentSequence = [
        _coded("HAS CONCEPT MOD", ("272741003", "SCT", "Laterality"), LATERALITY[context.laterality])
    ]
    evaluation = []
    if score.verdict is not None and context.state_diagnostic_quality:
        evaluation = [_coded("CONTAINS", IMAGE_QUALITY, DIAGNOSTIC_QUALITY[score.verdict])]
    group = _item(
        "CONTAINS",
        "CONTAINER",
        ("125007", "DCM", "Measurement Group"),
        [
            _text("HAS OBS CONTEXT", ("112039", "DCM", "Tracking Identifier"), "Image quality"),
            _uid("HAS OBS CONTEXT", ("112040", "DCM", "Tracking Unique Identifier"), _new_uid(context)),
            site,
            _image("CONTAINS", ("121112", "DCM", "Source of Measurement"), reference),
            rating,
            *evaluation,
        ],
    )
    observer = [  # TID 1001: the device that observed
        _coded("HAS OBS CONTEXT", ("121005", "DCM", "Observer Type"), ("121007", "DCM", "Device")),
        _uid("HAS OBS CONTEXT", ("121012", "DCM", "Device Observer UID"), _device_uid(context)),
        _text("HAS OBS CONTEXT", ("121013", "DCM", "Device Observer Name"), f"FTHNet Edge Kit {_kit_version()}"),
    ]
    language = _coded(
        "HAS CONCEPT MOD",
        ("121049", "DCM", "Language of Content Item and Descendants"),
        ("en", "RFC5646", "English"),
    )
    procedure = _coded(
        "HAS CONCEPT MOD", ("121058", "DCM", "Procedure reported"), ("363679005", "SCT", "Imaging procedure")
    )
    shown = _item(
        "CONTAINS",
        "CONTAINER",
        ("126200", "DCM", "Image Library Group"),
        [_image("CONTAINS", None, reference)],
    )
    library = _item("CONTAINS", "CONTAINER", ("111028", "DCM", "Image Library"), [shown])
    measurements = _item("CONTAINS", "CONTAINER", ("126010", "DCM", "Imaging Measurements"), [group])
    report = ("126000", "DCM", "Imaging Measurement Report")
    root = _item("", "CONTAINER", report, [language, *observer, procedure, library, measurements])
    root.ContentTemplateSequence = [_dataset(MappingResource="DCMR", TemplateIdentifier="1500")]
    return root


def _patient_and_study(context: DicomContext, at: datetime) -> Dataset:
    """Patient, General Study, General Equipment, SOP Common."""
    data = _dataset(
        SpecificCharacterSet="ISO_IR 192",
        TimezoneOffsetFromUTC="+0000",
        InstanceCreationDate=_date(at),
        InstanceCreationTime=_time(at),
        PatientName=context.patient_name,
        PatientID=context.patient_id,
        PatientBirthDate=context.birth_date,
        PatientSex=context.sex,
        StudyInstanceUID=context.study_instance_uid or _new_uid(context),
        StudyDate=_date(at),
        StudyTime=_time(at),
        StudyID=context.study_id,
        AccessionNumber=context.accession_number,
        ReferringPhysicianName=context.referring_physician,
        Manufacturer=context.manufacturer,
        ManufacturerModelName=context.model or "unknown",
        DeviceSerialNumber=context.serial_number or "unknown",
        SoftwareVersions=f"FTHNet Edge Kit {_kit_version()}",
    )
    if not context.patient_name and not context.patient_id:
        data.PatientIdentityRemoved = "YES"
        data.DeidentificationMethod = WITHOUT_IDENTITY
    return data


def _add_image(data: Dataset, image_bgr: Image, context: DicomContext, at: datetime, instance_number: int) -> None:
    """Synchronization, General Image, Image Pixel, Multi-frame, Ophthalmic Photography Image."""
    data.SynchronizationFrameOfReferenceUID = _new_uid(context)
    data.SynchronizationTrigger = "NO TRIGGER"
    data.AcquisitionTimeSynchronized = "N"
    data.InstanceNumber = instance_number
    data.PatientOrientation = ""
    data.ImageType = ["ORIGINAL", "PRIMARY", "", "COLOR"]
    data.ContentDate, data.ContentTime = _date(at), _time(at)
    data.AcquisitionDateTime = _date(at) + _time(at)
    data.NumberOfFrames = 1
    data.FrameIncrementPointer = 0x00181063  # Frame Time; of one frame nothing is incremented
    data.FrameTime = "0"
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.Rows, data.Columns = image_bgr.shape[:2]
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    if context.pixel_spacing_mm is not None:
        data.PixelSpacing = [f"{context.pixel_spacing_mm:.6g}"] * 2
    data.BurnedInAnnotation = "YES" if context.burned_in_annotation else "NO"
    data.LossyImageCompression = "00" if context.lossy_ratio is None else "01"
    if context.lossy_ratio is not None:
        data.LossyImageCompressionRatio = f"{context.lossy_ratio:.6g}"
        data.LossyImageCompressionMethod = JPEG_METHOD
    pixels = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB).tobytes()
    data.PixelData = pixels + b"\0" * (len(pixels) % 2)
    data["PixelData"].VR = "OB"


def _add_ophthalmic_parameters(data: Dataset, context: DicomContext) -> None:
    """Ocular Region Imaged, Ophthalmic Photography Acquisition Parameters, Ophthalmic Photographic Parameters."""
    data.ImageLaterality = context.laterality
    data.AnatomicRegionSequence = [_code(RETINA)]
    data.PatientEyeMovementCommanded = ""
    data.RefractiveStateSequence = []
    data.EmmetropicMagnification = None
    data.IntraOcularPressure = None
    data.HorizontalFieldOfView = context.field_of_view_deg
    data.PupilDilated = {None: "", True: "YES", False: "NO"}[context.pupil_dilated]
    if context.pupil_dilated:
        data.DegreeOfDilation = None
        data.MydriaticAgentSequence = []
    data.AcquisitionDeviceTypeCodeSequence = [_code(DEVICE_TYPES[context.device_type])]
    data.IlluminationTypeCodeSequence = []
    data.LightPathFilterTypeStackCodeSequence = []
    data.ImagePathFilterTypeStackCodeSequence = []
    data.LensesCodeSequence = []
    data.DetectorType = ""
    data.AcquisitionContextSequence = []


def _selecting_algorithm(score: Score) -> Dataset:
    """Contributing Equipment: the software that chose this frame among the camera's."""
    algorithm = score.algorithm
    what = "no score" if score.value is None else f"score {score.value:.1f} of 100, {score.verdict}"
    return _dataset(
        PurposeOfReferenceCodeSequence=[_code(("109101", "DCM", "Acquisition Equipment"))],
        Manufacturer=_short(algorithm.manufacturer if algorithm else "FTHNet Edge Kit"),
        ManufacturerModelName=_short(algorithm.name if algorithm else "FTHNet Edge Kit"),
        SoftwareVersions=_short(algorithm.version if algorithm else _kit_version()),
        ContributionDescription=f"Chose this frame by image quality: {what}"[:1024],
    )


def _item(relationship: str, kind: str, name: Code | None, children: Sequence[Dataset] = ()) -> Dataset:
    """A content item of a structured report."""
    item = _dataset(RelationshipType=relationship, ValueType=kind)
    if name is not None:
        item.ConceptNameCodeSequence = [_code(name)]
    if kind == "CONTAINER":
        item.ContinuityOfContent = "SEPARATE"
    if children:
        item.ContentSequence = list(children)
    return item


def _text(relationship: str, name: Code, value: str) -> Dataset:
    item = _item(relationship, "TEXT", name)
    item.TextValue = value or "none"  # Type 1: an empty text is not allowed
    return item


def _uid(relationship: str, name: Code, value: str) -> Dataset:
    item = _item(relationship, "UIDREF", name)
    item.UID = value
    return item


def _coded(relationship: str, name: Code, value: Code) -> Dataset:
    item = _item(relationship, "CODE", name)
    item.ConceptCodeSequence = [_code(value)]
    return item


def _image(relationship: str, name: Code | None, reference: Dataset) -> Dataset:
    item = _item(relationship, "IMAGE", name)
    item.ReferencedSOPSequence = [reference]
    return item


def _code(code: Code) -> Dataset:
    value, scheme, meaning = code
    return _dataset(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _dataset(**elements: Any) -> Dataset:
    data: Dataset = _pydicom().Dataset()
    for keyword, value in elements.items():
        setattr(data, keyword, value)
    return data


def _file(data: Dataset) -> bytes:
    """DICOM Part 10, Explicit VR Little Endian."""
    pydicom = _pydicom()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, data, enforce_file_format=True)
    return buffer.getvalue()


def _pydicom() -> Any:
    try:
        import pydicom
        import pydicom.errors
        import pydicom.uid
    except ImportError as error:
        raise MissingExtraError("pydicom", "dicom", purpose="writing DICOM files") from error
    return pydicom


def _new_uid(context: DicomContext) -> str:
    uid = _pydicom().uid
    return str(uid.generate_uid(uid.PYDICOM_ROOT_UID if context.uid_root is None else context.uid_root))


def _device_uid(context: DicomContext) -> str:
    """The same for the same camera and kit, in every report."""
    device = [context.manufacturer, context.model, context.serial_number, "FTHNet Edge Kit", _kit_version()]
    uid = _pydicom().uid
    root = uid.PYDICOM_ROOT_UID if context.uid_root is None else context.uid_root
    return str(uid.generate_uid(root, entropy_srcs=device))


def _utc(at: datetime | None) -> datetime:
    return (at or datetime.now(timezone.utc)).astimezone(timezone.utc)


def _date(at: datetime) -> str:
    return at.strftime("%Y%m%d")


def _time(at: datetime) -> str:
    return at.strftime("%H%M%S.%f")


def _short(text: str) -> str:
    """As VR LO takes it: one line of at most 64 characters, without a backslash."""
    return re.sub(r"[\\\x00-\x1f]", " ", text)[:64]


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


def _kit_version() -> str:
    return version("fthnet-edge-kit")
