"""Runs the kit's wheel on an Arm that QEMU emulates: the kit, its aarch64 dependencies, Debian's arm64 Python.

    python -m tests.arm.run [FOLDER]        (make test-arm; FOLDER is .arm unless it is named, and is used again)

It needs no root, no Arm and no container: apt and dpkg of a Debian machine, pip, and both package indexes; where these
cannot be had it ends with exit code 75, having proved nothing. The tree is
Debian 12 (Python 3.11); the emulator is Debian 13's, since that of Debian 12 (QEMU 7.2) crashes in ONNX Runtime 1.32.
QEMU presents a Cortex-A76: NEON and dot products, neither SVE nor I8MM, as the Cortex-A78AE of a Jetson Orin.

What it proves: the wheel and its dependencies install and load on aarch64, and score there as they do here. What it
does not: how fast a real Arm is. An inference takes several hundred times as long here.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2

from fthnet_kit.edge.capture.degradations import degrade
from fthnet_kit.edge.model.choices import INT8_BUDGET

ROOT = Path(__file__).parents[2]
MIRROR = "http://deb.debian.org/debian"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
PYTHON = "python3.11"
TREE_PACKAGES = (PYTHON, "libgl1", "libglib2.0-0", "libgomp1", "libstdc++6")  # the last four: OpenCV, ONNX Runtime
EXTRAS = ("tornado", "prometheus_client")  # `serve`, for the page
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
CPU = "cortex-a76"
FP32_POINTS = 0.01
# `fthnet`, with more than a minute for one inference, which a busy machine may need to emulate.
FTHNET = (
    "-c",
    "from fthnet_kit.edge.inference import backend; backend.LONGEST_S = 600.0; "
    "from fthnet_kit.edge.cli.main import main; main()",
)
COMMAND_S = 900
FETCH_S = 300
UNREACHABLE = 75  # EX_TEMPFAIL of sysexits.h


class ArmError(Exception):
    """What the trial found, in a sentence."""


class UnreachableError(ArmError):
    """A package that cannot be had from here."""


def call(command: Sequence[object], **options: object) -> str:
    """Output of a command that must succeed."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise ArmError(f"{' '.join(map(str, command))[:200]}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return str(done.stdout)


def fetch(command: Sequence[object], **options: object) -> None:
    """A command that needs the network.

    Raises:
        UnreachableError: it failed, or took longer than `FETCH_S`.
    """
    try:
        call(command, timeout=FETCH_S, **options)
    except (ArmError, subprocess.TimeoutExpired, FileNotFoundError) as error:
        raise UnreachableError(f"not run, a package cannot be had: {error}") from error


def debian(folder: Path, suite: str, architecture: str, packages: Sequence[str]) -> Path:
    """Packages of a Debian release with all that they need, unpacked into a folder of their own.

    apt works in that folder alone: its lists, an empty record of what is installed, the machine's keys.
    """
    root = folder / f"{suite}-{architecture}"
    if (root / "done").exists():
        return root / "tree"
    shutil.rmtree(root, ignore_errors=True)
    for name in ("etc/apt/preferences.d", "state/lists/partial", "cache/archives/partial", "tree"):
        (root / name).mkdir(parents=True)
    (root / "status").touch()
    source = f"deb [signed-by={KEYRING}] {MIRROR} {suite} main\n"
    (root / "etc/apt/sources.list").write_text(source, encoding="ascii")
    settings = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "",
        "Dir::Etc": root / "etc/apt",
        "Dir::State": root / "state",
        "Dir::State::status": root / "status",
        "Dir::Cache": root / "cache",
    }
    configuration = "".join(f'{name} "{value}";\n' for name, value in settings.items())
    (root / "apt.conf").write_text(configuration, encoding="utf-8")
    environment = {**os.environ, "APT_CONFIG": str(root / "apt.conf")}
    fetch(["apt-get", "-q", "update"], env=environment)
    fetch(["apt-get", "-q", "-y", "--download-only", "install", *packages], env=environment)
    for package in sorted((root / "cache/archives").glob("*.deb")):
        call(["dpkg-deb", "-x", package, root / "tree"])
    shutil.rmtree(root / "cache")
    (root / "done").touch()
    return root / "tree"


