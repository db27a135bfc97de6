"""Files: private whatever the umask, never through a link, and a disk that is full is said and not passed over."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pytest
from click import Group
from click.testing import CliRunner

from fthnet_kit.edge import Frame, LiveResult, Score
from fthnet_kit.edge.capture.open_source import with_password
from fthnet_kit.edge.cli.config import config_group
from fthnet_kit.edge.cli.records import records
from fthnet_kit.edge.cli.run import run
from fthnet_kit.edge.deployment.config_file import load_config
from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.files import make_folder, make_private, open_private, write_atomically, write_files
from fthnet_kit.edge.outputs.best_frame import BestFrame
from fthnet_kit.edge.outputs.best_shot.choose import BestShot
from fthnet_kit.edge.outputs.mqtt.message_queue import MessageQueue
from fthnet_kit.edge.outputs.records.writer import Records

Command = Callable[..., "subprocess.CompletedProcess[str]"]
SESSION = "sim:?seconds=10&fps=10&seed=3"  # in its own time, as a stretch that is stable has seconds
CONTEXT = '{"laterality": "R", "pixel_spacing_mm": 0.006, "patient_id": "P-1"}'
VICTIM = b"a file that the service's user may write and no guest may choose"


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of two results."""
    path = tmp_path_factory.mktemp("given") / "r.jsonl"
    kept = Records(path)
    for index in range(2):
        kept.offer(result(index))
    kept.close()
    return path


def result(index: int = 0) -> LiveResult:
    frame = Frame(np.zeros((8, 8, 3), np.uint8), index, 1_000_000 * index)
    return LiveResult(Score(50.0, 0.5, "usable"), frame, None, datetime.now(timezone.utc), 1.0, 2.0, index, 0)


def invoke(group: Group, *arguments: object) -> None:
    """A command, whose errors are raised."""
    group.main([*map(str, arguments)], standalone_mode=False)


def keep_best(folder: Path) -> None:
    """The best frame of one result; what is not saved is raised."""
    best = BestFrame(folder)
    best.offer(result())
    best.close()
    if best.shortfall:
        raise InputError(f"{folder}: expected {best.shortfall}, found none")


def rights(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("umask", [0o022, pytest.param(0o777, marks=pytest.mark.long)])
def test_what_holds_patients_is_private_whatever_the_umask(tmp_path: Path, umask: int, fthnet: Command) -> None:
    pytest.importorskip("pydicom")
    pytest.importorskip("paho")
    (tmp_path / "dicom.json").write_text(CONTEXT)
    (tmp_path / "fthnet.toml").write_text('[mqtt]\nqueue = "out/queue/q.sqlite"\n')
    out = tmp_path / "out"
    command = ["run", "--config", tmp_path / "fthnet.toml", "--source", SESSION, "--mqtt", "mqtt://127.0.0.1:9"]
    command += ["--records", out / "records" / "r.jsonl", "--records-rotate-mb", "0.002", "--save-best", out / "best"]
    command += ["--best-shot", out / "shots", "--dicom", tmp_path / "dicom.json"]
    done = fthnet(*command, umask=umask)
    assert done.returncode == 0, done.stderr
    made = [*out.rglob("*")]
    names = {path.name for path in made}
    assert not [name for name in names if name.endswith(".lock")]
    assert {"r.jsonl", "best.png", "best.json", "best.dcm", "best_quality.dcm", "q.sqlite"} <= names
    for path in made:
        assert rights(path) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize("umask", [0o022, 0o000])
def test_exports_and_the_configuration_are_private(tmp_path: Path, umask: int, given: Path) -> None:
    pytest.importorskip("matplotlib")
    before = os.umask(umask)
    try:
        for command in (["export", given, "-o", tmp_path / "r.csv"], ["plot", given, "-o", tmp_path / "r.png"]):
            assert CliRunner().invoke(records, [*map(str, command)]).exit_code == 0
        assert CliRunner().invoke(config_group, ["init", str(tmp_path / "fthnet.toml")]).exit_code == 0
    finally:
        os.umask(before)
    assert [oct(rights(tmp_path / name)) for name in ("r.csv", "r.png", "fthnet.toml")] == ["0o600"] * 3


def test_older_files_are_closed_to_others(tmp_path: Path) -> None:
    for name in ("records", "queue"):
        (tmp_path / name).write_bytes(b"")
        (tmp_path / name).chmod(0o644)
    os.close(open_private(tmp_path / "records", os.O_RDWR))
    make_private(tmp_path / "queue")
    assert rights(tmp_path / "records") == rights(tmp_path / "queue") == 0o600


def test_a_report_is_for_others_too_but_only_to_read(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_atomically(tmp_path / "report.html", b"x")
    finally:
        os.umask(before)
    assert rights(tmp_path / "report.html") == 0o644


WRITERS: dict[str, Callable[[Path, Path], None]] = {
    "r.jsonl": lambda folder, _: Records(folder / "r.jsonl").close(),
    ".r.jsonl.lock": lambda folder, _: Records(folder / "r.jsonl").close(),
    "best/best.png": lambda folder, _: keep_best(folder / "best"),
    "best/best.json": lambda folder, _: keep_best(folder / "best"),
    "fthnet.toml": lambda folder, _: invoke(config_group, "init", folder / "fthnet.toml"),
    "out.csv": lambda folder, given: invoke(records, "export", given, "-o", folder / "out.csv"),
    "out.parquet": lambda folder, given: invoke(records, "export", given, "-o", folder / "out.parquet"),
    "out.png": lambda folder, given: invoke(records, "plot", given, "-o", folder / "out.png"),
    "queue": lambda folder, _: MessageQueue(folder / "queue", 10, 1000).close(),
}


@pytest.mark.parametrize("there", [True, False], ids=["to a file", "to nothing"])
@pytest.mark.parametrize("planted", WRITERS)
def test_nothing_is_written_through_a_link(tmp_path: Path, planted: str, there: bool, given: Path) -> None:
    if planted == "out.png":
        pytest.importorskip("matplotlib")
    victim = tmp_path / "victim"
    if there:
        victim.write_bytes(VICTIM)
    link = tmp_path / planted
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(victim)
    with pytest.raises(InputError):
        WRITERS[planted](tmp_path, given)
    assert link.is_symlink()
    assert victim.exists() == there
    assert not there or victim.read_bytes() == VICTIM


@pytest.mark.parametrize("writer", [BestFrame, BestShot])
def test_a_folder_for_pictures_is_no_link(tmp_path: Path, writer: Callable[[Path], object]) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "shots").symlink_to(tmp_path / "victim")
    with pytest.raises(InputError, match="a symbolic link; name the folder that it points to"):
        writer(tmp_path / "shots")
    assert not list((tmp_path / "victim").iterdir())


def test_a_link_that_lies_where_the_temporary_file_goes_is_no_way_in(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(VICTIM)
    (tmp_path / ".best.json.tmp").symlink_to(tmp_path / "victim")
    write_atomically(tmp_path / "best.json", b"{}", private=True)
    assert (tmp_path / "victim").read_bytes() == VICTIM
    assert (tmp_path / "best.json").read_bytes() == b"{}"


def test_devices_folders_and_pipes_are_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(InputError, match="a folder, device or pipe"):
            write_files(tmp_path, {name: b"x"})
        with pytest.raises(OSError, match="a folder, device or pipe"):
            open_private(tmp_path / name, os.O_RDWR)


def test_a_folder_under_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for private in (True, False):
        with pytest.raises(InputError, match="expected a folder that can be written, found"):
            make_folder(tmp_path / "file" / "folder", private=private)


# A disk that is full: a limit on the size of files gives the same errors to a user without rights to mount


def small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, 6_000))


