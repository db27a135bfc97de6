"""systemd: signs of life over real sockets, and a unit that systemd's own checker takes."""

from __future__ import annotations

import configparser
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fthnet_kit.edge import service
from fthnet_kit.edge.cameras import make_source
from fthnet_kit.edge.config import load_config
from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.live import LiveLoop, LiveResult
from fthnet_kit.edge.score import Score
from fthnet_kit.edge.service import HEADER, Notifier, WatchdogSink, check_unit, install, unit_text, write_paths
from fthnet_kit.edge.service_command import install_service
from tests.conftest import fake_scorer


class Systemd:
    """The end of the socket that systemd holds."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(5)

    def told(self) -> list[str]:
        """Lines of the next message."""
        return self.socket.recv(4096).decode().split("\n")

    def silent(self, seconds: float) -> bool:
        """Whether nothing comes for this long."""
        self.socket.settimeout(seconds)
        try:
            self.socket.recv(4096)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(5)
        return False

    def drain(self) -> None:
        while not self.silent(0.01):
            pass


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    listening = Systemd(
        str(tmp_path / "notify") if request.param == "path" else f"@fthnet-test-{os.getpid()}-{time.monotonic_ns()}"
    )
    yield listening
    listening.socket.close()


def result(value: float | None = 72.4) -> LiveResult:
    score = Score(value, raw=value, verdict="good") if value is not None else Score(None, reason="stalled")
    return LiveResult(score, None, None, datetime.now(timezone.utc), 1.0, 2.0, 9, 3)


def test_the_first_result_is_ready_and_later_ones_are_signs_of_life(systemd: Systemd) -> None:
    now = [100.0]
    sink = WatchdogSink(Notifier(systemd.address, watchdog_s=2.0, clock=lambda: now[0]))
    sink.offer(result())
    assert systemd.told() == ["READY=1", "WATCHDOG=1", "STATUS=score 72, good; 9 frames, 3 dropped"]
    now[0] += 0.49
    sink.offer(result())
    assert systemd.silent(0.1)
    now[0] += 0.02
    sink.offer(result(None))
    assert systemd.told() == ["WATCHDOG=1", "STATUS=stalled; 9 frames, 3 dropped"]
    sink.close()
    assert systemd.told() == ["STOPPING=1"]
    sink.offer(result())
    assert systemd.silent(0.1)


def test_a_hang_of_the_scorer_ends_the_signs_of_life_and_a_lost_camera_does_not(
    systemd: Systemd, photograph: np.ndarray
) -> None:
    hang, go_on = threading.Event(), threading.Event()

    def answer(_: np.ndarray) -> float:
        if hang.is_set():
            go_on.wait(30)
        return 50.0

    loop = LiveLoop(lambda: make_source("sim:?seconds=0&fps=30&width=320&height=240&seed=3"), fake_scorer(answer))
    sink = WatchdogSink(Notifier(systemd.address, watchdog_s=0.4))

    def score() -> None:
        for each in loop.results():
            sink.offer(each)

    thread = threading.Thread(target=score, daemon=True)
    thread.start()
    assert systemd.told()[0] == "READY=1"
    for _ in range(5):
        assert "WATCHDOG=1" in systemd.told()
    hang.set()
    time.sleep(0.3)
    systemd.drain()
    assert systemd.silent(1.0)  # 2.5 times what systemd waits
    hang.clear()
    go_on.set()
    assert "WATCHDOG=1" in systemd.told()
    loop.stop()
    thread.join(10)


def test_a_camera_that_is_away_is_no_hang(tmp_path: Path) -> None:
    systemd = Systemd(str(tmp_path / "notify"))
    sink = WatchdogSink(Notifier(systemd.address, watchdog_s=0.1))
    for _ in range(3):
        sink.offer(result(None))
        assert "WATCHDOG=1" in systemd.told()
        time.sleep(0.05)
    systemd.socket.close()


def test_nobody_listens_or_nobody_asked(tmp_path: Path) -> None:
    for address in (None, "", str(tmp_path / "gone"), "@gone-abstract", "vsock:2:1234", "/" + "x" * 300):
        notifier = Notifier(address or None, 1.0)
        notifier.beat("status")
        notifier.stopping()
        notifier.close()
        notifier.beat()
        notifier.stopping()
        notifier.close()


def test_ready_is_said_again_until_it_was_heard(tmp_path: Path) -> None:
    notifier = Notifier(str(tmp_path / "late"), 10.0)
    notifier.beat()
    systemd = Systemd(str(tmp_path / "late"))
    notifier.beat()
    assert systemd.told()[0] == "READY=1"
    systemd.socket.close()


def test_a_full_socket_blocks_nobody(tmp_path: Path) -> None:
    systemd = Systemd(str(tmp_path / "full"))
    now = [0.0]
    notifier = Notifier(systemd.address, 1.0, clock=lambda: now[0])
    began = time.monotonic()
    for _ in range(3000):
        now[0] += 1
        notifier.beat("x" * 200)
    assert time.monotonic() - began < 5
    systemd.drain()
    notifier.beat()
    assert "WATCHDOG=1" in systemd.told()
    systemd.socket.close()


@pytest.mark.parametrize(
    ("environment", "period_s"),
    [
        ({}, 1.0),
        ({"WATCHDOG_USEC": "2000000"}, 0.5),
        ({"WATCHDOG_USEC": "30000000"}, 1.0),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}, 1.0),
        ({"WATCHDOG_USEC": "soon"}, 1.0),
        ({"WATCHDOG_USEC": "0"}, 1.0),
    ],
)
def test_the_environment_is_read(tmp_path: Path, environment: dict[str, str], period_s: float) -> None:
    systemd = Systemd(str(tmp_path / "notify"))
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": systemd.address, **environment})
    notifier.beat("one line\nno other")
    assert systemd.told()[-1] == "STATUS=one line"
    assert notifier._every_s == period_s
    systemd.socket.close()


Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_config(text: str) -> Path:
        path = tmp_path / "etc" / "fthnet.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write_config


def settings(text: str) -> dict[str, list[str]]:
    """Settings of a unit's sections, in the order in which they stand."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


