"""Facts about the machine: what it is, how fast its clocks may run, how warm it is and what it draws.

Every reader takes the root of the file system and a runner of commands, so that tests hand it recorded text.
What a machine does not tell is None or empty; a missing, unreadable or odd file is never an error.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Run = Callable[[Sequence[str]], "str | None"]

ROOT = Path("/")
COMMAND_TIMEOUT_S = 5.0
READ_LIMIT = 1 << 20  # bytes; nothing that is read here comes near
CORE_LIMIT = 4096
MB = 10**6
PLAUSIBLE_C = (-50, 150)  # a sensor that is switched off reports -256 °C

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
class Clock:
    """Frequency of a CPU cluster, a GPU or the memory, in MHz.

    Attributes:
        name: what the kernel calls it.
        current_mhz: now.
        minimum_mhz, maximum_mhz: the limits that are set at present, by power mode or user.
    """

    name: str
    current_mhz: float | None = None
    minimum_mhz: float | None = None
    maximum_mhz: float | None = None

    @property
    def locked(self) -> bool | None:
        """Both limits are one number, as `jetson_clocks` sets them; None where a limit is unknown."""
        if self.minimum_mhz is None or self.maximum_mhz is None:
            return None
        return self.minimum_mhz == self.maximum_mhz


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
    cpu_model = _field(root / "proc/cpuinfo", "model name")
    l4t = read_l4t(root)
    return Device(
        model=line(root / "proc/device-tree/model") or line(root / "sys/class/dmi/id/product_name") or cpu_model,
        soc=read_soc(root),
        cpu_model=cpu_model,
        architecture=_first_line(run(["uname", "-m"])),
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
    return _printable(found[1]) if found else None


def read_system(root: Path = ROOT) -> str | None:
    """Name of the operating system."""
    found = re.search(r'^PRETTY_NAME="?([^"\r\n]+)', text(root / "etc/os-release") or "", re.MULTILINE)
    return _printable(found[1]) if found else None


def read_cores(root: Path = ROOT) -> int | None:
    """Cores that are switched on and that this process may use."""
    allowed = _cores(_field(root / "proc/self/status", "Cpus_allowed_list"))
    online = _cores(line(root / "sys/devices/system/cpu/online"))
    return len(allowed & online if allowed and online else allowed or online) or None


def read_governor(root: Path = ROOT) -> str | None:
    """What decides the CPU's frequency; more than one name where clusters differ."""
    names = {
        line(policy / "scaling_governor") for policy in entries(root / "sys/devices/system/cpu/cpufreq", "policy*")
    }
    return ", ".join(sorted(name for name in names if name)) or None


def read_cpu_clocks(root: Path = ROOT) -> tuple[Clock, ...]:
    """One clock a CPU cluster; the kernel counts in kHz."""
    folders = entries(root / "sys/devices/system/cpu/cpufreq", "policy*")
    return _clocks(folders, ("scaling_cur_freq", "scaling_min_freq", "scaling_max_freq"), per_mhz=10**3)


def read_gpu_clocks(root: Path = ROOT) -> tuple[Clock, ...]:
    """The GPU's clocks of a Jetson; the kernel counts in Hz.

    Orin has ``17000000.gpu`` (``17000000.ga10b`` before JetPack 6), Thor ``gpu-gpc-0`` and ``gpu-nvd-0``.
    """
    folders = [folder for folder in entries(root / "sys/class/devfreq") if re.search(r"gpu|ga10b|gv11b", folder.name)]
    return _clocks(folders, ("cur_freq", "min_freq", "max_freq"), per_mhz=10**6)


def read_memory_clock(root: Path = ROOT) -> Clock | None:
    """The memory's clock of a Jetson: now, for root only, and the cap that the power mode sets."""
    current = _mhz(root / "sys/kernel/debug/bpmp/debug/clk/emc/rate", 10**6)
    maximum = _mhz(root / "sys/kernel/nvpmodel_clk_cap/emc", 10**6) or None  # 0: no cap
    return Clock("emc", current, None, maximum) if current or maximum else None


def read_load_average(root: Path = ROOT) -> tuple[float, ...]:
    """Processes that wanted to run, averaged over 1, 5 and 15 minutes."""
    try:
        values = tuple(float(word) for word in (line(root / "proc/loadavg") or "").split()[:3])
    except ValueError:
        return ()
    return values if len(values) == 3 and all(map(math.isfinite, values)) else ()


def read_memory_mb(root: Path, name: str) -> int | None:
    """An entry of /proc/meminfo in MB."""
    found = re.fullmatch(r"([0-9]{1,15}) kB", _field(root / "proc/meminfo", name) or "")
    return int(found[1]) * 1024 // MB if found else None


def free_disk_mb(folder: Path) -> int | None:
    """Free space of the disk that holds a folder, or would hold it, in MB."""
    for candidate in (folder, *folder.absolute().parents):
        try:
            return shutil.disk_usage(candidate).free // MB
        except OSError:
            continue
    return None


