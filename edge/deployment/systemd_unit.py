"""Life under systemd: the unit that starts the kit, and the signs of life that keep it from being restarted."""

from __future__ import annotations

import grp
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from fthnet_kit.edge.deployment.config_sections import Config
from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.files import make_folder, write_atomically
from fthnet_kit.edge.outputs.preview.access import Address
from fthnet_kit.edge.outputs.watchdog import WATCHDOG_S

UNIT_PATH = Path("/etc/systemd/system/fthnet.service")
STATE_PATH = Path("/var/lib/fthnet")
HEADER = "# Written by `fthnet install-service`; changes belong into `systemctl edit fthnet`."
HOMES = ("/home", "/root", "/run/user")  # what ProtectHome= hides
DEVICE_GROUPS = ("video", "render")
WITHOUT_NETWORK = """\
# Neither camera nor outputs need another machine.
IPAddressDeny=any
IPAddressAllow=localhost
"""

MAKE_USER = f"sudo useradd --system --home-dir {STATE_PATH} --shell /usr/sbin/nologin {{user}}"

UNIT = """\
{header}
[Unit]
Description=FTHNet Edge Kit: live quality of fundus images
After=network.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
User={user}
{groups}StateDirectory=fthnet
WorkingDirectory=%S/fthnet
Environment=PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1 XDG_CACHE_HOME=%S/fthnet/cache
UMask=0077

# Ready is the first result; an engine may be built before it.
TimeoutStartSec=30min
TimeoutStopSec=20
# A hang stops the signs of life: SIGABRT writes where every thread stands to the journal, then a new start.
WatchdogSec={watchdog_s}
WatchdogSignal=SIGABRT
LimitCORE=0
Restart=always
RestartSec=2

# Memory: watch `systemctl status fthnet` for a day, then set about twice of what it shows.
MemoryMax=75%
TasksMax=256

# What it may write
ProtectSystem=strict
{write_paths}ProtectHome={protect_home}
{private_tmp}

# What it may touch: cameras and GPUs. Nodes that a GPU's driver makes on demand must be there before the start.
DevicePolicy=closed
DeviceAllow=char-video4linux rw
DeviceAllow=char-media rw
DeviceAllow=char-drm rw
DeviceAllow=char-nvidia* rw
DeviceAllow=char-nvhost* rw
DeviceAllow=/dev/nvmap rw

# What it may do. MemoryDenyWriteExecute is left out: CUDA and TensorRT write code and run it.
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
LockPersonality=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
KeyringMode=private
RemoveIPC=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM
{network}
[Install]
WantedBy=multi-user.target
"""


def unit_text(config: Config, user: str, executable: Path | None = None) -> str:
    """The systemd unit that runs a configuration.

    Args:
        config: read from a file.
        user: whom the service runs as.
        executable: Python; None for this one.

    Raises:
        InputError: the configuration has no file or no source, or the user's name is none.
    """
    if config.path is None or config.camera.source is None:
        raise InputError(f"{config.path}: expected camera.source, found none; a service needs to know its camera")
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", user):
        raise InputError(f"--user: expected a user's name, found {user!r}")
    if user == "root":
        raise InputError(
            f"--user: expected a user without rights, found root; {MAKE_USER.format(user='fthnet')} makes one"
        )
    kit = [] if executable else [Path(__file__)]
    executable = executable or Path(sys.executable)
    path = config.path.absolute()
    command = [str(executable), "-m", "fthnet_kit.edge.cli", "run", "--config", str(path)]
    groups = device_groups()
    seen = [executable, path, *kit, *write_paths(config)]
    seen += [
        path for path in (config.model.bundle, config.model.require_signature, config.records.key) if path is not None
    ]
    writable = " ".join(_quoted(str(each)) for each in write_paths(config))
    return UNIT.format(
        header=HEADER,
        command=" ".join(_quoted(word).replace("$", "$$") for word in command),
        user=user,
        groups=f"SupplementaryGroups={' '.join(groups)}\n" if groups else "",
        watchdog_s=WATCHDOG_S,
        write_paths=f"ReadWritePaths={writable}\n" if writable else "",
        protect_home="read-only" if _any_below(seen, *HOMES) else "yes",
        network="" if _needs_network(config) else WITHOUT_NETWORK,
        private_tmp=_private_tmp(config.camera.source, seen),
    )


