"""How many processors this process may really use: its affinity, and the quota of the container that it runs in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def available_cores(root: Path = Path("/")) -> int:
    """Processors that this process can keep busy, at least 1.

    A container with a quota of one CPU still sees every core; more threads than the quota make the kernel stop all of
    them for the rest of each period (100 ms by default), which is far slower than one thread.

    Args:
        root: where the machine's file system is mounted.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(root)
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """CPUs that the control groups of this process grant it, the smallest of all levels; None without a limit.

    Reads ``cpu.max`` (cgroup v2) or ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us`` (v1).
    """
    quotas = [quota for folder in _groups(root) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def _groups(root: Path) -> Iterator[Path]:
    """Folders of this process's control groups and of all above them, as far as they can be seen from here."""
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        controllers, path = line.split(":", 2)[1:] if line.count(":") >= 2 else ("none", "")
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounts = (
            [root / "sys/fs/cgroup"]
            if not controllers
            else [root / "sys/fs/cgroup" / name for name in (controllers, "cpu")]
        )
        for mount in mounts:
            group = mount / path.strip("/")
            yield from (folder for folder in (group, *group.parents) if folder == mount or mount in folder.parents)


def _quota(folder: Path) -> float | None:
    words = (_read(folder / "cpu.max") or "").split()
    if not words:
        words = [_read(folder / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")]
    try:
        quota, period = (float(word) for word in words)
    except ValueError:  # "max", a missing file, or something else
        return None
    return quota / period if quota > 0 and period > 0 else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
