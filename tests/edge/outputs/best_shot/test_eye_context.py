"""One eye, one context: two eyes with two patients, and never the last patient's name on the next one's picture."""

from __future__ import annotations

import http.client
import json
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from fthnet_kit.edge.cli.eye import eye as eye_command
from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.outputs.best_shot.dicom_context import DicomContext
from fthnet_kit.edge.outputs.best_shot.eye_context import EyeContext, EyeFile
from tests.conftest import ROOT, make_card
from tests.edge.test_best_shot import Camera, gone, record

pydicom = pytest.importorskip("pydicom")

DEVICE = DicomContext(pixel_spacing_mm=0.01, manufacturer="maker")
JANE = EyeContext(laterality="R", patient_id="P-1", patient_name="Doe^Jane", accession_number="A-1", sex="F")
JOHN = EyeContext(laterality="L", patient_id="P-2", patient_name="Roe^John", birth_date="19600229")
SHOT = (*[70] * 6, 20)


def files(folder: Path, eye: int) -> Any:
    """The photograph of an eye and its report."""
    place = folder / f"EYE-{eye:06d}"
    return pydicom.dcmread(place / "best.dcm"), pydicom.dcmread(place / "best_quality.dcm")


def said(folder: Path, eye: int) -> tuple[str, str, str, str]:
    """Laterality, id, name and order; the report must say the same."""
    photograph, report = files(folder, eye)
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "AccessionNumber", "StudyInstanceUID"):
        assert getattr(photograph, keyword) == getattr(report, keyword)
    return (
        photograph.ImageLaterality or "",
        str(photograph.PatientID),
        str(photograph.PatientName),
        str(photograph.AccessionNumber),
    )


def test_two_eyes_have_two_patients_and_the_third_is_unknown(tmp_path: Path) -> None:
    camera = Camera(tmp_path, dicom=DEVICE)
    camera.best_shot.set_eye(JANE)
    camera.show(*SHOT, *gone())
    camera.best_shot.set_eye(JOHN)
    camera.show(*SHOT, *gone(), *SHOT, *gone())
    camera.best_shot.close()
    assert said(tmp_path, 1) == ("R", "P-1", "Doe^Jane", "A-1")
    assert said(tmp_path, 2) == ("L", "P-2", "Roe^John", "")
    assert said(tmp_path, 3) == ("", "", "", "")
    third = files(tmp_path, 3)[0]
    assert third["PatientID"].is_empty  # type 2: there, and empty
    assert third["ImageLaterality"].is_empty
    assert third.PatientIdentityRemoved == "YES"
    assert third.Manufacturer == "maker"
    assert [record(tmp_path, eye)["laterality"] for eye in (1, 2, 3)] == ["R", "L", None]
    assert len({files(tmp_path, eye)[0].StudyInstanceUID for eye in (1, 2, 3)}) == 3
    for eye in (1, 2, 3):
        assert "Doe" not in json.dumps(record(tmp_path, eye))


def test_what_the_camera_s_file_says_of_a_patient_holds_for_the_first_eye_alone(tmp_path: Path) -> None:
    camera = Camera(tmp_path, dicom=DicomContext(laterality="R", pixel_spacing_mm=0.01, patient_id="P-1"))
    camera.show(*SHOT, *gone(), *SHOT)
    camera.best_shot.close()
    assert said(tmp_path, 1) == ("R", "P-1", "", "")
    assert said(tmp_path, 2) == ("", "", "", "")


def test_a_context_waits_for_its_eye_and_ends_when_the_camera_is_lost_amid_it(tmp_path: Path) -> None:
    camera = Camera(tmp_path, dicom=DEVICE)
    camera.best_shot.set_eye(JANE)
    camera.show(*gone(), "no_frame", *gone(), *SHOT, "no_frame", *SHOT)
    camera.best_shot.close()
    assert said(tmp_path, 1)[1] == "P-1"
    assert said(tmp_path, 2)[1] == ""


def test_a_shot_amid_which_the_eye_was_set_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    camera = Camera(tmp_path, dicom=DEVICE)
    camera.best_shot.set_eye(JANE)
    camera.show(*[70] * 7)  # stable, but not yet taken
    camera.best_shot.set_eye(JOHN)
    camera.show(*[70] * 2, 20, *gone())
    assert not camera.taken  # nobody may say whose the seven frames are
    assert "the eye was set amid a shot, which is refused" in caplog.text
    camera.best_shot.set_eye(JOHN)
    camera.show(*SHOT)
    camera.best_shot.close()
    assert said(tmp_path, 1)[1] == "P-2"


def test_moving_on_without_the_eye_leaving_begins_another(tmp_path: Path) -> None:
    camera = Camera(tmp_path, dicom=DEVICE)
    camera.best_shot.set_eye(JANE)
    camera.show(*SHOT)
    camera.best_shot.set_eye(JOHN)
    camera.show(*SHOT)
    camera.best_shot.set_eye(None)
    camera.show(*SHOT)
    camera.best_shot.close()
    assert [said(tmp_path, eye)[1] for eye in (1, 2, 3)] == ["P-1", "P-2", ""]


def test_frames_from_before_are_of_neither(tmp_path: Path) -> None:
    camera = Camera(tmp_path, dicom=DEVICE)
    camera.show(20)
    late = camera.t
    camera.t += 5  # the clock of `set_eye`: frames of the five seconds before are still on their way
    camera.best_shot.set_eye(JANE)
    camera.t = late
    camera.show(*SHOT)
    assert not camera.taken
    camera.t = late + 6
    camera.show(*SHOT)
    camera.best_shot.close()
    assert said(tmp_path, 1)[1] == "P-1"


