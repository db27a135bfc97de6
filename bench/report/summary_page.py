"""One page from all the results in a folder: what a device maker attaches to a design review."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fthnet_kit.bench.quality.accuracy_page import HOW, MEANING
from fthnet_kit.bench.report.other_results import Told, number, read_other
from fthnet_kit.bench.results.charts import milliseconds
from fthnet_kit.bench.results.results_file import SCHEMAS, printable, read_results
from fthnet_kit.bench.speed.latency_page import UNSTABLE, latency_parts
from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.reporting.html_page import (
    bars,
    bullets,
    html_table,
    links,
    meanings,
    page,
    paragraph,
    section,
    soft,
)

Content = Mapping[str, Any]

COLUMNS = ("file", "precision", "p50, ms", "p99, ms", "fps", "SRCC", "PLCC", "views", "model", "backend", "device")
SUMMARY_MEANING = (
    "p50, p99 and fps: from a frame to its score, steady state. SRCC and PLCC: agreement with opinion scores, with "
    "95 % bootstrap intervals."
)
AGREEMENT = ("precision", "views", "mean |Δ|", "p99 |Δ|", "max |Δ|", "SRCC between", "verdicts that flip")
LABELS = {"mos": "opinion scores", "classes": "classes"}
DIGITS = {"RMSE": 2}  # others have 3


@dataclass(frozen=True)
class Found:
    """A results file.

    Attributes:
        path: the file.
        content: what it holds, checked.
    """

    path: Path
    content: Content

    @property
    def name(self) -> str:
        """Of the file."""
        return printable(self.path.name)

    @property
    def title(self) -> str:
        """For its section and the table of contents."""
        kind = "Latency" if self.content["schema"] == "fthnet-latency" else "Accuracy"
        model = self.content["model"]
        return f"{kind} of {model['name']} {model['version']}, {self.name}"


def read_folder(folder: Path) -> tuple[list[Found], list[Told], list[str]]:
    """All results in a folder, latency first, then those of other kinds, and why other JSON files are none.

    Raises:
        InputError: there are none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder with results, found no such folder")
    found, others, left_out = [], [], []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(Found(path, read_results(path, tuple(SCHEMAS))))
        except InputError as error:
            other = read_other(path)
            if other is None:
                left_out.append(printable(str(error)))
            else:
                others.append(other)
    if not found and not others:
        what = "; ".join(left_out[:3]) or "no JSON file"
        raise InputError(
            f"{folder}: expected results of `fthnet bench latency --json` or `fthnet bench accuracy -o`, found {what}"
        )
    order = list(SCHEMAS)
    return sorted(found, key=lambda each: (order.index(each.content["schema"]), each.path.name)), others, left_out


def report_page(found: Sequence[Found], others: Sequence[Told], left_out: Sequence[str]) -> bytes:
    """One page that loads nothing: contents, summary, every result, what was left out."""
    told = [*(Told(each.title, tuple(parts_of(each.content))) for each in found), *others]
    names = [(f"result-{index}", each.title) for index, each in enumerate(told, start=1)]
    ends = [("left-out", "Files that are no results")] if left_out else []
    results = [
        section(each.title, *each.parts, name=name, style="result") for each, (name, _) in zip(told, names, strict=True)
    ]
    last = [section(title, bullets(left_out), name=name) for name, title in ends]
    summary = [section("Summary", *summary_parts(found), name="summary")] if found else []
    return page(
        "FTHNet measurements",
        links([*([("summary", "Summary")] if found else []), *names, *ends]),
        *summary,
        *results,
        *last,
    )


def summary_parts(found: Sequence[Found]) -> list[str]:
    """All results side by side."""
    rows = [row for each in found for row in summary_rows(each)]
    latencies = {
        each.name: each.content["steady"]["summary"]["total"]["p50"]
        for each in found
        if each.content["schema"] == "fthnet-latency"
    }
    unstable = [name for name, each in ((each.name, each.content) for each in found) if each.get("unstable")]
    return [
        html_table(COLUMNS, rows, "wide summary"),
        soft(SUMMARY_MEANING),
        *(
            [soft("Median from a frame to its score:"), bars(latencies, lambda ms: f"{milliseconds(ms)} ms")]
            if len(latencies) > 1
            else []
        ),
        *([paragraph(f"{UNSTABLE.removesuffix(', because…')}: {', '.join(unstable)}.")] if unstable else []),
    ]


