"""systemd: signs of life over real sockets, and a unit that systemd's own checker takes."""

from __future__ import annotations

import configparser
import grp
import os
import pwd
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fthnet_kit.edge.capture.open_source import make_source
from fthnet_kit.edge.cli.install_service import install_service, make_device_key
from fthnet_kit.edge.deployment import systemd_unit as service
from fthnet_kit.edge.deployment.config_file import load_config
from fthnet_kit.edge.deployment.systemd_unit import HEADER, check_unit, install, unit_text, write_paths
from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.loop.live_loop import LiveLoop
from fthnet_kit.edge.loop.result import LiveResult
from fthnet_kit.edge.model.score import Score
from fthnet_kit.edge.outputs.watchdog import ENGINE_FAULT_S, Notifier, WatchdogSink
from fthnet_kit.edge.trust.keys import key_id, read_private_key, read_public_key
from tests.conftest import fake_scorer
from tests.edge.systemd_box import NoBoxError, SystemdBox


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


def result(value: float | None = 72.4, reason: str = "stalled") -> LiveResult:
    score = Score(value, raw=value, verdict="good") if value is not None else Score(None, reason=reason)  # type: ignore[arg-type]
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


def fault() -> LiveResult:
    score = Score(None, reason="engine_fault")
    return LiveResult(score, None, None, datetime.now(timezone.utc), None, None, 9, 3)


class Clocked:
    """A sink and what systemd hears of it, by a clock of its own."""

    def __init__(self, systemd: Systemd) -> None:
        self.now = 100.0
        self.systemd = systemd
        notifier = Notifier(systemd.address, watchdog_s=30.0, clock=lambda: self.now)
        self.sink = WatchdogSink(notifier, clock=lambda: self.now)

    def hears(self, what: LiveResult, after_s: float = 1.0) -> str:
        """What is said of a result."""
        self.now += after_s
        self.sink.offer(what)
        return "\n".join(self.systemd.told())


@pytest.mark.parametrize("between", [None, "no_retina", "stalled"])
def test_an_engine_that_only_fails_leads_to_a_new_process_and_not_before_its_time(
    systemd: Systemd, between: str | None
) -> None:
    clocked = Clocked(systemd)
    assert "READY=1" in clocked.hears(fault())
    for second in range(1, ENGINE_FAULT_S):
        assert "WATCHDOG=1" in clocked.hears(fault()), second
        if between is not None:
            clocked.sink.offer(result(None, between))
    asked = clocked.hears(fault())
    assert asked == f"STATUS=the engine has failed for {ENGINE_FAULT_S} s; starting again\nWATCHDOG=trigger"
    for lost in (fault(), result(None)):  # no sign of life again, where systemd is too old to be asked
        assert "WATCHDOG=1" not in clocked.hears(lost)
    assert "WATCHDOG=1" in clocked.hears(result())


def test_an_engine_that_fails_now_and_then_is_left_alone(systemd: Systemd) -> None:
    clocked = Clocked(systemd)
    for _ in range(2 * ENGINE_FAULT_S):
        for each in (fault(), fault(), result()):
            assert "WATCHDOG=1" in clocked.hears(each)


@pytest.mark.parametrize("reason", ["no_frame", "stalled", "frozen", "corrupt_frame", "no_retina"])
def test_a_camera_that_is_lost_for_hours_leads_to_no_new_process_even_after_a_fault(
    systemd: Systemd, reason: str
) -> None:
    clocked = Clocked(systemd)
    assert "WATCHDOG=1" in clocked.hears(fault())
    for _ in range(500):
        assert "WATCHDOG=1" in clocked.hears(result(None, reason), 10)
    assert "WATCHDOG=1" in clocked.hears(result())
    assert "WATCHDOG=1" in clocked.hears(fault())


def test_a_unit_without_a_watchdog_is_never_asked_for_a_new_process(systemd: Systemd) -> None:
    now = [0.0]
    sink = WatchdogSink(Notifier(systemd.address, clock=lambda: now[0]), clock=lambda: now[0])
    for _ in range(3):
        now[0] += ENGINE_FAULT_S
        sink.offer(fault())
    assert "READY=1" in systemd.told()
    assert systemd.silent(0.1)


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
        "NoNewPrivileges": "yes",
        "User": "eve",
        "StateDirectory": "fthnet",
        "ProtectHome": "yes",
    }.items():
        assert unit[name] == [value], name
    assert "char-video4linux rw" in unit["DeviceAllow"]
    assert unit["MemoryMax"] == ["75%"]
    assert unit["UMask"] == ["0077"]
    assert unit["SystemCallFilter"] == ["@system-service", "~@privileged"]
    assert "IPAddressDeny" not in unit  # a broker is asked for


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


