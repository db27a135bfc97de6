"""Checks of what is installed."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from fthnet_kit.edge.deployment.doctor_findings import Finding, load_module, numbers_of, package_version
from fthnet_kit.edge.device.machine import Device, Run, read_cuda_version, read_driver, run_command
from fthnet_kit.edge.device.sysfs import ROOT

PYTHON_MINIMUM = (3, 10)
TENSORRT_MINIMUM = (10, 3)
TENSORRT_WITHOUT_ORIN = (10, 13)
EXTRAS = {
    "openvino": ("openvino",),
    "tensorrt": ("pycuda", "onnx"),
    "convert": ("torch", "onnx", "safetensors"),
    "train": ("openpyxl",),
    "report": ("matplotlib",),
}
SYSTEM_PACKAGES = "a virtual environment sees it only if it was made with --system-site-packages"


def check_python(found: tuple[int, ...]) -> Finding:
    """The interpreter's version."""
    number = ".".join(map(str, found))
    if found < PYTHON_MINIMUM:
        return Finding("Python", "problem", number, "use Python 3.10 or newer: JetPack 6 brings 3.10, JetPack 7 3.12")
    return Finding("Python", "ok", f"{number}, {sys.executable}")


def check_tensorrt(device: Device) -> list[Finding]:
    """Whether TensorRT is there, loads, and has a version that builds our engines for this machine."""
    findings = []
    for name in ("tensorrt", "tensorrt_rtx"):
        module, error = load_module(name)
        if error is not None:
            findings.append(
                Finding(
                    "TensorRT",
                    "problem",
                    error,
                    "install it again, with the NVIDIA driver and CUDA release that it was built for",
                )
            )
        elif module is not None:
            findings.append(judge_tensorrt(name, str(getattr(module, "__version__", "")), device))
    if findings:
        return findings
    if device.is_jetson:
        remedy = f"sudo apt install nvidia-jetpack; {SYSTEM_PACKAGES}"
        return [Finding("TensorRT", "problem", "not installed: no engine can be built or run", remedy)]
    return [Finding("TensorRT", "note", "not installed; a Jetson needs it", "pip install tensorrt, for an NVIDIA GPU")]


def judge_tensorrt(name: str, found: str, device: Device) -> Finding:
    """What a version of TensorRT is worth on a device.

    TensorRT 8 builds no network like ours. 10.13, of JetPack 7.1, carries no kernels for Orin's sm_87
    (https://github.com/NVIDIA-ISAAC-ROS/isaac-ros-cli/issues/22).
    """
    said = f"{name} {found or 'without a version'}"
    if name == "tensorrt_rtx":
        return Finding("TensorRT", "ok", f"{said}: for GPUs in computers; a Jetson needs tensorrt itself")
    if numbers_of(found) < TENSORRT_MINIMUM:
        remedy = "install JetPack 6.1 or newer" if device.is_jetson else "pip install 'tensorrt>=10.3'"
        return Finding("TensorRT", "problem", f"{said}: too old, expected 10.3 or newer", remedy)
    if numbers_of(found)[:2] == TENSORRT_WITHOUT_ORIN and device.soc == "tegra234":
        remedy = "install JetPack 6.1 to 6.2 (TensorRT 10.3), or 7.2 or newer (10.16)"
        return Finding("TensorRT", "problem", f"{said}: builds no engines for Orin", remedy)
    return Finding("TensorRT", "ok", said)


def check_cuda(device: Device, root: Path = ROOT, run: Run = run_command) -> list[Finding]:
    """The CUDA toolkit and the driver of the GPU."""
    toolkit, driver = read_cuda_version(root, run), read_driver(root, run)
    findings = []
    if toolkit is not None:
        findings.append(Finding("CUDA toolkit", "ok", toolkit))
    elif device.is_jetson:
        findings.append(Finding("CUDA toolkit", "problem", "none found", "sudo apt install nvidia-jetpack"))
    else:
        findings.append(Finding("CUDA toolkit", "note", "none found; needed to install pycuda"))
    if driver is not None:
        findings.append(Finding("NVIDIA driver", "ok", driver))
    else:
        findings.append(Finding("NVIDIA driver", "note", "none found: TensorRT engines cannot run here"))
    return findings


