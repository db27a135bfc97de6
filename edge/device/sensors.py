"""Clocks, temperatures, throttling, power and load, as the kernel reports them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from fthnet_kit.edge.device.sysfs import MB, ROOT, entries, field_of, integer, line

PLAUSIBLE_C = (-50, 150)  # a sensor that is switched off reports -256 °C


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
    found = re.fullmatch(r"([0-9]{1,15}) kB", field_of(root / "proc/meminfo", name) or "")
    return int(found[1]) * 1024 // MB if found else None


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


def _monitors(root: Path, name: str) -> list[Path]:
    return [folder for folder in entries(root / "sys/class/hwmon", "hwmon*") if line(folder / "name") == name]


def _mhz(path: Path, per_mhz: int) -> float | None:
    value = integer(path)
    return None if value is None else round(value / per_mhz, 3)


def _clocks(folders: list[Path], names: tuple[str, str, str], per_mhz: int) -> tuple[Clock, ...]:
    clocks = (Clock(folder.name, *(_mhz(folder / name, per_mhz) for name in names)) for folder in folders)
    return tuple(clock for clock in clocks if clock != Clock(clock.name))
