"""What `fthnet bench latency` shows: a page with charts, and tables in the terminal.

Both take the content of a results file, as `latency.schema.json` describes it.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich import box as boxes
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from fthnet_kit.bench.results.charts import Array, histogram, milliseconds, stacked_bar, time_line
from fthnet_kit.bench.results.results_file import plain
from fthnet_kit.edge.reporting.html_page import (
    box,
    bullets,
    cards,
    code,
    html_table,
    meanings,
    page,
    paragraph,
    section,
    soft,
)

Content = Mapping[str, Any]
Rows = list[tuple[str, ...]]

FIGURES = ("min", "mean", "p50", "p90", "p95", "p99", "max", "std", "jitter")
PARTS = ("grab", "decode", "preprocess", "gate", "infer", "post")  # parts of total, one after the other
INSIDE = ("h2d", "gpu_compute", "d2h", "enqueue")  # parts of infer
COLOURS = {stage: index for index, stage in enumerate(("decode", "preprocess", "gate", "infer", "post"))} | {"grab": 0}
UNSTABLE = "May be unstable, because…"
STABLE = "Nothing speaks against these figures"
STAGE_MEANING = {
    "grab": "reading a picture from the source",
    "decode": "a JPEG in memory becomes a picture",
    "preprocess": "crop to the retinal field, resize, views",
    "gate": "whether a retina is in view at all",
    "infer": "the network, with all copies to and from it",
    "h2d": "part of infer: the copy to the GPU",
    "gpu_compute": "part of infer: the GPU's own time",
    "d2h": "part of infer: the copy back",
    "enqueue": "part of infer, on the host while the GPU works: handing over the work",
    "post": "mean of the views, verdict",
    "total": "all of it, taken with the same clock around it",
}
FIGURE_MEANING = "p50 to p99: percentiles. std: standard deviation. jitter: mean absolute difference of neighbours."
READINGS = {
    "hottest_c": "hottest zone, °C",
    "cpu_mhz": "clock of the CPU, MHz",
    "gpu_mhz": "clock of the GPU, MHz",
    "rss_mb": "resident memory of the process, MB",
    "shared_mb": "memory in use on the machine, MB",
    "power_mw": "power of the module, mW",
}
DEVICE = {
    "model": "computer", "soc": "system on a chip", "cpu_model": "CPU", "architecture": "architecture",
    "cores": "cores", "governor": "CPU governor", "power_mode": "power mode", "clocks_locked": "clocks locked",
    "memory_total_mb": "memory, MB", "system": "system", "kernel": "kernel", "l4t": "Jetson Linux",
    "jetpack": "JetPack",
}  # fmt: skip
CHANGING = {
    "load_average": "load over 1, 5, 15 minutes", "memory_available_mb": "free memory, MB",
    "temperatures_c": "temperatures, °C", "cpu_clocks": "CPU clocks now, MHz", "gpu_clocks": "GPU clocks now, MHz",
    "throttling": "slowed parts", "power_mw": "power, mW",
}  # fmt: skip
ESTIMATES = ("module", "precision", "floor, ms", "at 20 %, ms", "at 10 %, ms", "kind")
OTHER_MODULES = (
    "Other modules, by NVIDIA's peaks alone: the floor, and the time at a fifth and a tenth of the arithmetic peak, "
    "where networks of this kind have been seen. Estimates: nothing of this was measured."
)


def latency_page(content: Content) -> bytes:
    """One page that loads nothing."""
    content = plain(content)
    return page(title_of(content), *latency_parts(content))


def title_of(content: Content) -> str:
    """What was measured."""
    model = content["model"]
    return f"Latency of {model['name']} {model['version']}"


def latency_parts(content: Content, level: int = 2) -> list[str]:
    """The page below its title, as HTML.

    Args:
        content: of a results file, as `results.read_results` gives it.
        level: of its headings.
    """
    sections = {
        "Stages": stage_parts(content),
        "Distribution": [distribution(content)],
        "Over time": time_parts(content),
        "From capture to score, live": live_parts(content["capture"]),
        "Waiting for a score": wait_parts(content),
        "Long run": soak_parts(content["soak"]),
        "What the hardware could do": roofline_parts(content["roofline"]),
        "Comparison": comparison_parts(content["comparison"]),
        "Machine": device_parts(content),
        "How it was measured": method_parts(content),
    }
    shown = [section(title, *parts, level=level) for title, parts in sections.items() if parts]
    return [*head_parts(content), *shown, footer(content)]


def head_parts(content: Content) -> list[str]:
    """The figures that matter, what they are of, and whether they can be trusted."""
    total = content["steady"]["summary"]["total"]
    figures = {
        "p50, ms": milliseconds(total["p50"]),
        "p99, ms": milliseconds(total["p99"]),
        "pictures a second": f"{content['steady']['throughput_fps']:.1f}",
    }
    reasons = content["unstable"]
    return [
        cards(figures),
        soft(f"Steady state, from the {_picture_form(content)} to the score; {total['n']} samples after the warm-up."),
        box(UNSTABLE if reasons else STABLE, reasons),
        meanings(facts(content)),
    ]


def facts(content: Content) -> dict[str, str]:
    """Model, backend, machine, pictures and date."""
    model, device, pictures = content["model"], content["device"], content["pictures"]
    machine = [device["model"], device.get("cpu_model"), device.get("power_mode")]
    return {
        "model": f"{model['name']} {model['version']}, {model['manufacturer']}; weights {model['weights_sha256'][:12]}",
        "precision": f"{model.get('form', model['precision'])}, {_count(model['views'], 'view')}",
        "backend": backend_of(content),
        "device": ", ".join(dict.fromkeys(str(fact) for fact in machine if fact)) or "not known",
        "pictures": f"{pictures['width']} × {pictures['height']}, {pictures['source']}",
        "measured": content["measured_at"].replace("T", " "),
    }


def backend_of(content: Content) -> str:
    """What the backend says about itself."""
    known = {"library", "provider"}
    found = content["model"]["backend"]
    named = [str(found[name]) for name in ("library", "provider") if found.get(name)]
    return ", ".join(
        named + [f"{name.replace('_', ' ')} {value}" for name, value in found.items() if name not in known]
    )


def stage_rows(summary: Content) -> Rows:
    """One row a stage, under its name and `FIGURES`; total is the last."""
    order = [stage for stage in (*PARTS[:5], *INSIDE, "post") if stage in summary]
    order += [stage for stage in summary if stage not in (*order, "total")]
    return [(stage, *_figures(summary[stage])) for stage in (*order, *(["total"] if "total" in summary else []))]


def stage_parts(content: Content) -> list[str]:
    """A bar of the medians and the table."""
    summary = content["steady"]["summary"]
    medians = {stage: summary[stage]["p50"] for stage in PARTS if stage in summary}
    return [
        stacked_bar(medians, COLOURS),
        soft(f"Medians; together {milliseconds(sum(medians.values()))} ms. All figures below in ms."),
        html_table(("stage", *FIGURES), stage_rows(summary), "numbers"),
        soft(FIGURE_MEANING),
        *(soft(line) for line in score_lines(content)),
        meanings({stage: words for stage, words in STAGE_MEANING.items() if stage in summary}),
    ]


def score_lines(content: Content) -> list[str]:
    """What one score takes at most in nine of ten cases, and the energy that it takes where power can be read."""
    steady, lines = content["steady"], []
    most = steady["summary"]["total"].get("surely_p90")
    if most is not None:
        lines.append(f"total: the 90th percentile is at most {milliseconds(most)} ms, with 99 % confidence")
    power = [value for value in content["timeline"]["power_mw"] if value is not None]
    if power and steady["throughput_fps"]:
        energy = sum(power) / len(power) / steady["throughput_fps"]  # mW s = mJ
        lines.append(f"energy a score: {energy:.0f} mJ of the whole module, at {sum(power) / len(power) / 1e3:.1f} W")
    return lines


def settled_total(content: Content) -> Array:
    """Total of every run after the warm-up, ms."""
    return np.array(content["steady"]["stages_ms"]["total"][content["warm_up"]["samples"] or 0 :], np.float64)


def distribution(content: Content) -> str:
    """Histogram of the total."""
    return _histogram("total, ms (samples by duration)", settled_total(content), content["steady"]["summary"]["total"])


def time_parts(content: Content) -> list[str]:
    """Latency over time, then the machine's readings."""
    steady, timeline = content["steady"], content["timeline"]
    seconds = np.array(steady["started_s"], np.float64)
    total = np.array(steady["stages_ms"]["total"], np.float64)
    discarded = content["warm_up"]["samples"] or 0
    drift = (content["soak"] or {}).get("drift")
    words = {"": "total"}
    if discarded:
        words["shade"] = f"warm-up, {_count(discarded, 'sample')}, left out of the figures"
    if drift:
        words["step"] = "lasting change"
    line = time_line(
        "total, ms, over time, s",
        seconds,
        total,
        shaded_s=float(seconds[discarded]) if 0 < discarded < len(seconds) else 0.0,
        steps_s=[drift["at_s"]] if drift else [],
        words=words,
        from_zero=True,
    )
    readings = {name: _readings(timeline[name]) for name in READINGS}
    shown = [name for name, values in readings.items() if np.isfinite(values).any()]
    charts = "".join(
        time_line(f"{READINGS[name]}, over time, s", np.array(timeline["seconds"]), readings[name], words={})
        for name in shown
    )
    untold = [READINGS[name].partition(",")[0] for name in READINGS if name not in shown]
    remark = [soft(f"This machine does not tell: {', '.join(untold)}.")] if untold else []
    return [line, f'<div class="charts">{charts}</div>', *remark]


