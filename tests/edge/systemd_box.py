"""A real systemd as process 1, in namespaces of its own, on a machine whose files it cannot change.

Every file system of the machine is read-only inside, `/run`, `/tmp`, `/var/lib`, `/var/log` and the folder of units are
empty and in memory, and of the machine's units it knows none but the journal's. Needs root, cgroup 2, util-linux, and
FTHNET_TEST_SYSTEMD=1 from whoever owns the machine.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

START_S = 20.0
PROGRAM = next(
    (path for path in map(Path, ("/lib/systemd/systemd", "/usr/lib/systemd/systemd")) if path.exists()), None
)
TOOLS = ("unshare", "nsenter", "mount", "systemctl", "journalctl")
IN_MEMORY = ("/run", "/tmp", "/var/tmp", "/var/lib", "/var/log", "/etc/systemd/system")

# Keeps the group of processes, and removes it when systemd or its own standard input ends, however the tests end.
OUTER = r"""
set -eu
mount -t tmpfs box /run
mkdir /run/groups
mount -t cgroup2 groups /run/groups
group=/run/groups/fthnet-box-$$
mkdir "$group"
exec 3<&0
sh -c 'echo $$ > "$1/cgroup.procs"; shift; exec "$@"' sh "$group" \
    unshare --fork --kill-child=KILL --pid --mount --uts --ipc --net --cgroup --propagation private \
    sh -c "$INNER" </dev/null 3<&- &
systemd=$!
trap '' PIPE
sh -c 'cat >/dev/null; kill -KILL "$1"' sh $systemd <&3 >/dev/null 2>&1 &
watch=$!
wait $systemd || :
kill $watch 2>/dev/null || :
for attempt in 1 2 3 4 5 6 7 8 9 10; do
    [ ! -e "$group/cgroup.kill" ] || echo 1 > "$group/cgroup.kill"
    ! find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || break
    sleep 0.2
done
"""

INNER = r"""
set -eu
points=$(while read -r _ _ _ _ point _; do printf '%s\n' "$point"; done < /proc/self/mountinfo)
printf '%s\n' "$points" | while read -r point; do
    mount -o remount,bind,ro "$(printf %b "$point")"
done
for folder in $IN_MEMORY; do mount -t tmpfs -o mode=1777 box "$folder"; done
chmod 755 /run /var/lib /var/log /etc/systemd/system
mkdir /run/devices
mount --bind /dev /run/devices
mount -t tmpfs -o mode=755 box /dev
for node in null zero full random urandom tty; do
    : > /dev/$node
    mount --bind /run/devices/$node /dev/$node
done
umount /run/devices
rmdir /run/devices
mkdir /dev/shm /dev/pts
mount -t tmpfs -o mode=1777 box /dev/shm
mount -t devpts -o newinstance,ptmxmode=666 box /dev/pts
ln -s pts/ptmx /dev/ptmx
ln -s /proc/self/fd /dev/fd
mount -t proc proc /proc
for path in /proc/sys /proc/sysrq-trigger; do
    [ -e $path ] || continue
    mount --bind $path $path
    mount -o remount,bind,ro $path
done
mount -t cgroup2 groups /sys/fs/cgroup
for folder in / /etc /usr /var /root /home /proc/sys /sys "$PWD"; do
    [ ! -w "$folder" ] || { echo "$folder can be written to"; exit 1; }
done
for name in sysinit basic shutdown multi-user box; do
    printf '[Unit]\nDefaultDependencies=no\nAllowIsolate=yes\n' > /etc/systemd/system/$name.target
done
printf 'Requires=systemd-journald.service\nAfter=systemd-journald.service\n' >> /etc/systemd/system/box.target
for name in systemd-journald.service systemd-journald.socket; do
    ln -s "${PROGRAM%/*}/system/$name" /etc/systemd/system/$name
