"""The score as a DICOM structured report."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from io import BytesIO
from typing import TYPE_CHECKING

from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.model.score import Score, Verdict
from fthnet_kit.edge.outputs.best_shot.dicom_context import LATERALITY, Code, DicomContext, load_pydicom, new_uid
from fthnet_kit.edge.outputs.best_shot.dicom_objects import (
    EYE,
    code_item,
    dataset_of,
    device_uid,
    dicom_date,
    dicom_time,
    file_bytes,
    in_utc,
    kit_version,
    patient_and_study,
)

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


REPORT_CLASS = "1.2.840.10008.5.1.4.1.1.88.22"  # Enhanced SR Storage
IMAGE_QUALITY: Code = ("111050", "DCM", "Image Quality Assessment")
DIAGNOSTIC_QUALITY: dict[Verdict, Code] = {  # CID 7036
    "good": ("RID12", "RADLEX", "Diagnostic quality"),
    "usable": ("RID13", "RADLEX", "Limited quality"),
    "reject": ("RID14", "RADLEX", "Non-diagnostic quality"),
}
SCORE_UNITS: Code = ("{0:100}", "UCUM", "range: 0:100")


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
    pydicom = load_pydicom()
    context.check()
    if score.value is None or score.algorithm is None:
        raise InputError("expected a score with a value and its algorithm, found one without")
    try:
        image = pydicom.dcmread(BytesIO(photograph), stop_before_pixels=True)
    except pydicom.errors.InvalidDicomError as error:
        raise InputError(f"expected a DICOM photograph, found {error}") from error
    at = datetime.now(timezone.utc)
    data = patient_and_study(context, in_utc(None))
    for keyword in ("StudyInstanceUID", "StudyDate", "StudyTime"):
        setattr(data, keyword, getattr(image, keyword))
    data.SOPClassUID, data.SOPInstanceUID = REPORT_CLASS, new_uid(context)
    data.Modality, data.SeriesNumber, data.InstanceNumber = "SR", 2, instance_number
    data.SeriesInstanceUID = context.report_series_uid or new_uid(context)
    data.ReferencedPerformedProcedureStepSequence = []
    data.PerformedProcedureCodeSequence = []
    data.ContentDate, data.ContentTime = dicom_date(at), dicom_time(at)
    data.CompletionFlag, data.VerificationFlag = "COMPLETE", "UNVERIFIED"
    reference = dataset_of(
        ReferencedSOPClassUID=str(image.SOPClassUID), ReferencedSOPInstanceUID=str(image.SOPInstanceUID)
    )
    series = dataset_of(SeriesInstanceUID=str(image.SeriesInstanceUID), ReferencedSOPSequence=[reference])
    data.CurrentRequestedProcedureEvidenceSequence = [
        dataset_of(StudyInstanceUID=str(image.StudyInstanceUID), ReferencedSeriesSequence=[series])
    ]
    root = _report_content(score, context, reference)
    del root.RelationshipType
    data.update(root)
    return file_bytes(data)


def _report_content(score: Score, context: DicomContext, reference: Dataset) -> Dataset:
    """The content tree: TID 1500 with one measurement group (TID 1501) about one photograph."""
    assert score.algorithm is not None
    identification = [  # TID 2102, its order is significant
        _text("HAS CONCEPT MOD", ("111001", "DCM", "Algorithm Name"), score.algorithm.name),
        _text("HAS CONCEPT MOD", ("111003", "DCM", "Algorithm Version"), score.algorithm.version),
        _text("HAS CONCEPT MOD", ("122405", "DCM", "Algorithm Manufacturer"), score.algorithm.manufacturer),
        _text("HAS CONCEPT MOD", ("111002", "DCM", "Algorithm Parameters"), score.algorithm.parameters),
    ]
    rating = _item("CONTAINS", "NUM", IMAGE_QUALITY, identification)
    units = code_item(SCORE_UNITS)
    rating.MeasuredValueSequence = [dataset_of(NumericValue=f"{score.value:.3f}", MeasurementUnitsCodeSequence=[units])]
    site = _coded("HAS CONCEPT MOD", ("363698007", "SCT", "Finding Site"), EYE)
    if context.laterality is not None:
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
            _uid("HAS OBS CONTEXT", ("112040", "DCM", "Tracking Unique Identifier"), new_uid(context)),
            site,
            _image("CONTAINS", ("121112", "DCM", "Source of Measurement"), reference),
            rating,
            *evaluation,
        ],
    )
    observer = [  # TID 1001: the device that observed
        _coded("HAS OBS CONTEXT", ("121005", "DCM", "Observer Type"), ("121007", "DCM", "Device")),
        _uid("HAS OBS CONTEXT", ("121012", "DCM", "Device Observer UID"), device_uid(context)),
        _text("HAS OBS CONTEXT", ("121013", "DCM", "Device Observer Name"), f"FTHNet Edge Kit {kit_version()}"),
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
    root.ContentTemplateSequence = [dataset_of(MappingResource="DCMR", TemplateIdentifier="1500")]
    return root


def _item(relationship: str, kind: str, name: Code | None, children: Sequence[Dataset] = ()) -> Dataset:
    """A content item of a structured report."""
    item = dataset_of(RelationshipType=relationship, ValueType=kind)
    if name is not None:
        item.ConceptNameCodeSequence = [code_item(name)]
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
    item.ConceptCodeSequence = [code_item(value)]
    return item


def _image(relationship: str, name: Code | None, reference: Dataset) -> Dataset:
    item = _item(relationship, "IMAGE", name)
    item.ReferencedSOPSequence = [reference]
    return item