def live_parts(capture: Content | None) -> list[str]:
    """The live loop: what was dropped, how old frames were, how long scores took."""
    if capture is None:
        return []
    parts = [paragraph(live_line(capture))]
    latency = np.array(capture["latency_ms"], np.float64)
    if len(latency) and "capture to score" in capture["summary"]:
        parts.append(
            _histogram("capture to score, ms (frames by duration)", latency, capture["summary"]["capture to score"])
        )
    rows = [(name, *_figures(found)) for name, found in capture["summary"].items()]
    parts.append(html_table(("ms", *FIGURES), rows, "numbers"))
    parts.append(
        soft(
            "frame age: how old a frame is when its scoring begins. loop overhead: what the loop adds to that and to "
            "the scoring itself. A frame is dropped where a newer one comes before it is scored."
        )
    )
    return parts


def live_line(capture: Content) -> str:
    """Frames of the live loop, in a sentence."""
    share = 100 * capture["dropped"] / max(1, capture["captured"])
    return (
        f"A camera at {capture['fps']:g} fps for {capture['seconds']:.1f} s: {capture['captured']} frames captured, "
        f"{capture['scored']} scored, {capture['dropped']} dropped ({share:.0f} %)."
    )


def wait_rows(content: Content) -> Rows:
    """What an operator waits for: what, how often measured, median, all of it."""
    rows: Rows = []
    if content["cold_start"] is not None:
        rows.append(_wait("cold start: a new process to its first score", content["cold_start"]["total_ms"]))
    rows.append(_wait("loading the model", [content["load_ms"]]))
    rows.append(_wait("first picture after loading", [content["first_ms"]]))
    rows += [_wait(f"first picture after {pause['pause_s']:g} s idle", pause["total_ms"]) for pause in content["idle"]]
    total = content["steady"]["summary"]["total"]
    return [*rows, ("steady state", str(total["n"]), milliseconds(total["p50"]), "")]