FULL = """
[camera]
source = "/dev/video0?width=1920"
[records]
path = "/srv/my data/100%/r.jsonl"
[best_shot]
folder = "/var/lib/fthnet/best"
[mqtt]
url = "mqtts://broker"
queue = "/srv/queue/q.sqlite"
"""


def test_the_unit(write: Write) -> None:
    path = write(FULL)
    text = unit_text(load_config(path), "eve", Path("/opt/my kit/bin/python"))
    assert text.startswith(HEADER)
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read_string(text)
    assert parser.sections() == ["Unit", "Service", "Install"]
    unit = settings(text)
    assert unit["ExecStart"] == [f'"/opt/my kit/bin/python" -m fthnet_kit.edge.cli run --config {path}']
    assert unit["ReadWritePaths"] == ['"/srv/my data/100%%" /srv/queue']
    assert unit["StartLimitIntervalSec"] == ["0"]
    for name, value in {
        "Type": "notify",
        "WatchdogSec": "30",
        "Restart": "always",
        "ProtectSystem": "strict",
        "SupplementaryGroups": "video render",
        "NoNewPrivileges": "yes",
        "User": "eve",
        "StateDirectory": "fthnet",
        "ProtectHome": "yes",
    }.items():
        assert unit[name] == [value], name
    assert "char-video4linux rw" in unit["DeviceAllow"]
    assert "\n#MemoryMax=" in text