def read_temperatures(root: Path = ROOT) -> dict[str, float]:
    """Temperatures in °C by thermal zone; of zones with one name, the hottest.

    The zones of parts that are switched off cannot be read and are left out.
    """
    found: dict[str, float] = {}
    for zone in entries(root / "sys/class/thermal", "thermal_zone*"):
        name, value = line(zone / "type"), integer(zone / "temp")
        if name and value is not None and PLAUSIBLE_C[0] <= value / 1000 <= PLAUSIBLE_C[1]:
            found[name] = max(value / 1000, found.get(name, -math.inf))
    return found


def read_throttling(root: Path = ROOT) -> tuple[str, ...]:
    """Alarms with which the kernel slows hot parts down, such as ``gpu-throttle-alert``, that are on."""
    active = (
        line(cooler / "type")
        for cooler in entries(root / "sys/class/thermal", "cooling_device*")
        if (integer(cooler / "cur_state") or 0) > 0
    )
    return tuple(sorted(name for name in active if name and name.endswith("throttle-alert")))


def read_overcurrent_events(root: Path = ROOT) -> dict[str, int]:
    """How often a Jetson was slowed down because its supply gave too little or it drew too much."""
    found: dict[str, int] = {}
    for monitor in _monitors(root, "soctherm_oc"):
        for counter in entries(monitor, "oc*_event_cnt"):
            count = integer(counter)
            if count is not None:
                found[counter.name.removesuffix("_event_cnt")] = count
    return found


def read_power_rails(root: Path = ROOT) -> dict[str, int]:
    """Power by rail in mW, from the INA3221 and INA238 monitors of a Jetson.

    An INA3221 reports mV and mA of three named rails; its channels from 4 on are shunt voltages and sums,
    and ``NC`` names a channel that is not connected. An INA238 reports one power in µW, without a name.
    """
    found: dict[str, int] = {}
    for monitor in _monitors(root, "ina3221"):
        for channel in (1, 2, 3):
            name = line(monitor / f"in{channel}_label")
            millivolts, milliamperes = (
                integer(monitor / f"in{channel}_input"),
                integer(monitor / f"curr{channel}_input"),
            )
            if name and name != "NC" and millivolts is not None and milliamperes is not None:
                found[name] = millivolts * milliamperes // 1000
    for monitor in _monitors(root, "ina238"):
        microwatts = integer(monitor / "power1_input")
        if microwatts is not None:
            found["ina238"] = microwatts // 1000
    return found


def text(path: Path) -> str | None:
    """A file's text, with marks in place of what is not UTF-8; None where it cannot be read."""
    try:
        if not path.is_file():  # a pipe would keep us waiting
            return None
        with path.open("rb") as file:
            content = file.read(READ_LIMIT)
    except OSError:
        return None
    # A sensor that has no value yet gives None instead of bytes (EAGAIN).
    return content.decode(errors="replace") if content else None


def line(path: Path) -> str | None:
    """The first line of a file that has any; ends of C strings count as ends of lines."""
    return _first_line(text(path))


def integer(path: Path) -> int | None:
    """The whole number in a file; None for anything else or beyond 15 digits."""
    found = re.fullmatch(r"-?[0-9]{1,15}", line(path) or "")
    return int(found[0]) if found else None


def entries(folder: Path, pattern: str = "*") -> list[Path]:
    """What a folder holds, sorted; empty where it cannot be read."""
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def _first_line(content: str | None) -> str | None:
    lines = (_printable(part) for part in re.split(r"[\0\r\n]", content or ""))
    return next((part for part in lines if part), None)


def _printable(content: str) -> str:
    return "".join(character for character in content if character.isprintable()).strip()


def _field(path: Path, name: str) -> str | None:
    found = re.search(rf"^{re.escape(name)}[ \t]*:[ \t]*(.*)$", text(path) or "", re.MULTILINE)
    return _printable(found[1]) or None if found else None


def _monitors(root: Path, name: str) -> list[Path]:
    return [folder for folder in entries(root / "sys/class/hwmon", "hwmon*") if line(folder / "name") == name]


def _mhz(path: Path, per_mhz: int) -> float | None:
    value = integer(path)
    return None if value is None else round(value / per_mhz, 3)


def _clocks(folders: list[Path], names: tuple[str, str, str], per_mhz: int) -> tuple[Clock, ...]:
    clocks = (Clock(folder.name, *(_mhz(folder / name, per_mhz) for name in names)) for folder in folders)
    return tuple(clock for clock in clocks if clock != Clock(clock.name))


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
    """Version of the NVIDIA driver, with the GPU's name where `nvidia-smi` tells it."""
    said = run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]) or ""
    card = re.match(r"([^,\r\n]+), ([0-9][0-9.]+)", said)
    if card:
        return f"{card[2]}, {card[1]}"
    module = re.search(
        r"Kernel Module\s+(?:for \S+\s+)?([0-9][0-9.]+)", text(root / "proc/driver/nvidia/version") or ""
    )
    return module[1] if module else None
