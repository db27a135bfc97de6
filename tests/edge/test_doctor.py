"""What `fthnet doctor` says about recorded Jetsons, about this machine and about broken parts."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from fthnet_kit.edge.cli.doctor import count_line, doctor, findings_table
from fthnet_kit.edge.deployment.doctor import examine
from fthnet_kit.edge.deployment.doctor_bundle import check_bundle
from fthnet_kit.edge.deployment.doctor_findings import Finding, Report, load_module
from fthnet_kit.edge.deployment.doctor_machine import (
    camera_modes,
    check_cameras,
    check_heat,
    check_jetpack,
    check_memory,
    check_speed,
)
from fthnet_kit.edge.deployment.doctor_software import (
    check_cuda,
    check_pycuda,
    check_python,
    check_tensorrt,
    judge_opencv,
)
from fthnet_kit.edge.device.machine import Device, read_cuda_version, read_driver
from fthnet_kit.edge.inference.engine_manifest import EngineManifest, Target
from fthnet_kit.edge.model.bundle import FP32_NAME, shipped_bundle
from fthnet_kit.edge.reporting.console import LOG_WIDTH
from tests.edge.test_device import COMPUTER, ORIN, ORIN_SAYS, THOR, THOR_SAYS, machine, says

ORIN_DEVICE = Device(model="NVIDIA Jetson Orin Nano", soc="tegra234", l4t="36.4.7", jetpack="6.2.1")
THOR_DEVICE = Device(model="NVIDIA Jetson AGX Thor Developer Kit", soc="tegra264", l4t="38.4.0", jetpack="7.1")

WHEEL_BUILD = """
  Video I/O:
    FFMPEG:                      YES
      avcodec:                   YES (62.28.101)
    GStreamer:                   NO
    v4l/v4l2:                    YES (linux/videodev2.h)
"""
SYSTEM_BUILD = """
  Video I/O:
    DC1394:                      YES (2.2.6)
    FFMPEG:                      YES
    GStreamer:                   YES (1.22.0)
    v4l/v4l2:                    YES (linux/videodev2.h)
"""
MODES = """ioctl: VIDIOC_ENUM_FMT
\tType: Video Capture

