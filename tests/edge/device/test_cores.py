"""Threads by what a container may really use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fthnet_kit.edge.device.cores import available_cores, cpu_quota

ALL = len(os.sched_getaffinity(0))


def machine(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.mark.parametrize(
    ("cgroup", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "100000 100000\n"}, 1.0),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {}, None),
        ("0::/a/b\n", {"a/cpu.max": "150000 100000\n", "a/b/cpu.max": "max 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/cpu.max": "400000 100000\n", "a/b/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/../outside\n", {"cpu.max": "200000 100000\n"}, 2.0),
        (
            "5:memory:/x\n4:cpu,cpuacct:/box\n",
            {"cpu,cpuacct/box/cpu.cfs_quota_us": "50000\n", "cpu,cpuacct/box/cpu.cfs_period_us": "50000\n"},
            1.0,
        ),
        (
            "4:cpu,cpuacct:/\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            None,
        ),
        ("5:memory:/x\n", {"x/cpu.max": "100000 100000\n"}, None),
        ("nonsense", {"cpu.max": "what\n"}, None),
    ],
)
def test_quota_of_the_control_groups(tmp_path: Path, cgroup: str, files: dict[str, str], quota: float | None) -> None:
    root = machine(tmp_path, cgroup, files)
    assert cpu_quota(root) == quota
    assert available_cores(root) == (ALL if quota is None else max(1, min(ALL, int(quota))))


def test_a_machine_without_control_groups_gives_all_cores(tmp_path: Path) -> None:
    assert available_cores(tmp_path) == ALL
