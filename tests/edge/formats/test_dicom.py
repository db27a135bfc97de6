"""DICOM photographs: the picture that was stored, in every form that cameras write; or the reason why not."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from fthnet_kit.edge.capture.image_files import find_images
from fthnet_kit.edge.errors import PictureError
from fthnet_kit.edge.formats.read import read_image
from fthnet_kit.edge.inference.scorer import QualityScorer
from fthnet_kit.edge.outputs.best_shot.dicom_context import DicomContext
from fthnet_kit.edge.outputs.best_shot.dicom_photograph import ophthalmic_photograph

pydicom = pytest.importorskip("pydicom")

FUNDUS = cv2.resize(cv2.imread(str(Path("edge/assets/retina.jpg"))), (300, 240), interpolation=cv2.INTER_AREA)
RGB = np.ascontiguousarray(FUNDUS[:, :, ::-1])
PHOTOGRAPH = "1.2.840.10008.5.1.4.1.1.77.1.5.1"
BASELINE, LOSSLESS = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.70"
JPEG_2000, RLE = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5"
IMPLICIT, EXPLICIT, DEFLATED, BIG = (f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".1.99", ".2"))


def dataset(pixels: np.ndarray, colours: str, syntax: str = EXPLICIT, **values: Any) -> Any:
    """A photograph of pixels (H, W[, 3]) as they are stored."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = PHOTOGRAPH, pydicom.uid.generate_uid()
    meta.TransferSyntaxUID = syntax
    data = pydicom.Dataset()
    data.file_meta, data.SOPClassUID, data.SOPInstanceUID = meta, PHOTOGRAPH, meta.MediaStorageSOPInstanceUID
    bits = 8 * pixels.dtype.itemsize
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel = pixels.shape[2] if pixels.ndim == 3 else 1
    data.PhotometricInterpretation = colours
    data.BitsAllocated = data.BitsStored = bits
    data.HighBit, data.PixelRepresentation = bits - 1, 0
    if pixels.ndim == 3:
        data.PlanarConfiguration = 0
    data.PixelData = pixels.astype(pixels.dtype.newbyteorder(">" if syntax == BIG else "<")).tobytes()
    data["PixelData"].VR = "OB" if bits == 8 else "OW"
    for name, value in values.items():
        setattr(data, name, value)
    return data


def saved(data: Any) -> bytes:
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def encapsulated(frame: bytes, colours: str, syntax: str, pixels: np.ndarray = RGB, **values: Any) -> bytes:
    data = dataset(pixels, colours, syntax, **values)
    data.PixelData = pydicom.encaps.encapsulate([frame])
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    return saved(data)


def apart(found: np.ndarray, expected: np.ndarray = FUNDUS) -> float:
    return float(np.abs(found.astype(int) - expected).max())


def ybr(pixels: np.ndarray) -> np.ndarray:
    """Full-range YCbCr of RGB."""
    return np.ascontiguousarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2YCrCb)[:, :, [0, 2, 1]])


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, DEFLATED, BIG])
def test_rgb_is_read_pixel_for_pixel(syntax: str) -> None:
    assert apart(read_image(saved(dataset(RGB, "RGB", syntax)))) == 0


def test_planes_are_put_together() -> None:
    data = dataset(RGB, "RGB")
    data.PlanarConfiguration, data.PixelData = 1, RGB.transpose(2, 0, 1).tobytes()
    assert apart(read_image(saved(data))) == 0


def test_ybr_is_turned_to_rgb() -> None:
    assert apart(read_image(saved(dataset(ybr(RGB), "YBR_FULL")))) <= 2


