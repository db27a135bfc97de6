"""What an operator sees in a terminal: the score now, its last minute, and how fresh it is."""

from __future__ import annotations

import select
import threading
import time
from collections import deque
from collections.abc import Iterator
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
from fthnet_kit.edge.guidance.texts import REASONS, Language, Words
from fthnet_kit.edge.loop.result import LiveResult, LiveSummary

HISTORY_S = 60.0
SPARKS = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 60
RATE_WINDOW_S = 3.0
PLAIN_EVERY_S = 2.0
COLOURS = {"good": "bold green", "usable": "bold yellow", "reject": "bold red"}
STAGES = (  # keys of `LiveSummary.samples_ms`, whatever the backend
    *("preprocess", "gate", "infer", "h2d", "gpu_compute", "d2h", "enqueue", "post"),
    *("frame age", "capture to score", "loop overhead"),
)


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
        language: of everything that is drawn.
    """

    def __init__(
        self,
        console: Console,
        source: str,
        stale_s: float = 1.0,
        guide: GuideSink | None = None,
        language: Language = "en",
    ) -> None:
        self._console = console
        self._words = Words(language)
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
            return Text(self._words.small("camera_awaited"), style="dim")
        when, result = self._latest
        if now - when > self._stale_s:
            return Text(self._words.say("no_current_score"), style="bold red")
        if result.score.value is None:
            return Text(self._words.small(REASONS[result.score.reason or "no_frame"]), style="bold magenta")
        verdict = result.score.verdict or "reject"
        value = self._words.number(result.score.value, 1)
        return Text(f"{value:>5}  {self._words.small(verdict)}", style=COLOURS[verdict])

    def _line(self, now: float) -> str:
        assert self._latest is not None
        result = self._latest[1]
        value = self._headline(now).plain.strip()
        age = self._age(result)
        return self._words.say("score_line", value=value, rate=self._fps(now), age=age, dropped=result.dropped)

    def _fps(self, now: float) -> str:
        return self._words.say("frames_per_second", number=self._words.number(self._rate(now), 1))

    def _age(self, result: LiveResult | None) -> str:
        if result is None or result.age_ms is None:
            return "-"
        return self._words.say("milliseconds", number=self._words.number(result.age_ms))

    def _render(self) -> Panel:
        now = time.monotonic()
        with self._lock:
            facts = Table.grid(padding=(0, 3))
            result = self._latest[1] if self._latest else None
            age = self._words.say("age_is", age=self._age(result))
            dropped = self._words.say("dropped_are", dropped="-" if result is None else result.dropped)
            facts.add_row(self._fps(now), age, dropped)
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


def summary_table(summary: LiveSummary, words: Words) -> Table:
    """Durations of a run: p50, p95, p99 and maximum of each stage, in ms."""
    title = words.count("scored_in", summary.scored, seconds=words.number(summary.seconds, 1))
    table = Table(title=title, title_justify="left")
    table.add_column(words.say("stage"))
    for column in ("p50", "p95", "p99", words.say("most")):
        table.add_column(column, justify="right")
    for stage, samples in summary.samples_ms.items():
        values = np.percentile(np.array(samples), [50, 95, 99, 100])
        name = words.say(f"stage_{stage.replace(' ', '_')}")
        table.add_row(name, *(words.number(value, 2 if value < 10 else 1) for value in values))
    return table


def summary_lines(summary: LiveSummary, words: Words) -> Iterator[str]:
    """What a run saw: frames, reconnects, why there was no score, and what was contained."""
    reasons = ", ".join(f"{words.small(REASONS[reason])} {count}" for reason, count in sorted(summary.reasons.items()))
    yield words.say(
        "counts",
        captured=summary.captured,
        dropped=summary.dropped,
        reconnects=summary.reconnects,
        reasons=reasons or words.say("none"),
    )
    if summary.faults:
        faults = ", ".join(f"{where} {count}" for where, count in sorted(summary.faults.items()))
        yield words.say("faults_are", faults=faults)
