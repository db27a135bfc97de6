"""Facts about the machine: what it is, how fast its clocks may run, how warm it is and what it draws.

Every reader takes the root of the file system and a runner of commands, so that tests hand it recorded text.
What a machine does not tell is None or empty; a missing, unreadable or odd file is never an error.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fthnet_kit.edge.device.sensors import (
    Clock,
    read_cpu_clocks,
    read_gpu_clocks,
    read_load_average,
    read_memory_clock,
    read_memory_mb,
    read_overcurrent_events,
    read_power_rails,
    read_temperatures,
    read_throttling,
)
from fthnet_kit.edge.device.sysfs import MB, ROOT, entries, field_of, first_line, line, printable, text

Run = Callable[[Sequence[str]], "str | None"]

COMMAND_TIMEOUT_S = 5.0
CORE_LIMIT = 4096

JETPACKS = {
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",
    "36.5.0": "6.2.2",
    "36.5.2": "6.2.3",
    "38.2.0": "7.0",
    "38.2.1": "7.0",
    "38.2.2": "7.0",
    "38.4.0": "7.1",
    "39.2.0": "7.2",
    "39.2.1": "7.2.1",
}
JETPACK_MAJORS = {"32": "4", "34": "5", "35": "5", "36": "6", "38": "7", "39": "7"}


@dataclass(frozen=True)
class Device:
    """One machine at one moment. None, or empty, stands for "not known".

    Attributes:
        model: name of the board or computer; the CPU's where there is none.
        soc: NVIDIA's name of the system on a chip: ``tegra234`` is Orin, ``tegra264`` Thor.
        cores: cores that this process may use.
        load_average: over 1, 5 and 15 minutes.
        memory_total_mb, memory_available_mb, disk_free_mb: in MB of 10⁶ bytes.
        l4t: release of Jetson Linux, such as ``36.4.3``.
        jetpack: version of JetPack, such as ``6.2``; only ``6`` where the release is not in our table.
        power_mode: as ``nvpmodel`` names it, such as ``MAXN_SUPER``.
        temperatures_c: °C by thermal zone.
        throttling: parts that the kernel slows down for their heat at this moment.
        overcurrent_events: since the start of the machine, by alarm (``oc1``, …).
        power_mw: mW by power rail; rails can contain each other, so their sum means nothing.
    """

    model: str | None = None
    soc: str | None = None
    cpu_model: str | None = None
    architecture: str | None = None
    cores: int | None = None
    governor: str | None = None
    cpu_clocks: tuple[Clock, ...] = ()
    gpu_clocks: tuple[Clock, ...] = ()
    memory_clock: Clock | None = None
    load_average: tuple[float, ...] = ()
    memory_total_mb: int | None = None
    memory_available_mb: int | None = None
    disk_free_mb: int | None = None
    kernel: str | None = None
    system: str | None = None
    l4t: str | None = None
    jetpack: str | None = None
    power_mode: str | None = None
    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    throttling: tuple[str, ...] = ()
    overcurrent_events: Mapping[str, int] = field(default_factory=dict)
    power_mw: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_jetson(self) -> bool:
        """An NVIDIA Jetson, also inside a container that hides the release file."""
        return self.l4t is not None or self.soc is not None or "Jetson" in (self.model or "")

    @property
    def clocks_locked(self) -> bool | None:
        """CPU and GPU cannot change their speed; None where no limits are known."""
        known = [clock.locked for clock in (*self.cpu_clocks, *self.gpu_clocks) if clock.locked is not None]
        return all(known) if known else None

    def to_dict(self) -> dict[str, Any]:
        """For JSON: all attributes and the two conclusions."""
        return {**asdict(self), "is_jetson": self.is_jetson, "clocks_locked": self.clocks_locked}


def run_command(command: Sequence[str]) -> str | None:
    """What a program prints; None where it is missing, fails or takes longer than 5 s."""
    try:
        done = subprocess.run(  # noqa: S603  (no shell; the callers' own commands)
            list(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_TIMEOUT_S,
            check=True,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def read_device(root: Path = ROOT, run: Run = run_command, folder: Path | None = None) -> Device:
    """Look at the machine once.

    Args:
        root: where its file system is mounted.
        run: runs a command and returns its output, None where it cannot.
        folder: the disk whose free space counts; default: that of `root`.
    """
    cpu_model = read_cpu_model(root)
    l4t = read_l4t(root)
    return Device(
        model=line(root / "proc/device-tree/model") or line(root / "sys/class/dmi/id/product_name") or cpu_model,
        soc=read_soc(root),
        cpu_model=cpu_model,
        architecture=first_line(run(["uname", "-m"])),
        cores=read_cores(root),
        governor=read_governor(root),
        cpu_clocks=read_cpu_clocks(root),
        gpu_clocks=read_gpu_clocks(root),
        memory_clock=read_memory_clock(root),
        load_average=read_load_average(root),
        memory_total_mb=read_memory_mb(root, "MemTotal"),
        memory_available_mb=read_memory_mb(root, "MemAvailable"),
        disk_free_mb=free_disk_mb(folder or root),
        kernel=line(root / "proc/sys/kernel/osrelease"),
        system=read_system(root),
        l4t=l4t,
        jetpack=read_jetpack(l4t, run),
        power_mode=read_power_mode(run),
        temperatures_c=read_temperatures(root),
        throttling=read_throttling(root),
        overcurrent_events=read_overcurrent_events(root),
        power_mw=read_power_rails(root),
    )


def read_cpu_model(root: Path = ROOT) -> str | None:
    """Name of the processor, as x86 and some Arm kernels tell it."""
    return field_of(root / "proc/cpuinfo", "model name")


def read_soc(root: Path = ROOT) -> str | None:
    """Name of NVIDIA's system on a chip, from the strings in the device tree."""
    found = re.findall(r"nvidia,(tegra[0-9a-z]+)", text(root / "proc/device-tree/compatible") or "")
    return found[-1] if found else None


