"""What an operator sees in a terminal: the score now, its last minute, and how fresh it is."""

from __future__ import annotations

import select
import threading
import time
from collections import deque
from types import TracebackType
from typing import IO

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from fthnet_kit.edge.capture.source import without_password
from fthnet_kit.edge.guidance.hint_follower import GuideSink
from fthnet_kit.edge.loop.result import LiveResult, LiveSummary

HISTORY_S = 60.0
SPARKS = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 60
RATE_WINDOW_S = 3.0
PLAIN_EVERY_S = 2.0
COLOURS = {"good": "bold green", "usable": "bold yellow", "reject": "bold red"}
REASONS = {
    "no_frame": "no camera: trying again",
    "stalled": "camera stalled",
    "frozen": "picture frozen",
    "no_retina": "no retina in view",
    "ambiguous_field": "no single field to be told",
    "corrupt_frame": "frame cannot be read",
    "engine_fault": "the network failed",
}


def sparkline(history: list[tuple[float, float | None]], now: float) -> str:
    """One character a second of the last minute, oldest first; a blank where there was no score."""
    columns: list[list[float]] = [[] for _ in range(SPARK_WIDTH)]
    for when, value in history:
        column = SPARK_WIDTH - 1 - int((now - when) / HISTORY_S * SPARK_WIDTH)
        if value is not None and 0 <= column < SPARK_WIDTH:
            columns[column].append(value)
    means = [float(np.mean(column)) if column else None for column in columns]
    return "".join(" " if mean is None else SPARKS[min(7, int(mean / 100 * 8))] for mean in means)


class TerminalView:
    """A sink that draws the newest result; drawing happens in rich's own thread and never delays scoring.

    Where the output is not a terminal (a log, a pipe), it writes one plain line every two seconds instead.

    Args:
        console: where to draw.
        source: the source's URI, for the title; its password is not shown.
        stale_s: a result older than this is not shown as current.
        guide: has the hint to show.
    """

    def __init__(self, console: Console, source: str, stale_s: float = 1.0, guide: GuideSink | None = None) -> None:
        self._console = console
        self._source = without_password(source)
        self._stale_s = stale_s
        self._guide = guide
        self._lock = threading.Lock()
        self._latest: tuple[float, LiveResult] | None = None
        self._history: deque[tuple[float, float | None]] = deque()
        self._plain_s = 0.0
        self._live: Live | None = None

    def __enter__(self) -> TerminalView:
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=8, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def offer(self, result: LiveResult) -> None:
        """Note a result; the next drawing shows it."""
        now = time.monotonic()
        with self._lock:
            self._latest = (now, result)
            self._history.append((now, result.score.value))
            while self._history and now - self._history[0][0] > HISTORY_S:
                self._history.popleft()
        if self._live is None and now - self._plain_s >= PLAIN_EVERY_S and _has_room(self._console.file):
            self._plain_s = now
            self._console.print(self._line(now), highlight=False)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _rate(self, now: float) -> float:
        recent = [when for when, value in self._history if value is not None and now - when <= RATE_WINDOW_S]
        return (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 2 else 0.0

    def _headline(self, now: float) -> Text:
        if self._latest is None:
            return Text("waiting for the first frame", style="dim")
        when, result = self._latest
        if now - when > self._stale_s:
            return Text("no current score", style="bold red")
        if result.score.value is None:
            return Text(REASONS[result.score.reason or "no_frame"], style="bold magenta")
        verdict = result.score.verdict or "reject"
        return Text(f"{result.score.value:5.1f}  {verdict}", style=COLOURS[verdict])

    def _line(self, now: float) -> str:
        assert self._latest is not None
        result = self._latest[1]
        age = "-" if result.age_ms is None else f"{result.age_ms:.0f} ms"
        headline = self._headline(now).plain.strip()
        return f"score {headline}  {self._rate(now):.1f} fps  frame age {age}  dropped {result.dropped}"

    def _render(self) -> Panel:
        now = time.monotonic()
        with self._lock:
            facts = Table.grid(padding=(0, 3))
            result = self._latest[1] if self._latest else None
            age = "-" if result is None or result.age_ms is None else f"{result.age_ms:.0f} ms"
            dropped = "-" if result is None else str(result.dropped)
            facts.add_row(f"{self._rate(now):.1f} fps", f"frame age {age}", f"dropped {dropped}")
            hint = Text((self._guide.text if self._guide else None) or "", style="bold cyan")
            spark = Text(sparkline(list(self._history), now), style="cyan")
            return Panel(
                Group(self._headline(now), hint, spark, facts),
                title=Text(f"fthnet run · {self._source}"),
                width=SPARK_WIDTH + 4,
            )


def _has_room(output: IO[str]) -> bool:
    """Whether a line can be written without waiting: nobody may be reading the pipe at our end."""
    try:
        return bool(select.select([], [output], [], 0)[1])
    except (OSError, ValueError):  # no file of the system's: it never waits
        return True


def summary_table(summary: LiveSummary) -> Table:
    """Durations of a run: p50, p95, p99 and maximum of each stage."""
    table = Table(title=f"{summary.scored} frames scored in {summary.seconds:.1f} s", title_justify="left")
    table.add_column("stage, ms")
    for column in ("p50", "p95", "p99", "max"):
        table.add_column(column, justify="right")
    for stage, samples in summary.samples_ms.items():
        values = np.percentile(np.array(samples), [50, 95, 99, 100])
        table.add_row(stage, *(f"{value:.2f}" if value < 10 else f"{value:.1f}" for value in values))
    return table
