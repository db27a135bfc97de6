"""Records as a picture."""

from __future__ import annotations

import math
from datetime import datetime
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.files import make_folder, replacing
from fthnet_kit.edge.outputs.records.chain import read_records
from fthnet_kit.edge.reporting.plots import load_pyplot

DRAWN = 100_000  # records in a picture; of more, every second, third …
NOTES_SHOWN = 20
COLOURS = {"good": "#0b6e4f", "usable": "#e09f3e", "reject": "#c1121f"}
REASON_COLOURS = ("#8d99ae", "#3d405b", "#bc6c25", "#6a4c93", "#1982c4", "#b0b0b0")


def as_time(text: Any) -> datetime | None:
    """A record's time, or None for what is none."""
    try:
        time = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return time if time.tzinfo is not None else None


def draw(path: Path, output: Path) -> tuple[int, int]:
    """Draw a chain; returns how many records are drawn, and how many there are.

    Raises:
        InputError: there is none, or the picture cannot be written.
        MissingExtraError: without matplotlib.
    """
    plt = load_pyplot("plotting")
    count = sum(as_time(record.get("captured_at")) is not None for record in read_records(path))
    if not count:
        raise InputError(f"{path}: expected records of `fthnet run`, found none")
    stride = math.ceil(count / DRAWN)
    timed = (record for record in read_records(path) if as_time(record.get("captured_at")) is not None)
    shown = [*islice(timed, 0, count, stride)]
    times = [datetime.fromisoformat(record["captured_at"]) for record in shown]
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(10, 5.2), sharex=True, height_ratios=(3, 2), layout="constrained"
    )
    _draw_gaps(above, times, shown)
    for verdict, colour in (*COLOURS.items(), (None, "#6c757d")):
        chosen = [index for index, record in enumerate(shown) if record.get("verdict") == verdict]
        points = [(times[index], _number(shown[index].get("score"))) for index in chosen]
        points = [(when, value) for when, value in points if value is not None]
        if points:
            label = f"{verdict or 'no verdict'} ({len(points)})"
            above.plot(*zip(*points, strict=True), ".", color=colour, markersize=3, label=label)
    above.set(ylabel="score", ylim=(0, 100))
    above.set_title(f"Records {shown[0]['seq']} to {shown[-1]['seq']}", loc="left")
    for name, colour, label in (
        ("latency_ms", "#3d405b", "capture to score"),
        ("age_ms", "#8d99ae", "age when scoring began"),
    ):
        values = [math.nan if (value := _number(record.get(name))) is None else value for record in shown]
        below.plot(times, values, ".", color=colour, markersize=2, label=label)
    below.set(xlabel="time (UTC)", ylabel="milliseconds")
    below.set_ylim(bottom=0)
    for axis in (above, below):
        if handles := axis.get_legend_handles_labels()[0]:
            axis.legend(
                loc="lower right",
                bbox_to_anchor=(1, 1),
                fontsize=8,
                ncols=len(handles),
                frameon=False,
                markerscale=3,
                borderaxespad=0.1,
            )
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    try:
        make_folder(output.parent)
        with replacing(output, private=True) as file:
            figure.savefig(file, dpi=110, format=output.suffix.lstrip(".").lower() or "png")
    except (OSError, ValueError) as error:
        raise InputError(f"{output}: expected a PNG or SVG file that can be written, found {error}") from error
    finally:
        plt.close(figure)
    return len(shown), count


def _draw_gaps(axis: Any, times: list[datetime], shown: list[dict[str, Any]]) -> None:
    """A band for each stretch without a score, in the colour of its reason."""
    colours: dict[str, str] = {}
    for reason, group in groupby(range(len(shown)), key=lambda index: shown[index].get("reason")):
        stretch = list(group)
        if not isinstance(reason, str):
            continue
        new = reason not in colours
        colour = colours.setdefault(reason, REASON_COLOURS[len(colours) % len(REASON_COLOURS)])
        begin, end = times[stretch[0]], times[min(stretch[-1] + 1, len(times) - 1)]
        axis.axvspan(min(begin, end), max(begin, end), color=colour, alpha=0.35, label=reason if new else None)


def _number(value: Any) -> float | None:
    try:
        return float(value) if isinstance(value, (int, float)) else None
    except OverflowError:  # JSON's whole numbers have no bound
        return None
