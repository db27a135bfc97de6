"""Does the live loop live? The real `fthnet run`, scoring a camera on the network that misbehaves every few seconds.

Checked and reported with numbers: the process neither crashes nor ends before it is asked to; no score is stale (older
than a second, or captured while there was nothing to score); every result is a whole record of an unbroken chain;
memory does not grow; after every fault there is a score again within 3 s. The faults are drawn with a seed.
"""

from __future__ import annotations

import json
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from fthnet_kit.edge.cli.options import signature_option
from fthnet_kit.edge.errors import EngineError

if TYPE_CHECKING:
    from fthnet_kit.bench.endurance.faulty_camera import MisbehavingCamera

KIND = "fthnet-fault-soak"
FRAMES_A_MINUTE = 5_000  # 10^5 in 20 minutes
RECOVERY_S = 3.0
STALE_S = 1.0  # LiveOptions.stall_s: how old a picture may be
FROZEN_S = 2.0  # LiveOptions.frozen_s: how long a picture may repeat itself in health
CUT_S = 0.001  # `captured_at` is cut to milliseconds
CLEAN_END_S = 15.0
FIRST_SCORE_S = 60.0
GIVE_UP_S = 30.0  # on a recovery
GROWTH = 0.01
WARM_UP = 0.25  # share of the run
SCORED_ON = {"resolution"}  # faults in which there is something to score
HOLD_S = {"frozen": (3.5, 6.0)}  # longer than others: it takes FROZEN_S to tell
SHORT_HOLD_S = (0.3, 3.5)
PAUSE_S = (1.0, 3.5)


@dataclass(frozen=True)
class SoakPlan:
    """What to do to the loop, and for how long.

    Attributes:
        minutes: length.
        seed: of the faults.
        fps: of the camera; it must leave room for the outages.
        arguments: more options for `fthnet run`.
    """

    minutes: float = 20.0
    seed: int = 0
    fps: float = 170.0
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Strike:
    """One fault: when (wall-clock seconds since the epoch), what was said meanwhile, how soon a score came back.

    Attributes:
        reasons: how often each reason was given between its beginning and the recovery.
        stale: scores that should not have been.
        recovery_s: from the camera's return to the next score; None where it never came.
    """

    fault: str
    began: float
    ended: float
    reasons: dict[str, int]
    stale: int
    recovery_s: float | None


@dataclass
class SoakRecords:
    """Follows a growing file of records.

    Attributes:
        count, scored, oldest_ms: of all records so far; the greatest age of a scored frame.
        problems: lines that are not what they should be.
    """

    path: Path
    count: int = 0
    scored: int = 0
    oldest_ms: float = 0.0
    problems: list[str] = field(default_factory=list)
    _file: IO[bytes] | None = None
    _rest: bytes = b""

    def new(self) -> Iterator[dict[str, Any]]:
        """Whole records that have come since the last call."""
        if self._file is None:
            if not self.path.exists():
                return
            self._file = self.path.open("rb")
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        for line in lines:
            try:
                record = json.loads(line)
                record["at"] = datetime.fromisoformat(record["captured_at"]).timestamp()
            except (ValueError, KeyError, TypeError) as error:
                self.problems.append(f"line {self.count + 1}: {error}")
                continue
            if record.get("seq", self.count) != self.count or record.get("lost_before"):
                self.problems.append(f"line {self.count + 1}: records are missing before it")
            self.count += 1
            if record["score"] is not None:
                self.scored += 1
                self.oldest_ms = max(self.oldest_ms, record["age_ms"])
            yield record

    def close(self) -> None:
        """Forget the file; a torn last line is a problem."""
        list(self.new())
        if self._rest:
            self.problems.append("the last line has no end")
        if self._file is not None:
            self._file.close()