def wait_parts(content: Content) -> list[str]:
    """Cold start, first inference, after a pause."""
    return [html_table(("in ms", "measured", "median", "each"), wait_rows(content), "wide")]


def soak_lines(soak: Content) -> list[str]:
    """Verdicts on a long run."""
    drift, leak, memory = soak["drift"], soak["leak"], soak["rss_mb"]
    lines = [
        f"{soak['frames']} pictures in {duration(soak['seconds'])}.",
        "Latency: no lasting change."
        if drift is None
        else f"Latency: {drift['before']:.1f} ms before {drift['at_s']:.0f} s, {drift['after']:.1f} ms after.",
        "Memory: no leak."
        if leak is None
        else f"Memory: {leak['mb']:.1f} MB more, {leak['mb_per_hour']:.1f} MB an hour, and it does not stop.",
    ]
    if None not in (memory["first"], memory["last"]):
        lines.append(f"Resident memory from {memory['first']:.1f} to {memory['last']:.1f} MB.")
    return lines


def duration(seconds: float) -> str:
    """A length of time in the unit that suits it."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} minutes"


def soak_parts(soak: Content | None) -> list[str]:
    """Verdicts on a long run, as a list."""
    return [] if soak is None else [bullets(soak_lines(soak))]


def roofline_parts(roofline: Content | None) -> list[str]:
    """How near the hardware's limits inference comes, and estimates for other modules."""
    if roofline is None:
        return []
    rows = [
        (
            row["module"],
            row["precision"],
            milliseconds(row["roofline"]["floor_ms"]),
            milliseconds(row["at_20_percent_ms"]),
            milliseconds(row["at_10_percent_ms"]),
            row["kind"],
        )
        for row in roofline["estimates"]
    ]
    return [
        paragraph(f"Inference of one image is {roofline_line(roofline)}."),
        html_table(("", ""), roofline_rows(roofline), "wide"),
        *([paragraph(OTHER_MODULES), html_table(ESTIMATES, rows, "numbers")] if rows else []),
    ]


