"""The script that runs on somebody's GPU machine keeps what it found, whatever a step does."""

from __future__ import annotations

import os
import sys
import tarfile
import time
from pathlib import Path

from fthnet_kit.edge.model.bundle import shipped_bundle
from tests.gpu import trial
from tests.gpu.trial import Step, run_steps, table


def python(name: str, code: str, limit_s: float = 60.0) -> Step:
    return Step(name, limit_s, [sys.executable, "-c", code])


def test_every_log_comes_back_in_order(tmp_path: Path) -> None:
    steps = [
        python("good", "print('fine')"),
        python("bad", "import sys; print('why'); sys.exit(3)"),
        Step("absent", 5, ["no-such-command"]),
        python("last", "print('still here')"),
    ]
    done = run_steps(steps, tmp_path, os.environ, tmp_path, 120)
    assert done == [("good", 0), ("bad", 3), ("absent", 127), ("last", 0)]
    with tarfile.open(tmp_path / "results.tgz") as tar:
        logs = {name: tar.extractfile(f"logs/{name}.log").read().decode() for name, _ in done}  # type: ignore[union-attr]
        steps_said = tar.extractfile("logs/steps").read().decode()  # type: ignore[union-attr]
    assert logs["good"] == "fine\n"
    assert logs["bad"] == "why\n"
    assert "no-such-command" in logs["absent"]
    assert [line.split(":")[0] for line in steps_said.splitlines()] == ["== good", "== bad", "== absent", "== last"]


def test_a_step_over_its_limit_ends_with_its_children(tmp_path: Path) -> None:
    child = tmp_path / "child"
    code = (
        "import subprocess, sys, time; "
        f"p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); open({str(child)!r}, 'w')"
        ".write(str(p.pid)); time.sleep(600)"
    )
    step = python("long", code, 4)
    assert run_steps([step], tmp_path, os.environ, tmp_path, 120) == [("long", 124)]
    for _ in range(100):
        if not alive(int(child.read_text())):
            return
        time.sleep(0.1)
    raise AssertionError("the child lives on")


def alive(process: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False


def test_what_is_found_before_the_time_is_over_is_kept(tmp_path: Path) -> None:
    steps = [python("first", "print(1)"), python("second", "import time; time.sleep(600)"), python("third", "print(3)")]
    done = run_steps(steps, tmp_path, os.environ, tmp_path, 8)
    assert done == [("first", 0), ("second", 124)]
    with tarfile.open(tmp_path / "results.tgz") as tar:
        assert tar.extractfile("logs/first.log").read() == b"1\n"  # type: ignore[union-attr]


def test_the_table_skips_what_was_not_measured(tmp_path: Path) -> None:
    (tmp_path / "latency-fp16.json").write_text('{"steady": {"summary": {"total": {"p50": 1.5, "p99": 2}}}}')
    (tmp_path / "latency-int8.json").write_text("{")
    assert table(tmp_path) == ["fp16: total p50 1.500 p99 2.000 ms"]


def test_the_script_needs_the_standard_library_alone(tmp_path: Path) -> None:
    import subprocess

    done = subprocess.run(
        [sys.executable, "-I", "-S", trial.__file__, "--help"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


def test_the_comparison_of_backends_runs(tmp_path: Path) -> None:
    """With the one backend that is everywhere."""
    done = run_steps([python("parity", trial.PARITY)], tmp_path, os.environ, tmp_path, 120)
    assert done == [("parity", 1)]  # no bundle was named
    step = Step("same", 120, [sys.executable, "-c", trial.PARITY, str(shipped_bundle()), "onnxruntime"])
    assert run_steps([step], tmp_path, os.environ, tmp_path, 120) == [("same", 0)]
    assert "differences [0.0, 0.0, 0.0]" in (tmp_path / "logs/same.log").read_text()
