"""Named breaks of the product, each with the tests that must fail for it: ``python -m tests.mutants [NAME…]``.

Each break is made in a copy of the tree, so that nothing is left in this one. A break that no longer applies, since the
text it replaces is gone, is an error: adapt or remove it. `make test-long` runs all of them (tests/test_mutants.py).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PRODUCT = ("edge", "convert", "calibration", "bench")


@dataclass(frozen=True)
class Mutant:
    """A break of the product.

    Attributes:
        file: of the product, from the root.
        old, new: what stands there once, and what the break makes of it.
        tests: arguments for pytest; at least one of these tests must fail.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def text(self) -> str:
        """The file with the break.

        Raises:
            ValueError: what is to be replaced does not stand there once.
        """
        text = (ROOT / self.file).read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"{self.file}: expected once: {self.old!r}; found {text.count(self.old)} times")
        return text.replace(self.old, self.new)


MUTANTS = {
    "intervals of 80 % for 95": Mutant(
        "calibration/agreement.py",
        "INTERVAL = (2.5, 97.5)",
        "INTERVAL = (10, 90)",
        ("tests/calibration/test_metrics.py",),
    ),
    "SmoothQuant the wrong way round": Mutant(
        "calibration/int8_fit.py",
        "strength = np.sqrt(peak / np.maximum(np.abs(weight).max(axis=1), LEAST_PEAK))",
        "strength = np.sqrt(np.maximum(np.abs(weight).max(axis=1), LEAST_PEAK) / peak)",
        ("tests/calibration/test_int8.py", "-k", "smoothing"),
    ),
    "MQTT back-off never doubled": Mutant(
        "edge/outputs/mqtt/sink.py",
        "min(2 * backoff, self.options.longest_backoff_s)",
        "min(backoff, self.options.longest_backoff_s)",
        ("tests/edge/test_mqtt.py", "-k", "hangs_up"),
    ),
    "the rank forgets detail": Mutant(
        "edge/outputs/best_shot/rank.py",
        "return 100 * self.detail * self.exposure",
        "return 100 * self.exposure",
        ("tests/bench/test_best_shot.py", "-k", "tells_nothing"),
    ),
    "view flips never applied": Mutant(
        "edge/model/preprocess.py",
        "tile[:, ::-1] if flip else tile",
        "tile",
        ("tests/edge/test_scorer.py", "-k", "flipped"),
    ),
    "the network gets BGR": Mutant(
        "edge/model/preprocess.py",
        "cv2.cvtColor(centre(bgr, preprocessing), cv2.COLOR_BGR2RGB)",
        "centre(bgr, preprocessing)",
        ("tests/edge/test_preprocess.py",),
    ),
    "the gate judges a corner": Mutant(
        "edge/model/preprocess.py",
        "rgb[MARGIN : MARGIN + INPUT, MARGIN : MARGIN + INPUT]",
        "rgb[:INPUT, :INPUT]",
        ("tests/edge/test_scorer.py", "-k", "gate_judges"),
    ),
    "one view for the mean of all": Mutant(
        "edge/inference/scorer.py",
        "float(np.mean(values))",
        "float(values[0])",
        ("tests/edge/test_scorer.py", "-k", "mean_of"),
    ),
    "scores are not clipped": Mutant(
        "edge/inference/scorer.py",
        "value = min(100.0, max(0.0, raw))",
        "value = raw",
        ("tests/edge/test_scorer.py", "-k", "clipped"),
    ),
    "the gate lets everything through": Mutant(
        "edge/inference/scorer.py",
        'if retina else _Prepared(None, "no_retina", stage_ms)',
        "",
        ("tests/edge/test_scorer.py", "-k", "no_retina"),
    ),
    "an engine's nan is a score": Mutant(
        "edge/inference/scorer.py",
        "if not self.card.plausible.holds(values):",
        "if False:",
        ("tests/edge/test_scorer.py", "-k", "no_number"),
    ),
    "a score on the threshold misses it": Mutant(
        "edge/model/score.py",
        "value >= self.good",
        "value > self.good",
        ("tests/edge/test_bundle.py", "-k", "verdict or threshold"),
    ),
    "ties count for the AUC": Mutant(
        "calibration/agreement.py",
        "return float(np.mean(difference > 0) + 0.5 * np.mean(difference == 0))",
        "return float(np.mean(difference >= 0))",
        ("tests/calibration/test_metrics.py",),
    ),
}


def failing(mutant: Mutant) -> bool:
    """Whether a test fails for the break."""
    with broken(mutant) as copy:
        environment = {**os.environ, "PYTHONPATH": str(copy)}
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *mutant.tests]
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=1200)
    if done.returncode not in (0, 1):  # none of the tests ran
        raise RuntimeError(f"{mutant.tests}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 1


@contextmanager
def broken(mutant: Mutant) -> Iterator[Path]:
    """A copy of the tree with the break in it."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in (*PRODUCT, "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "demo"))
        for name in ("pyproject.toml", "README.md", "edge/demo"):
            (copy / name).symlink_to(ROOT / name)
        (copy / "fthnet_kit").mkdir()  # ahead of an installed kit, as it stands on PYTHONPATH
        for name in PRODUCT:
            (copy / "fthnet_kit" / name).symlink_to(copy / name)
        (copy / mutant.file).write_text(mutant.text(), encoding="utf-8")
        yield copy


if __name__ == "__main__":
    survivors = [name for name in sys.argv[1:] or MUTANTS if not failing(MUTANTS[name])]
    print("\n".join(f"no test fails for: {name}" for name in survivors) or "each break fails a test")
    sys.exit(bool(survivors))
