"""Which TensorRT is taken and which is refused, and that no version lacks what the kit uses of it."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from fthnet_kit.edge.inference.tensorrt_library import (
    LIBRARIES,
    OLDEST,
    USED,
    USED_OF_RTX,
    TensorRT,
    errors_of,
    load_tensorrt,
)
from tests.conftest import ROOT

ATTRIBUTES: dict[str, list[str]] = json.loads((ROOT / "tests" / "golden" / "tensorrt_attributes.json").read_text())
NAMES_OF_RTX = {f"{owner}.{name}" for owner, names in USED_OF_RTX.items() for name in names}
NAMES = {f"{owner}.{name}".removeprefix(".") for owner, names in USED.items() for name in names}

# What the product's variables hold, as a reader of the code knows it.
HOLDS = {
    "builder": "Builder",
    "configuration": "IBuilderConfig",
    "engine": "ICudaEngine",
    "layer": "ILayer",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "runtime": "Runtime",
    "self._context": "IExecutionContext",
    "self._engine": "ICudaEngine",
    "self._runtime": "Runtime",
    "self.module": "",
    "self._tensorrt.module": "",
    "tensorrt.module": "",
    "timings": "ITimingCache",
    "trt": "",
}
RETURNS = {
    "IBuilderConfig.create_timing_cache": "ITimingCache",
    "IBuilderConfig.get_timing_cache": "ITimingCache",
    "ICudaEngine.create_engine_inspector": "EngineInspector",
    "ILayer.get_input": "ITensor",
    "ILayer.get_output": "ITensor",
    "INetworkDefinition.get_input": "ITensor",
    "INetworkDefinition.get_layer": "ILayer",
    "OnnxParser.get_error": "ParserError",
}
NOT_OF_THE_BINDINGS = {
    "ComputeCapability.__members__",  # of every enumeration
    "ICudaEngine.infer",  # of a backend called `engine`
    "IExecutionContext.push",  # of a CUDA context
    "IProgressMonitor.tell",  # a method of our own
    "ILayer.get",  # of a layer in the inspector's JSON
    "ILogger.log",  # the bindings call it, and have no such name
}
SEEN_OTHERWISE = {  # taken from a module, a logger, `self`, and by `getattr`
    *("__version__", "ILogger.ERROR", "ILogger.WARNING", "IExecutionContext.is_stream_capturable")
}
PRODUCT = sorted(
    path for folder in ("edge", "convert", "bench", "calibration") for path in (ROOT / folder).rglob("*.py")
)


class Uses(ast.NodeVisitor):
    """Collects `Class.name` of every attribute that a file takes from TensorRT's objects."""

    def __init__(self) -> None:
        self.found: set[str] = set()
        self.holds = [dict(HOLDS)]

    def kind(self, node: ast.expr) -> str | None:
        """TensorRT's class of an expression, "" for the module, None for all that is not TensorRT's."""
        known = self.holds[-1].get(ast.unparse(node))
        if known is not None:
            return known
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute):
                owner = self.kind(node.func.value)
                return RETURNS.get(f"{owner}.{node.func.attr}") if owner else self.kind(node.func)
            return None
        if isinstance(node, ast.Attribute) and self.kind(node.value) == "":
            return node.attr
        return None

    def visit_Attribute(self, node: ast.Attribute) -> None:
        owner = self.kind(node.value)
        if owner is not None:
            self.found.add(f"{owner}.{node.attr}".removeprefix("."))
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        kind = self.kind(node.value)
        if kind is not None:
            self.holds[-1].update({ast.unparse(target): kind for target in node.targets})
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        names = dict(self.holds[-1])
        if node.name == "_node_error":
            names["error"] = "ParserError"
        self.holds.append(names)
        self.generic_visit(node)
        self.holds.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        bases = [self.kind(base) for base in node.bases]
        names = dict(self.holds[-1])
        if bases and bases[0]:
            self.found |= {
                f"{bases[0]}.{method.name}"
                for method in node.body
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("__")
            }
        self.holds.append(names)
        self.generic_visit(node)
        self.holds.pop()


def uses() -> dict[str, set[str]]:
    """What each file of the product uses of TensorRT."""
    found: dict[str, set[str]] = {}
    for path in PRODUCT:
        if "tensorrt" in path.read_text():
            visitor = Uses()
            visitor.visit(ast.parse(path.read_text()))
            found.setdefault(path.name, set()).update(visitor.found)
    return found


# What is used of TensorRT