def roofline_line(roofline: Content) -> str:
    """What limits inference."""
    return str(roofline["achieved"]["sentence"])


def roofline_rows(roofline: Content) -> Rows:
    """Work, peaks and what was reached of them: name and value."""
    work, machine, reached = roofline["work"], roofline["machine"], roofline["achieved"]
    floor = reached["roofline"]
    doubts = [*machine.get("notes", ()), *(f"{name} not read at its source" for name in machine.get("unread", ()))]
    rows = [
        ("work, counted by formula", f"{work['flops'] / 1e9:.1f} GFLOP, {work['precision']}"),
        ("bytes moved, counted by formula", f"{(work['weight_bytes'] + work['activation_bytes']) / 1e6:.0f} MB"),
        ("peaks of", reached["machine"]),
        ("memory bandwidth", f"{machine['memory_gb_s']:.1f} GB/s"),
        ("floor by arithmetic", f"{milliseconds(floor['compute_ms'])} ms"),
        ("floor by memory bandwidth", f"{milliseconds(floor['memory_ms'])} ms"),
        ("measured", f"{milliseconds(reached['median_ms'])} ms"),
        ("reached", f"{reached['gflops']:.1f} GFLOP/s, {100 * reached['compute_share']:.0f} % of the arithmetic peak"),
        ("share of the floor's speed", f"{100 * reached['share']:.0f} %"),
        ("doubts about the peaks", "; ".join(doubts)),
    ]
    return [row for row in rows if row[1]]


def comparison_line(comparison: Content) -> str:
    """Two runs and their ratio, in a sentence."""
    (one, other), (first, second), ratio = comparison["names"], comparison["median_ms"], comparison["ratio"]
    verdict = "slower" if ratio["low"] > 1 else "faster" if ratio["high"] < 1 else "no difference that stands out"
    return (
        f"{one} {milliseconds(first)} ms, {other} {milliseconds(second)} ms: ratio {ratio['value']:.3f} "
        f"[{ratio['low']:.3f}, {ratio['high']:.3f}], {verdict}"
    )


def comparison_parts(comparison: Content | None) -> list[str]:
    """Ratio of two runs, and how long both took, on one scale."""
    if comparison is None:
        return []
    one, other = (np.array(each, np.float64) for each in comparison["samples_ms"])
    pairs = zip(comparison["names"], (one, other), (other, one), strict=True)
    charts = [
        _histogram(f"{name}, ms (rounds by duration)", values, _marks(values), beside)
        for name, values, beside in pairs
        if len(values)
    ]
    return [
        paragraph(f"{comparison_line(comparison)}."),
        soft(f"Medians of {comparison['rounds']} rounds, with the ratio's 95 % bootstrap interval."),
        *charts,
    ]


def device_parts(content: Content) -> list[str]:
    """What the machine is, and what changed on it."""
    before, after = content["device"], content["device_after"]
    still = {words: _words(before.get(name)) for name, words in DEVICE.items()}
    rows = [(words, _words(before.get(name)), _words(after.get(name))) for name, words in CHANGING.items()]
    memory = content["memory"]
    own = [
        ("largest resident memory of the process, MB", "", _words(memory["peak_mb"])),
        ("cores that other programs used", "", _words(memory["others_cores"])),
    ]
    return [
        meanings({name: words for name, words in still.items() if words}),
        html_table(("", "before", "after"), [row for row in rows + own if any(row[1:])], "wide"),
    ]


