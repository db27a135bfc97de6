"""Checks of the machine: JetPack, cameras, clocks, heat, memory, disk."""

from __future__ import annotations

import os
import re
from pathlib import Path

from fthnet_kit.edge.deployment.doctor_findings import Finding, gigabytes, numbers_of
from fthnet_kit.edge.device.machine import Device, Run, free_disk_mb, run_command
from fthnet_kit.edge.device.sysfs import ROOT, entries, line

HOT_C = 85.0  # well before the kernel slows a Jetson down
SCARCE_MB = 1000


def check_jetpack(device: Device) -> Finding:
    """Whether this is a Jetson, and whether its software is new enough."""
    if not device.is_jetson:
        system = f"{device.system or 'system unknown'}, {device.architecture or 'architecture unknown'}"
        return Finding("JetPack", "note", f"not a Jetson: {device.model or 'model unknown'}, {system}")
    found = f"{device.model or 'a Jetson'}, JetPack {device.jetpack or 'unknown'}, L4T {device.l4t or 'unknown'}"
    if device.jetpack is None:
        return Finding("JetPack", "note", found, "`cat /etc/nv_tegra_release` on the Jetson itself shows its release")
    if device.jetpack == "6.0" or numbers_of(device.jetpack) < (6,):
        return Finding("JetPack", "problem", found, "install JetPack 6.1 or newer: older ones bring TensorRT 8")
    return Finding("JetPack", "ok", found)


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
