"""Charts as HTML and SVG, drawn without a library.

The drawing stretches with the page while its strokes and its labels, which are HTML, keep their size: the same chart
serves a phone and a sheet of paper.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

SIZE = 1000  # units of the drawing, both ways
MOST_POINTS = 2000
MOST_BINS = 60
TICKS = 7


@dataclass(frozen=True)
class Axis:
    """A range of values along a side of the drawing."""

    low: float
    high: float

    @classmethod
    def around(cls, values: Array, least: float = 0.05) -> Axis:
        """Around values, and no narrower than a share of the largest: small changes shall look small."""
        low, high = float(values.min()), float(values.max())
        wider = max(0.0, least * max(abs(high), abs(low), 1e-9) - (high - low)) / 2 + 0.05 * (high - low)
        return cls(max(0.0, low - wider) if low >= 0 else low - wider, high + wider)

    def share(self, value: float) -> float:
        """Where a value lies, 0 to 1, also if it lies outside."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low or 1.0)))

    def ticks(self, most: int = TICKS) -> Iterator[float]:
        """Round values, about `most` and no more than one over it."""
        rough = (self.high - self.low) / most or 1.0
        size = 10.0 ** math.floor(math.log10(rough))
        step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough * 0.999)
        for index in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1):
            yield round(index * step, 10)


def chart(caption: str, drawing: str, x: Axis, y: Axis, legend: Mapping[str, str], *, tall: bool = False) -> str:
    """A figure: drawing, grid, numbers at the axes, legend.

    Args:
        caption: what is drawn, with units.
        drawing: SVG in units of `SIZE`, y downward.
        x, y: what the sides stand for.
        legend: words by the class that colours the mark.
        tall: for the charts that matter most.
    """
    lines = "".join(f"M0 {_down(y, value)}H{SIZE}" for value in y.ticks())
    numbers = "".join(f'<span class="y" style="bottom:{100 * y.share(v):.2f}%">{v:g}</span>' for v in y.ticks())
    numbers += "".join(f'<span class="x" style="left:{100 * x.share(v):.2f}%">{v:g}</span>' for v in x.ticks())
    words = "".join(f'<li><i class="{style}"></i>{html.escape(text)}</li>' for style, text in legend.items())
    name = html.escape(caption)
    return f"""<figure><figcaption>{name}</figcaption>
<div class="plot{" tall" if tall else ""}"><svg role="img" aria-label="{name}" viewBox="0 0 {SIZE} {SIZE}" \
preserveAspectRatio="none"><path class="grid" d="{lines}"/>{drawing}</svg>{numbers}</div>
<ul class="legend">{words}</ul></figure>"""


def histogram(
    caption: str, values: Array, marks: Mapping[str, float], words: Mapping[str, str], beside: Array | None = None
) -> str:
    """How often durations occur; the far tail is described in words.

    Args:
        caption: what is drawn, with units.
        values: durations.
        marks: upright lines, by the class that colours them.
        words: of the legend, by class.
        beside: durations of another histogram, so that both have one scale.
    """
    x = _scale(values if beside is None else np.concatenate([values, beside]))
    bins = int(min(MOST_BINS, max(10.0, 2 * math.sqrt(len(values)))))
    counts, edges = np.histogram(values[values <= x.high], bins, (x.low, x.high))
    y = Axis(0, 1.05 * max(1, int(counts.max())))
    bars = "".join(
        f"M{_along(x, left)} {SIZE}V{_down(y, count)}H{_along(x, right)}V{SIZE}"
        for count, left, right in zip(counts.tolist(), edges, edges[1:], strict=False)
        if count
    )
    drawing = f'<path class="area" d="{bars}"/>' + "".join(upright(style, x, at) for style, at in marks.items())
    return chart(caption, drawing, x, y, {**words, **_beyond(values, x.high)}, tall=True)


