"""The command that makes TensorRT engines: `fthnet build`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fthnet_kit.edge.cli.options import bundle_argument
from fthnet_kit.edge.model.choices import NAMED_PRECISIONS

if TYPE_CHECKING:
    from rich.table import Table

    from fthnet_kit.convert.engine.build import Report
    from fthnet_kit.convert.engine.check import CheckedEngine
    from fthnet_kit.edge.inference.engine_manifest import EngineManifest
    from fthnet_kit.edge.model.bundle import Bundle


@click.command()
@bundle_argument
@click.option(
    "--precision",
    type=click.Choice(NAMED_PRECISIONS),
    default="fp16",
    show_default=True,
    help="int8 where `fthnet quantize` found that it keeps the score.",
)
@click.option("--batch", type=click.IntRange(1, 64), help="Images in one inference. Default: as the bundle's graph.")
@click.option(
    "--workspace",
    type=click.IntRange(16),
    metavar="MIB",
    help="Memory that a kernel may use. Default: half of what is free, at most 4096.",
)
@click.option(
    "--device",
    metavar="KEY",
    help="Build for a GPU that is not here, such as sm86, with TensorRT for RTX. Default: this machine's GPU.",
)
@click.option(
    "--allow-unproved",
    is_flag=True,
    help="Install an engine even if TensorRT does not show what 90 % of its multiply-accumulates run in.",
)
@click.option(
    "--check", is_flag=True, help="Build every precision for every GPU that TensorRT for RTX knows, keep none."
)
def build(
    bundle: Path | None,
    precision: str,
    batch: int | None,
    workspace: int | None,
    device: str | None,
    allow_unproved: bool,
    check: bool,
) -> None:
    """Build a TensorRT engine of a BUNDLE, on the machine that will run it.

    The engine and its manifest go to BUNDLE/engines. It is installed only if it runs in the precision asked for and
    scores as the FP32 graph does. --check needs no GPU: it shows that NVIDIA's parser and builder take the graphs,
    in what precision the engine's kernels run, and that each block's attention is one kernel.
    Without BUNDLE: the one that the kit ships.
    """
    from fthnet_kit.convert.engine.build import BuildOptions, build_engine, free_memory, workspace_for
    from fthnet_kit.edge.model.bundle import Bundle
    from fthnet_kit.edge.trust.manifest import is_signed

    opened = Bundle.open(bundle)
    if check:
        check_bundle(opened, device)
        return
    go_on_in_child()
    from fthnet_kit.convert.engine.target import build_target

    tensorrt, target, machine, free_on_gpu = build_target(device)
    mib = workspace or workspace_for(min(free_memory(), free_on_gpu))
    with build_progress(f"{precision} for {target.key}") as report:
        options = BuildOptions(precision, batch, mib, allow_unproved)
        path, manifest = build_engine(opened, options, tensorrt, target, machine, report)
    click.echo(f"engine: {path}, {manifest.engine_bytes / 1e6:.1f} MB, batch {manifest.batch}")
    if is_signed(opened.folder):
        click.echo("the bundle's signature does not cover this engine: sign the bundle again with `fthnet bundle sign`")
    for line in proof_lines(manifest):
        click.echo(line)


def go_on_in_child() -> None:
    """Returns in a child process; the parent waits, and ends as the child does.

    A Jetson that runs out of memory kills the builder without a word. The parent lives to say what happened.
    """
    from fthnet_kit.edge.errors import EngineError

    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the child, which ends the build
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))  # which reaches this process alone
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == -signal.SIGKILL:
        raise EngineError(
            "the build was killed, as a system does that runs out of memory; close what else runs, pass a smaller "
            "--workspace, or add swap (docs/jetson.md)"
        )
    sys.exit(code if code >= 0 else 128 - code)


@contextmanager
def build_progress(title: str) -> Iterator[Report]:
    """A bar of the build's phases; nothing where stderr is no terminal."""
    from rich.progress import TaskID

    from fthnet_kit.edge.reporting.console import open_console, open_progress

    console = open_console(stderr=True)
    tasks: dict[str, TaskID] = {}
    with open_progress(console, transient=True, disable=not console.is_terminal) as bar:

        def report(phase: str, step: int, steps: int) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(f"{title}: {phase}", total=steps)
            bar.update(tasks[phase], completed=step, visible=step < steps)

        yield report