def site_packages(folder: Path) -> Path:
    """The kit's wheel, built from this checkout, and its aarch64 dependencies."""
    wheels, site = folder / "wheel", folder / "site"
    for stale in (wheels, site):
        shutil.rmtree(stale, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    call([*pip, "wheel", "--no-deps", "--wheel-dir", wheels, ROOT])
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    version = PYTHON.removeprefix("python")
    target = ["--target", site, "--python-version", version, "--implementation", "cp", "--only-binary=:all:"]
    fetch([*pip, "install", *target, *platforms, *wheels.glob("*.whl"), *EXTRAS])
    return site


def pictures(folder: Path) -> list[Path]:
    """The shipped photograph, and it with two faults."""
    photograph = cv2.imread(str(ROOT / "edge/assets/retina.jpg"))
    folder.mkdir(exist_ok=True)
    made = {"retina": photograph}
    made |= {name: degrade(photograph, name, 0.5, 0) for name in ("defocus", "under_exposure")}
    for name, image in made.items():
        cv2.imwrite(str(folder / f"{name}.png"), image)
    return [folder / f"{name}.png" for name in made]


def scores(python: Sequence[object], precision: str, images: Sequence[Path]) -> list[float]:
    """What `fthnet score` says of each picture."""
    command = [*python, *FTHNET, "score", "--json", "--precision", precision, *images]
    lines = [json.loads(line) for line in call(command, timeout=COMMAND_S).splitlines()]
    if missing := [line for line in lines if line["score"] is None]:
        raise ArmError(f"score: expected a score, found {missing[0]['reason']} for {missing[0]['file']}")
    return [line["score"] for line in lines]


@contextmanager
def step(title: str) -> Iterator[None]:
    """Says how long something took."""
    began = time.monotonic()
    print(f"-- {title}", flush=True)
    yield
    print(f"   {time.monotonic() - began:.0f} s", flush=True)


def compare(arm: Sequence[object], images: Sequence[Path]) -> None:
    """Scores on the emulated Arm against those of this machine.

    Raises:
        ArmError: FP32 differs by more than 0.01 points, or INT8 by more than its gate.
    """
    here = scores([sys.executable], "fp32", images)
    budget = {"fp32": (FP32_POINTS, FP32_POINTS), "int8": (INT8_BUDGET.mean, INT8_BUDGET.p99)}
    for precision, (mean, most) in budget.items():
        with step(f"score, {precision}, {len(images)} pictures"):
            there = scores(arm, precision, images)
        there_and_here = zip(images, there, here, strict=True)
        for image, one, other in there_and_here:
            print(f"   {image.stem:<16} {one:8.3f} on Arm, {other:8.3f} here in FP32: {one - other:+.3f}")
        differences = [abs(one - other) for one, other in zip(there, here, strict=True)]
        if max(differences) > most or sum(differences) / len(differences) > mean:
            raise ArmError(f"{precision}: expected a mean of {mean} and at most {most} points, found {differences}")


def live(arm: Sequence[object], folder: Path) -> None:
    """Five seconds of the simulated camera, with records and the page's health."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    records = folder / "records.jsonl"
    records.unlink(missing_ok=True)
    source = "sim:?seconds=5&fps=1&width=320&height=320"  # an emulated processor draws no larger pictures in time
    command = [*arm, *FTHNET, "run", "--source", source, "--precision", "int8"]
    command += ["--records", records, "--serve", port]
    with (folder / "run.log").open("w") as log:
        run = subprocess.Popen([*map(str, command)], stdout=log, stderr=subprocess.STDOUT)
    try:
        health = wait_for_health(run, f"http://127.0.0.1:{port}/healthz")
        code = run.wait(COMMAND_S)
    finally:
        run.kill()
    print((folder / "run.log").read_text(encoding="utf-8"))
    found = [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()]
    scored = [record["score"] for record in found if record["score"] is not None]
    if code or not scored:
        raise ArmError(f"run: expected exit code 0 and a score, found {code} and {len(scored)} scores")
    print(f"   health: {health}\n   {len(found)} records, {len(scored)} with a score")


def wait_for_health(run: subprocess.Popen[bytes], url: str) -> str:
    """The page's last answer about its health while the process lives: 503 until there is a score."""
    answer = ""
    end = time.monotonic() + COMMAND_S
    while run.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return f"{response.status} {response.read().decode().strip()}"
        except urllib.error.HTTPError as error:
            answer = f"{error.code} {error.read().decode().strip()}"
        except OSError:
            pass  # not there yet, or busy
        time.sleep(0.5)
    if not answer:
        raise ArmError("run: expected an answer from the page's /healthz, found none")
    return answer


def main() -> int:
    """The trial; exit code 1 where something differs, 75 where its packages cannot be had."""
    began = time.monotonic()
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / ".arm").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with step("Debian 12 for arm64, and the emulator of Debian 13"):
            tree = debian(folder, "bookworm", "arm64", TREE_PACKAGES)
            emulator = debian(folder, "trixie", "amd64", ("qemu-user",)) / "usr/bin/qemu-aarch64"
        with step("the kit's wheel and its aarch64 dependencies"):
            site = site_packages(folder)
        environment = f"PYTHONPATH={site}"
        arm = ["nice", emulator, "-cpu", CPU, "-L", tree, "-E", environment, tree / "usr/bin" / PYTHON]
        print("  ", call([emulator, "--version"]).splitlines()[0])
        print("  ", call([*arm, "-c", "import platform; print(platform.machine(), platform.python_version())"]).strip())
        with step("doctor"):
            print(call([*arm, *FTHNET, "doctor"], timeout=COMMAND_S))
        compare(arm, pictures(folder / "pictures"))
        with step("run, five seconds of the simulated camera, with page and records"):
            live(arm, folder)
    except ArmError as error:
        print(f"arm: {error}", file=sys.stderr)
        return UNREACHABLE if isinstance(error, UnreachableError) else 1
    print(f"all of it in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