def _needs_network(config: Config) -> bool:
    """Whether a run talks to other machines: its camera, its broker, or who looks at its page."""
    source = config.camera.source or ""
    served = config.serve.address is not None and not Address.parse(config.serve.address).loopback
    local = source.isdecimal() or source.startswith(("/dev/", "csi://", "sim:")) or "://" not in source
    return config.mqtt.url is not None or served or not local or source.startswith("gst:")


def write_paths(config: Config) -> list[Path]:
    """Folders that a run writes to, apart from the service's own state."""
    wanted = [
        None if config.records.path is None else config.records.path.parent,
        config.best_shot.folder,
        None if config.mqtt.url is None or config.mqtt.queue is None else config.mqtt.queue.parent,
    ]
    return sorted({path for path in wanted if path is not None and not _any_below([path], str(STATE_PATH))})


def device_groups() -> list[str]:
    """Groups that cameras and GPUs belong to; systemd starts nothing for a group that the machine does not have."""
    known = {group.gr_name for group in grp.getgrall()}
    return [name for name in DEVICE_GROUPS if name in known]


def install(unit: Path, text: str, config: Config, user: str) -> None:
    """Write the unit, and make the folders that the configuration writes to.

    Raises:
        InputError: no such user, no permission, or a unit of this name that is not ours.
    """
    try:
        number = pwd.getpwnam(user).pw_uid
    except KeyError as error:
        raise InputError(
            f"--user: expected a user of this machine, found none named {user}; {MAKE_USER.format(user=user)} makes one"
        ) from error
    if number == 0:
        raise InputError(f"--user: expected a user without rights, found {user}, which is another name of root")
    try:
        if unit.exists() and not unit.read_text(encoding="utf-8").startswith(HEADER):
            raise InputError(f"{unit}: expected a unit of ours or none, found another one, which stays as it is")
        for folder in write_paths(config):
            if not folder.exists():
                make_folder(folder, private=True)
                shutil.chown(folder, user)
        write_atomically(unit, text.encode())
    except OSError as error:
        raise InputError(
            f"{error.filename or unit}: expected permission to write, found: {error.strerror}; "
            "run it with sudo, or with --print"
        ) from error


def check_unit(text: str) -> str | None:
    """What `systemd-analyze verify` finds wrong; empty for nothing, None where there is no such program."""
    program = shutil.which("systemd-analyze")
    if program is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        unit = Path(folder) / UNIT_PATH.name
        unit.write_text(text, encoding="utf-8")
        done = subprocess.run([program, "verify", str(unit)], capture_output=True, text=True, check=False)  # noqa: S603
    found = (done.stdout + done.stderr).strip()
    return found or (f"systemd-analyze ended with exit code {done.returncode}" if done.returncode else "")


def _private_tmp(source: str, seen: list[Path]) -> str:
    if source.startswith("csi:") or "nvargus" in source:
        return "# The socket of nvargus-daemon lies in /tmp.\nPrivateTmp=no"
    return f"PrivateTmp={'no' if _any_below(seen, '/tmp', '/var/tmp') else 'yes'}"  # noqa: S108


def _any_below(paths: list[Path], *folders: str) -> bool:
    """Whether a path, or what it is a link to, lies in one of the folders."""
    reached = {each for path in paths for each in (path, path.resolve())}
    return any(path == Path(folder) or Path(folder) in path.parents for path in reached for folder in folders)


def _quoted(word: str) -> str:
    """A word as systemd reads it back."""
    if any(ord(character) < 32 for character in word):
        raise InputError(f"expected a path without control characters, found {word!r}")
    escaped = word.replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if re.search(r"[\s\"'\\;]", word) else escaped
