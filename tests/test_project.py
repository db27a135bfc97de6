"""The shape of the project: import direction, light imports, help, the wheel."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib
import venv
import zipfile
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from fthnet_kit.bench.dossier.knowledge import weaknesses
from fthnet_kit.edge.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "edge": {"edge"},
    "calibration": {"calibration", "edge"},
    "convert": {"convert", "calibration", "edge"},
    "bench": {"bench", "convert", "calibration", "edge"},
}
COMPOSITION_ROOT = ROOT / "edge" / "cli" / "main.py"
HEAVY = (
    "torch",
    "onnx",
    "safetensors",
    "tensorrt",
    "pycuda",
    "matplotlib",
    "openpyxl",
    "openvino",
    "PIL",
    "paho",
    "pyarrow",
    "pydicom",
    "ray",
    "prometheus_client",
    "tornado",
    "cryptography",
    "cyclonedx",
)
NEEDS_EXTRA = {  # modules that are nothing without an optional library: importing them names the extra
    "fthnet_kit.edge.outputs.preview.prometheus",
    "fthnet_kit.edge.outputs.preview.handlers",
    "fthnet_kit.edge.outputs.preview.operations",
    "fthnet_kit.edge.outputs.preview.server",
    "fthnet_kit.convert.onnx_graph.fthnet_graph",
    "fthnet_kit.convert.onnx_graph.half_storage",
    "fthnet_kit.convert.onnx_graph.writer",
    "fthnet_kit.convert.precision.fp16_twin",
    "fthnet_kit.convert.precision.quantize",
    "fthnet_kit.convert.bundle.add_precisions",
    "fthnet_kit.convert.precision.quantize_report",
    "fthnet_kit.convert.precision.verify_report",
    "fthnet_kit.convert.precision.smoothing",
    "fthnet_kit.convert.precision.verify",
    "fthnet_kit.convert.network.fthnet",
    "fthnet_kit.convert.network.widen",
    "fthnet_kit.convert.network.aliveness",
    "fthnet_kit.convert.network.checkpoint",
    "fthnet_kit.convert.onnx_graph.export",
    "fthnet_kit.convert.onnx_graph.parity",
    "fthnet_kit.convert.bundle.write",
    "fthnet_kit.convert.bundle.train_to_bundle",
    "fthnet_kit.calibration.trainer",
    "fthnet_kit.bench.speed.peers",
    "fthnet_kit.convert.onnx_graph.rebatch",
}
PRODUCT = sorted(path for folder in MAY_IMPORT for path in (ROOT / folder).rglob("*.py"))


def dotted(path: Path) -> str:
    """The module's name of a file; a package's for its `__init__`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(["fthnet_kit", *parts[: -1 if parts[-1] == "__init__" else None]])


MODULES = [dotted(path) for path in PRODUCT if path.stem != "__main__"]
KNOWN = set(MODULES)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_folders(path: Path) -> set[str]:
    """Folders of the kit that a module names in its imports, wherever they stand in it."""
    names: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("fthnet_kit.")}


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downward_only(path: Path) -> None:
    if path != COMPOSITION_ROOT:
        assert imported_folders(path) <= MAY_IMPORT[path.relative_to(ROOT).parts[0]]


ROOMS = {  # a room imports only from the lines below its own; rooms of one line do not know each other
    "edge": [
        {"cli"},
        {"deployment"},
        {"outputs"},
        {"guidance"},
        {"loop", "archive"},
        {"inference", "capture"},
        {"model", "frame"},
        {"trust", "formats"},
        {"reporting", "image", "files"},
        {"device", "errors"},
    ],
    "convert": [{"commands"}, {"bundle"}, {"precision", "engine"}, {"onnx_graph"}, {"network"}],
    "bench": [{"commands"}, {"dossier"}, {"report"}, {"speed", "quality", "endurance"}, {"results"}],
}
OUTPUTS_KNOW = {("preview", "best_shot")}  # the page shows the shot that waits


@cache
def imported_modules(path: Path) -> set[str]:
    """Modules of the kit that a file imports, also in functions and for types alone."""
    names: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names & KNOWN


def test_rooms_import_only_from_rooms_below() -> None:
    upward = []
    for folder, lines in ROOMS.items():
        level = {room: number for number, line in enumerate(lines) for room in line}
        for path in (ROOT / folder).rglob("*.py"):
            room = path.relative_to(ROOT / folder).with_suffix("").parts[0]
            if room in ("__init__", "latency") or path == COMPOSITION_ROOT:
                continue
            for name in imported_modules(path):
                parts = name.split(".")
                if parts[1] == folder and len(parts) > 2 and parts[2] != room and level[parts[2]] <= level[room]:
                    upward.append(f"{path.relative_to(ROOT)} imports {name}")
    assert upward == []