def proof_lines(manifest: EngineManifest) -> Iterator[str]:
    """What was found out about an engine, in words."""
    if manifest.layers is not None:
        yield from layer_lines(manifest.layers)
    found = manifest.agreement
    if found is None:
        yield "scores: not compared, the engine is for a GPU that is not here"
        return
    yield (
        f"scores: mean {found['mean']:.3f}, max {found['worst']:.3f} points from ONNX Runtime's FP32 on "
        f"{found['images']} pictures"
    )


def layer_lines(layers: Mapping[str, Any]) -> Iterator[str]:
    """What the engine's layers do, in words."""
    from fthnet_kit.edge.inference.engine_manifest import fused_of

    yield f"multiply-accumulates: {shares(layers['macs'])} (asked: {shares(layers['asked'])})"
    yield f"seen to run as asked: {100 * layers['proved']:.1f} %"
    if layers["macs"].get("unknown"):
        yield "unknown: TensorRT states no type for these; neither proved nor refuted"
    if layers["half_sums"]:
        yield f"added up in FP16 instead of FP32: {100 * layers['half_sums']:.0f} %"
    if layers["attention"]:
        yield f"blocks with attention in one kernel: {fused_of(layers['attention'])}"


def shares(parts: Mapping[str, float]) -> str:
    """Such as ``fp16 99.2 %, fp32 0.8 %``."""
    return ", ".join(f"{precision} {100 * share:.1f} %" for precision, share in parts.items())


def check_bundle(bundle: Bundle, device: str | None) -> None:
    """`--check`: a table of what was built; exit code 6 where a graph is refused, or its engine is not as it should."""
    from fthnet_kit.convert.engine.check import check_builds
    from fthnet_kit.edge.errors import EngineError
    from fthnet_kit.edge.inference.tensorrt_library import load_tensorrt
    from fthnet_kit.edge.reporting.console import busy, open_console

    tensorrt = load_tensorrt("tensorrt_rtx")
    title = f"{bundle.card.title}, TensorRT for RTX {tensorrt.version}"
    found: list[CheckedEngine] = []
    with busy(open_console(stderr=True), "building") as say:
        found.extend(check_builds(bundle, tensorrt, [device] if device else None, say))
    output = open_console()
    output.print(check_table(title, found))
    engines, seconds = sum(not one.unsupported for one in found), sum(one.seconds for one in found)
    output.print(
        f"{engines} of {len(found)} built in {seconds:.0f} s; nothing was run, and nothing was built for a Jetson"
    )
    built = {one.precision for one in found if not one.unsupported}
    none = [precision for precision in dict.fromkeys(one.precision for one in found) if precision not in built]
    if none:
        raise EngineError(f"expected {', '.join(none)} to build for one GPU at least, found none that it does")
    faults = [fault for one in found for fault in one.faults()]
    if faults:
        more = f"; and {len(faults) - 1} more such" if len(faults) > 1 else ""
        for fault in faults[1:]:
            click.echo(fault)
        raise EngineError(f"{faults[0]}{more}")


def check_table(title: str, found: Sequence[CheckedEngine]) -> Table:
    """A row a build: what the graph asks for, and what the engine's layers do."""
    from rich.table import Table

    from fthnet_kit.edge.inference.engine_manifest import fused_of

    table = Table(title=title)
    for column in ("precision", "GPU"):
        table.add_column(column)
    table.add_column("kernels", justify="right")
    table.add_column("runs in (share of MACs)")
    for column in ("as asked", "attention fused", "engine, MB", "s"):
        table.add_column(column, justify="right")
    for one in found:
        if one.found is None:
            table.add_row(one.precision, one.device, "", "not supported")
            table.caption = f"{one.device}: {one.unsupported}"
            continue
        kernels, fused = sum(one.found.kernels.values()), fused_of(one.found.attention)
        table.add_row(
            *(one.precision, one.device, str(kernels), shares(one.found.macs), f"{100 * one.found.proved:.1f} %"),
            *(fused, f"{one.engine_bytes / 1e6:.1f}", f"{one.seconds:.1f}"),
        )
    return table
