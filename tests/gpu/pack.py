"""Makes a pack with which a machine that has a GPU, but no network and no kit, runs everything that needs the GPU.

    python -m tests.gpu.pack [FOLDER]        (make gpu-pack; FOLDER is .gpu unless it is named)

The pack is one tar file: the kit's wheel with all that it depends on for the machine's Python, TensorRT for RTX on x86
(a Jetson brings TensorRT with JetPack), PyCUDA, the tests, and `trial.py`, which installs them into a folder of its
own, runs all of it and returns one archive. On that machine:

    tar xf fthnet-gpu-*.tar && python3 fthnet-gpu-*/trial.py

PyCUDA travels as a wheel where this machine can build one (the same Python and processor, CUDA's headers), otherwise as
source, which takes nvcc and a compiler over there.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from tests.cuda_stand_in.install_pycuda import REQUIREMENT as PYCUDA
from tests.cuda_stand_in.install_pycuda import build, obstacle

ROOT = Path(__file__).parents[2]
TESTS = ("onnx", "pytest", "hypothesis")
PYCUDA_NEEDS = ("pytools", "platformdirs", "mako", "siphash24")
TO_BUILD_PYCUDA = ("setuptools", "wheel")
RTX_VERSION = "1.6.1.120"  # the last that says "may run with suboptimal performance" on GPUs that it does not list
GLIBC = ("2_34", "2_28", "2_27", "2_17", "2014")


def pip(*arguments: object) -> None:
    """One pip command, which must succeed."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    subprocess.run(command, check=True)


def download(wheels: Path, python: str, machine: str, *what: object) -> None:
    """Wheels for another Python or processor, with all that they depend on."""
    tags = [f"manylinux_{name}_{machine}" if "_" in name else f"manylinux{name}_{machine}" for name in GLIBC]
    platforms = [word for tag in tags for word in ("--platform", tag)]
    target = ("--python-version", python, "--implementation", "cp", "--only-binary=:all:", *platforms)
    pip("download", "--dest", wheels, *target, *what)


def add_pycuda(wheels: Path, python: str, machine: str) -> str:
    """PyCUDA as a wheel or as source; returns which."""
    download(wheels, python, machine, *PYCUDA_NEEDS)
    here = f"{sys.version_info.major}.{sys.version_info.minor}", platform.machine()
    if here == (python, machine) and obstacle() is None:
        build("wheel", "--no-deps", "--wheel-dir", str(wheels))
        return "a wheel"
    download(wheels, python, machine, *TO_BUILD_PYCUDA)
    pip("download", "--no-deps", "--no-binary", "pycuda", "--no-build-isolation", "--dest", wheels, PYCUDA)
    return "source"


def fill(pack: Path, python: str, machine: str, rtx: str | None, cuda_provider: bool) -> None:
    """Everything that travels, into a folder."""
    wheels = pack / "wheels"
    wheels.mkdir(parents=True)
    pip("wheel", "--no-deps", "--wheel-dir", wheels, ROOT)
    download(wheels, python, machine, *wheels.glob("*.whl"), *TESTS)
    print(f"PyCUDA travels as {add_pycuda(wheels, python, machine)}")
    if rtx is not None:
        names = [f"tensorrt-rtx-cu13-{part}=={rtx}" for part in ("libs", "bindings")]
        download(wheels, python, machine, "--no-deps", *names)
        pip("wheel", "--no-deps", "--wheel-dir", wheels, f"tensorrt-rtx-cu13=={rtx}")
    if cuda_provider:
        (pack / "wheels-cuda").mkdir()
        download(pack / "wheels-cuda", python, machine, "--no-deps", "onnxruntime-gpu")
    files = subprocess.run(
        ["git", "ls-files", "tests", "pyproject.toml", "edge/assets", "edge/demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in files.stdout.splitlines():
        (pack / "kit" / name).parent.mkdir(parents=True, exist_ok=True)
        if not name.startswith("edge/demo/"):  # the wheel has it
            shutil.copy(ROOT / name, pack / "kit" / name)
    for name in ("trial.py", "torch_ratio.py"):
        shutil.copy(ROOT / "tests" / "gpu" / name, pack / name)
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(pack)}" for path in whole(pack)]
    (pack / "SHA256SUMS").write_text("\n".join(sums) + "\n", encoding="utf-8")


def whole(folder: Path) -> list[Path]:
    """The files of a folder, in order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def main(arguments: Sequence[str] | None = None) -> int:
    """Make a pack."""
    parser = argparse.ArgumentParser(description="Make an offline pack for a machine with an NVIDIA GPU.")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / ".gpu")
    parser.add_argument("--python", default=f"{sys.version_info.major}.{sys.version_info.minor}", help="of the machine")
    parser.add_argument("--machine", choices=("x86_64", "aarch64"), default="x86_64", help="aarch64: a Jetson")
    parser.add_argument("--tensorrt-rtx", default=RTX_VERSION, metavar="VERSION", help="'none': it has TensorRT itself")
    parser.add_argument("--cuda-provider", action="store_true", help="onnxruntime-gpu too, 250 MB")
    asked = parser.parse_args(arguments)
    rtx = None if asked.machine == "aarch64" or asked.tensorrt_rtx == "none" else asked.tensorrt_rtx
    name = f"fthnet-gpu-{asked.machine}-cp{asked.python.replace('.', '')}"
    pack = asked.folder / name
    shutil.rmtree(pack, ignore_errors=True)
    fill(pack, asked.python, asked.machine, rtx, asked.cuda_provider)
    archive = asked.folder / f"{name}.tar"
    with tarfile.open(archive, "w") as tar:  # wheels are compressed already
        tar.add(pack, name)
    print(f"{archive}: {archive.stat().st_size / 1e6:.0f} MB; there: tar xf {archive.name} && python3 {name}/trial.py")
    return 0


if __name__ == "__main__":
    sys.exit(main())