def test_outputs_stand_apart() -> None:
    folder = ROOT / "edge" / "outputs"
    for path in folder.rglob("*.py"):
        own = path.relative_to(folder).with_suffix("").parts[0]
        others = {name.split(".")[3] for name in imported_modules(path) if name.startswith("fthnet_kit.edge.outputs.")}
        assert {other for other in others - {own} if (own, other) not in OUTPUTS_KNOW} == set(), path


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {dotted(path): imported_modules(path) for path in PRODUCT if path.stem not in ("__main__", "__init__")}
    done: set[str] = set()

    def walk(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module not in done:
            for name in graph.get(module, ()):
                walk(name, (*trail, module))
            done.add(module)

    for module in graph:
        walk(module, ())


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_private_name_is_imported(path: Path) -> None:
    names = [
        alias.name
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fthnet_kit.")
        for alias in node.names
    ]
    assert [name for name in names if name.startswith("_")] == []


def test_one_name_is_one_thing() -> None:
    """No two modules define a public class of the same name, nor one of the constants that once were double."""
    homes: dict[str, list[str]] = {}
    for path in PRODUCT:
        for node in tree_of(path).body:
            names = [node.name] if isinstance(node, ast.ClassDef) else []
            if isinstance(node, ast.Assign):
                names = [
                    target.id for target in node.targets if getattr(target, "id", "") in ("RANGES_NAME", "Listener")
                ]
            for name in names:
                homes.setdefault(name, []).append(str(path.relative_to(ROOT)))
    assert {name: found for name, found in homes.items() if len(found) > 1 and not name.startswith("_")} == {}


def test_no_console_reads_markup() -> None:
    """Names of files and models are shown as they are: `[/x]` in one ends no command."""
    consoles = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for folder in MAY_IMPORT
        for path in (ROOT / folder).rglob("*.py")
        for match in re.finditer(r"\bConsole\([^)]*", path.read_text())
        if "markup=False" not in match[0]
    ]
    assert not consoles


def test_no_dependency_may_be_one_that_is_known_to_be_weak() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    for weakness in weaknesses():
        bounds = re.findall(rf'"{weakness.component}[>=]=([0-9.]+)', text)
        assert bounds, weakness
        assert all(Version(bound) >= Version(weakness.fixed) for bound in bounds), (weakness, bounds)


def test_the_lock_names_every_dependency_of_a_device_with_hashes() -> None:
    lock = (ROOT / "requirements-device.txt").read_text()
    entries = [
        part for part in re.split(r"\n(?=[a-z])", lock.partition("requirements-device.txt\n")[2]) if "==" in part
    ]
    locked = {canonicalize_name(part.partition("==")[0]): part for part in entries}
    assert all("--hash=sha256:" in part for part in locked.values())
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = settings["dependencies"]
    wanted += [
        each for extra in ("serve", "mqtt", "dicom", "sign") for each in settings["optional-dependencies"][extra]
    ]
    for requirement in map(Requirement, wanted):
        found = locked[canonicalize_name(requirement.name)]
        version = re.search(r"==([0-9.]+)", found)
        assert version is not None
        assert requirement.specifier.contains(version[1]), requirement


def test_packaging_lists_every_room() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    rooms = {dotted(path) for path in PRODUCT if path.name == "__init__.py"}
    assert set(settings["packages"]) == rooms
    for folder in {path.parent for path in PRODUCT}:
        assert (folder / "__init__.py").is_file(), folder


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_every_module_imports_without_extras() -> None:
    outcome = json.loads(
        run_python(
            f"""
import importlib, json, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Blocker())
outcome = {{}}
for module in {MODULES!r}:
    try:
        importlib.import_module(module)
    except ImportError as error:
        outcome[module] = str(error)
print(json.dumps(outcome))
"""
        )
    )
    assert set(outcome) == NEEDS_EXTRA
    assert all("pip install 'fthnet-edge-kit[" in message for message in outcome.values())


def test_the_runtime_imports_nothing_heavy() -> None:
    code = "from fthnet_kit.edge import *; import sys, json; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(run_python(code))
    assert "cv2" in loaded
    assert not set(HEAVY) & set(loaded)


def test_help_imports_neither_opencv_nor_torch() -> None:
    code = """
import sys, json
from fthnet_kit.edge.cli.main import main
try:
    main(['--help'])
except SystemExit:
    pass
print(json.dumps(sorted(sys.modules)))
"""
    loaded = json.loads(run_python(code).splitlines()[-1])
    assert not {*HEAVY, "cv2", "onnxruntime", "numpy"} & set(loaded)


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=lambda c: " ".join(c) or "fthnet")
def test_every_help_answers(command: list[str], fthnet) -> None:
    done = fthnet(*command, "--help")
    assert done.returncode == 0
    assert "Usage:" in done.stdout
    assert done.stderr == ""


@pytest.mark.long
def test_the_wheel_works_in_a_clean_environment(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", tmp_path / "dist", ROOT],
        check=True,
        capture_output=True,
        timeout=600,
    )
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        (sbom,) = (name for name in files.namelist() if ".dist-info/sboms/" in name)
        assert json.loads(files.read(sbom))["metadata"]["component"]["name"] == "fthnet-edge-kit"
        assert (
            f"{sbom},sha256=" in files.read(next(name for name in files.namelist() if name.endswith("RECORD"))).decode()
        )
    assert wheel.stat().st_size <= 30_000_000  # bytes; models that repeat another one travel as deltas
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True, capture_output=True, timeout=600)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    records = tmp_path / "records.jsonl"
    command = ["-m", "fthnet_kit.edge.cli", "run", "--source", "sim:?seconds=1&fps=4&realtime=0", "--records", records]
    done = subprocess.run(
        [python, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert len(records.read_text().splitlines()) == 4
    photograph = ROOT / "edge" / "assets" / "retina.jpg"
    for precision in ("fp16", "int8"):  # their files are among those
        scored = [python, "-m", "fthnet_kit.edge.cli", "score", photograph, "--precision", precision]
        found = subprocess.run(scored, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert found.returncode == 0, found.stderr
    typed = (
        "import fthnet_kit.edge, pathlib; print((pathlib.Path(fthnet_kit.edge.__file__).parent / 'py.typed').exists())"
    )
    assert subprocess.run([python, "-c", typed], cwd=tmp_path, capture_output=True, text=True).stdout.strip() == "True"
    missing = subprocess.run(
        [python, "-m", "fthnet_kit.edge.cli", "export", "x.pth", "-o", "b"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert missing.returncode == 8
    assert "fthnet-edge-kit[convert]" in missing.stderr