\t[0]: 'MJPG' (Motion-JPEG, compressed)
\t\tSize: Discrete 640x480
\t\t\tInterval: Discrete 0.008s (120.000 fps)
\t\tSize: Discrete 1920x1080
\t\t\tInterval: Discrete 0.033s (30.000 fps)
\t\t\tInterval: Discrete 0.017s (59.940 fps)
\t\tSize: Discrete 1280x720
\t\t\tInterval: Discrete 0.017s (60.000 fps)
\t[1]: 'YUYV' (YUYV 4:2:2)
\t\tSize: Discrete 640x480
\t\t\tInterval: Discrete 0.033s (30.000 fps)
"""
OLD_MODES = """ioctl: VIDIOC_ENUM_FMT
\tIndex       : 0
\tType        : Video Capture
\tPixel Format: 'MJPG' (compressed)
\tName        : Motion-JPEG
\t\tSize: Stepwise 16x16 - 4096x3072 with step 1/1
"""
NO_MODES = "ioctl: VIDIOC_ENUM_FMT\n\tType: Video Capture\n"


def of(report: Report, topic: str) -> list[Finding]:
    return [finding for finding in report.findings if finding.topic == topic]


def fake_module(monkeypatch: pytest.MonkeyPatch, name: str, version: str | None) -> None:
    """A module with a version, or none at all."""
    module = None
    if version is not None:
        module = ModuleType(name)
        module.__version__ = version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)  # type: ignore[arg-type]


def test_a_problem_must_have_a_remedy() -> None:
    with pytest.raises(ValueError, match="remedy"):
        Finding("x", "problem", "broken")


def test_an_orin_with_jetpack_6(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_module(monkeypatch, "tensorrt", "10.3.0")
    fake_module(monkeypatch, "tensorrt_rtx", None)
    files = {**ORIN, "usr/local/cuda/version.json": '{"cuda": {"name": "CUDA SDK", "version": "12.6.11"}}'}
    report = examine(root=machine(tmp_path, files), run=says(ORIN_SAYS))
    assert of(report, "JetPack")[0].state == "ok"
    assert "JetPack 6.2.1, L4T 36.4.7" in of(report, "JetPack")[0].found
    assert of(report, "TensorRT") == [Finding("TensorRT", "ok", "tensorrt 10.3.0")]
    assert of(report, "CUDA toolkit")[0].found == "12.6.11"
    assert of(report, "NVIDIA driver")[0].found == "540.4.0"
    assert of(report, "Power mode") == [Finding("Power mode", "ok", "MAXN_SUPER")]
    (clocks,) = of(report, "Clocks")
    assert clocks.remedy is not None
    assert "jetson_clocks" in clocks.remedy
    assert "CPU up to 1728 MHz, GPU up to 1020 MHz" in clocks.found
    assert of(report, "Temperature")[0].found == "64 °C at tj-thermal, the hottest"
    assert of(report, "Throttling")[0].state == "note"
    assert "oc3 2 times" in of(report, "Throttling")[0].found
    assert of(report, "Engine")[0].state == "note"
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["device"]["jetpack"] == "6.2.1"


def test_a_hot_thor_with_jetpack_7(tmp_path: Path) -> None:
    report = examine(root=machine(tmp_path, THOR), run=says(THOR_SAYS))
    assert of(report, "Temperature")[0].state == "problem"
    assert "gpu-throttle-alert" in of(report, "Throttling")[0].found
    assert of(report, "Power mode")[0].state == "note"
    assert of(report, "Clocks")[0].state == "ok"
    assert of(report, "CUDA toolkit")[0].state == "problem"


def test_a_computer_has_no_jetson_problems(tmp_path: Path) -> None:
    report = examine(root=machine(tmp_path, COMPUTER), run=says({"uname": "x86_64\n"}))
    assert "not a Jetson: AMD EPYC 7763" in of(report, "JetPack")[0].found
    for topic in ("JetPack", "CUDA toolkit", "NVIDIA driver", "Clocks", "Camera", "Memory"):
        assert of(report, topic)[0].state == "note", topic
    assert of(report, "Power mode") == []


@pytest.mark.parametrize("device", [ORIN_DEVICE, Device()])
def test_tensorrt_that_is_missing(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_module(monkeypatch, "tensorrt", None)
    fake_module(monkeypatch, "tensorrt_rtx", None)
    (finding,) = check_tensorrt(device)
    assert finding.state == ("problem" if device.is_jetson else "note")
    assert "Jetson" in finding.found or device.is_jetson


@pytest.mark.parametrize(
    ("version", "device", "state", "words"),
    [
        ("8.5.2.2", ORIN_DEVICE, "problem", "JetPack 6.1"),
        ("8.6.1", Device(), "problem", "pip install"),
        ("10.0.1", ORIN_DEVICE, "problem", "JetPack 6.1"),
        ("10.3.0", ORIN_DEVICE, "ok", "10.3.0"),
        ("10.13.3.9", ORIN_DEVICE, "problem", "7.2"),
        ("10.13.3.9", THOR_DEVICE, "ok", "10.13"),
        ("10.16.2.10", ORIN_DEVICE, "ok", "10.16"),
        ("11.4.1", THOR_DEVICE, "ok", "11.4"),
        ("", ORIN_DEVICE, "problem", "without a version"),
    ],
)
def test_versions_of_tensorrt(
    version: str, device: Device, state: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_module(monkeypatch, "tensorrt", version)
    fake_module(monkeypatch, "tensorrt_rtx", None)
    (finding,) = check_tensorrt(device)
    assert finding.state == state
    assert words in finding.found + (finding.remedy or "")


def test_tensorrt_for_rtx_is_no_tensorrt_of_a_jetson(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_module(monkeypatch, "tensorrt", None)
    fake_module(monkeypatch, "tensorrt_rtx", "1.7.1.116")
    (finding,) = check_tensorrt(Device())
    assert finding.state == "ok"
    assert "a Jetson needs tensorrt itself" in finding.found


@pytest.mark.parametrize(
    ("jetpack", "state"), [("6.2", "ok"), ("7.0", "ok"), ("6", "ok"), ("6.0", "problem"), ("5", "problem")]
)
def test_versions_of_jetpack(jetpack: str, state: str) -> None:
    assert check_jetpack(Device(l4t="1.2.3", jetpack=jetpack)).state == state


def test_an_old_python() -> None:
    assert check_python((3, 9, 2)).state == "problem"
    assert check_python((3, 10, 0)).state == "ok"


def test_pycuda_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pycuda", "pycuda.driver"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", [])
    assert check_pycuda(ORIN_DEVICE).state == "problem"
    assert check_pycuda(Device()).state == "note"


def test_opencv_of_pip_and_of_the_system() -> None:
    wheel, gstreamer = judge_opencv("5.0.0", WHEEL_BUILD)
    assert wheel == Finding("OpenCV", "ok", "5.0.0: V4L2 yes, FFmpeg yes, GStreamer no")
    assert gstreamer.state == "note"
    assert "CSI" in gstreamer.found
    assert judge_opencv("4.6.0", SYSTEM_BUILD) == [
        Finding("OpenCV", "ok", "4.6.0: V4L2 yes, FFmpeg yes, GStreamer yes")
    ]
    assert [finding.state for finding in judge_opencv("4.8.0", "")] == ["ok", "problem", "problem", "note"]


def test_cuda_from_its_compiler_and_driver_from_nvidia_smi(tmp_path: Path) -> None:
    answers = {
        "nvcc": "nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release 13.0, V13.0.88\n",
        "nvidia-smi": "NVIDIA L4, 550.54.15\n",
    }
    assert read_cuda_version(tmp_path, says(answers)) == "13.0.88"
    assert read_driver(tmp_path, says(answers)) == "550.54.15, NVIDIA L4"
    assert {finding.state for finding in check_cuda(Device(), tmp_path, says(answers))} == {"ok"}
    # A Jetson's nvidia-smi knows no version; a computer's kernel module names no architecture.
    module = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023\n"
    root = machine(tmp_path, {"proc/driver/nvidia/version": module})
    assert read_driver(root, says({"nvidia-smi": "Orin (nvgpu), N/A\n"})) == "535.129.03"


def test_modes_of_cameras() -> None:
    assert camera_modes(MODES) == ["MJPG 1920x1080 at 59.94 fps", "YUYV 640x480 at 30 fps"]
    assert camera_modes(OLD_MODES) == ["MJPG 4096x3072"]
    assert camera_modes(NO_MODES) == []


def test_cameras(tmp_path: Path) -> None:
    files = {
        "dev/video0": "",
        "dev/video1": "",
        "dev/video10": "",
        "dev/video-dec0": "",
        "sys/class/video4linux/video0/name": "vi-output, imx219 9-0010\n",
        "sys/class/video4linux/video1/name": "HD Webcam: HD Webcam\n",
    }
    root = machine(tmp_path, files)

    def run(command: list[str]) -> str | None:
        return NO_MODES if str(root / "dev/video10") in command else MODES

    csi, webcam, metadata = check_cameras(root, run)  # type: ignore[arg-type]
    assert (csi.topic, csi.state) == ("/dev/video0", "note")
    assert "imx219" in csi.found
    assert webcam == Finding(
        "/dev/video1", "ok", "HD Webcam: HD Webcam: MJPG 1920x1080 at 59.94 fps, YUYV 640x480 at 30 fps"
    )
    assert (metadata.topic, metadata.state) == ("/dev/video10", "note")

    *_, advice = check_cameras(root, says({}))
    assert advice.remedy == "sudo apt install v4l-utils"


@pytest.mark.parametrize(("nodrop", "told"), [("1\n", True), ("0\n", False)])
def test_torn_pictures_of_usb_cameras(tmp_path: Path, nodrop: str, told: bool) -> None:
    """Linux hands them on from some version on, with a mark that OpenCV does not pass on."""
    root = machine(tmp_path, {"dev/video0": "", "sys/module/uvcvideo/parameters/nodrop": nodrop})
    findings = check_cameras(root, lambda _: MODES)
    assert any("nodrop=0" in (finding.remedy or "") for finding in findings) is told


@contextmanager
def unprivileged() -> Iterator[None]:
    """As a user to whom root's files are closed."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_camera_that_this_user_may_not_read() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = machine(Path(folder), {"dev/video0": "", "sys/class/video4linux/video0/name": "HD Webcam\n"})
        root.chmod(0o755)
        node = root / "dev/video0"
        node.chmod(0o600 if os.geteuid() == 0 else 0)
        assert stat.S_IMODE(node.stat().st_mode) in (0o600, 0)
        with unprivileged():
            finding, *_ = check_cameras(root, says({}))
    assert finding.state == "problem"
    assert finding.found == "HD Webcam: this user may not read it"
    assert "usermod -aG video" in (finding.remedy or "")