def method_parts(content: Content) -> list[str]:
    """Command, clock, warm-up."""
    clock, warm_up = content["clock"], content["warm_up"]
    discarded = f"{_count(warm_up['samples'], 'sample')} left out." if warm_up["settled"] else "It never settled."
    return [
        code(shlex.join(content["command"])),
        meanings(
            {
                "kit": content["kit_version"],
                "clock": f"{clock['name']}, step {1e6 * clock['resolution_ms']:.0f} ns",
                "garbage collection": f"{clock['garbage_collection']} while the steady state was sampled",
                "warm-up": f"{warm_up['rule']} {discarded}",
            }
        ),
    ]


def not_measured(content: Content) -> Iterator[str]:
    """What these figures do not say."""
    if not content["device"].get("is_jetson"):
        yield "This was no Jetson: nothing here says how fast a Jetson is."
    yield "Exposure, readout and transfer of a real camera come on top of every figure."
    if content["capture"] is None:
        yield "The live loop was not measured."
    if content["cold_start"] is None:
        yield "The cold start was not measured."
    if content["soak"] is None:
        yield "No long run: nothing here speaks of drift or leaks over hours."
    if not any(value is not None for value in content["timeline"]["power_mw"]):
        yield "Power was not measured."


def footer(content: Content) -> str:
    """What was not measured."""
    return f"<footer><p>Not measured:</p>{bullets(not_measured(content))}</footer>"


def latency_tables(content: Content) -> list[RenderableType]:
    """The same for a terminal, shorter."""
    content = plain(content)
    shown = facts(content)
    lines = [f"{shown['model']}", f"{shown['precision']}; {shown['backend']}", f"{shown['device']}"]
    total = content["steady"]["summary"]["total"]
    found: list[RenderableType] = [
        Text("\n".join(lines)),
        _table("ms", FIGURES, stage_rows(content["steady"]["summary"])),
    ]
    found.append(
        Text(f"{content['steady']['throughput_fps']:.1f} pictures a second, {total['n']} samples after the warm-up")
    )
    found.extend(map(Text, score_lines(content)))
    found.append(_table("ms", ("measured", "median"), [row[:3] for row in wait_rows(content)]))
    capture, roofline, comparison = content["capture"], content["roofline"], content["comparison"]
    if capture is not None:
        found.append(Text(live_line(capture)))
        rows = [(name, *_figures(figures)) for name, figures in capture["summary"].items()]
        found.append(_table("ms", FIGURES, rows))
    if content["soak"] is not None:
        found.append(Text("\n".join(soak_lines(content["soak"]))))
    if roofline is not None:
        found.append(Text(f"one inference is {roofline_line(roofline)}"))
    if comparison is not None:
        found.append(Text(comparison_line(comparison)))
    return [*found, _trust(content["unstable"])]


def _trust(reasons: Sequence[str]) -> Text:
    if not reasons:
        return Text(STABLE, style="green")
    return Text("\n  ".join((UNSTABLE, *reasons)), style="yellow")


def _table(name: str, columns: Sequence[str], rows: Rows) -> Table:
    table = Table(box=boxes.SIMPLE_HEAD, pad_edge=False)
    table.add_column(name)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _figures(summary: Content) -> tuple[str, ...]:
    return tuple(milliseconds(summary[name]) for name in FIGURES)


def _histogram(caption: str, values: Array, summary: Content, beside: Array | None = None) -> str:
    marks = {name: summary[name] for name in ("p50", "p99")}
    words = {name: f"{name} {milliseconds(at)} ms" for name, at in marks.items()}
    return histogram(caption, values, marks, words, beside)


def _marks(values: Array) -> dict[str, float]:
    p50, p99 = np.percentile(values, [50, 99])
    return {"p50": float(p50), "p99": float(p99)}


def _readings(values: Sequence[float | None]) -> Array:
    return np.array([math.nan if value is None else value for value in values], np.float64)


def _wait(what: str, totals: Sequence[float]) -> tuple[str, ...]:
    each = ", ".join(milliseconds(ms) for ms in totals) if len(totals) > 1 else ""
    return what, str(len(totals)), milliseconds(float(np.median(totals))), each


def _words(value: Any) -> str:
    """A fact in words; empty where it is not known."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        if "current_mhz" in value:
            return f"{value['name']} {_words(value['current_mhz'])}".strip()
        return ", ".join(f"{key} {_words(entry)}" for key, entry in value.items())
    if isinstance(value, list):
        return ", ".join(words for words in map(_words, value) if words)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _picture_form(content: Content) -> str:
    return "compressed frame" if content["pictures"]["stage"] == "decode" else "source's picture"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
