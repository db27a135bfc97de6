"""Slots: a bundle is installed, proved and switched to in one step, and whatever fails, the one before runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fthnet_kit.edge import Bundle, BundleError, EngineError
from fthnet_kit.edge.deployment.bundle_slots import CURRENT, Slots, check_health, slots_of, write_reference
from fthnet_kit.edge.trust.keys import make_key
from tests.conftest import ROOT
from tests.edge.trust.test_signed_bundles import make_bundle, sign, state  # noqa: F401  (a fixture)

pytest.importorskip("cryptography", reason="needs the extra [sign]")
pytest.importorskip("onnx", reason="needs the extra [convert]")
from tests.edge.model.graphs import constant_graph, put_graph

RETINA = ROOT / "edge" / "assets" / "retina.jpg"


def bundle_of(folder: Path, points: float) -> Path:
    """A small bundle that gives every picture the same score, with a reference picture."""
    make_bundle(folder)
    put_graph(folder, constant_graph(points).SerializeToString())
    write_reference(folder, [RETINA])
    return folder


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    """Slots in which a bundle that says 50 runs."""
    found = Slots(tmp_path / "slots")
    found.install(bundle_of(tmp_path / "old", 50))
    found.activate()
    return found


def runs(slots: Slots) -> float:
    """What the active bundle says of the reference picture."""
    bundle = Bundle.open(slots.folder / CURRENT)
    assert check_health(bundle) <= 0.05
    return float(json.loads((bundle.folder / "reports" / "reference.json").read_text())["pictures"][0]["raw"])


def test_install_activate_and_rollback(slots: Slots, tmp_path: Path) -> None:
    assert (slots.active, runs(slots)) == ("a", 50)
    assert slots.install(bundle_of(tmp_path / "new", 60)) == "b"
    assert runs(slots) == 50  # nothing changes until it is activated
    assert slots.activate() == "b"
    assert runs(slots) == 60
    assert slots.rollback() == "a"
    assert runs(slots) == 50
    assert slots_of(slots.folder / CURRENT) == slots
    assert slots_of(slots.folder / "a") is None


@pytest.mark.parametrize("points", [50.06, 49.94, 95, float("nan"), 1e30])
def test_a_bundle_that_fails_its_health_check_is_not_activated(slots: Slots, tmp_path: Path, points: float) -> None:
    new = bundle_of(tmp_path / "new", 50)
    put_graph(new, constant_graph(points).SerializeToString())  # not what its reference pictures say
    slots.install(new)
    with pytest.raises(BundleError, match="fails its health check and is not activated"):
        slots.activate()
    assert (slots.active, runs(slots)) == ("a", 50)


def test_rounding_on_another_device_is_no_failure(slots: Slots, tmp_path: Path) -> None:
    new = bundle_of(tmp_path / "new", 50)
    put_graph(new, constant_graph(50.04).SerializeToString())
    slots.install(new)
    assert slots.activate() == "b"


def test_a_graph_that_does_not_load_is_not_activated(slots: Slots, tmp_path: Path) -> None:
    new = bundle_of(tmp_path / "new", 60)
    put_graph(new, b"\x08no graph")
    slots.install(new)
    with pytest.raises(EngineError):
        slots.activate()
    assert runs(slots) == 50


@pytest.mark.parametrize("content", ["", "{}", '{"pictures": []}', '{"pictures": [{"file": "../a", "raw": 1}]}'])
def test_without_reference_pictures_nothing_is_activated(slots: Slots, tmp_path: Path, content: str) -> None:
    new = bundle_of(tmp_path / "new", 60)
    (new / "reports" / "reference.json").write_text(content)
    slots.install(new)
    with pytest.raises(BundleError, match=r"reference\.json"):
        slots.activate()
    assert runs(slots) == 50


def test_an_altered_bundle_is_not_installed(slots: Slots, tmp_path: Path) -> None:
    new = bundle_of(tmp_path / "new", 60)
    (new / "fthnet.fp32.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match="altered"):
        slots.install(new)
    assert (slots.active, runs(slots)) == ("a", 50)


def test_nothing_to_activate_is_told(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="`fthnet bundle install` first"):
        Slots(tmp_path).activate()


# Kills

STEP = """
import os, signal, sys
from pathlib import Path
from fthnet_kit.edge.deployment import bundle_slots
bundle_slots.check_health = lambda bundle: 0.0
slots, new, limit = bundle_slots.Slots(Path(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3])
steps = 0
def count(event, arguments):
    global steps
    changes = event in ("os.rename", "os.symlink", "os.remove", "os.mkdir", "os.rmdir") or (
        event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    )
    if changes and str(slots.folder) in " ".join(map(str, arguments)):
        steps += 1
        if steps == limit:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