def test_the_recorded_versions_are_those_that_the_kit_promises() -> None:
    versions = [Version(name) for name in ATTRIBUTES if not name.startswith("rtx-")]
    assert {version.release[:2] for version in versions} >= {(10, 3), (10, 13), (10, 16), (11, 0)}
    assert min(versions) >= OLDEST
    assert min(versions).release[:2] == OLDEST.release


@pytest.mark.parametrize("version", ATTRIBUTES)
def test_every_version_has_what_the_kit_uses(version: str) -> None:
    present = set(ATTRIBUTES[version])
    assert sorted(NAMES - present) == []
    if version.startswith("rtx-"):
        assert sorted(NAMES_OF_RTX - present) == []


def test_the_installed_library_has_what_the_kit_uses() -> None:
    module = pytest.importorskip("tensorrt_rtx")

    def has(name: str) -> bool:
        owner, _, attribute = name.rpartition(".")
        return hasattr(getattr(module, owner) if owner else module, attribute)

    assert [name for name in sorted(NAMES | NAMES_OF_RTX) if not has(name)] == []


def test_what_is_used_is_what_is_written_down() -> None:
    files = uses()
    assert set(files) >= {"build.py", "layers.py", "tensorrt_engine.py", "tensorrt_library.py"}
    found = {name for name in set.union(*files.values()) if name not in {*USED, *USED_OF_RTX}}
    assert sorted(found - NAMES - NAMES_OF_RTX - NOT_OF_THE_BINDINGS) == []
    members = {f"ComputeCapability.{name}" for name in USED_OF_RTX["ComputeCapability"]}  # taken from `__members__`
    assert sorted((NAMES | NAMES_OF_RTX) - found - SEEN_OTHERWISE - members) == []


# Which library is loaded

REPORT = """
import json, sys
from fthnet_kit.edge.errors import KitError
from fthnet_kit.edge.inference.tensorrt_library import load_tensorrt
try:
    found = load_tensorrt(json.loads(sys.argv[1]))
    print(json.dumps([found.name, str(found.version), found.rtx, sorted(found.compute_capabilities())]))
except KitError as error:
    print(json.dumps({"kind": type(error).__name__, "code": error.exit_code, "message": str(error)}))
"""
ABSENT = "raise ModuleNotFoundError(\"No module named '{0}'\", name='{0}')"
FAKE_RTX = """
class ComputeCapability:
    __members__ = {"NONE": 0, "CURRENT": 1, "SM75": 2, "SM86": 3}
"""


def package(name: str, body: str, folder: Path) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(body)


@pytest.fixture
def libraries(tmp_path: Path) -> Iterator[Path]:
    """A folder that hides the machine's own libraries; tests put others in their place."""
    for name in LIBRARIES:
        package(name, ABSENT.format(name), tmp_path / "hidden")
    yield tmp_path / "libraries"


