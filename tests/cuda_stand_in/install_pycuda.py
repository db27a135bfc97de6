"""Installs PyCUDA into the environment that runs this, for the tests on the CUDA stand-in.

    python -m tests.cuda_stand_in.install_pycuda

PyCUDA is built from source: that takes CUDA's headers and a C++ compiler, but neither a GPU nor its driver. Where they
are missing nothing happens, and the tests that need PyCUDA skip. It is not for production: unoptimised, without CURAND.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from tests.cuda_stand_in.rig import build_driver, compiler

REQUIREMENT = "pycuda==2026.1"
HEADERS = ("cuda.h", "cudaProfiler.h")


def installed() -> str | None:
    try:
        return importlib.metadata.version("pycuda")
    except importlib.metadata.PackageNotFoundError:
        return None


def cuda_root() -> Path | None:
    """The folder of the CUDA toolkit that has the headers."""
    nvcc = shutil.which("nvcc")
    places = [
        os.environ.get("CUDA_HOME"),
        os.environ.get("CUDA_PATH"),
        nvcc and Path(nvcc).resolve().parents[1],
        "/usr/local/cuda",
        "/opt/cuda",
        "/usr",
    ]
    roots = [Path(place) for place in places if place]
    return next((root for root in roots if all((root / "include" / name).is_file() for name in HEADERS)), None)


def obstacle() -> str | None:
    """What keeps PyCUDA from being built here."""
    if compiler() is None or shutil.which(os.environ.get("CXX", "g++")) is None:
        return "no C and C++ compiler"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "no Python headers"
    if cuda_root() is None:
        return "no CUDA headers (CUDA_HOME, nvcc's folder, /usr/local/cuda)"
    return None


def settings(root: Path, driver: Path) -> str:
    """PyCUDA's build settings: linked to the stand-in, since a machine without a GPU has no libcuda."""
    values = {
        "CUDA_ROOT": str(root),
        "CUDA_INC_DIR": [str(root / "include")],
        "CUDADRV_LIB_DIR": [str(driver)],
        "CUDA_ENABLE_CURAND": False,
        "CXXFLAGS": ["-O0", "-g0", "-w"],
    }
    return "".join(f"{name} = {value!r}\n" for name, value in values.items())


def build(*how: str) -> int:
    """Run one pip command on PyCUDA's source, such as ``install``; the exit code.

    PyCUDA reads its settings from the home folder, so the build gets a home of its own.

    pip's cache stays out of it: this build must not turn up in an environment that has a GPU.
    """
    with tempfile.TemporaryDirectory(prefix="pycuda-build-") as folder:
        root = cuda_root()
        assert root is not None
        build_driver(Path(folder))
        Path(folder, ".aksetup-defaults.py").write_text(settings(root, Path(folder)))
        pip_configuration = os.environ.get("XDG_CONFIG_HOME", str(Path.home() / ".config"))
        environment = {**os.environ, "HOME": folder, "XDG_CONFIG_HOME": pip_configuration}
        command = [sys.executable, "-m", "pip", *how, "--quiet", "--no-cache-dir", REQUIREMENT]
        return subprocess.run(command, env=environment).returncode


def main() -> int:
    if version := installed():
        print(f"PyCUDA {version} is installed")
        return 0
    if reason := obstacle():
        print(f"PyCUDA is not installed, and the tests that need it skip: {reason}")
        return 0
    print(f"building {REQUIREMENT} with the headers in {cuda_root()}/include: a minute or two", flush=True)
    return build("install")


if __name__ == "__main__":
    sys.exit(main())
