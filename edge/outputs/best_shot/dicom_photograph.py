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

import re
from datetime import datetime
from typing import TYPE_CHECKING

import cv2

from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.model.score import Score
from fthnet_kit.edge.outputs.best_shot.dicom_context import (
    DEVICE_TYPES,
    Code,
    DicomContext,
    new_uid,
)
from fthnet_kit.edge.outputs.best_shot.dicom_objects import (
    code_item,
    dataset_of,
    dicom_date,
    dicom_time,
    file_bytes,
    in_utc,
    kit_version,
    patient_and_study,
)

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

PHOTOGRAPH_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.5.1"  # Ophthalmic Photography 8 Bit Image Storage

RETINA: Code = ("5665001", "SCT", "Retina")
LARGEST_SIDE = 65535  # Rows and Columns are 16-bit
JPEG_METHOD = "ISO_10918_1"


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
    at = in_utc(captured_at)
    data = patient_and_study(context, at)
    data.SOPClassUID, data.SOPInstanceUID = PHOTOGRAPH_CLASS, new_uid(context)
    data.Modality, data.SeriesNumber = "OP", 1
    data.SeriesInstanceUID = context.photograph_series_uid or new_uid(context)
    _add_image(data, image_bgr, context, at, instance_number)
    _add_ophthalmic_parameters(data, context)
    data.ContributingEquipmentSequence = [_selecting_algorithm(score)]
    return file_bytes(data)


def _add_image(data: Dataset, image_bgr: Image, context: DicomContext, at: datetime, instance_number: int) -> None:
    """Synchronization, General Image, Image Pixel, Multi-frame, Ophthalmic Photography Image."""
    data.SynchronizationFrameOfReferenceUID = new_uid(context)
    data.SynchronizationTrigger = "NO TRIGGER"
    data.AcquisitionTimeSynchronized = "N"
    data.InstanceNumber = instance_number
    data.PatientOrientation = ""
    data.ImageType = ["ORIGINAL", "PRIMARY", "", "COLOR"]
    data.ContentDate, data.ContentTime = dicom_date(at), dicom_time(at)
    data.AcquisitionDateTime = dicom_date(at) + dicom_time(at)
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
    data.ImageLaterality = context.laterality or ""
    data.AnatomicRegionSequence = [code_item(RETINA)]
    data.PatientEyeMovementCommanded = ""
    data.RefractiveStateSequence = []
    data.EmmetropicMagnification = None
    data.IntraOcularPressure = None
    data.HorizontalFieldOfView = context.field_of_view_deg
    data.PupilDilated = {None: "", True: "YES", False: "NO"}[context.pupil_dilated]
    if context.pupil_dilated:
        data.DegreeOfDilation = None
        data.MydriaticAgentSequence = []
    data.AcquisitionDeviceTypeCodeSequence = [code_item(DEVICE_TYPES[context.device_type])]
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
    return dataset_of(
        PurposeOfReferenceCodeSequence=[code_item(("109101", "DCM", "Acquisition Equipment"))],
        Manufacturer=_short(algorithm.manufacturer if algorithm else "FTHNet Edge Kit"),
        ManufacturerModelName=_short(algorithm.name if algorithm else "FTHNet Edge Kit"),
        SoftwareVersions=_short(algorithm.version if algorithm else kit_version()),
        ContributionDescription=f"Chose this frame by image quality: {what}"[:1024],
    )


def _short(text: str) -> str:
    """As VR LO takes it: one line of at most 64 characters, without a backslash."""
    return re.sub(r"[\\\x00-\x1f]", " ", text)[:64]