def read_l4t(root: Path = ROOT) -> str | None:
    """Release of Jetson Linux (L4T).

    The file starts with ``# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, …``.
    """
    found = re.search(
        r"R([0-9]+)\s*\(release\),\s*REVISION:\s*([0-9]+(?:\.[0-9]+)*)", text(root / "etc/nv_tegra_release") or ""
    )
    return f"{found[1]}.{found[2]}" if found else None


def read_jetpack(l4t: str | None, run: Run = run_command) -> str | None:
    """Version of JetPack: that of the installed package, otherwise the one that belongs to the release.

    The table follows NVIDIA's archive (https://developer.nvidia.com/embedded/jetpack-archive). Not in the
    archive are 36.4.7 and 38.2.2, to which devices with JetPack 6.2.1 and 7.0 are updated by apt.
    """
    package = run(["dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Version}", "nvidia-jetpack"])
    installed = re.match(r"installed ([0-9]+(?:\.[0-9]+)*)", package or "")
    if installed:
        return installed[1]
    if l4t is None:
        return None
    return JETPACKS.get(l4t) or JETPACK_MAJORS.get(l4t.partition(".")[0])


def read_power_mode(run: Run = run_command) -> str | None:
    """Power mode of a Jetson; `nvpmodel` prints warnings, then ``NV Power Mode: MAXN_SUPER`` and a number."""
    found = re.search(r"^NV Power Mode:[ \t]*(\S[^\r\n]*)", run(["nvpmodel", "-q"]) or "", re.MULTILINE)
    return printable(found[1]) if found else None


def read_system(root: Path = ROOT) -> str | None:
    """Name of the operating system."""
    found = re.search(r'^PRETTY_NAME="?([^"\r\n]+)', text(root / "etc/os-release") or "", re.MULTILINE)
    return printable(found[1]) if found else None


def read_cores(root: Path = ROOT) -> int | None:
    """Cores that are switched on and that this process may use."""
    allowed = _cores(field_of(root / "proc/self/status", "Cpus_allowed_list"))
    online = _cores(line(root / "sys/devices/system/cpu/online"))
    return len(allowed & online if allowed and online else allowed or online) or None


def read_governor(root: Path = ROOT) -> str | None:
    """What decides the CPU's frequency; more than one name where clusters differ."""
    names = {
        line(policy / "scaling_governor") for policy in entries(root / "sys/devices/system/cpu/cpufreq", "policy*")
    }
    return ", ".join(sorted(name for name in names if name)) or None


def free_disk_mb(folder: Path) -> int | None:
    """Free space of the disk that holds a folder, or would hold it, in MB."""
    for candidate in (folder, *folder.absolute().parents):
        try:
            return shutil.disk_usage(candidate).free // MB
        except OSError:
            continue
    return None


def _cores(content: str | None) -> set[int]:
    """The cores in a list such as ``0-3,6``; empty where it is no such list."""
    cores: set[int] = set()
    for part in (content or "").split(","):
        found = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", part.strip())
        if found is None:
            return set()
        first, last = int(found[1]), int(found[2] or found[1])
        cores.update(range(first, min(last, CORE_LIMIT) + 1))
    return cores


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
    """Version of the NVIDIA driver, with the GPU's name if `nvidia-smi` reports it."""
    said = run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]) or ""
    card = re.match(r"([^,\r\n]+), ([0-9][0-9.]+)", said)
    if card:
        return f"{card[2]}, {card[1]}"
    module = re.search(
        r"Kernel Module\s+(?:for \S+\s+)?([0-9][0-9.]+)", text(root / "proc/driver/nvidia/version") or ""
    )
    return module[1] if module else None