def test_the_unit_fits_where_things_lie(write: Write) -> None:
    plain = '[camera]\nsource = "0"\n'
    assert "ReadWritePaths" not in settings(unit_text(load_config(write(plain)), "eve"))
    homely = load_config(write(plain + '[records]\npath = "/home/eve/r.jsonl"'))
    assert settings(unit_text(homely, "eve"))["ProtectHome"] == ["read-only"]
    assert settings(unit_text(homely, "eve"))["ReadWritePaths"] == ["/home/eve"]
    jetson = unit_text(load_config(write('[camera]\nsource = "csi://0"')), "eve")
    assert settings(jetson)["PrivateTmp"] == ["no"]
    assert "nvargus" in jetson
    strange = write_paths(load_config(write(plain + '[records]\npath = "/srv/$HOME/a\\"b/r.jsonl"')))
    assert [str(path) for path in strange] == ['/srv/$HOME/a"b']


def test_dollars_and_percents_in_the_command_stay_what_they_are(write: Write, tmp_path: Path) -> None:
    path = write('[camera]\nsource = "0"').rename(tmp_path / "a$b%c.toml")
    command = settings(unit_text(load_config(path), "eve"))["ExecStart"][0]
    assert command.endswith("a$$b%%c.toml")


def test_what_makes_no_service(write: Write) -> None:
    with pytest.raises(InputError, match=r"expected camera\.source"):
        unit_text(load_config(write("[model]\n")), "eve")
    config = load_config(write('[camera]\nsource = "0"'))
    for user in ("", "Eve", "a b", "x\nUser=root", "1st"):
        with pytest.raises(InputError, match="expected a user's name"):
            unit_text(config, user)
    evil = load_config(write('[camera]\nsource = "0"\n[records]\npath = "/srv/a\\nUser=root/r"'))
    with pytest.raises(InputError, match="without control characters"):
        unit_text(evil, "eve")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize(
    "text", [FULL, '[camera]\nsource = "csi://0"', '[camera]\nsource = "0"\n[records]\npath = "/home/eve/$x/r"']
)
def test_systemd_takes_the_unit(write: Write, tmp_path: Path, text: str) -> None:
    unit = unit_text(load_config(write(text)), "root")
    assert check_unit(unit) == ""
    assert "Unknown" in (check_unit(unit.replace("NoNewPrivileges", "NoNewPrivilege")) or "")
    path = tmp_path / "fthnet.service"
    path.write_text(unit)
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=45", path], capture_output=True, text=True
    )
    if "unrecognized option" not in done.stderr:  # older than 250
        assert done.returncode == 0, done.stdout


def test_without_systemd_analyze_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert check_unit("no unit") is None


def test_install_writes_the_unit_and_makes_the_folders(write: Write, tmp_path: Path) -> None:
    import pwd

    me = pwd.getpwuid(os.getuid()).pw_name
    config = load_config(write(f'[camera]\nsource = "0"\n[records]\npath = "{tmp_path}/new/deep/r.jsonl"'))
    unit = tmp_path / "fthnet.service"
    text = unit_text(config, me)
    for _ in range(2):
        install(unit, text, config, me)
        assert unit.read_text() == text
    assert unit.stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "new" / "deep").is_dir()
    unit.write_text("[Service]\nExecStart=/bin/true\n")
    with pytest.raises(InputError, match="which stays as it is"):
        install(unit, text, config, me)
    assert "/bin/true" in unit.read_text()
    with pytest.raises(InputError, match="useradd --system"):
        install(unit, text, config, "nobody-of-this-name")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected permission to write"):
        install(tmp_path / "file" / "x.service", text, config, me)


def test_the_command(write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = write(FULL)
    printed = CliRunner().invoke(install_service, ["--config", str(path), "--user", "eve", "--print"])
    assert printed.exit_code == 0, printed.exception
    assert unit_text(load_config(path), "eve") in printed.output
    by_environment = CliRunner().invoke(install_service, ["--print"], env={"FTHNET_CONFIG": str(path)})
    assert f"--config {path}" in by_environment.output
    monkeypatch.setattr(service, "UNIT_PATH", tmp_path / "fthnet.service")
    if not Path("/run/systemd/system").is_dir():
        refused = CliRunner().invoke(install_service, ["--config", str(path)])
        assert isinstance(refused.exception, InputError)
        assert "--print shows the unit" in str(refused.exception)
        assert not (tmp_path / "fthnet.service").exists()
