"""What every DICOM object of the kit has in common."""

from __future__ import annotations

from datetime import datetime, timezone
from importlib.metadata import version
from io import BytesIO
from typing import TYPE_CHECKING, Any

from fthnet_kit.edge.outputs.best_shot.dicom_context import Code, DicomContext, load_pydicom, new_uid

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


EYE: Code = ("81745001", "SCT", "Eye")


def patient_and_study(context: DicomContext, at: datetime) -> Dataset:
    """Patient, General Study, General Equipment, SOP Common."""
    data = dataset_of(
        SpecificCharacterSet="ISO_IR 192",
        TimezoneOffsetFromUTC="+0000",
        InstanceCreationDate=dicom_date(at),
        InstanceCreationTime=dicom_time(at),
        PatientName=context.patient_name,
        PatientID=context.patient_id,
        PatientBirthDate=context.birth_date,
        PatientSex=context.sex,
        StudyInstanceUID=context.study_instance_uid or new_uid(context),
        StudyDate=dicom_date(at),
        StudyTime=dicom_time(at),
        StudyID=context.study_id,
        AccessionNumber=context.accession_number,
        ReferringPhysicianName=context.referring_physician,
        Manufacturer=context.manufacturer,
        ManufacturerModelName=context.model or "unknown",
        DeviceSerialNumber=context.serial_number or "unknown",
        SoftwareVersions=f"FTHNet Edge Kit {kit_version()}",
    )
    if not context.patient_name and not context.patient_id:
        data.PatientIdentityRemoved = "YES"
        data.DeidentificationMethod = WITHOUT_IDENTITY
    return data


def code_item(code: Code) -> Dataset:
    """One item of a code sequence."""
    value, scheme, meaning = code
    return dataset_of(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def dataset_of(**elements: Any) -> Dataset:
    """A data set of these elements, by keyword."""
    data: Dataset = load_pydicom().Dataset()
    for keyword, value in elements.items():
        setattr(data, keyword, value)
    return data


def file_bytes(data: Dataset) -> bytes:
    """DICOM Part 10, Explicit VR Little Endian."""
    pydicom = load_pydicom()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, data, enforce_file_format=True)
    return buffer.getvalue()


def device_uid(context: DicomContext) -> str:
    """The same for the same camera and kit, in every report."""
    device = [context.manufacturer, context.model, context.serial_number, "FTHNet Edge Kit", kit_version()]
    uid = load_pydicom().uid
    root = uid.PYDICOM_ROOT_UID if context.uid_root is None else context.uid_root
    return str(uid.generate_uid(root, entropy_srcs=device))


def in_utc(at: datetime | None) -> datetime:
    """A time in UTC, as every file states it; now where none is given."""
    return (at or datetime.now(timezone.utc)).astimezone(timezone.utc)


def dicom_date(at: datetime) -> str:
    """A DA value."""
    return at.strftime("%Y%m%d")


def dicom_time(at: datetime) -> str:
    """A TM value, to the microsecond."""
    return at.strftime("%H%M%S.%f")


def kit_version() -> str:
    """The installed version of the kit."""
    return version("fthnet-edge-kit")


WITHOUT_IDENTITY = "No patient identity was entered at acquisition"
