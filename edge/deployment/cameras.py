"""The cameras of this machine, for `fthnet cameras`."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from fthnet_kit.edge.deployment.doctor_findings import Finding
from fthnet_kit.edge.deployment.doctor_machine import check_cameras
from fthnet_kit.edge.device.machine import Run, run_command
from fthnet_kit.edge.device.sysfs import ROOT, line


def list_cameras(root: Path = ROOT, run: Run = run_command) -> list[Finding]:
    """What `fthnet doctor` says of every camera, and which programs have it open.

    Args:
        root: of the file system.
        run: runs `v4l2-ctl`.
    """
    return [with_users(finding, root) for finding in check_cameras(root, run)]


def with_users(finding: Finding, root: Path) -> Finding:
    """A usable camera that a program has open is a problem: most cameras serve one program at a time."""
    users = ", ".join(programs_with(root / finding.topic.lstrip("/"), root))
    if finding.state != "ok" or not users:
        return finding
    return dataclasses.replace(
        finding, state="problem", found=f"{finding.found}; in use by {users}", remedy="end that program, or wait for it"
    )


def programs_with(node: Path, root: Path) -> Iterator[str]:
    """Programs that have a device open, as far as this user may see: ``NAME (process NUMBER)``."""
    for process in sorted((root / "proc").glob("[0-9]*")):
        with contextlib.suppress(OSError):  # another user's, or gone meanwhile
            if any(each.resolve() == node.resolve() for each in (process / "fd").iterdir()):
                yield f"{line(process / 'comm') or 'a program'} (process {process.name})"