def loaded(libraries: Path, wanted: str | None = None) -> list[object] | dict[str, object]:
    """What `load_tensorrt` gives in a process that finds the libraries of a folder, and no others."""
    paths = [str(libraries), str(libraries.with_name("hidden")), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", REPORT, json.dumps(wanted)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refused(libraries: Path, wanted: str | None = None) -> Mapping[str, object]:
    answer = loaded(libraries, wanted)
    assert isinstance(answer, dict), answer
    assert "\n" not in str(answer["message"])
    return answer


@pytest.mark.parametrize("wanted", [None, *LIBRARIES])
def test_none_is_installed(libraries: Path, wanted: str | None) -> None:
    answer = refused(libraries, wanted)
    assert (answer["kind"], answer["code"]) == ("MissingExtraError", 8)
    assert "pip install tensorrt" in str(answer["message"])
    assert (wanted or "tensorrt") in str(answer["message"])
    assert "JetPack" in str(answer["message"])


@pytest.mark.parametrize("version", ["8.6.1", "10.0.1", "10.2.0.19", "7.1.3"])
def test_a_library_that_is_too_old_is_refused(libraries: Path, version: str) -> None:
    package("tensorrt", f"__version__ = {version!r}", libraries)
    answer = refused(libraries)
    assert (answer["kind"], answer["code"]) == ("EngineError", 6)
    assert str(answer["message"]).startswith(f"tensorrt: expected 10.3 or newer, found {version}; JetPack 6.1")


@pytest.mark.parametrize("version", ["10.3.0", "10.3.0.30", "10.10.0.31", "10.16.2.10", "11.4.0.106"])
def test_versions_are_compared_as_numbers(libraries: Path, version: str) -> None:
    package("tensorrt", f"__version__ = {version!r}", libraries)
    assert loaded(libraries) == ["tensorrt", version, False, []]


def test_rtx_counts_its_versions_by_itself_and_stands_in_where_tensorrt_is_not(libraries: Path) -> None:
    package("tensorrt_rtx", f"__version__ = '1.2.0.54'\n{FAKE_RTX}", libraries)
    found = ["tensorrt_rtx", "1.2.0.54", True, ["sm75", "sm86"]]
    assert loaded(libraries) == found
    assert loaded(libraries, "tensorrt_rtx") == found
    assert refused(libraries, "tensorrt")["kind"] == "MissingExtraError"
    package("tensorrt", "__version__ = '10.3.0'", libraries)
    assert loaded(libraries) == ["tensorrt", "10.3.0", False, []]
    assert loaded(libraries, "tensorrt_rtx") == found


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("import tensorrt_bindings_of_nobody", "none of tensorrt_bindings_of_nobody"),
        ("raise OSError('libnvinfer.so.10: cannot open\\nshared object file')", "libnvinfer.so.10: cannot open shared"),
        ("raise ImportError('libcudart.so.12')", "libcudart.so.12"),
        ("raise RuntimeError('no driver')", "no driver"),
        ("__version__ = 'nightly'", "nightly"),
    ],
    ids=["dependency", "library", "import", "driver", "odd version"],
)
def test_a_broken_installation_is_told_in_one_line(libraries: Path, body: str, word: str) -> None:
    package("tensorrt", body, libraries)
    answer = refused(libraries)
    assert (answer["kind"], answer["code"]) == ("EngineError", 6)
    assert str(answer["message"]).startswith("tensorrt: expected ")
    assert word in str(answer["message"])


def test_a_folder_that_happens_to_be_called_tensorrt_is_no_library(libraries: Path) -> None:
    (libraries / "tensorrt").mkdir(parents=True)
    (libraries.with_name("hidden") / "tensorrt" / "__init__.py").unlink()
    assert refused(libraries)["kind"] == "MissingExtraError"
    package("tensorrt_rtx", f"__version__ = '1.2.0.54'\n{FAKE_RTX}", libraries)
    assert loaded(libraries) == ["tensorrt_rtx", "1.2.0.54", True, ["sm75", "sm86"]]


# The logger


def test_the_logger_keeps_warnings_and_errors_only(capfd: pytest.CaptureFixture[str]) -> None:
    module = pytest.importorskip("tensorrt_rtx")
    tensorrt = load_tensorrt("tensorrt_rtx")
    logger = tensorrt.logger()
    for name in ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"):
        logger.log(getattr(module.ILogger, name), f"{name}\n  told")
    assert [message.split()[0] for _, message in logger.kept] == ["INTERNAL_ERROR", "ERROR", "WARNING"]
    assert errors_of(logger) == ["INTERNAL_ERROR told", "ERROR told"]
    assert capfd.readouterr() == ("", "")


def test_the_library_speaks_to_the_logger() -> None:
    pytest.importorskip("tensorrt_rtx")
    tensorrt = load_tensorrt("tensorrt_rtx")
    logger = tensorrt.logger()
    builder = tensorrt.module.Builder(logger)
    network = builder.create_network(0)
    parser = tensorrt.module.OnnxParser(network, logger)
    assert not parser.parse(b"no graph")
    assert errors_of(logger)
    assert all("\n" not in message for message in errors_of(logger))


@given(st.lists(st.tuples(st.integers(0, 4), st.text()), max_size=8))
def test_every_error_is_one_line(kept: list[tuple[int, str]]) -> None:
    class Logger:
        ERROR = 1

    logger = Logger()
    logger.kept = kept  # type: ignore[attr-defined]
    messages = errors_of(logger)
    assert len(messages) == sum(severity <= 1 for severity, _ in kept)
    assert all(len(message.splitlines()) <= 1 for message in messages)


def test_only_rtx_builds_for_other_gpus() -> None:
    assert TensorRT(object(), "tensorrt", Version("10.3.0")).compute_capabilities() == {}
    pytest.importorskip("tensorrt_rtx")
    known = load_tensorrt("tensorrt_rtx").compute_capabilities()
    assert set(known) >= {name.lower() for name in USED_OF_RTX["ComputeCapability"]}
    assert not {"none", "current"} & set(known)