def test_heat_memory_and_speed() -> None:
    assert check_heat(Device(temperatures_c={"a": 84.9}))[0].state == "ok"
    assert check_heat(Device(temperatures_c={"a": 40.0, "b": 85.0}))[0].state == "problem"
    assert check_memory(Device(memory_available_mb=999, memory_total_mb=8000)).state == "problem"
    assert check_memory(Device(memory_available_mb=1000)).state == "ok"
    mode, clocks = check_speed(ORIN_DEVICE)
    assert (mode.state, clocks.state) == ("note", "note")
    assert check_speed(Device(governor="performance"))[0].state == "ok"


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fthnet_kit.edge.deployment.doctor_machine.free_disk_mb", lambda _: 120)
    disk, *_ = check_bundle(Device(), None, lambda _: None)
    assert (disk.topic, disk.state) == ("Disk", "problem")
    assert "0.1 GB free" in disk.found


def test_bundles_that_are_missing_or_altered(tmp_path: Path) -> None:
    _, missing = check_bundle(Device(), tmp_path / "none", lambda _: None)
    assert missing.state == "problem"
    assert "expected a bundle, found no such folder" in missing.found
    folder = shutil.copytree(shipped_bundle(), tmp_path / "altered")
    with (folder / FP32_NAME).open("ab") as file:
        file.write(b"x")
    _, altered = check_bundle(Device(), folder, lambda _: None)
    assert altered.state == "problem"
    assert "SHA-256" in altered.found