def check_pycuda(device: Device) -> Finding:
    """Whether pycuda loads, which also needs the driver's library."""
    module, error = load_module("pycuda.driver")
    if error is not None:
        remedy = "install the NVIDIA driver, then pycuda again: pip install --force-reinstall --no-cache-dir pycuda"
        return Finding("pycuda", "problem", error, remedy)
    if module is not None:
        return Finding("pycuda", "ok", package_version("pycuda") or "version unknown")
    remedy = "PATH=/usr/local/cuda/bin:$PATH pip install pycuda"
    if device.is_jetson:
        return Finding("pycuda", "problem", "not installed: no engine can run", remedy)
    return Finding("pycuda", "note", "not installed; needed to run TensorRT engines", remedy)


def check_opencv() -> list[Finding]:
    """OpenCV and what it can open."""
    module, error = load_module("cv2")
    if error is not None:
        remedy = "sudo apt install libgl1, or pip uninstall opencv-python and pip install opencv-python-headless"
        return [Finding("OpenCV", "problem", error, remedy)]
    if module is None:
        return [Finding("OpenCV", "problem", "not installed", "pip install opencv-python")]
    return judge_opencv(str(module.__version__), str(module.getBuildInformation()))


def judge_opencv(found: str, build: str) -> list[Finding]:
    """What a version of OpenCV with its build information can open."""
    has = {label: build_has(build, label) for label in ("V4L2", "FFmpeg", "GStreamer")}
    listed = ", ".join(f"{label} {'yes' if present else 'no'}" for label, present in has.items())
    findings = [Finding("OpenCV", "ok", f"{found}: {listed}")]
    for label, lost in (("V4L2", "USB cameras"), ("FFmpeg", "video files and network cameras")):
        if not has[label]:
            remedy = "pip install --force-reinstall opencv-python"
            findings.append(Finding("OpenCV", "problem", f"built without {label}: no {lost}", remedy))
    if not has["GStreamer"]:
        remedy = f"for a CSI camera: sudo apt install python3-opencv, pip uninstall opencv-python; {SYSTEM_PACKAGES}"
        findings.append(Finding("OpenCV", "note", "built without GStreamer, as pip's are: no CSI cameras", remedy))
    return findings


def build_has(build: str, label: str) -> bool:
    """Whether `cv2.getBuildInformation()` says YES to a way of reading video."""
    key = {"V4L2": "v4l/v4l2", "FFmpeg": "FFMPEG"}.get(label, label)
    return re.search(rf"^\s*{re.escape(key)}:\s*YES\b", build, re.MULTILINE) is not None


def check_onnxruntime() -> Finding:
    """ONNX Runtime and its execution providers."""
    module, error = load_module("onnxruntime")
    if module is None:
        return Finding("ONNX Runtime", "problem", error or "not installed", "pip install onnxruntime")
    providers = (name.removesuffix("ExecutionProvider") for name in module.get_available_providers())
    return Finding("ONNX Runtime", "ok", f"{module.__version__}: {', '.join(providers)}")


def check_extra(extra: str) -> Finding:
    """The packages of an optional extra."""
    versions = {name: package_version(name) for name in EXTRAS[extra]}
    missing = [name for name, found in versions.items() if found is None]
    if missing:
        remedy = f"if wanted here: pip install 'fthnet-edge-kit[{extra}]'"
        return Finding(f"Extra {extra}", "note", f"without {', '.join(missing)}", remedy)
    return Finding(f"Extra {extra}", "ok", ", ".join(f"{name} {found}" for name, found in versions.items()))