def time_line(
    caption: str, seconds: Array, values: Array, *, shaded_s: float = 0.0, steps_s: Sequence[float] = (),
    words: Mapping[str, str], from_zero: bool = False,
) -> str:  # fmt: skip
    """Values over time; where one is not a number the line breaks.

    Args:
        caption: what is drawn, with units.
        seconds: when, rising.
        values: as many.
        shaded_s: length of the shaded beginning.
        steps_s: upright lines.
        words: of the legend, by class.
        from_zero: whether the upright axis starts at 0.
    """
    known = values[np.isfinite(values)]
    y = Axis(0.0, 1.05 * _edge(known, 3.0) or 1.0) if from_zero else Axis.around(known)
    x = Axis(float(seconds[0]), max(float(seconds[-1]), float(seconds[0]) + 1e-3))
    shade = f'<rect class="shade" width="{_along(x, shaded_s)}" height="{SIZE}"/>' if shaded_s > 0 else ""
    path = "".join(_points(x, y, *thinned(seconds, values)))
    drawing = f'{shade}<path d="{path}"/>' + "".join(upright("step", x, at) for at in steps_s)
    return chart(caption, drawing, x, y, {**words, **_beyond(known, y.high)}, tall=from_zero)


def thinned(x: Array, y: Array, most: int = MOST_POINTS) -> tuple[Array, Array]:
    """At most so many points; of every stretch the least and the largest stay, so that no peak is lost."""
    if len(x) <= most:
        return x, y
    edges = np.linspace(0, len(x), most // 2 + 1).astype(int)
    kept: set[int] = set()
    for first, last in pairwise(edges.tolist()):
        part = y[first:last]
        if np.isfinite(part).any():
            kept |= {int(first + np.nanargmin(part)), int(first + np.nanargmax(part))}
        else:
            kept.add(int(first))
    order = np.array(sorted(kept))
    return x[order], y[order]


def stacked_bar(medians: Mapping[str, float], colours: Mapping[str, int]) -> str:
    """Parts of a whole side by side, with their names, ms and shares; `colours` are numbers of the page's palette."""
    whole = sum(medians.values()) or 1.0
    parts = "".join(
        f'<i style="width:{100 * ms / whole:.3f}%;background:var(--s{colours[stage]})"></i>'
        for stage, ms in medians.items()
    )
    words = "".join(
        f'<li><i style="background:var(--s{colours[stage]})"></i>{html.escape(stage)} {milliseconds(ms)} ms, '
        f"{100 * ms / whole:.0f} %</li>"
        for stage, ms in medians.items()
    )
    return f'<div class="bar" aria-hidden="true">{parts}</div><ul class="legend">{words}</ul>'


def upright(style: str, x: Axis, at: float) -> str:
    """A line from the bottom to the top."""
    return f'<path class="{style}" d="M{_along(x, at)} 0V{SIZE}"/>'


def milliseconds(value: float) -> str:
    """A duration with three digits, without a unit."""
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _points(x: Axis, y: Axis, across: Array, up: Array) -> Iterator[str]:
    pen = "M"
    for at, value in zip(across.tolist(), up.tolist(), strict=True):
        if math.isfinite(value):
            yield f"{pen}{_along(x, at)} {_down(y, value)}"
            pen = "L"
        else:
            pen = "M"


def _scale(values: Array) -> Axis:
    least, high = float(values.min()), _edge(values, 1.3)
    low = max(0.0, least - 0.05 * (high - least))
    return Axis(low, high if high > low else low + 1.0)


def _edge(values: Array, factor: float) -> float:
    """Where an axis ends: at the largest value, or near the 99th percentile where that lies far beyond."""
    largest, p99 = float(values.max()), float(np.percentile(values, 99))
    return largest if largest <= factor * p99 else factor * p99


def _beyond(values: Array, edge: float) -> dict[str, str]:
    count = int(np.sum(values > edge))
    return {"none": f"{count} beyond the edge, the largest {milliseconds(float(values.max()))}"} if count else {}


def _along(axis: Axis, value: float) -> str:
    return f"{SIZE * axis.share(value):.5g}"


def _down(axis: Axis, value: float) -> str:
    return f"{SIZE * (1 - axis.share(value)):.5g}"
