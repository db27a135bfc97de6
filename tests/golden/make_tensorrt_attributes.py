"""Writes `tensorrt_attributes.json`: which names TensorRT's Python bindings have, version by version.

Code that names an attribute which one of these versions lacks fails on a device and nowhere else. NVIDIA's wheels of
the bindings are 1 MB each and name a handful of functions of the large libraries behind them, so empty stand-ins for
those functions, compiled here, are enough to import the bindings and ask for their names. Nothing can be built or run
that way. TensorRT for RTX is asked where it is installed, under the key `rtx-<version>`; it can be imported as it is.
JetPack's own builds (10.3.0.30, 10.13.3.9, 10.16.2.10) are no wheels; the nearest wheel stands for each.

Needs x86-64 Linux, a Python that the wheels are made for, pip with a package index, a C compiler and `nm`:
`python tests/golden/make_tensorrt_attributes.py`. Which versions matter is said in `docs/jetson.md`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
VERSIONS = ("10.3.0", "10.13.3.9", "10.16.1.11", "11.0.0.114", "11.4.0.106")
CLASSES = (
    "Builder",
    "BuilderFlag",
    "ComputeCapability",
    "DataType",
    "EngineCapability",
    "EngineInspector",
    "HardwareCompatibilityLevel",
    "IBuilderConfig",
    "ICudaEngine",
    "IErrorRecorder",
    "IExecutionContext",
    "IHostMemory",
    "ILayer",
    "ILogger",
    "INetworkDefinition",
    "IProgressMonitor",
    "IRuntimeCache",
    "IRuntimeConfig",
    "ITensor",
    "ITimingCache",
    "LayerInformationFormat",
    "LayerType",
    "Logger",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "ParserError",
    "ProfilingVerbosity",
    "Runtime",
    "TensorIOMode",
)
MODULE_LEVEL = ("__version__", "get_builder_plugin_registry", "get_plugin_registry", "init_libnvinfer_plugins")
LIBRARIES = re.compile(r"lib(?:nvinfer|nvinfer_plugin|nvonnxparser)\.so\.\d+")

COLLECT = f"""
import importlib, json, sys
module = importlib.import_module(sys.argv[1])
names = [name for name in {MODULE_LEVEL!r} if hasattr(module, name)]
for owner in {CLASSES!r}:
    found = getattr(module, owner, None)
    if found is not None:
        # "name" and "value" stand on every enumeration; what begins with an underscore is not public
        names += [owner] + [f"{{owner}}.{{name}}" for name in dir(found) if not name.startswith("_")]
print(json.dumps({{"version": module.__version__, "names": sorted(names)}}))
"""


def run(*command: object, **environment: str) -> str:
    """What a command prints; its own message is the error where it fails."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode:
        raise SystemExit(f"{command[0]} failed:\n{done.stderr}")
    return done.stdout


def bindings(version: str, folder: Path) -> Path:
    """Unpacks the wheel of one version and gives the folder to import it from."""
    pip = (sys.executable, "-m", "pip")
    requirement = f"tensorrt-cu12-bindings=={version}"
    run(*pip, "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder, requirement)
    (wheel,) = folder.glob("*.whl")
    run(sys.executable, "-m", "zipfile", "-e", wheel, folder / "unpacked")
    return folder / "unpacked"


def stand_ins(extension: Path, folder: Path) -> None:
    """Compiles empty libraries with the names and the functions that the extension asks of TensorRT's."""
    undefined = run("nm", "-D", "--undefined-only", extension).splitlines()
    functions = [line.split()[1] for line in undefined if re.search(r"Infer|NvOnnx|PluginRegistry", line)]
    source = folder / "stand_in.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in functions if "@" not in name))
    for library in set(LIBRARIES.findall(run("readelf", "-d", extension))):
        run("cc", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", folder / library, source)


def attributes(version: str) -> list[str]:
    """Names in the bindings of one version."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        unpacked = bindings(version, folder)
        stand_ins(unpacked / "tensorrt_bindings" / "tensorrt.so", folder)
        environment = {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(unpacked)}
        made = json.loads(run(sys.executable, "-c", COLLECT, "tensorrt_bindings", **environment))
        return list(made["names"])


def rtx_attributes() -> dict[str, list[str]]:
    """Names in the installed TensorRT for RTX, or nothing."""
    done = subprocess.run([sys.executable, "-c", COLLECT, "tensorrt_rtx"], capture_output=True, text=True)
    if done.returncode:
        return {}
    made = json.loads(done.stdout)
    return {f"rtx-{made['version']}": made["names"]}


def golden() -> dict[str, list[str]]:
    """Names by version."""
    return {version: attributes(version) for version in VERSIONS} | rtx_attributes()


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "tensorrt_attributes.json"
    lines = (f"{json.dumps(version)}: {json.dumps(names)}" for version, names in golden().items())
    target.write_text("{\n" + ",\n".join(lines) + "\n}\n")  # a version a line
