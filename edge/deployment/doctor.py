"""What a machine has and lacks for this kit: findings in plain words, each problem with its remedy."""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from fthnet_kit.edge.device.machine import (
    MB,
    ROOT,
    Device,
    Run,
    entries,
    free_disk_mb,
    line,
    read_device,
    run_command,
    text,
)
from fthnet_kit.edge.errors import BundleError, KitError

State = Literal["ok", "note", "problem"]
STATES: tuple[State, ...] = ("ok", "note", "problem")
EngineProblem = Callable[[Path], "str | None"]

PYTHON_MINIMUM = (3, 10)
TENSORRT_MINIMUM = (10, 3)
TENSORRT_WITHOUT_ORIN = (10, 13)
HOT_C = 85.0  # well before the kernel slows a Jetson down
SCARCE_MB = 1000
MESSAGE_LIMIT = 200  # characters of an error that is not ours
EXTRAS = {
    "openvino": ("openvino",),
    "tensorrt": ("pycuda", "onnx"),
    "convert": ("torch", "onnx", "safetensors"),
    "train": ("openpyxl",),
    "report": ("matplotlib",),
}
SYSTEM_PACKAGES = "a virtual environment sees it only if it was made with --system-site-packages"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: what it is about.
        state: ``ok``; ``note``, worth knowing; ``problem``, something will not work.
        found: what there is.
        remedy: what to do; a problem always has one.
    """

    topic: str
    state: State
    found: str
    remedy: str | None = None

    def __post_init__(self) -> None:
        if self.state == "problem" and not self.remedy:
            raise ValueError(f"{self.topic}: expected a remedy for a problem, found none")

    def to_dict(self) -> dict[str, str | None]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Report:
    """All findings about one machine, in the order in which they are read."""

    device: Device
    findings: tuple[Finding, ...]

    def counts(self) -> dict[State, int]:
        """Number of findings by state."""
        counted = Counter(finding.state for finding in self.findings)
        return {state: counted[state] for state in STATES}

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "device": self.device.to_dict(),
            "findings": [finding.to_dict() for finding in self.findings],
            "counts": self.counts(),
        }


def examine(
    bundle: Path | None = None,
    *,
    root: Path = ROOT,
    run: Run = run_command,
    engine_problem: EngineProblem | None = None,
) -> Report:
    """Look at everything that the kit needs or can use.

    Args:
        bundle: folder of the bundle; default: the demonstration bundle that the kit ships.
        root: where the machine's file system is mounted.
        run: runs a command and returns its output, None where it cannot.
        engine_problem: says what is wrong with a TensorRT engine file; default: `why_engine_does_not_run`.
    """
    device = read_device(root, run)
    findings = (
        check_python(sys.version_info[:3]),
        check_jetpack(device),
        *check_tensorrt(device),
        *check_cuda(device, root, run),
        check_pycuda(device),
        *check_opencv(),
        *check_cameras(root, run),
        check_onnxruntime(),
        *check_speed(device),
        *check_heat(device),
        check_memory(device),
        *check_bundle(device, bundle, engine_problem or why_engine_does_not_run),
        *map(check_extra, EXTRAS),
    )
    return Report(device, findings)


def check_python(found: tuple[int, ...]) -> Finding:
    """The interpreter's version."""
    number = ".".join(map(str, found))
    if found < PYTHON_MINIMUM:
        return Finding("Python", "problem", number, "use Python 3.10 or newer: JetPack 6 brings 3.10, JetPack 7 3.12")
    return Finding("Python", "ok", f"{number}, {sys.executable}")


def check_jetpack(device: Device) -> Finding:
    """Whether this is a Jetson, and whether its software is new enough."""
    if not device.is_jetson:
        system = f"{device.system or 'system unknown'}, {device.architecture or 'architecture unknown'}"
        return Finding("JetPack", "note", f"not a Jetson: {device.model or 'model unknown'}, {system}")
    found = f"{device.model or 'a Jetson'}, JetPack {device.jetpack or 'unknown'}, L4T {device.l4t or 'unknown'}"
    if device.jetpack is None:
        return Finding("JetPack", "note", found, "`cat /etc/nv_tegra_release` on the Jetson itself tells its release")
    if device.jetpack == "6.0" or numbers_of(device.jetpack) < (6,):
        return Finding("JetPack", "problem", found, "install JetPack 6.1 or newer: older ones bring TensorRT 8")
    return Finding("JetPack", "ok", found)


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