def test_two_eyes_of_one_patient_and_order_share_their_study(tmp_path: Path) -> None:
    camera = Camera(tmp_path, dicom=DEVICE)
    for laterality in ("R", "L"):
        camera.best_shot.set_eye(EyeContext(laterality=laterality, patient_id="P-1", accession_number="A-1"))
        camera.show(*SHOT, *gone())
    camera.best_shot.set_eye(JOHN)
    camera.show(*SHOT)
    camera.best_shot.close()
    right, left, other = (files(tmp_path, eye)[0] for eye in (1, 2, 3))
    assert right.StudyInstanceUID == left.StudyInstanceUID != other.StudyInstanceUID


# What is read of it


def test_the_schema_and_the_class_know_the_same_keys() -> None:
    schema = json.loads((ROOT / "edge" / "assets" / "eye_context.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert set(schema["properties"]) == set(vars(EyeContext()))


@pytest.mark.parametrize("eye", [JANE, JOHN, EyeContext(pupil_dilated=False)])
def test_what_is_written_is_read(eye: EyeContext) -> None:
    assert EyeContext.parse(eye.to_json()) == eye
    assert EyeContext.parse(b"{}") is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'"R"',
        b"[" * 5000,
        b"\xff",
        b'{"laterality": "U"}',
        b'{"laterality": ["R"]}',
        b'{"patient_id": ""}',
        b'{"patient_id": 7}',
        b'{"patient_name": "Secret\\nName"}',
        b'{"birth_date": "19600230"}',
        b'{"accession_number": "12345678901234567"}',
        b'{"study_instance_uid": "1.02.3"}',
        b'{"hospital": "Secret"}',
        b'{"pixel_spacing_mm": 1}',
    ],
)
def test_what_is_no_context_is_one_line_that_repeats_nothing(content: bytes) -> None:
    with pytest.raises(InputError, match=r"^eye: [^\n]*expected") as refused:
        EyeContext.parse(content)
    assert "Secret" not in str(refused.value)
    assert "1960" not in str(refused.value)


@given(
    st.dictionaries(st.sampled_from(sorted(vars(EyeContext()))), st.text() | st.booleans() | st.none() | st.integers())
)
def test_any_values_are_read_or_refused(content: dict[str, Any]) -> None:
    try:
        eye = EyeContext.parse(json.dumps(content))
    except InputError as error:
        assert str(error).isprintable()
    else:
        assert (eye is None) == (content == {})


# The ways to set it


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def command(*arguments: object, **more: Any) -> Any:
    return CliRunner().invoke(eye_command, [*map(str, arguments)], **more)


def test_the_command_tells_the_run_by_a_private_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "state" / "eye.json"
    assert command("--eye-file", path, "--laterality", "L", "--patient-id", "yesterday").exit_code == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    heard: list[EyeContext | None] = []
    watcher = EyeFile(path, heard.append)
    time.sleep(0.6)
    assert heard == []  # what it held at the start is not taken
    done = command("--eye-file", path, "--laterality", "R", "--patient-id", "P-1")
    assert done.output == "the next eye: R, P-1\n"
    wait_for(lambda: len(heard) == 1)
    assert command("--eye-file", path, "--json", input=JOHN.to_json().decode()).exit_code == 0
    wait_for(lambda: len(heard) == 2)
    assert command("--eye-file", path, "--end").exit_code == 0
    wait_for(lambda: len(heard) == 3)
    path.write_bytes(b'{"patient_name": "half')
    wait_for(lambda: len(heard) == 4)
    path.unlink()
    wait_for(lambda: len(heard) == 5)
    watcher.close()
    assert heard == [EyeContext(laterality="R", patient_id="P-1"), JOHN, None, None, None]
    assert "not taken, the eye is unknown" in caplog.text
    assert "half" not in caplog.text


@pytest.mark.parametrize("arguments", [[], ["--end", "--sex", "F"], ["--birth-date", "1960"], ["--json", "--end"]])
def test_a_command_that_says_nothing_or_two_things_is_refused(tmp_path: Path, arguments: list[str]) -> None:
    done = command("--eye-file", tmp_path / "eye.json", *arguments)
    assert isinstance(done.exception, InputError)
    assert not (tmp_path / "eye.json").exists()
    assert isinstance(command("--end").exception, InputError)  # which file?


def test_the_page_sets_it(tmp_path: Path) -> None:
    server_module = pytest.importorskip("fthnet_kit.edge.outputs.preview.server")
    camera = Camera(tmp_path, dicom=DEVICE)
    address = server_module.parse_address("127.0.0.1:0")
    server = server_module.PreviewServer(address, None, make_card(), set_eye=camera.best_shot.set_eye_json)

    def post(body: bytes, kind: str = "application/json") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", server.address.port, timeout=10)
        connection.request("POST", "/api/eye", body, {"Content-Type": kind})
        answer = connection.getresponse()
        return answer.status, answer.read()

    try:
        assert post(JANE.to_json())[0] == 200
        assert camera.best_shot.eye == JANE
        assert post(b"{}", "text/plain")[0] == 415
        status, body = post(b'{"patient_name": "Secret\\\\"}')
        assert (status, b"Secret" in body) == (400, False)
        assert camera.best_shot.eye == JANE
        assert post(b"{}")[0] == 200
        assert camera.best_shot.eye is None
    finally:
        server.close()
        camera.best_shot.close()
