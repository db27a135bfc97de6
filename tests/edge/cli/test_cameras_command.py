"""`fthnet cameras`: what is there, who has it, and the remedy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from fthnet_kit.edge.cli.cameras import cameras
from fthnet_kit.edge.deployment.cameras import list_cameras

MODES = "[0]: 'MJPG' (Motion-JPEG)\n\tSize: Discrete 1920x1080\n\t\tInterval: Discrete 0.033s (30.000 fps)\n"


def run(command: list[str]) -> str:
    return "v4l2-ctl 1.22" if "--version" in command else MODES


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with a camera."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "video0").touch()
    name = tmp_path / "sys/class/video4linux/video0/name"
    name.parent.mkdir(parents=True)
    name.write_text("Fundus Cam\n")
    return tmp_path


def test_a_camera_has_its_address_name_and_modes(root: Path) -> None:
    [found] = list_cameras(root, run)
    assert (found.topic, found.state) == ("/dev/video0", "ok")
    assert found.found == "Fundus Cam: MJPG 1920x1080 at 30 fps"


def test_who_has_a_camera_is_named(root: Path) -> None:
    process = root / "proc/4711"
    (process / "fd").mkdir(parents=True)
    (process / "comm").write_text("guvcview\n")
    (process / "fd" / "7").symlink_to(root / "dev/video0")
    [found] = list_cameras(root, run)
    assert found.state == "problem"
    assert "in use by guvcview (process 4711)" in found.found
    assert found.remedy


@pytest.mark.skipif(os.getuid() == 0, reason="root may read every device")
def test_a_forbidden_camera_has_its_remedy(root: Path) -> None:
    (root / "dev/video0").chmod(0)
    [found] = list_cameras(root, run)
    assert found.remedy == "sudo usermod -aG video $USER, then log in again"


def test_without_cameras_the_others_are_named() -> None:
    done = CliRunner().invoke(cameras)
    assert done.exit_code == 0
    assert "rtsp://HOST/PATH" in done.output
