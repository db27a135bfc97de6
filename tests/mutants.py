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
    "a key picture that comes out too soon ends what was made up": Mutant(
        "edge/capture/concealment.py",
        "self._unsure, self.is_made_up = HELD_BACK, True",
        "self._unsure, self.is_made_up = 0, True",
        ("tests/edge/capture/test_videos.py", "-k", "made_up"),
    ),
    "black on one side of a run of zeros is enough for a hole": Mutant(
        "edge/formats/zeroed.py",
        "if (begins or ends) and min(",
        "if (begins or ends) or min(",
        ("tests/edge/formats/test_tiff.py", "-k", "no_damage"),
    ),
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
        "return 100 * self.detail * self.field",
        "return 100 * self.field",
        ("tests/bench/test_best_shot.py", "-k", "tells_nothing", "-m", "long"),
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
    "the gate judges another view than the centre": Mutant(
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
    "_await_fresher removed": Mutant(
        "edge/loop/frame_slot.py",
        "                self._await_fresher()",
        "                pass",
        ("tests/edge/loop/test_newest.py", "-k", "waited_for_most"),
    ),
    "the catch-up cap removed": Mutant(
        "edge/capture/opencv_source.py",
        "if not self._clock.more or arrived_ns > give_up_ns:",
        "if not self._clock.more:",
        ("tests/edge/loop/test_newest.py", "-k", "not_for_ever"),
    ),
    "the stream's read timeout removed": Mutant(
        "edge/capture/network_stream.py",
        "[cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(1e3 * READ_TIMEOUT_S)]",
        "[]",
        ("tests/edge/loop/test_newest.py", "-k", "bounds_on_opening"),
    ),
    "bytes are as young as they are found": Mutant(
        "edge/capture/wire.py",
        "arrived_ns = _arrival(notes)",
        "arrived_ns = time.monotonic_ns()",
        ("tests/edge/capture/test_http_camera.py", "-k", "interpreter_keeps_waiting"),
    ),
    "what waited in the sender is fresh": Mutant(
        "edge/capture/wire.py",
        "        if was_empty:\n",
        "        if True:\n",
        ("tests/edge/capture/test_http_camera.py", "-k", "said_to_be_younger"),
    ),
    "pictures that came together are all as young as the last": Mutant(
        "edge/capture/multipart.py",
        "                arrived_ns = empty_ns",
        "                pass",
        ("tests/edge/capture/test_http_camera.py", "-k", "interpreter_keeps_waiting"),
    ),
    "a picture without a length waits for the next": Mutant(
        "edge/capture/multipart.py",
        "endswith(END_OF_PICTURE) and self._wire.is_empty()",
        "endswith(END_OF_PICTURE) and False",
        ("tests/edge/capture/test_http_camera.py", "-k", "every_dialect and without_length"),
    ),
    "any part is a picture": Mutant(
        "edge/capture/multipart.py",
        "if kind is None or kind in PICTURES:",
        "if True:",
        ("tests/edge/capture/test_http_camera.py", "-k", "every_dialect and other_parts"),
    ),
    "a picture may take for ever to come": Mutant(
        "edge/capture/http_camera.py",
        "self._answer.wire.deadline_s = time.monotonic() + READ_TIMEOUT_S",
        "self._answer.wire.deadline_s = time.monotonic() + 3600",
        ("tests/edge/capture/test_http_camera.py", "-k", "given_up_in_time and trickle"),
    ),
    "any host is followed": Mutant(
        "edge/capture/http_camera.py",
        "if before.hostname != after.hostname or after.scheme",
        "if after.scheme",
        ("tests/edge/capture/test_http_camera.py", "-k", "another_host"),
    ),
    "a camera's drifting clock makes its pictures old": Mutant(
        "edge/capture/stream_clock.py",
        "self._delay_ns + passed_ns // DRIFT",
        "self._delay_ns",
        ("tests/edge/capture/test_stream_clock.py", "-k", "drifts"),
    ),
    "a stream's clock is sure at once": Mutant(
        "edge/capture/stream_clock.py",
        "elif sum(self._waits) >= SURE:",
        "else:",
        ("tests/edge/capture/test_stream_clock.py", "-k", "said_to_be_younger"),
    ),
    "a timestamp may lie in the future": Mutant(
        "edge/capture/stream_clock.py",
        "min(stamp_ns, arrived_ns)",
        "stamp_ns",
        ("tests/edge/capture/test_stream_clock.py", "-k", "believed"),
    ),
    "patience never grows short": Mutant(
        "edge/capture/patience.py",
        "return min(max(3 * self._opened_in_s, QUICK_OPEN_TIMEOUT_S), OPEN_TIMEOUT_S)",
        "return OPEN_TIMEOUT_S",
        ("tests/edge/capture/test_patience.py",),
    ),
    "patience never grows long again": Mutant(
        "edge/capture/patience.py",
        " or self._timeouts % PATIENT_OPEN_EVERY == PATIENT_OPEN_EVERY - 1",
        "",
        ("tests/edge/capture/test_patience.py",),
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
