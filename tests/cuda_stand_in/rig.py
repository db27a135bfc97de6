"""Runs Python on a CUDA driver that lives in host memory, so that PyCUDA works without a GPU.

A process loads its driver once, so what is tested runs in a process of its own:

    answer = on_stand_in('''
        import pycuda.driver as cuda, stand_in
        ...
        print(json.dumps(stand_in.live()))
    ''')
"""

from __future__ import annotations

import atexit
import functools
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent
SOURCE = FOLDER / "cuda_stand_in.c"
FLAGS = ("-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-shared", "-fPIC", "-pthread", "-fvisibility=hidden")
IMPORTS = "import gc, json, sys, threading, warnings\nimport numpy as np\n"


def compiler() -> str | None:
    return next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)


def build_driver(folder: Path, *flags: str) -> str:
    """Compiles the driver as folder/libcuda.so.1, and as libcuda.so for linkers; returns the compiler's messages."""
    library = folder / "libcuda.so.1"
    command = [compiler() or "cc", *FLAGS, *flags, "-Wl,-soname,libcuda.so.1", str(SOURCE), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (folder / "libcuda.so").symlink_to(library.name)
    return done.stderr


@functools.cache
def driver_folder() -> Path:
    """The folder with this test session's libcuda.so.1."""
    folder = Path(tempfile.mkdtemp(prefix="cuda-stand-in-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    build_driver(folder)
    return folder


def missing() -> str | None:
    """Why nothing can run on the stand-in here; None where everything is there."""
    if not sys.platform.startswith("linux"):
        return "the CUDA stand-in is a Linux library"
    if compiler() is None:
        return "no C compiler for the CUDA stand-in"
    try:
        importlib.metadata.version("pycuda")
    except importlib.metadata.PackageNotFoundError:
        return "PyCUDA is not installed: python -m tests.cuda_stand_in.install_pycuda"
    return None


def process_on_stand_in(
    script: str, *, python_path: Sequence[Path] = (), arguments: Sequence[object] = (), timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Runs a script in a process of its own, whose CUDA driver is the stand-in; skips where that cannot be."""
    if reason := missing():
        pytest.skip(reason)
    libraries = [str(driver_folder()), os.environ.get("LD_LIBRARY_PATH", "")]
    modules = [*map(str, python_path), str(FOLDER), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
        "PYTHONPATH": os.pathsep.join(filter(None, modules)),
    }
    command = [sys.executable, "-c", IMPORTS + textwrap.dedent(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout)


def on_stand_in(script: str, **options: Any) -> Any:
    """What the script prints on its last line, as JSON; options as for process_on_stand_in."""
    done = process_on_stand_in(script, **options)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return json.loads(done.stdout.splitlines()[-1])