ORIN_TARGET = Target("tensorrt", "10.3.0", "8.7", "Orin", 16)


def test_precisions_and_engines_of_a_bundle(tmp_path: Path) -> None:
    folder = shutil.copytree(shipped_bundle(), tmp_path / "bundle")
    card = json.loads((folder / "model_card.json").read_text())
    card["precisions"]["int8"]["holds"] = False
    (folder / "model_card.json").write_text(json.dumps(card))
    for name in ("orin/fp16.engine", "thor/fp16.engine"):
        machine(folder, {f"engines/{name}": b"engine"})
    layers = {"proved": 0.98, "attention": {"a": "fused", "b": "apart", "c": "unknown"}}
    manifest = EngineManifest("0" * 64, 6, *("0" * 64, "0" * 64, None), "fp16", 1, ORIN_TARGET, layers=layers)
    (folder / "engines/orin/fp16.json").write_text(manifest.to_json())

    def engine_problem(path: Path) -> str | None:
        return "built for another GPU" if path.parent.name == "thor" else None

    findings = check_bundle(ORIN_DEVICE, folder, engine_problem)
    states = {finding.topic: finding.state for finding in findings}
    assert states["Bundle"] == states["Precision fp16"] == "ok"
    assert states["Precision int8"] == "note"
    mine, other = [finding for finding in findings if finding.topic == "Engine"]
    found = "98.0 % seen to run as asked, blocks with attention in one kernel: 1 of 3, 1 unknown"
    assert mine == Finding("Engine", "ok", f"engines/orin/fp16.engine: {found}")
    assert other.state == "problem"
    assert other.found == "engines/thor/fp16.engine: built for another GPU"


def test_this_machine_as_json() -> None:
    done = CliRunner().invoke(doctor, ["--json"])
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert {"device", "findings", "counts"} == set(content)
    assert sum(content["counts"].values()) == len(content["findings"])
    for finding in content["findings"]:
        assert set(finding) == {"topic", "state", "found", "remedy"}
        assert finding["state"] != "problem" or finding["remedy"]
    states = {finding["topic"]: finding["state"] for finding in content["findings"]}
    assert states["Python"] == states["ONNX Runtime"] == states["Bundle"] == "ok"


