"""Everything that needs a GPU, on a machine without a network: `python3 trial.py` in an unpacked pack.

Installs the pack into a folder of its own (nothing of the machine is changed), then runs one step after another, what
decides most first. Each step has a time limit and a log, and after each of them all logs go into one archive, so that
what was found is kept if the time runs out. Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
TAIL = 6  # lines of a failed step's log that are shown
LATENCY = ("--quick", "--seconds", "6")
# A bundle's FP32 graph by a backend against ONNX Runtime's CPU: TF32 is off, sums differ in their order only.
PARITY = """
import sys
import cv2
from importlib.resources import files
from fthnet_kit.edge import QualityScorer
photograph = cv2.imread(str(files("fthnet_kit.edge") / "assets" / "retina.jpg"))
values = []
for backend in ("onnxruntime", sys.argv[2]):
    with QualityScorer.from_bundle(sys.argv[1], precision="fp32", backend=backend) as scorer:
        print(backend, scorer.backend.describe())
        values += [[scorer.score(p).value for p in (photograph, photograph[:, ::-1], cv2.blur(photograph, (9, 9)))]]
differences = [abs(here - there) for here, there in zip(*values)]
print("scores", values, "differences", differences)
assert max(differences) <= 0.05, "expected at most 0.05 points"
"""


@dataclass(frozen=True)
class Step:
    """One command with its limit in seconds; its name is that of its log."""

    name: str
    limit_s: float
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


def run_step(step: Step, logs: Path, environment: Mapping[str, str], cwd: Path) -> int:
    """Run one step into its log; returns its exit code, 124 after the limit, 127 where there is no such command.

    A step that is over its limit ends with all that it started.
    """
    with (logs / f"{step.name}.log").open("wb") as log:
        try:
            process = subprocess.Popen(
                step.command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**environment, **step.environment},
                cwd=cwd,
                start_new_session=True,
            )
        except OSError as error:
            log.write(f"{error}\n".encode())
            return 127
        try:
            return process.wait(step.limit_s)
        except subprocess.TimeoutExpired:
            log.write(f"\nended after {step.limit_s:g} s\n".encode())
            return 124
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run_steps(
    steps: Sequence[Step], out: Path, environment: Mapping[str, str], cwd: Path, seconds: float
) -> list[tuple[str, int]]:
    """Run the steps in order until the time is over; `out`/results.tgz holds all logs after each of them."""
    logs = out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + seconds
    done: list[tuple[str, int]] = []
    for step in steps:
        left = ends - time.monotonic()
        if left <= 1:
            print(f"== {step.name}: not run, the time is over", flush=True)
            continue
        began = time.monotonic()
        limited = Step(step.name, min(step.limit_s, left), step.command, step.environment)
        code = run_step(limited, logs, environment, cwd)
        done.append((step.name, code))
        said = f"== {step.name}: exit code {code}, {time.monotonic() - began:.0f} s"
        print(said, flush=True)
        with (logs / "steps").open("a", encoding="utf-8") as file:
            file.write(said + "\n")
        if code:
            lines = (logs / f"{step.name}.log").read_text(errors="replace").splitlines()
            print("\n".join(f"   {line[:300]}" for line in lines[-TAIL:]), flush=True)
        with tarfile.open(out / "results.part", "w:gz") as tar:
            tar.add(logs, "logs")
        (out / "results.part").replace(out / "results.tgz")
    return done


def installing(site: Path) -> list[Step]:
    """The pack into a folder of its own."""
    wheels = HERE / "wheels"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--find-links", str(wheels), "--upgrade"]
    to_site = [*pip, "--no-compile", "--target", str(site)]
    names = ["fthnet-edge-kit", "onnx", "pytest", "hypothesis"]
    rtx = next(iter(wheels.glob("tensorrt_rtx_cu13-*.whl")), None)
    steps = [Step("install", 300, [*to_site, *names, *([] if rtx is None else ["tensorrt-rtx-cu13"])])]
    built = any(wheels.glob("pycuda-*.whl"))
    how = [] if built else ["--no-build-isolation"]
    if not built:
        steps.append(Step("install-to-build", 60, [*to_site, "setuptools", "wheel"]))
    steps.append(Step("install-pycuda", 60 if built else 600, [*to_site, *how, "pycuda"]))
    if (HERE / "wheels-cuda").is_dir():
        command = [*pip, "--no-deps", "--target", f"{site}-cuda", *map(str, (HERE / "wheels-cuda").glob("*.whl"))]
        steps.append(Step("install-cuda-provider", 120, command))
    return steps


def trials(site: Path, out: Path) -> list[Step]:
    """What is tried, the most telling first."""
    fthnet = [sys.executable, "-m", "fthnet_kit.edge.cli"]
    pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    demo, logs = str(out / "demo"), out / "logs"
    copy = "import shutil, sys; from fthnet_kit.edge.model.bundle import shipped_bundle as b; "
    copy += "shutil.copytree(b(), sys.argv[1])"
    driver = "import pycuda.driver as d; d.init(); print(d.get_driver_version(), d.Device.count(), d.Device(0).name(), "
    driver += "d.Device(0).compute_capability())"

    def latency(name: str, *options: str, **environment: str) -> Step:
        command = [*fthnet, "bench", "latency", demo, *options, *LATENCY, "--json", str(logs / f"latency-{name}.json")]
        return Step(f"latency-{name}", 60, command, environment)

    steps = [
        Step("smi", 20, ["nvidia-smi"]),
        Step("driver", 30, [sys.executable, "-c", driver]),
        Step("doctor", 60, [*fthnet, "doctor", "--json"]),
        Step("bundle", 30, [sys.executable, "-c", copy, demo]),
    ]
    for precision in ("fp16", "fp32", "int8"):
        steps.append(Step(f"build-{precision}", 600, [*fthnet, "build", demo, "--precision", precision]))
        steps.append(latency(precision, "--precision", precision, "--backend", "tensorrt"))
    steps += [
        latency("fp16-graph", "--precision", "fp16", "--backend", "tensorrt", "--cuda-graph"),
        Step("torch", 150, [sys.executable, str(HERE / "torch_ratio.py")]),
        latency("cpu", "--precision", "fp32", "--backend", "onnxruntime"),
        Step(
            "pytest",
            900,
            [*pytest, "-m", "gpu", "-q", "tests/edge/test_gpu.py", "--junitxml", str(logs / "pytest.xml")],
        ),
    ]
    if (HERE / "wheels-cuda").is_dir():
        paths = {"PYTHONPATH": f"{site}-cuda{os.pathsep}{site}"}
        steps.append(Step("parity-cuda", 120, [sys.executable, "-c", PARITY, demo, "onnxruntime-cuda"], paths))
        steps.append(latency("cuda", "--precision", "fp32", "--backend", "onnxruntime-cuda", **paths))
    return steps


def table(logs: Path) -> list[str]:
    """The medians that were measured, a line each."""
    lines = []
    for path in sorted(logs.glob("latency-*.json")):
        try:
            figures = json.loads(path.read_text())["steady"]["summary"]
        except (ValueError, KeyError):
            continue
        shown = [name for name in ("total", "infer", "gpu_compute", "h2d", "d2h", "enqueue") if name in figures]
        values = ", ".join(f"{name} p50 {figures[name]['p50']:.3f} p99 {figures[name]['p99']:.3f}" for name in shown)
        lines.append(f"{path.stem.removeprefix('latency-')}: {values} ms")
    return lines


def main() -> int:
    """Install and try everything; exit code 1 where a step failed."""
    parser = argparse.ArgumentParser(description="Run everything of the pack that needs the GPU.")
    parser.add_argument("--out", type=Path, default=HERE / "out", help="where results.tgz goes")
    parser.add_argument("--seconds", type=float, default=3600, help="all together; default: an hour")
    asked = parser.parse_args()
    site, out = asked.out.resolve() / "site", asked.out.resolve()
    shutil.rmtree(out / "logs", ignore_errors=True)
    shutil.rmtree(out / "demo", ignore_errors=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(site),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "XDG_CONFIG_HOME": str(out / "config"),
    }
    began = time.monotonic()
    done = run_steps(installing(site), out, environment, HERE / "kit", asked.seconds)
    left = asked.seconds - (time.monotonic() - began)
    done += run_steps(trials(site, out), out, environment, HERE / "kit", left)
    print("\n".join(table(out / "logs")))
    failed = [name for name, code in done if code]
    print(f"{len(done) - len(failed)} of {len(done)} steps passed; failed: {', '.join(failed) or 'none'}")
    print(f"send back: {out / 'results.tgz'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
