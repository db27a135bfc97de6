"""The runtime on the interpreters and processors of JetPack: 3.10 (JetPack 6) and 3.12 (JetPack 7), on aarch64."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
OLDEST = (3, 10)
GLIBC = {"3.10": 35, "3.12": 39}  # minor version in Ubuntu 22.04 and 24.04, which JetPack 6 and 7 are made of
TESTS_NEED = ("pytest", "hypothesis", "jsonschema", "pillow")
COPIED = ("edge", "convert", "calibration", "bench", "docs", "tests", "pyproject.toml", "README.md", "LICENSE")


def run(*command: object, timeout: float = 900, **kwargs: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=timeout, **kwargs)  # type: ignore[call-overload]


def runtime_dependencies(python: str) -> list[str]:
    """What the project asks for on a Jetson.

    Our own markers are evaluated here for the Jetson, because pip evaluates markers for the machine that it runs on,
    whatever `--platform` and `--python-version` say. Those of the dependencies' dependencies stay pip's.
    """
    jetson = {"python_version": python, "platform_machine": "aarch64", "sys_platform": "linux"}
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    requirements = [Requirement(line) for line in listed]
    asked = [r for r in requirements if r.marker is None or r.marker.evaluate(jetson)]
    return [f"{requirement.name}{requirement.specifier}" for requirement in asked]


def resolve(python: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Asks pip which wheels a Jetson would get; where the index offers metadata apart, nothing large is fetched."""
    tags = [f"manylinux_2_{minor}_aarch64" for minor in range(GLIBC[python], 16, -1)] + ["manylinux2014_aarch64"]
    platforms = [argument for tag in tags for argument in ("--platform", tag)]
    target = ("--implementation", "cp", "--python-version", python, "--only-binary", ":all:", "--target", folder)
    report = ("--quiet", "--dry-run", "--ignore-installed", "--report", folder / "report.json")
    dependencies = runtime_dependencies(python)
    return run(sys.executable, "-m", "pip", "install", *report, *target, *platforms, *dependencies)


@pytest.fixture(scope="module")
def index() -> None:
    """Skips where no package index answers, so that an offline machine is no failure."""
    quick = ("--quiet", "--retries", "0", "--timeout", "15")
    done = run(sys.executable, "-m", "pip", "install", *quick, "--dry-run", "--no-deps", "--ignore-installed", "click")
    if done.returncode:
        pytest.skip("no package index can be reached")


@pytest.mark.long
@pytest.mark.usefixtures("index")
@pytest.mark.parametrize("python", GLIBC)
def test_the_runtime_has_wheels_for_a_jetson(python: str, tmp_path: Path) -> None:
    done = resolve(python, tmp_path)
    assert done.returncode == 0, done.stderr
    installed = json.loads((tmp_path / "report.json").read_text())["install"]
    wheels = {item["metadata"]["name"].lower(): item["download_info"]["url"].rsplit("/")[-1] for item in installed}
    assert {Requirement(line).name for line in runtime_dependencies(python)} <= set(wheels)
    assert all(name.endswith(("aarch64.whl", "-none-any.whl")) for name in wheels.values()), wheels
    compiled = {name for name, wheel in wheels.items() if wheel.endswith("aarch64.whl")}
    assert {"numpy", "opencv-python", "onnxruntime"} <= compiled


@pytest.mark.parametrize("path", sorted((ROOT / "edge").rglob("*.py")), ids=str)
def test_the_runtime_is_written_in_the_oldest_python(path: Path) -> None:
    ast.parse(path.read_text(encoding="utf-8"), filename=str(path), feature_version=OLDEST)


def interpreter(python: str) -> Path:
    """A working interpreter of that version on the path or among pyenv's, or a skip."""
    if python == f"{sys.version_info.major}.{sys.version_info.minor}":
        pytest.skip("this is the interpreter that runs the tests")
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found = [shutil.which(f"python{python}"), *sorted((pyenv / "versions").glob(f"{python}.*/bin/python{python}"))]
    code = f"import sys, venv, ensurepip; sys.exit('%d.%d' % sys.version_info[:2] != {python!r})"
    for candidate in filter(None, found):  # a shim of pyenv is on the path and refuses to run
        if run(candidate, "-c", code).returncode == 0:
            return Path(candidate)
    pytest.skip(f"no Python {python} with venv")


@pytest.mark.long
@pytest.mark.usefixtures("index")
@pytest.mark.parametrize("python", GLIBC)
def test_the_runtime_passes_its_tests_under_the_pythons_of_jetpack(python: str, tmp_path: Path) -> None:
    found = interpreter(python)
    source = tmp_path / "source"
    for name in COPIED:  # building in a copy leaves nothing in the checkout
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        source.mkdir(exist_ok=True)
        copy(ROOT / name, source / name)
    assert run(found, "-m", "venv", tmp_path / "venv").returncode == 0
    inside = tmp_path / "venv" / "bin" / "python"
    done = run(inside, "-m", "pip", "install", "--quiet", source, *TESTS_NEED)
    assert done.returncode == 0, done.stderr
    environment = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "FTHNET_DATA"}}
    command = (inside, "-m", "pytest", "-q", "-m", "not slow and not gpu and not long", "tests/edge")
    done = run(*command, cwd=source, env=environment, timeout=1800)
    if done.returncode == 1:  # some tests measure time: what a busy machine spoils passes when it runs alone
        done = run(*command, "--last-failed", cwd=source, env=environment, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