class Soak:
    """One run of the loop and all that is done to it.

    Args:
        plan: what to do.
        folder: for the records and the output of the command.
        tell: called with a line now and then.
    """

    def __init__(self, plan: SoakPlan, folder: Path, tell: Callable[[str], None] = lambda line: None) -> None:
        self.plan = plan
        self.strikes: list[Strike] = []
        self.memory: list[tuple[float, float]] = []  # seconds, MB
        self.records = SoakRecords(folder / "records.jsonl")
        self._folder = folder
        self._tell = tell
        self._random = random.Random(plan.seed)  # noqa: S311  (repeatable on purpose)
        self._deck: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._began = 0.0

    def run(self) -> dict[str, Any]:
        """Measure; the report."""
        from fthnet_kit.bench.endurance.faulty_camera import MisbehavingCamera

        with MisbehavingCamera(self.plan.fps) as camera:
            self._start(camera.url)
            try:
                if self._watch(FIRST_SCORE_S, until_scored_after=0.0) is None:
                    said = self._output("stderr")[-500:]
                    raise EngineError(f"soak: expected a score, found none in {FIRST_SCORE_S:.0f} s: {said}")
                self._began = time.monotonic()
                while self._alive() and time.monotonic() - self._began < 60 * self.plan.minutes:
                    self._watch(self._random.uniform(*PAUSE_S))
                    self._strike(camera)
                code = self._end()
            finally:
                self._kill()
        self.records.close()
        return self._report(code)

    def _start(self, url: str) -> None:
        command = [sys.executable, "-m", "fthnet_kit.edge.cli", "run", "--source", url, "--records"]
        with (self._folder / "stdout").open("wb") as out, (self._folder / "stderr").open("wb") as err:
            self._process = subprocess.Popen(  # noqa: S603  (our own command)
                [*command, str(self.records.path), *self.plan.arguments], stdout=out, stderr=err
            )

    def _alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _strike(self, camera: MisbehavingCamera) -> None:
        """One fault, until there is a score again."""
        fault = self._next_fault()
        began = time.time()
        camera.misbehave(fault)
        in_force = time.time()
        seen: list[dict[str, Any]] = []
        self._watch(self._random.uniform(*HOLD_S.get(fault, SHORT_HOLD_S)), seen=seen)
        ended = time.time()
        camera.behave()
        healthy = time.time()
        back = self._watch(GIVE_UP_S, until_scored_after=healthy, seen=seen)
        reasons = [record["reason"] for record in seen if record["reason"] is not None and record["at"] >= began]
        patience_s = STALE_S + (FROZEN_S if fault == "frozen" else 0.0)
        told_by, over = in_force + patience_s, ended - CUT_S
        scored = [
            record for record in seen if record["score"] is not None and told_by < record["at"] and said(record) < over
        ]
        self.strikes.append(
            Strike(
                fault,
                began,
                healthy,
                {reason: reasons.count(reason) for reason in sorted(set(reasons))},
                0 if fault in SCORED_ON else len(scored),
                None if back is None else said(back) - healthy,
            )
        )
        strike = self.strikes[-1]
        took = "no score again" if strike.recovery_s is None else f"a score again after {strike.recovery_s:.2f} s"
        self._tell(
            f"{time.monotonic() - self._began:6.0f} s  {fault:<14} {healthy - began:4.1f} s  {took}  {strike.reasons}"
        )

    def _next_fault(self) -> str:
        """Each as often as any other, in an order that the seed draws."""
        from fthnet_kit.bench.endurance.faulty_camera import FAULTS

        if not self._deck:
            self._deck = sorted(FAULTS)
            self._random.shuffle(self._deck)
        return self._deck.pop()

    def _watch(
        self, seconds: float, *, until_scored_after: float | None = None, seen: list[dict[str, Any]] | None = None
    ) -> dict[str, Any] | None:
        """Read records and memory for so long, or until a frame captured after a moment is scored: that record."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._alive():
            found = None
            for record in self.records.new():
                if seen is not None:
                    seen.append(record)
                is_wanted = until_scored_after is not None and record["at"] > until_scored_after
                if found is None and is_wanted and record["score"] is not None:
                    found = record
            self._read_memory()
            if found is not None:
                return found
            time.sleep(0.05)
        return None

    def _read_memory(self) -> None:
        now = time.monotonic() - self._began
        if not self._began or (self.memory and now - self.memory[-1][0] < 1.0):
            return
        assert self._process is not None
        found = re.search(r"VmRSS:\s+(\d+) kB", _text(Path(f"/proc/{self._process.pid}/status")))
        if found:
            self.memory.append((round(now, 2), int(found[1]) * 1024 / 1e6))

    def _end(self) -> int | None:
        """SIGTERM, and the exit code; None where it did not end."""
        assert self._process is not None
        if not self._alive():
            return self._process.returncode or -1  # it ended unasked
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(CLEAN_END_S)
        except subprocess.TimeoutExpired:
            return None

    def _kill(self) -> None:
        if self._process is not None and self._alive():
            self._process.kill()
            self._process.wait()

    def _output(self, name: str) -> str:
        return _text(self._folder / name)

    def _report(self, code: int | None) -> dict[str, Any]:
        from fthnet_kit.edge.outputs.records.verify import verify

        summary = self._output("stdout")
        counts = {
            name: int(found[1]) if (found := re.search(pattern, summary)) else None
            for name, pattern in (
                ("captured", r"captured (\d+)"),
                ("dropped", r"dropped (\d+), reconnects"),
                ("reconnects", r"reconnects (\d+)"),
                ("scored", r"(\d+) frames? scored in"),
            )
        }
        lost = re.search(r"(\d+) lost", summary)
        recoveries = [strike.recovery_s for strike in self.strikes]
        growth = growth_of(self.memory, 60 * self.plan.minutes * WARM_UP)
        frames = round(FRAMES_A_MINUTE * self.plan.minutes)
        late = [s for s in self.strikes if s.recovery_s is None or s.recovery_s > RECOVERY_S]
        stale = sum(strike.stale for strike in self.strikes) + (self.records.oldest_ms > 1e3 * STALE_S)
        problems = list(self.records.problems)
        if counts["scored"] != self.records.scored:
            problems.append(f"{counts['scored']} frames scored, {self.records.scored} scores in the records")
        if lost:
            problems.append(lost[0])
        problems += [problem.what for problem in verify(self.records.path).problems]
        crashed = code != 0 or "Traceback" in self._output("stderr")
        checks = {
            "crashes": (crashed, f"exit code {code}" if crashed else "0 crashes, SIGTERM ended it with exit code 0"),
            "frames": ((counts["captured"] or 0) < frames, f"{counts['captured']} captured, at least {frames} wanted"),
            "stale scores": (stale > 0, f"{stale}; the oldest scored frame was {self.records.oldest_ms:.0f} ms old"),
            "lost records": (bool(problems), "; ".join(problems[:3]) or f"0 of {self.records.count}"),
            "memory": (growth is None or growth > GROWTH, _growth_text(growth, self.memory)),
            "recovery": (bool(late) or not recoveries, _recovery_text(recoveries, len(late))),
        }
        return {
            "kind": KIND,
            "plan": asdict(self.plan),
            "passed": not any(failed for failed, _ in checks.values()),
            "checks": {name: {"passed": not failed, "found": text} for name, (failed, text) in checks.items()},
            "counts": {**counts, "records": self.records.count},
            "faults": by_fault(self.strikes),
            "strikes": [asdict(strike) for strike in self.strikes],
            "memory_mb": self.memory,
            "stderr": self._output("stderr")[-2000:],
        }


def said(record: Mapping[str, Any]) -> float:
    """When a result was there, in seconds since the epoch.

    A capture time is no later than the true one, so that the first frame after the camera's return may claim to be
    some milliseconds older than it; its score is none of the fault's. Its claimed age is judged apart.
    """
    return float(record["at"] + record["latency_ms"] / 1e3)


def growth_of(memory: list[tuple[float, float]], warm_up_s: float) -> float | None:
    """Growth of memory after the warm-up, as a share: the last tenth's median against the first's; None if short."""
    settled = [mb for seconds, mb in memory if seconds >= warm_up_s]
    tenth = len(settled) // 10
    if tenth < 3:
        return None
    return statistics.median(settled[-tenth:]) / statistics.median(settled[:tenth]) - 1


def _growth_text(growth: float | None, memory: list[tuple[float, float]]) -> str:
    if growth is None:
        return "too short a run to tell"
    return f"{100 * growth:+.2f} % after the warm-up, at most {max(mb for _, mb in memory):.0f} MB"


def _recovery_text(recoveries: list[float | None], late: int) -> str:
    known = sorted(seconds for seconds in recoveries if seconds is not None)
    if not known:
        return "none"
    return (
        f"{len(recoveries)} faults, a score again after {statistics.median(known):.2f} s in the median and "
        f"{known[-1]:.2f} s at most; {late} beyond {RECOVERY_S:g} s or never"
    )


def by_fault(strikes: list[Strike]) -> dict[str, dict[str, Any]]:
    """Of each fault: how often it struck, the slowest recovery, what was said, stale scores."""
    table: dict[str, dict[str, Any]] = {}
    for name in sorted({strike.fault for strike in strikes}):
        those = [strike for strike in strikes if strike.fault == name]
        said: dict[str, int] = {}
        for strike in those:
            for reason, count in strike.reasons.items():
                said[reason] = said.get(reason, 0) + count
        known = [strike.recovery_s for strike in those if strike.recovery_s is not None]
        table[name] = {
            "times": len(those),
            "slowest_recovery_s": max(known) if len(known) == len(those) else None,
            "reasons": said,
            "stale": sum(strike.stale for strike in those),
        }
    return table


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@click.command()
@click.option("--minutes", type=click.FloatRange(0.5), default=20.0, show_default=True, help="Minutes of the soak.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the faults.")
@click.option(
    "--fps", type=click.FloatRange(1), default=170.0, show_default=True, help="Frames a second of the camera."
)
@signature_option
@click.option("--bundle", type=click.Path(path_type=Path), help="Bundle folder. Default: the demonstration bundle.")
@click.option("--precision", help="Number format of the network, as of `fthnet run`.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write everything, each fault too.")
def soak(
    minutes: float, seed: int, fps: float, bundle: Path | None, precision: str | None, json_file: Path | None
) -> None:
    """Score a network camera on loopback that misbehaves every few seconds, and check that nothing is lost.

    Runs the real `fthnet run` against a real MJPEG server: killed, frozen, stalling in the middle of a picture,
    truncated and noisy JPEGs, another resolution, resets, HTTP errors. Exit code 1 where a check fails.
    """
    from rich.table import Table

    from fthnet_kit.bench.endurance.faulty_camera import FAULTS
    from fthnet_kit.bench.results.results_file import plain, write_file
    from fthnet_kit.edge.errors import KitError
    from fthnet_kit.edge.model.bundle import Bundle
    from fthnet_kit.edge.reporting.console import open_console

    Bundle.open(bundle)  # fails before a camera starts
    arguments = [] if bundle is None else ["--bundle", str(bundle)]
    arguments += [] if precision is None else ["--precision", precision]
    with tempfile.TemporaryDirectory(prefix="fthnet-soak-") as folder:
        plan = SoakPlan(minutes, seed, fps, tuple(arguments))
        report = Soak(plan, Path(folder), lambda line: click.echo(line, err=True)).run()
    table = Table(title=f"{len(report['strikes'])} faults in {minutes:g} minutes, seed {seed}", title_justify="left")
    for column in ("fault", "what it is", "times", "slowest recovery, s", "said meanwhile"):
        table.add_column(column, justify="right" if column in ("times", "slowest recovery, s") else "left")
    for name, row in report["faults"].items():
        slowest = "never" if row["slowest_recovery_s"] is None else f"{row['slowest_recovery_s']:.2f}"
        said = ", ".join(f"{reason} {count}" for reason, count in row["reasons"].items())
        table.add_row(name, FAULTS[name], str(row["times"]), slowest, said)
    console = open_console()
    console.print(table)
    for name, check in report["checks"].items():
        console.print(f"{'passed' if check['passed'] else 'FAILED'}  {name}: {check['found']}")
    if json_file is not None:
        write_file(json_file, (json.dumps(plain(report), indent=1) + "\n").encode())
        click.echo(f"results: {json_file}")
    if not report["passed"]:
        failed = ", ".join(name for name, check in report["checks"].items() if not check["passed"])
        raise KitError(f"soak: expected every check to pass, found failures: {failed}")


if __name__ == "__main__":
    from fthnet_kit.edge.cli.main import main

    main(["bench", "soak", *sys.argv[1:]])
