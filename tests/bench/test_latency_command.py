"""`fthnet bench latency` and ``python bench/latency.py`` as a user calls them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fthnet_kit.bench.report.readme_tables import figures, main, replaced
from fthnet_kit.bench.results.results_file import read_results
from fthnet_kit.edge.errors import InputError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
QUICK = ("--quick", "--runs", "5")
BLOCKED = """
import runpy, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {'torch', 'onnx', 'matplotlib', 'tensorrt', 'pycuda', 'PIL', 'safetensors'}:
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
sys.meta_path.insert(0, Blocker())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def script(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BLOCKED, ROOT / "bench" / "latency.py", *arguments]
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, cwd="/")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("latency") / "out.json"
    done = script(*QUICK, "--json", path, "--html", path.with_suffix(".html"))
    assert done.returncode == 0, done.stderr
    assert "infer" in done.stdout
    assert "May be unstable" in done.stdout
    return path


def test_the_script_needs_only_the_runtime(results: Path) -> None:
    content = read_results(results)
    assert content["model"]["form"] == "fp32"
    assert len(content["steady"]["stages_ms"]["total"]) == 5
    assert content["capture"] is None
    assert "<svg" in results.with_suffix(".html").read_text(encoding="utf-8")


def test_an_earlier_run_and_another_precision_can_be_compared(results: Path, fthnet, tmp_path: Path) -> None:
    done = fthnet("bench", "latency", *QUICK, "--compare", results, "--json", tmp_path / "a.json")
    assert done.returncode == 0, done.stderr
    assert read_results(tmp_path / "a.json")["comparison"]["ratio"]["value"] > 0
    done = fthnet("bench", "latency", *QUICK, "--compare", "int8")
    assert done.returncode == 0, done.stderr
    assert "ratio" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--compare", "nothing.json"), 3, "expected a JSON file of `fthnet bench latency`"),
        (("--source", "no-such-folder"), 3, "no-such-folder"),
        (("--backend", "onnxruntime-cuda"), 6, "CUDAExecutionProvider"),
        (("no-bundle",), 4, "expected a bundle, found no such folder"),
        (("--runs", "0"), 2, "Invalid value"),
    ],
)
def test_mistakes_are_one_line(fthnet, arguments: tuple[str, ...], code: int, message: str) -> None:
    done = fthnet("bench", "latency", *QUICK[:1], *arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_page_of_figures_is_written_from_results(results: Path, tmp_path: Path) -> None:
    peers = tmp_path / "peers.json"
    median = {"eager": 100.0, "plain export": 80.0, "fp32": 50.0, "int8": 40.0}
    peers.write_text(json.dumps({"model": "m 1", "threads": 2, "runs": 5, "median_ms": median}))
    page = tmp_path / "MEASURED.md"
    page.write_text("before\n<!-- measured -->\nold\n<!-- /measured -->\nafter\n")
    main([str(results), str(peers), "--page", str(page)], standalone_mode=False)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "FP32 / eager 0.50, FP32 / plain 0.62, INT8 / FP32 0.80" in text
    assert "JPEG frame 1920×1080 to score" in text
    assert "Nothing was measured on a Jetson" in text


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(InputError, match="expected the marks"):
        replaced("nothing here", figures([]))
