"""The same shards on a real local Ray, one of whose two actors is killed at work."""

from __future__ import annotations

import contextlib
import os
import signal
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="needs the extra [parquet]")
if not find_spec("ray"):  # importing it takes every other test's time
    pytest.skip("needs the extra [ray]", allow_module_level=True)
from tests.edge.archive.test_archive import (
    SHARD,
    pictures,
    rows_but_times,
    running,
    undisturbed,
    until_more_shards,
)

__all__ = ["pictures", "undisturbed"]  # fixtures


def descends(process: int, ancestor: int) -> bool:
    """Whether a process was started by another, or by one that it started."""
    while process > 1 and process != ancestor:
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return process == ancestor


def actors(command: int) -> list[int]:
    """Processes in which the Ray of this command runs shards; never another Ray's on this machine."""
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if b"ShardActor" in line.read_bytes() and descends(int(line.parent.name), command):
                found.append(int(line.parent.name))
    return found


@pytest.mark.long
def test_a_killed_actor_changes_no_row(undisturbed: Path, pictures: Path, tmp_path: Path) -> None:
    asked = ("score", pictures, "-o", tmp_path, "--shard-size", SHARD, "--workers", 2, "--ray", "--threads", 1)
    with running(*asked) as process:
        until_more_shards(tmp_path, 0, process)
        killed = actors(process.pid)[:1]
        for actor in killed:
            os.kill(actor, signal.SIGKILL)
        output = process.communicate(timeout=280)[0]
    if "expected a Ray that answers" in output:
        pytest.skip("Ray's own agent did not start within its 15 seconds: this machine is too busy")
    assert process.returncode == 0, output
    assert killed
    assert rows_but_times(tmp_path) == rows_but_times(undisturbed)