done
mkdir /run/no-generators
exec env -i container=fthnet-box PATH="$PATH" LANG=C.UTF-8 \
    SYSTEMD_UNIT_PATH=/etc/systemd/system SYSTEMD_GENERATOR_PATH=/run/no-generators \
    "$PROGRAM" --system --unit=box.target --log-target=journal --show-status=no
"""


class NoBoxError(Exception):
    """Why there can be none on this machine."""


class SystemdBox:
    """A context manager.

    Raises:
        NoBoxError: systemd cannot be started here.
    """

    def __enter__(self) -> SystemdBox:
        refuse_where_it_cannot_be()
        environment = {**os.environ, "INNER": INNER, "PROGRAM": str(PROGRAM), "IN_MEMORY": " ".join(IN_MEMORY)}
        self._outer = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", OUTER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            self._pid = self._find()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def run(self, *command: object, check: bool = True, timeout: float = 60) -> str:
        """Output of a command inside; its errors belong to it."""
        inside = ["nsenter", "--target", str(self._pid), "--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup"]
        done = subprocess.run(
            [*inside, *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0 or not check, f"{command}: exit code {done.returncode}: {done.stdout}"
        return done.stdout

    def write(self, path: Path | str, text: str) -> None:
        """A file inside, with the folders above it."""
        self.run("sh", "-c", 'mkdir -p "$(dirname "$1")" && printf %s "$2" > "$1"', "sh", path, text)

    def state(self, unit: str) -> dict[str, str]:
        """What systemd knows of a unit."""
        return dict(line.split("=", 1) for line in self.run("systemctl", "show", unit).splitlines() if "=" in line)

    def _find(self) -> int:
        """Number of the process that is 1 inside, when it has started."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._outer.poll() is None:
            for pid in _below(self._outer.pid):
                if _name(pid) == "systemd":
                    self._pid = pid
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        if self.run("systemctl", "is-system-running", check=False, timeout=10).strip() == "running":
                            return pid
            time.sleep(0.1)
        raise NoBoxError(f"systemd did not start in namespaces of its own: {self._said() or 'it said nothing'}")

    def _said(self) -> str:
        assert self._outer.stdout is not None
        ready, _, _ = select.select([self._outer.stdout], [], [], 0.5)
        return os.read(self._outer.stdout.fileno(), 4096).decode(errors="replace").strip() if ready else ""

    def _end(self) -> None:
        assert self._outer.stdin is not None
        for pid in _below(self._outer.pid):
            if _name(pid) == "systemd":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)  # and all inside with it, as it is their process 1
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._outer.wait(5)
        self._outer.stdin.close()
        try:
            self._outer.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._outer.pid, signal.SIGKILL)
            self._outer.wait()
        assert self._outer.stdout is not None
        self._outer.stdout.close()


def refuse_where_it_cannot_be() -> None:
    """Raise NoBoxError for what can be known without trying."""
    missing = [name for name in TOOLS if shutil.which(name) is None]
    if not sys.platform.startswith("linux") or PROGRAM is None or missing:
        raise NoBoxError(f"systemd or {', '.join(missing) or 'Linux'} is not there")
    if os.environ.get("FTHNET_TEST_SYSTEMD") != "1":
        raise NoBoxError("FTHNET_TEST_SYSTEMD=1 would allow to start one in namespaces of its own")
    if os.geteuid():
        raise NoBoxError("only root can start systemd in namespaces of its own")
    python, here = Path(sys.executable), Path(__file__)
    if any(Path(folder) in path.resolve().parents for folder in IN_MEMORY for path in (python, here)):
        raise NoBoxError(f"the kit or its Python lies in one of {', '.join(IN_MEMORY)}")


def _below(pid: int) -> list[int]:
    """A process's descendants."""
    try:
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return []
    return [each for child in children for each in (child, *_below(child))]


def _name(pid: int) -> str:
    """Name of the program that a process runs; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/exe").readlink().name
    except OSError:
        return ""