def test_what_a_full_disk_took_is_not_claimed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fthnet_kit.edge.cli", "run", "--source", "sim:?seconds=60&fps=5&seed=3"]
    command += ["--save-best", tmp_path / "best", "--best-shot", tmp_path / "shots", "--records", tmp_path / "r.jsonl"]
    with subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True, preexec_fn=small_files) as process:  # noqa: PLW1509
        told = {line.partition(":")[0] for line in islice(process.stderr, 3)}
        assert told == {"best frame", "best shot", "records"}
        process.terminate()
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "best frame:" not in output
    last = errors.splitlines()[-1]
    assert "records are not in" in last
    assert "the best frame is not saved" in last
    assert "the newest shot of eye 1 is not saved" in last
    assert "File too large" in last
    assert not [*(tmp_path / "best").iterdir()]


@pytest.mark.parametrize("planted", sorted(WRITERS))
def test_places_that_cannot_be_written_are_one_line(planted: str, given: Path) -> None:
    if planted == "out.png":
        pytest.importorskip("matplotlib")
    with pytest.raises(InputError, match=r"^/proc/none[^\n]*: expected [^\n]*, found [^\n]+$"):
        WRITERS[planted](Path("/proc/none"), given)


@pytest.mark.parametrize("command", [["--help"], ["config", "show", "fthnet.toml"]])
def test_an_output_that_is_full_is_one_line(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "fthnet.toml").write_text("")
    with Path("/dev/full").open("w") as full:
        whole = [sys.executable, "-m", "fthnet_kit.edge.cli", *command]
        done = subprocess.run(whole, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 3
    assert done.stderr == "fthnet: output: expected to read or write it, found No space left on device\n"


# The camera's password


def test_a_camera_password_comes_from_a_file(tmp_path: Path) -> None:
    assert with_password("rtsp://me@10.0.0.7:554/a@b", "p:w/d@1") == "rtsp://me:p%3Aw%2Fd%401@10.0.0.7:554/a@b"
    (tmp_path / "secret").write_text("hunter2\n")
    (tmp_path / "secret").chmod(0o600)
    for source in ("rtsp://10.0.0.7/stream", "rtsp://me:other@10.0.0.7/", "0", "photos/"):
        with pytest.raises(InputError, match="camera password: expected an address such as") as refused:
            run.main(["--source", source, "--source-password-file", str(tmp_path / "secret")], standalone_mode=False)
        assert "hunter2" not in str(refused.value)
        assert "other" not in str(refused.value)


def test_a_configuration_with_a_password_that_others_can_read_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tmp_path / "fthnet.toml"
    config.write_text('[camera]\nsource = "rtsp://me:hunter2@10.0.0.7/"\n')
    config.chmod(0o600)
    load_config(config)
    assert not caplog.messages
    config.chmod(0o644)
    load_config(config)
    assert "everybody on this machine can read the camera's password" in caplog.messages[0]