def read_cuda_version(root: Path = ROOT, run: Run = run_command) -> str | None:
    """Release of the CUDA toolkit: from its own list of parts, otherwise from its compiler."""
    folder = root / "usr/local/cuda"
    try:
        found = json.loads(text(folder / "version.json") or "")["cuda"]["version"]
    except (ValueError, LookupError, TypeError, RecursionError):
        found = None
    if isinstance(found, str) and found.isprintable():
        return found
    said = run(["nvcc", "--version"]) or run([str(folder / "bin/nvcc"), "--version"]) or ""
    release = re.search(r"release [0-9.]+, V([0-9.]+)", said)
    return release[1] if release else None


def read_driver(root: Path = ROOT, run: Run = run_command) -> str | None:
    """Version of the NVIDIA driver, with the GPU's name where `nvidia-smi` tells it."""
    said = run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]) or ""
    card = re.match(r"([^,\r\n]+), ([0-9][0-9.]+)", said)
    if card:
        return f"{card[2]}, {card[1]}"
    module = re.search(
        r"Kernel Module\s+(?:for \S+\s+)?([0-9][0-9.]+)", text(root / "proc/driver/nvidia/version") or ""
    )
    return module[1] if module else None


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


def check_cameras(root: Path = ROOT, run: Run = run_command) -> list[Finding]:
    """Every /dev/video*: its name, whether this user may read it, and its modes."""
    nodes = [node for node in entries(root / "dev", "video*") if re.fullmatch(r"video[0-9]{1,4}", node.name)]
    if not nodes:
        return [Finding("Camera", "note", "no /dev/video*: video files and network cameras still work")]
    can_list = run(["v4l2-ctl", "--version"]) is not None
    findings = [
        check_camera(node, line(root / "sys/class/video4linux" / node.name / "name") or "no name", can_list, run)
        for node in sorted(nodes, key=lambda node: int(node.name.removeprefix("video")))
    ]
    if not can_list:
        findings.append(Finding("Camera", "note", "modes unknown: no v4l2-ctl", "sudo apt install v4l-utils"))
    if line(root / "sys/module/uvcvideo/parameters/nodrop") == "1":
        remedy = "echo options uvcvideo nodrop=0 | sudo tee /etc/modprobe.d/uvcvideo.conf, then restart"
        findings.append(Finding("Camera", "note", "USB pictures that lost a part on the way are not dropped", remedy))
    return findings