def test_this_machine_as_table() -> None:
    done = CliRunner().invoke(doctor, [])
    assert done.exit_code == 0, done.output
    for word in ("topic", "state", "found", "remedy", "ONNX Runtime", "FTHNet"):
        assert word in done.stdout
    assert "problem" in done.stdout.splitlines()[-1]
    assert 80 < max(map(len, done.stdout.splitlines())) <= LOG_WIDTH  # no terminal: room for whole commands


def test_strict_tells_problems_by_the_exit_code(tmp_path: Path) -> None:
    for options, code in (([], 0), (["--strict"], 1)):
        done = CliRunner().invoke(doctor, ["--bundle", str(tmp_path / "none"), *options])
        assert done.exit_code == code, done.output
        assert "expected a bundle, found no such folder" in " ".join(done.stdout.split())


def test_the_table_fits_80_columns_and_shows_brackets() -> None:
    report = Report(Device(), (Finding("Extra x", "problem", "[/] " + "long " * 40, "pip install 'kit[x]'"),))
    output = StringIO()
    Console(file=output, width=80).print(findings_table(report.findings))
    assert max(map(len, output.getvalue().splitlines())) <= 80
    assert "[/] long" in output.getvalue()
    assert "'kit[x]'" in output.getvalue()
    assert count_line(report) == "0 ok, 0 notes, 1 problem"


def test_broken_libraries_are_findings_and_no_traceback(tmp_path: Path) -> None:
    """Also those that the kit itself needs: the doctor must still come."""
    broken = {
        "tensorrt": "OSError: libnvinfer.so.10: cannot open shared object file: No such file or directory",
        "cv2": "ImportError: libGL.so.1: cannot open shared object file: No such file or directory",
        "onnxruntime": "RuntimeError: built for another numpy",
    }
    for name, error in broken.items():
        kind, _, words = error.partition(": ")
        machine(tmp_path, {f"{name}/__init__.py": f"raise {kind}({words!r})\n"})
    code = "from fthnet_kit.edge.cli.doctor import doctor; doctor()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--json", "--strict"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    problems = {
        finding["topic"]: finding["found"]
        for finding in json.loads(done.stdout)["findings"]
        if finding["state"] == "problem"
    }
    assert broken["tensorrt"] in problems["TensorRT"]
    assert broken["cv2"] in problems["OpenCV"]
    assert broken["cv2"] in problems["Bundle"]
    assert broken["onnxruntime"] in problems["ONNX Runtime"]


@pytest.mark.parametrize(
    "error", ["ImportError('libcuda.so.1')", "RuntimeError('x' * 999)", "AttributeError('np.bool')"]
)
def test_modules_that_do_not_load(error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_module.py").write_text(f"raise {error}\n")
    monkeypatch.syspath_prepend(tmp_path)
    module, failure = load_module("broken_module")
    assert module is None
    assert failure is not None
    assert failure.startswith(f"broken_module is installed but does not load: {error.partition('(')[0]}: ")
    assert len(failure) < 300


@settings(max_examples=15)
@given(st.dictionaries(st.sampled_from(sorted(ORIN)), st.binary(max_size=40)), st.text(max_size=200))
def test_garbage_never_raises(files: dict[str, bytes], said: str) -> None:
    camera_modes(said)
    with tempfile.TemporaryDirectory() as folder:
        odd = {"dev/video0": "", "usr/local/cuda/version.json": said.encode(errors="replace")}
        root = machine(Path(folder), {**ORIN, **files, **odd})
        check_cameras(root, lambda _: said)
        check_cuda(Device(), root, lambda _: said)


@pytest.mark.parametrize("content", ["[]", '{"cuda": 3}', '{"cuda": {"version": 12}}', "[" * 5000, '"cuda"', "null"])
def test_odd_lists_of_cuda_parts(content: str, tmp_path: Path) -> None:
    root = machine(tmp_path, {"usr/local/cuda/version.json": content})
    assert read_cuda_version(root, says({})) is None


def test_an_engine_that_does_not_run_here_is_a_problem_with_its_reason(tmp_path: Path) -> None:
    folder = shutil.copytree(shipped_bundle(), tmp_path / "bundle")
    machine(folder, {"engines/sm87/fthnet.fp16.engine": b"engine"})
    findings = [finding for finding in examine(folder).findings if finding.topic == "Engine"]
    assert [finding.state for finding in findings] == ["problem"]
    assert "\n" not in findings[0].found
    assert findings[0].remedy