def summary_rows(found: Found) -> Iterator[tuple[str, ...]]:
    """Under `COLUMNS`: one row of a latency, one for each run of an accuracy."""
    content, model, device = found.content, found.content["model"], found.content["device"]
    machine = str(device["model"] or device["cpu_model"] or "not known")
    if content["schema"] == "fthnet-latency":
        total, library = content["steady"]["summary"]["total"], str(model["backend"].get("library", ""))
        times = milliseconds(total["p50"]), milliseconds(total["p99"]), f"{content['steady']['throughput_fps']:.1f}"
        yield found.name, model["precision"], *times, "", "", str(model["views"]), model["name"], library, machine
        return
    for run in content["runs"]:
        metrics = [_metric(name, run["metrics"].get(name)) for name in ("SRCC", "PLCC")]
        library = str(run["backend"].get("library", ""))
        yield found.name, form_of(run), "", "", "", *metrics, str(run["views"]), model["name"], library, machine


def parts_of(content: Content) -> list[str]:
    """A result's own sections."""
    return latency_parts(content, level=3) if content["schema"] == "fthnet-latency" else accuracy_parts(content)


def accuracy_parts(content: Content) -> list[str]:
    """Tables of an accuracy, by set of photographs."""
    model, device = content["model"], content["device"]
    facts = {
        "model": f"{model['name']} {model['version']}; weights {model['weights_sha256'][:12]}",
        "device": ", ".join(str(device[name]) for name in ("model", "cpu_model", "power_mode") if device[name]),
        "measured": content["measured_at"].replace("T", " "),
        **{f"{precision} left out": reason for precision, reason in content["left_out"].items()},
    }
    parts = [meanings({name: words for name, words in facts.items() if words})]
    for place, data in enumerate(content["data"]):
        split = f", split {data['split']}" if "split" in data else ""
        words = f"{data['images']} photographs, labelled with {LABELS[data['labels']]}{split}."
        parts.append(section(data["folder"], paragraph(words), *data_parts(content, place), level=3))
    return [*parts, section("What this means", paragraph(HOW), meanings(MEANING), level=3)]


def data_parts(content: Content, place: int) -> Iterator[str]:
    """Metrics of all runs on a set of photographs, then how far the precisions agree."""
    runs = [run for run in content["runs"] if run["data"] == place]
    names = list(dict.fromkeys(name for run in runs for name in run["metrics"]))
    rows = [
        (
            form_of(run),
            str(run["views"]),
            str(run["without_score"]),
            *(_metric(name, run["metrics"].get(name)) for name in names),
            *(number(run["ms_per_picture"][key], 1) for key in ("median", "p95")),
        )
        for run in runs
    ]
    yield html_table(("precision", "views", "without a score", *names, "ms p50", "ms p95"), rows, "numbers")
    agreements = [
        (
            f"{found['reference']} → {found['form']}",
            str(found["views"]),
            *(number(found["cost"][name], 3) for name in ("mean", "p99", "worst")),
            number(found["cost"]["srcc"], 4),
            f"{found['cost']['flips']} of {found['cost']['images']}",
        )
        for found in content["agreement"]
        if found["data"] == place
    ]
    if agreements:
        yield html_table(AGREEMENT, agreements, "numbers")


def form_of(run: Content) -> str:
    """Precision of a run, with a word where it was emulated."""
    return f"{run['form']}, emulated" if run["emulated"] else str(run["form"])


def _metric(name: str, estimate: Mapping[str, float | None] | None) -> str:
    if estimate is None:
        return ""
    value, low, high = (number(estimate[key], DIGITS.get(name, 3)) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