def test_ybr_with_half_the_colours_is_turned_to_rgb() -> None:
    full = ybr(cv2.GaussianBlur(RGB, (0, 0), 3))
    pairs = full.reshape(240, 150, 2, 3)
    packed = np.concatenate([pairs[..., 0], pairs[:, :, :1, 1], pairs[:, :, :1, 2]], axis=2)
    data = dataset(full, "YBR_FULL_422")
    data.PixelData = packed.tobytes()
    assert apart(read_image(saved(data)), cv2.GaussianBlur(FUNDUS, (0, 0), 3)) <= 12


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("colours", ["RGB", "MONOCHROME1", "MONOCHROME2"])
def test_values_are_scaled_by_the_bits_stored(bits: int, colours: str) -> None:
    white = (1 << bits) - 1
    deep = np.round(RGB.astype(float) * white / 255).astype(np.uint16)
    pixels, expected = (deep, FUNDUS) if colours == "RGB" else (deep[:, :, 1], np.repeat(FUNDUS[:, :, 1:2], 3, 2))
    if colours == "MONOCHROME1":
        pixels = white - pixels
    assert apart(read_image(saved(dataset(pixels, colours, BitsStored=bits, HighBit=bits - 1))), expected) <= 1


def test_palettes_are_looked_up() -> None:
    small = RGB // 32 * 32
    palette, index = np.unique(small.reshape(-1, 3), axis=0, return_inverse=True)
    data = dataset(index.reshape(240, 300).astype(np.uint8 if len(palette) <= 256 else np.uint16), "PALETTE COLOR")
    for number, name in enumerate(("Red", "Green", "Blue")):
        setattr(data, f"{name}PaletteColorLookupTableDescriptor", [len(palette), 0, 16])
        setattr(data, f"{name}PaletteColorLookupTableData", (palette[:, number].astype("<u2") * 257).tobytes())
    assert apart(read_image(saved(data)), small[:, :, ::-1]) <= 1