slots.install(new)
slots.activate()
"""


@pytest.mark.slow
def test_kill_at_every_step_leaves_a_bundle_that_runs(slots: Slots, tmp_path: Path) -> None:
    new, kept = bundle_of(tmp_path / "new", 60), tmp_path / "kept"
    slots.install(bundle_of(tmp_path / "older", 40))  # the other slot is not empty
    shutil.copytree(slots.folder, kept, symlinks=True)
    seen, killed = [], 0
    for limit in range(1, 200):
        shutil.rmtree(slots.folder)
        shutil.copytree(kept, slots.folder, symlinks=True)
        done = subprocess.run([sys.executable, "-c", STEP, str(slots.folder), str(new), str(limit)], timeout=60)
        seen.append(runs(slots))
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
        killed += 1
        if limit % 4 == 0:  # and the next try succeeds
            slots.install(new)
            slots.activate()
            assert runs(slots) == 60 or slots.active
    assert killed >= 10
    assert set(seen) <= {50.0, 60.0}
    assert seen == sorted(seen)  # the old one up to one step, the new one from there on
    assert (seen[0], seen[-1]) == (50.0, 60.0)


# Starts


def start(fthnet: Callable, slots: Slots, **more: object) -> subprocess.CompletedProcess[str]:
    source = "sim:?seconds=1&fps=4&realtime=0"
    return fthnet("run", "--source", source, "--bundle", slots.folder / CURRENT, "--max-frames", 1, **more)


def test_three_failed_starts_bring_the_bundle_before_back(fthnet: Callable, slots: Slots, tmp_path: Path) -> None:
    slots.install(bundle_of(tmp_path / "new", 60))
    slots.activate()
    (slots.folder / "b" / "fthnet.fp32.onnx").write_bytes(b"rotten")
    assert [start(fthnet, slots).returncode for _ in range(3)] == [4, 4, 4]
    back = start(fthnet, slots)
    assert back.returncode == 0, back.stderr
    assert "failed to start 3 times: back to slot a" in back.stderr
    assert runs(slots) == 50
    for _ in range(3):
        slots.begin_start()
        slots.end_start()  # starts that succeed are not counted
    slots.begin_start()
    assert slots.active == "a"


# Signed bundles


def test_signed_bundles_rise_and_roll_back_on_purpose(
    fthnet: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_key(tmp_path / "maker")
    old, new = bundle_of(tmp_path / "old", 50), bundle_of(tmp_path / "new", 60)
    unsigned = bundle_of(tmp_path / "unsigned", 70)
    sign(old, tmp_path / "maker", 1)
    sign(new, tmp_path / "maker", 2)
    monkeypatch.setenv("FTHNET_REQUIRE_SIGNATURE", str(tmp_path / "maker.pub"))
    slots = Slots(tmp_path / "slots")
    slots.install(old)
    slots.activate()
    slots.install(new)
    assert runs(slots) == 50  # the release counts once the bundle runs, not when it is installed
    slots.activate()
    assert runs(slots) == 60
    with pytest.raises(BundleError, match="older bundle was put back"):
        slots.install(old)
    assert fthnet("bundle", "list", "--slots", slots.folder).stdout.count("release") == 2
    slots.rollback()
    assert runs(slots) == 50
    with pytest.raises(BundleError, match="unsigned"):
        slots.install(unsigned)
    assert runs(slots) == 50


# The updaters' scripts

SCRIPTS = {
    "rauc-hook.sh": ["slot-post-install"],
    "mender-module.sh": ["ArtifactInstall", "FILES"],
    "swupdate-script.sh": ["postinst"],
    "balena-start.sh": ["--source", "sim:?seconds=1&fps=4&realtime=0", "--max-frames", "1"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_the_scripts_of_updaters(name: str, tmp_path: Path) -> None:
    make_key(tmp_path / "maker")
    slots = Slots(tmp_path / "slots")
    slots.install(bundle_of(tmp_path / "old", 50))
    slots.activate()
    carried = tmp_path / "files"
    carried.mkdir()
    sign(bundle_of(carried / "bundle", 60), tmp_path / "maker", 2)
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "fthnet").write_text(f'#!/bin/sh\nexec {sys.executable} -m fthnet_kit.edge.cli "$@"\n')
    (tools / "fthnet").chmod(0o755)
    where = {"RAUC_SLOT_MOUNT_POINT": carried, "UNPACKED": carried, "IMAGE": carried, "KEY": tmp_path / "maker.pub"}
    environment = {
        **os.environ,
        **{key: str(value) for key, value in where.items()},
        "SLOTS": str(slots.folder),
        "PATH": f"{tools}:{os.environ['PATH']}",
    }
    arguments = [str(tmp_path) if word == "FILES" else word for word in SCRIPTS[name]]
    script = ROOT / "docs" / "updaters" / name
    done = subprocess.run([script, *arguments], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert runs(slots) == 60
    if name == "mender-module.sh":
        sign(tmp_path / "slots" / "a", tmp_path / "maker", 1)
        back = subprocess.run([script, "ArtifactRollback", tmp_path], env=environment, capture_output=True, text=True)
        assert (back.returncode, runs(slots)) == (0, 50)
