"""Writes the tables of docs/MEASURED.md from results of this machine, so that none of the figures is typed.

``python -m fthnet_kit.bench.report.readme_tables FILES… --page docs/MEASURED.md``: FILES are JSON results of `fthnet
bench latency`, `fthnet bench accuracy` and `fthnet_kit.bench.speed.peers`. The text between the two marks is replaced.
"""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from fthnet_kit.edge.device.machine import read_device
from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.files import write_atomically

BEGIN, END = "<!-- measured -->", "<!-- /measured -->"
Content = Mapping[str, Any]


def machine() -> str:
    """The machine in one line."""
    device = read_device()
    memory = (device.memory_total_mb or 0) * 10**6 / 2**30
    return (
        f"{device.cores} cores of {device.cpu_model}, {memory:.0f} GiB, {device.system}, "
        f"Python {platform.python_version()}"
    )


def latency_rows(content: Content) -> Iterator[str]:
    """What a latency result says, a row each."""
    command = f"`{shlex.join(['fthnet', *content['command'][1:]])}`"
    model, steady = content["model"], content["steady"]["summary"]
    name = f"{model['precision'].upper() if model['precision'] != 'auto' else 'FP32'}, {model['backend']['library']}"
    size = f"{content['pictures']['width']}×{content['pictures']['height']}"
    stages = ", ".join(f"{stage} {steady[stage]['p50']:.1f}" for stage in steady if stage != "total")
    total = ", ".join(f"{name} {steady['total'][name]:.0f}" for name in ("p50", "p95", "p99"))
    rate = content["steady"]["throughput_fps"]
    yield f"| JPEG frame {size} to score, {name} | {total} ms ({stages}); {rate:.1f} a second | {command} |"
    if content["capture"]:
        capture = content["capture"]
        late, age, loop = (capture["summary"][name] for name in ("capture to score", "frame age", "loop overhead"))
        yield (
            f"| live loop, camera at {capture['fps']:g} fps | capture to score p50 {late['p50']:.0f}, p95 "
            f"{late['p95']:.0f} ms; frame age p95 {age['p95']:.0f} ms; loop overhead p95 {loop['p95']:.2f} ms; "
            f"{capture['scored']} of {capture['captured']} frames scored, the others dropped | the same |"
        )
    if content["cold_start"]:
        idle = ", ".join(f"{entry['median_ms']:.0f} ms after {entry['pause_s']:g} s" for entry in content["idle"])
        yield (
            f"| cold start: a new process to its first score | {content['cold_start']['median_ms'] / 1e3:.1f} s; "
            f"idle: {idle} | the same |"
        )
    if content["unstable"]:
        yield f"| this run may be unstable, because | {'; '.join(content['unstable'])} | the same |"


def peer_rows(content: Content) -> Iterator[str]:
    """What a comparison with peers says."""
    ms = content["median_ms"]
    eager, plain, fp32, int8 = (ms[name] for name in ("eager", "plain export", "fp32", "int8"))
    yield (
        f"| {content['model']}, {content['threads']} threads, in turn | PyTorch eager {eager:.0f} ms, plain "
        f"`torch.onnx.export` in ONNX Runtime {plain:.0f}, this kit FP32 {fp32:.0f}, INT8 {int8:.0f}: FP32 / eager "
        f"{fp32 / eager:.2f}, FP32 / plain {fp32 / plain:.2f}, INT8 / FP32 {int8 / fp32:.2f}{_openvino(ms)} "
        "| `python -m fthnet_kit.bench.speed.peers BUNDLE` |"
    )


def _openvino(ms: Mapping[str, float]) -> str:
    """What it takes through the kit, as a share of ONNX Runtime's FP32 and of OpenVINO alone, where it was measured."""
    forms = [form for form in ("fp32", "int8") if f"openvino {form}" in ms]
    return "".join(
        f"; OpenVINO {form.upper()} {ms[f'openvino {form}']:.0f} ({ms[f'openvino {form}'] / ms['fp32']:.2f} of FP32, "
        f"{ms[f'openvino {form}'] / ms[f'openvino alone {form}']:.2f} of OpenVINO alone)"
        for form in forms
    )


def accuracy_rows(content: Content) -> Iterator[str]:
    """What an accuracy result says, a row for each precision and number of views."""
    for run in content["runs"]:
        data = content["data"][run["data"]]
        what = f"{run['images']} photographs, {Path(data['folder']).name}"
        what += f", split {data['split']}" if data.get("split") else ""
        metrics = "; ".join(
            f"{name} {metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"
            for name, metric in run["metrics"].items()
            if isinstance(metric, Mapping) and "low" in metric
        )
        yield f"| {what} | {run['form']} | {run['views']} | {metrics} | {run['ms_per_picture']['median']:.0f} |"


def figures(contents: Sequence[Content]) -> str:
    """The text between the marks."""
    latency = [c for c in contents if c.get("schema") == "fthnet-latency"]
    accuracy = [c for c in contents if c.get("schema") == "fthnet-accuracy"]
    peers = [c for c in contents if "median_ms" in c and "model" in c and "schema" not in c]
    lines = [BEGIN, f"On {machine()}.", "**Nothing was measured on a Jetson**; run the same commands on yours.", ""]
    if accuracy:
        lines += [
            "| photographs | precision | views | 95 % bootstrap intervals | ms a picture |",
            "|---|---|---|---|---|",
        ]
        lines += [row for content in accuracy for row in accuracy_rows(content)]
        lines += ["", "By `fthnet bench accuracy --data FOLDER --views 1,20`.", ""]
    if latency or peers:
        lines += ["| what | figure | command |", "|---|---|---|"]
        lines += [row for content in latency for row in latency_rows(content)]
        lines += [row for content in peers for row in peer_rows(content)]
    return "\n".join([*lines, END])


def replaced(text: str, new: str) -> str:
    """The page with its figures replaced.

    Raises:
        InputError: it lacks the marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"page: expected the marks {BEGIN} and {END}, found none")
    return before + new + after


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--page", default="docs/MEASURED.md", show_default=True, type=click.Path(path_type=Path, exists=True))
def main(files: tuple[Path, ...], page: Path) -> None:
    """Replace the measured figures of a page by those of FILES."""
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    write_atomically(page, replaced(page.read_text(encoding="utf-8"), figures(contents)).encode())


if __name__ == "__main__":
    main()