@pytest.mark.parametrize("colours", ["YBR_FULL_422", "RGB"])
def test_jpeg_inside_is_the_jpeg(colours: str) -> None:
    """Writers often say RGB of a JFIF file, which is in YCbCr."""
    frame = cv2.imencode(".jpg", FUNDUS, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
    assert apart(read_image(encapsulated(frame, colours, BASELINE)), read_image(frame)) == 0


def test_jpeg_in_rgb_without_a_marker_is_not_transformed() -> None:
    simplejpeg = pytest.importorskip("simplejpeg")
    in_ybr = simplejpeg.encode_jpeg(RGB, quality=95, colorspace="RGB", colorsubsampling="444")
    start = in_ybr.index(b"\xff\xe0")
    bare = in_ybr[:start] + in_ybr[start + 2 + int.from_bytes(in_ybr[start + 2 : start + 4], "big") :]
    found = read_image(encapsulated(bare, "RGB", BASELINE))
    assert apart(found, ybr(RGB)[:, :, ::-1]) < 40  # its YCbCr, taken as RGB as the file says
    assert apart(read_image(encapsulated(bare, "YBR_FULL", BASELINE))) < 40


def test_damaged_jpeg_inside_is_refused() -> None:
    frame = cv2.imencode(".jpg", FUNDUS)[1].tobytes()
    for broken in (frame[:4_000] + frame[5_000:], frame[:-400]):
        with pytest.raises(PictureError) as caught:
            read_image(encapsulated(broken, "YBR_FULL_422", BASELINE))
        assert caught.value.kind == "damaged"


@pytest.mark.parametrize("bits", [8, 16])
def test_jpeg_2000_inside_is_read(bits: int) -> None:
    deep = FUNDUS if bits == 8 else np.round(FUNDUS.astype(float) * 65_535 / 255).astype(np.uint16)
    coded = cv2.imencode(".jp2", deep, [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000])[1].tobytes()
    frame = coded[coded.index(b"\xff\x4f\xff\x51") :]
    assert apart(read_image(encapsulated(frame, "YBR_RCT", JPEG_2000, deep))) <= 2
    with pytest.raises(PictureError):
        read_image(encapsulated(frame[: len(frame) // 2], "YBR_RCT", JPEG_2000, deep))


def test_rle_is_read() -> None:
    data = dataset(RGB, "RGB")
    data.compress(pydicom.uid.RLELossless)
    assert apart(read_image(saved(data))) == 0
    packed = bytearray(data.PixelData)
    del packed[200:4_000]
    data.PixelData = bytes(packed)
    with pytest.raises(PictureError) as caught:
        read_image(saved(data))
    assert caught.value.kind == "damaged"


def test_lossless_jpeg_is_read_where_a_decoder_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gdcm = pytest.importorskip("gdcm")
    (tmp_path / "plain.dcm").write_bytes(saved(dataset(RGB, "RGB")))
    reader = gdcm.ImageReader()
    reader.SetFileName(str(tmp_path / "plain.dcm"))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(tmp_path / "lossless.dcm"))
    assert writer.Write()
    assert pydicom.dcmread(tmp_path / "lossless.dcm").file_meta.TransferSyntaxUID == LOSSLESS
    assert apart(read_image(tmp_path / "lossless.dcm")) == 0
    decoder = pydicom.pixels.get_decoder(LOSSLESS)
    monkeypatch.setattr(decoder, "_available", {})
    with pytest.raises(PictureError, match=r"found JPEG Lossless.*pip install python-gdcm") as caught:
        read_image(tmp_path / "lossless.dcm")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ({"NumberOfFrames": 12}, "unclear", "DICOM file with 12 frames"),
        ({"Columns": 20_000}, "too_large", "at most 12000"),
        ({"PhotometricInterpretation": "HSV"}, "unsupported", "found HSV"),
        ({"PixelRepresentation": 1}, "unsupported", "signed"),
        ({"Rows": 500}, "damaged", "whole DICOM file"),
    ],
)
def test_what_cannot_be_read_says_why(values: dict[str, Any], kind: str, message: str) -> None:
    with pytest.raises(PictureError, match=message) as caught:
        read_image(saved(dataset(RGB, "RGB", **values)))
    assert caught.value.kind == kind
    assert "\n" not in str(caught.value)


def test_reports_and_broken_files_are_one_line() -> None:
    report = dataset(RGB, "RGB", Modality="SR")
    del report.PixelData
    with pytest.raises(PictureError, match=r"without pixels \(modality SR\)"):
        read_image(saved(report))
    whole = saved(dataset(RGB, "RGB"))
    for length in (133, 200, 400, len(whole) // 2, len(whole) - 2):
        with pytest.raises(PictureError) as caught:
            read_image(whole[:length])
        assert "\n" not in str(caught.value)


def test_the_kits_own_photographs_score_as_the_picture(tmp_path: Path) -> None:
    with QualityScorer.from_bundle() as scorer:
        score = scorer.score(FUNDUS)
        context = DicomContext(laterality="R", pixel_spacing_mm=0.01)
        (tmp_path / "shot.dcm").write_bytes(ophthalmic_photograph(FUNDUS, score, context))
        again = scorer.score(read_image(tmp_path / "shot.dcm"))
        coded = cv2.imencode(".jpg", FUNDUS, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
        packed = scorer.score(read_image(encapsulated(coded, "YBR_FULL_422", BASELINE)))
        bare = scorer.score(read_image(coded))
    assert again.value == score.value
    assert packed.value == bare.value


def test_folders_and_globs_take_dicom_with_and_without_an_ending(tmp_path: Path) -> None:
    content = saved(dataset(RGB, "RGB"))
    names = ["a.dcm", "b.DCM", "c.dicom", "IM0001", "1.2.840.99.7"]
    for name in names:
        (tmp_path / name).write_bytes(content)
    for name in ("DICOMDIR.txt", "README", "1.5", "notes.xml"):
        (tmp_path / name).write_bytes(b"x" * 200)
    assert {path.name for path in find_images([str(tmp_path)])} == set(names)
    assert {path.name for path in find_images([str(tmp_path / "*")])} == set(names)


def test_without_the_extra_the_line_that_installs_it_is_shown(
    tmp_path: Path, fthnet: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (tmp_path / "photograph.dcm").write_bytes(saved(dataset(RGB, "RGB")))
    (tmp_path / "photograph.png").write_bytes(cv2.imencode(".png", FUNDUS)[1].tobytes())
    done = fthnet("score", "--json", tmp_path)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 2
    hide = "import sys; sys.modules['pydicom'] = None; from fthnet_kit.edge.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", hide, "score", "--json", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 3
    assert len(done.stdout.splitlines()) == 1
    assert "photograph.dcm" in done.stderr and "pip install 'fthnet-edge-kit[dicom]'" in done.stderr
    assert "Traceback" not in done.stderr
