"""Watches the machine while something is measured: memory, temperature, clocks, and what other programs do."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from fthnet_kit.edge.device.sensors import (
    read_cpu_clocks,
    read_gpu_clocks,
    read_power_rails,
    read_temperatures,
    read_throttling,
)
from fthnet_kit.edge.device.sysfs import ROOT, text

MB = 10**6


@dataclass
class Timeline:
    """Readings, one a period; lists of equal length.

    Attributes:
        seconds: since the watch began.
        rss_mb: resident memory of this process, MB of 10⁶ bytes.
        shared_mb: memory in use on the whole machine, which on a Jetson the GPU shares.
        hottest_c: the hottest zone, °C; None without a sensor.
        cpu_mhz, gpu_mhz: highest present clock; None if not reported.
        power_mw: sum of the rails that hold the total, or None.
        throttling: parts that were slowed.
    """

    seconds: list[float] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)
    shared_mb: list[float | None] = field(default_factory=list)
    hottest_c: list[float | None] = field(default_factory=list)
    cpu_mhz: list[float | None] = field(default_factory=list)
    gpu_mhz: list[float | None] = field(default_factory=list)
    power_mw: list[float | None] = field(default_factory=list)
    throttling: list[list[str]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


class Monitor:
    """Reads the machine in a thread of its own, inside a ``with`` block.

    Args:
        period_s: between two readings.
        root: where the machine's file system is mounted.

    Attributes:
        timeline: the readings.
        others_cores: cores that other programs used over the whole block, on average; None if not reported.
        peak_mb: the process's largest resident memory so far, MB; None if not reported.
    """

    def __init__(self, period_s: float = 1.0, root: Path = ROOT) -> None:
        self.timeline = Timeline()
        self.others_cores: float | None = None
        self.peak_mb: float | None = None
        self._period_s = period_s
        self._root = root
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="monitor", daemon=True)

    def __enter__(self) -> Monitor:
        self._began = time.monotonic()
        self._busy, self._own = busy_seconds(self._root), own_seconds()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        elapsed = time.monotonic() - self._began
        busy, own = busy_seconds(self._root), own_seconds()
        if busy is not None and self._busy is not None and elapsed > 0:
            self.others_cores = max(0.0, (busy - self._busy - (own - self._own)) / elapsed)
        self.peak_mb = status_mb(self._root, "VmHWM")

    def _watch(self) -> None:
        while True:
            self._read()
            if self._done.wait(self._period_s):
                self._read()
                return

    def _read(self) -> None:
        line = self.timeline
        temperatures = read_temperatures(self._root).values()
        rails = read_power_rails(self._root)
        line.seconds.append(round(time.monotonic() - self._began, 3))
        line.rss_mb.append(status_mb(self._root, "VmRSS") or 0.0)
        line.shared_mb.append(used_mb(self._root))
        line.hottest_c.append(max(temperatures, default=None))
        line.cpu_mhz.append(_highest(read_cpu_clocks(self._root)))
        line.gpu_mhz.append(_highest(read_gpu_clocks(self._root)))
        line.power_mw.append(next((float(mw) for name, mw in rails.items() if name in ("VDD_IN", "VIN_SYS_5V0")), None))
        line.throttling.append(list(read_throttling(self._root)))


def _highest(clocks: Any) -> float | None:
    return max((clock.current_mhz for clock in clocks if clock.current_mhz is not None), default=None)


def own_seconds() -> float:
    """CPU time of this process and its finished children, all threads."""
    return sum(os.times()[:4])


def busy_seconds(root: Path = ROOT) -> float | None:
    """CPU time that the machine's cores have not been idle, all programs together; None if not reported."""
    first = (text(root / "proc/stat") or "").partition("\n")[0].split()
    if len(first) < 5 or first[0] != "cpu":
        return None
    ticks = [int(value) for value in first[1:9]]
    return float(sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")  # without idle and iowait


def status_mb(root: Path, name: str) -> float | None:
    """A line of /proc/self/status in MB."""
    for row in (text(root / "proc/self/status") or "").splitlines():
        if row.startswith(f"{name}:"):
            return int(row.split()[1]) * 1024 / MB
    return None


def used_mb(root: Path = ROOT) -> float | None:
    """Memory in use on the machine, MB: what is not available."""
    values = dict(row.split(":", 1) for row in (text(root / "proc/meminfo") or "").splitlines() if ":" in row)
    try:
        total, available = (int(values[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    except (KeyError, ValueError, IndexError):
        return None
    return (total - available) * 1024 / MB