@pytest.mark.parametrize(
    ("text", "open_"),
    [
        ('[camera]\nsource = "0"', False),
        ('[camera]\nsource = "/dev/video2?width=640&height=480"\n[serve]\naddress = "8080"', False),
        ('[camera]\nsource = "sim:"', False),
        ('[camera]\nsource = "rtsp://10.0.0.7/"', True),
        ('[camera]\nsource = "gst:udpsrc"', True),
        ('[camera]\nsource = "0"\n[serve]\naddress = "0.0.0.0:8080"', True),
        ('[camera]\nsource = "0"\n[mqtt]\nurl = "mqtt://broker"', True),
    ],
)
def test_other_machines_are_out_of_reach_where_none_is_asked_for(write: Write, text: str, open_: bool) -> None:
    unit = settings(unit_text(load_config(write(text)), "eve"))
    assert unit.get("IPAddressDeny") == (None if open_ else ["any"])
    assert unit.get("IPAddressAllow") == (None if open_ else ["localhost"])


def test_nobody_runs_it_as_root(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(write('[camera]\nsource = "0"'))
    with pytest.raises(InputError, match="a user without rights, found root"):
        unit_text(config, "root")
    monkeypatch.setattr("pwd.getpwnam", lambda name: pwd.struct_passwd((name, "x", 0, 0, "", "/", "/bin/sh")))
    with pytest.raises(InputError, match="another name of root"):
        install(tmp_path / "fthnet.service", unit_text(config, "toor"), config, "toor")
    assert not (tmp_path / "fthnet.service").exists()


def test_only_groups_that_the_machine_has_are_asked_for(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(write('[camera]\nsource = "0"'))
    for known, asked in ({"root"}, None), ({"root", "video"}, ["video"]), ({"render", "video"}, ["video render"]):
        groups = [grp.struct_group((name, "x", 1, [])) for name in known]
        monkeypatch.setattr(grp, "getgrall", lambda groups=groups: groups)
        assert settings(unit_text(config, "eve")).get("SupplementaryGroups") == asked


def test_a_link_into_a_home_is_followed(write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As a virtual environment's Python is one."""
    real = tmp_path / "pyenv" / "python3"
    real.parent.mkdir()
    real.touch()
    (tmp_path / "python").symlink_to(real)
    monkeypatch.setattr(service, "HOMES", (str(real.parent),))
    config = load_config(write('[camera]\nsource = "0"'))
    assert settings(unit_text(config, "eve", tmp_path / "python"))["ProtectHome"] == ["read-only"]
    assert settings(unit_text(config, "eve", Path("/usr/bin/python3")))["ProtectHome"] == ["yes"]


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
    unit = unit_text(load_config(write(text)), "daemon")
    assert check_unit(unit) == ""
    assert "Unknown" in (check_unit(unit.replace("NoNewPrivileges", "NoNewPrivilege")) or "")
    path = tmp_path / "fthnet.service"
    path.write_text(unit)
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=25", path], capture_output=True, text=True
    )
    if "unrecognized option" not in done.stderr:  # older than 250
        assert done.returncode == 0, done.stdout


def test_without_systemd_analyze_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert check_unit("no unit") is None


def test_install_writes_the_unit_and_makes_the_folders(write: Write, tmp_path: Path) -> None:
    me = "nobody" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
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


def test_the_device_key_is_its_users_alone_and_made_once(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    key = tmp_path / "etc" / "device"
    me = pwd.getpwuid(os.getuid()).pw_name
    before = os.umask(0)
    try:
        public = make_device_key(key, me)
    finally:
        os.umask(before)
    assert (key.stat().st_mode & 0o777, key.stat().st_uid) == (0o600, os.getuid())
    assert key_id(read_private_key(key).public_key()) == key_id(read_public_key(public))
    content = key.read_bytes()
    with pytest.raises(InputError):
        make_device_key(key, me)
    assert key.read_bytes() == content


def test_a_key_that_the_service_could_not_read_is_not_left(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    with pytest.raises(InputError, match="nobody-of-this-name"):
        make_device_key(tmp_path / "device", "nobody-of-this-name")
    assert list(tmp_path.iterdir()) == []


class InBox:
    """The service, as a real systemd runs it."""

    def __init__(self, box: SystemdBox) -> None:
        self.box = box

    def fthnet(self, *arguments: object) -> str:
        return self.box.run(sys.executable, "-m", "fthnet_kit.edge.cli", *arguments)

    def configure(self, source: str) -> None:
        self.box.write("/run/fthnet.toml", f'[camera]\nsource = "{source}"\n[records]\npath = "{RECORDS}"\n')

    def change(self, name: str, settings: str) -> None:
        """What an operator writes with `systemctl edit`."""
        self.box.write(f"/etc/systemd/system/fthnet.service.d/{name}.conf", f"[Service]\n{settings}\n")
        self.box.run("systemctl", "daemon-reload")

    def state(self) -> dict[str, str]:
        return self.box.state("fthnet.service")

    def start(self) -> str:
        """Number of the process, once systemd takes it for ready."""
        self.box.run("systemctl", "start", "fthnet")
        return self.state()["MainPID"]

    def stop(self) -> float:
        began = time.monotonic()
        self.box.run("systemctl", "stop", "fthnet")
        return time.monotonic() - began

    def wait_for(self, wanted: Callable[[dict[str, str]], bool], seconds: float) -> dict[str, str]:
        deadline = time.monotonic() + seconds
        while not wanted(state := self.state()):
            assert time.monotonic() < deadline, (state, self.journal()[-3000:])
            time.sleep(0.05)
        return state

    def next_process(self, before: str, seconds: float = 20) -> str:
        """Number of the process that follows another one, once it is ready."""
        ready = self.wait_for(
            lambda state: state["ActiveState"] == "active" and state["MainPID"] not in ("0", before), seconds
        )
        return ready["MainPID"]

    def journal(self) -> str:
        return self.box.run("journalctl", "--unit", "fthnet", "--no-pager", "--output", "cat")

    def ends(self) -> list[str]:
        """How its processes ended, in order: result, how, and exit code or signal."""
        return [line.removeprefix("ended ") for line in self.journal().splitlines() if line.startswith("ended ")]


RECORDS = "/var/lib/fthnet/r.jsonl"
WATCHED_S = 4
EDITED = f"""\
WatchdogSec={WATCHED_S}
RestartSec=300ms
ExecStopPost=/bin/sh -c 'echo ended $SERVICE_RESULT $EXIT_CODE $EXIT_STATUS'"""
LOST_ENGINE = """\
from fthnet_kit.edge.outputs import watchdog
from fthnet_kit.edge.capture.open_source import make_source
from fthnet_kit.edge.errors import EngineError
from fthnet_kit.edge.loop.live_loop import LiveLoop
from fthnet_kit.edge.inference.scorer import QualityScorer
watchdog.ENGINE_FAULT_S = 1
scorer = QualityScorer.from_bundle()
def infer(_):
    raise EngineError("lost")
scorer.backend.infer = infer
LiveLoop(lambda: make_source("sim:?seconds=0&fps=20"), scorer).feed([watchdog.WatchdogSink()])
"""


@pytest.fixture(scope="module")
def shared_box() -> Iterator[InBox]:
    """The unit of `fthnet install-service` on a systemd of its own; only its times are shortened."""
    try:
        with SystemdBox() as box:
            inside = InBox(box)
            inside.configure("sim:?seconds=0&fps=5")
            owner = Path(sys.executable).resolve().owner()
            user = "daemon" if owner == "root" else owner  # the unit refuses root
            written = inside.fthnet("install-service", "--config", "/run/fthnet.toml", "--user", user)
            inside.change("owner", f"User={owner}")  # who may read this checkout
            assert "written: /etc/systemd/system/fthnet.service" in written
            inside.change("times", EDITED)
            yield inside
    except NoBoxError as error:
        pytest.skip(str(error))


@pytest.fixture
def in_box(shared_box: InBox) -> Iterator[InBox]:
    yield shared_box
    shared_box.stop()
    shared_box.configure("sim:?seconds=0&fps=5")


@pytest.mark.slow
def test_systemd_starts_watches_restarts_and_stops_the_service(in_box: InBox) -> None:
    process = in_box.start()
    state = in_box.state()
    assert (state["ActiveState"], state["Type"]) == ("active", "notify")
    assert state["StatusText"].startswith("score "), state
    for number, ended in (("KILL", "signal killed KILL"), ("TERM", "success exited 0")):
        in_box.box.run("kill", f"-{number}", process)
        process = in_box.next_process(process)
        assert in_box.ends()[-1] == ended
    stopped = time.monotonic()
    in_box.box.run("kill", "-STOP", process)
    process = in_box.next_process(process, WATCHED_S + 15)
    assert time.monotonic() - stopped > WATCHED_S / 2
    assert in_box.ends()[-1] == "watchdog killed ABRT"
    assert in_box.state()["NRestarts"] == "3"
    journal = in_box.journal()
    assert "Fatal Python error: Aborted" in journal
    assert "edge/loop/live_loop.py" in journal  # where its threads stood
    assert in_box.stop() < 10
    assert in_box.ends()[-1] == "success exited 0"
    assert in_box.fthnet("records", "verify", RECORDS).startswith("whole: ")
    assert "Traceback" not in journal


@pytest.mark.slow
def test_systemd_stops_the_service_while_it_starts(in_box: InBox) -> None:
    for after_s in (0.1, 0.3, 0.6):
        before = len(in_box.ends())
        in_box.box.run("systemctl", "start", "--no-block", "fthnet")
        time.sleep(after_s)
        assert in_box.stop() < 10
        assert in_box.ends()[before:] in (["success exited 0"], ["success killed TERM"])
    assert "Traceback" not in in_box.journal()


@pytest.mark.slow
def test_systemd_starts_a_service_without_a_camera_again_and_again(in_box: InBox) -> None:
    in_box.configure("/dev/video77")
    before = len(in_box.ends())
    in_box.box.run("systemctl", "start", "--no-block", "fthnet")
    in_box.wait_for(lambda state: int(state["NRestarts"]) >= 2, 20)
    assert set(in_box.ends()[before:]) == {"exit-code exited 5"}
    in_box.configure("sim:?seconds=0&fps=5")
    in_box.next_process("0")


@pytest.mark.slow
def test_systemd_leaves_a_service_alone_whose_camera_is_lost(in_box: InBox) -> None:
    server = (
        f"{sys.executable} -m fthnet_kit.bench.endurance.faulty_camera --port 8099 --fps 10 --width 320 --height 240"
    )
    with_input = f"/bin/sh -c 'sleep 600 | {server}'"  # it ends with its standard input
    in_box.box.write("/etc/systemd/system/camera.service", f"[Service]\nExecStart={with_input}\n")
    in_box.configure("http://127.0.0.1:8099/video.mjpg")
    in_box.box.run("systemctl", "daemon-reload")
    in_box.box.run("systemctl", "start", "camera")
    in_box.box.run("systemctl", "start", "--no-block", "fthnet")
    process = in_box.next_process("0")
    in_box.box.run("systemctl", "kill", "--signal=KILL", "camera")
    in_box.wait_for(lambda state: state["StatusText"].startswith("no_frame"), 10)
    time.sleep(1.5 * WATCHED_S)
    state = in_box.state()
    assert (state["ActiveState"], state["MainPID"]) == ("active", process)
    in_box.box.run("systemctl", "start", "camera")
    in_box.wait_for(lambda state: state["StatusText"].startswith("score "), 10)
    assert in_box.state()["MainPID"] == process


@pytest.mark.slow
def test_systemd_starts_a_service_again_whose_engine_is_lost(in_box: InBox) -> None:
    in_box.box.write("/run/lost_engine.py", LOST_ENGINE)
    in_box.change("engine", f"ExecStart=\nExecStart={sys.executable} /run/lost_engine.py\nWatchdogSec=60")
    process = in_box.start()
    in_box.wait_for(lambda state: state["MainPID"] not in ("0", process), 15)
    assert in_box.ends()[-1] == "watchdog killed ABRT"