def check_camera(node: Path, name: str, can_list: bool, run: Run) -> Finding:
    """One video device."""
    topic = f"/dev/{node.name}"
    if not os.access(node, os.R_OK | os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        remedy = "sudo usermod -aG video $USER, then log in again"
        return Finding(topic, "problem", f"{name}: this user may not read it", remedy)
    if name.startswith("vi-output"):
        return Finding(
            topic,
            "note",
            f"{name}: a CSI camera, raw data only",
            "read it as csi://0, with an OpenCV that has GStreamer",
        )
    if not can_list:
        return Finding(topic, "ok", name)
    modes = camera_modes(run(["v4l2-ctl", "--device", str(node), "--list-formats-ext"]) or "")
    if not modes:
        return Finding(topic, "note", f"{name}: lists no picture formats, perhaps another camera's metadata")
    return Finding(topic, "ok", f"{name}: {', '.join(modes)}")


def camera_modes(listed: str) -> list[str]:
    """The largest picture of each format, and its highest rate, in `v4l2-ctl --list-formats-ext`."""
    largest: dict[str, tuple[int, int, float]] = {}
    fourcc, size = "", (0, 0)
    for row in listed.splitlines():
        if found := re.search(r"(?:\[[0-9]+\]|Pixel Format\s*):\s*'([^']{4})'", row):
            fourcc, size = found[1].strip(), (0, 0)
            largest.setdefault(fourcc, (0, 0, 0.0))
        elif found := re.search(r"Size: (?:\S+ [0-9]+x[0-9]+ - |Discrete )([0-9]{1,6})x([0-9]{1,6})", row):
            size, rate = (int(found[1]), int(found[2])), 0.0
        elif found := re.search(r"\(([0-9]{1,5}(?:\.[0-9]{1,6})?) fps\)", row):
            rate = float(found[1])
        else:
            continue
        if fourcc and size != (0, 0):
            largest[fourcc] = max(largest[fourcc], (*size, rate), key=lambda mode: (mode[0] * mode[1], mode[2]))
    return [describe_mode(fourcc, mode) for fourcc, mode in largest.items()]


def describe_mode(fourcc: str, mode: tuple[int, int, float]) -> str:
    """Such as ``MJPG 1920x1080 at 30 fps``; what the driver did not tell is left out."""
    width, height, rate = mode
    size = f" {width}x{height}" if width else ""
    return f"{fourcc}{size}{f' at {rate:g} fps' if rate else ''}"


def check_onnxruntime() -> Finding:
    """ONNX Runtime and its execution providers."""
    module, error = load_module("onnxruntime")
    if module is None:
        return Finding("ONNX Runtime", "problem", error or "not installed", "pip install onnxruntime")
    providers = (name.removesuffix("ExecutionProvider") for name in module.get_available_providers())
    return Finding("ONNX Runtime", "ok", f"{module.__version__}: {', '.join(providers)}")


def check_speed(device: Device) -> list[Finding]:
    """Power mode and clocks."""
    clocks = describe_clocks(device)
    if not device.is_jetson:
        return [Finding("Clocks", "ok" if device.governor == "performance" else "note", clocks)]
    if device.power_mode is None:
        mode = Finding("Power mode", "note", "nvpmodel does not tell it", "sudo nvpmodel -q")
    elif device.power_mode.startswith("MAXN"):
        mode = Finding("Power mode", "ok", device.power_mode)
    else:
        remedy = "`sudo nvpmodel -p --verbose` lists the modes, `sudo nvpmodel -m NUMBER` sets one"
        mode = Finding("Power mode", "note", f"{device.power_mode}: not the fastest mode", remedy)
    if device.clocks_locked:
        return [mode, Finding("Clocks", "ok", f"locked; {clocks}")]
    return [mode, Finding("Clocks", "note", f"not locked; {clocks}", "before measuring times: sudo jetson_clocks")]


def describe_clocks(device: Device) -> str:
    """Governor and highest frequencies, in MHz."""
    parts = [f"governor {device.governor or 'unknown'}"]
    for name, clocks in (("CPU", device.cpu_clocks), ("GPU", device.gpu_clocks)):
        highest = max((clock.maximum_mhz for clock in clocks if clock.maximum_mhz is not None), default=None)
        if highest is not None:
            parts.append(f"{name} up to {highest:.0f} MHz")
    return ", ".join(parts)


def check_heat(device: Device) -> list[Finding]:
    """Temperatures, and whether heat or the power supply slows the machine down."""
    findings = [check_temperature(device)]
    if device.throttling:
        remedy = "cool it, or choose a lower power mode"
        findings.append(Finding("Throttling", "problem", f"now slowed by {', '.join(device.throttling)}", remedy))
    events = {name: count for name, count in device.overcurrent_events.items() if count}
    if events:
        listed = ", ".join(f"{name} {count} times" for name, count in events.items())
        remedy = "if the count grows while it works: a stronger power supply or a lower power mode"
        findings.append(Finding("Throttling", "note", f"over-current or under-voltage since start: {listed}", remedy))
    return findings


def check_temperature(device: Device) -> Finding:
    """The hottest part."""
    if not device.temperatures_c:
        return Finding("Temperature", "note", "no sensor that can be read")
    name, value = max(device.temperatures_c.items(), key=lambda item: item[1])
    if value >= HOT_C:
        remedy = "check the fan and the air around it, or choose a lower power mode"
        return Finding("Temperature", "problem", f"{value:.0f} °C at {name}: expected below {HOT_C:.0f} °C", remedy)
    return Finding("Temperature", "ok", f"{value:.0f} °C at {name}, the hottest")


def check_memory(device: Device) -> Finding:
    """Memory that programs can still have."""
    if device.memory_available_mb is None:
        return Finding("Memory", "note", "unknown")
    found = f"{gigabytes(device.memory_available_mb)} available"
    if device.memory_total_mb is not None:
        found += f" of {gigabytes(device.memory_total_mb)}"
    if device.memory_available_mb < SCARCE_MB:
        return Finding("Memory", "problem", found, "stop other programs: `ps aux --sort=-rss | head` lists the largest")
    return Finding("Memory", "ok", found)


def check_disk(folder: Path) -> Finding:
    """Free space where the bundle lies: engines are written there."""
    free = free_disk_mb(folder)
    if free is None:
        return Finding("Disk", "note", f"unknown for {folder}")
    if free < SCARCE_MB:
        return Finding("Disk", "problem", f"{gigabytes(free)} free at {folder}", "free some space: `sudo apt clean`")
    return Finding("Disk", "ok", f"{gigabytes(free)} free at {folder}")


def check_bundle(device: Device, folder: Path | None, engine_problem: EngineProblem) -> list[Finding]:
    """The bundle, the disk that it lies on, its precisions and its engines."""
    try:
        from fthnet_kit.edge.model.bundle import Bundle

        bundle = Bundle.open(folder)
    except BundleError as error:
        remedy = "name a bundle with --bundle, or make one with `fthnet export`"
        return [check_disk(folder or Path()), Finding("Bundle", "problem", str(error), remedy)]
    except Exception as error:  # of a broken library that it needs
        remedy = "first mend the libraries that are named here"
        return [check_disk(folder or Path()), Finding("Bundle", "problem", describe_failure(error), remedy)]
    card = bundle.card
    return [
        check_disk(bundle.folder),
        Finding("Bundle", "ok", f"{card.name} {card.version}, {bundle.folder}"),
        *(check_precision(name, entry) for name, entry in sorted(card.precisions.items())),
        *check_engines(device, bundle.folder, engine_problem),
    ]


def check_precision(name: str, entry: Mapping[str, Any]) -> Finding:
    """What a conversion costs against FP32, as its card says."""
    cost = f"worst {entry['worst']:.2f} points from FP32 on {entry['images']} images"
    if entry["holds"]:
        return Finding(f"Precision {name}", "ok", cost)
    return Finding(f"Precision {name}", "note", f"{cost}: over its budget, not used", "`fthnet quantize` makes it anew")


def check_engines(device: Device, folder: Path, engine_problem: EngineProblem) -> list[Finding]:
    """The TensorRT engines in a bundle."""
    engines = entries(folder / "engines", "*/*.engine")
    if not engines and device.is_jetson:
        return [Finding("Engine", "note", "none in the bundle: scores are computed by ONNX Runtime")]
    findings = []
    for path in engines:
        name = str(path.relative_to(folder))
        problem = engine_problem(path)
        if problem is None:
            findings.append(Finding("Engine", "ok", name))
        else:
            findings.append(
                Finding("Engine", "problem", f"{name}: {problem}", "build the engine again on this machine")
            )
    return findings


def why_engine_does_not_run(path: Path) -> str | None:
    """What is wrong with an engine file of a bundle, found by loading it; None where it runs here."""
    from fthnet_kit.edge.inference.engine_manifest import engine_path
    from fthnet_kit.edge.inference.open_backend import checked_engine
    from fthnet_kit.edge.inference.tensorrt_engine import TrtBackend
    from fthnet_kit.edge.model.bundle import Bundle

    try:
        bundle, precision = Bundle.open(path.parents[2]), path.stem.partition(".")[2]
        content, tensorrt, target = checked_engine(bundle, precision)
        if engine_path(bundle, precision, target) != path:
            return f"for another GPU or library than this machine's {target.key}"
        TrtBackend(content, tensorrt).close()
    except KitError as error:
        return str(error)
    return None


def check_extra(extra: str) -> Finding:
    """The packages of an optional extra."""
    versions = {name: package_version(name) for name in EXTRAS[extra]}
    missing = [name for name, found in versions.items() if found is None]
    if missing:
        remedy = f"if wanted here: pip install 'fthnet-edge-kit[{extra}]'"
        return Finding(f"Extra {extra}", "note", f"without {', '.join(missing)}", remedy)
    return Finding(f"Extra {extra}", "ok", ", ".join(f"{name} {found}" for name, found in versions.items()))


def load_module(name: str) -> tuple[ModuleType | None, str | None]:
    """Import a module: the module; or what is broken about it; or neither where it is not installed."""
    try:
        return import_module(name), None
    except Exception as error:  # a broken native library can raise anything
        if isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]:
            return None, None
        return None, f"{name} is installed but {describe_failure(error)}"


def describe_failure(error: Exception) -> str:
    """One line about an error of a library's import."""
    words = " ".join(str(error).split())
    if len(words) > MESSAGE_LIMIT:
        words = words[:MESSAGE_LIMIT] + "…"
    return f"does not load: {type(error).__name__}: {words}"


def package_version(name: str) -> str | None:
    """Version of an installed package; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def numbers_of(found: str) -> tuple[int, ...]:
    """The leading numbers of a version, so that 10.13 comes after 10.3; empty where it starts with none."""
    leading = re.match(r"[0-9]{1,9}(?:\.[0-9]{1,9})*", found)
    return tuple(map(int, leading[0].split("."))) if leading else ()


def gigabytes(megabytes: int) -> str:
    """Such as ``7.4 GB``."""
    return f"{megabytes * MB / 10**9:.1f} GB"
