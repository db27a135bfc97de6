"""The command that scores a camera, live: `fthnet run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fthnet_kit.edge.cli.config import config_option, current_config
from fthnet_kit.edge.cli.options import SIGNED, bits_option
from fthnet_kit.edge.cli.settings import setting_options
from fthnet_kit.edge.deployment.run_assembly import (
    Sinks,
    headline,
    open_records,
    open_scorer,
    open_server,
    rebuild_engine,
    watched,
)
from fthnet_kit.edge.loop import stop_signals
from fthnet_kit.edge.model.choices import BackendName, Precision

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from fthnet_kit.edge.guidance.texts import Language, Words
    from fthnet_kit.edge.loop.result import LiveSummary
    from fthnet_kit.edge.model.preprocess import Views

FOLDER = click.Path(path_type=Path)


@click.command()
@config_option
@setting_options(
    "camera",
    "model",
    "records",
    "best_shot",
    "guidance",
    "serve",
    "mqtt",
    source={"required": True},
    require_signature=SIGNED,
)
@bits_option
@click.option("--rebuild", is_flag=True, help="Build the TensorRT engine first if none is there that may run here.")
@click.option("--save-annotated", type=FOLDER, help="Folder for every frame with its field and score drawn in.")
@click.option("--save-best", type=FOLDER, help="Folder for the best frame of the run.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="Stop after so many seconds of scoring.")
@click.option("--max-frames", type=click.IntRange(1), help="Stop after this many scored frames.")
def run(
    source: str,
    source_password_file: Path | None,
    bundle: Path | None,
    views: Views | None,
    precision: Precision,
    backend: BackendName,
    cuda_graph: bool,
    threads: int | None,
    rebuild: bool,
    records: Path | None,
    records_key: Path | None,
    rotate_mb: float,
    budget_mb: float,
    save_annotated: Path | None,
    save_best: Path | None,
    best_shot: Path | None,
    dicom: Path | None,
    eye_file: Path | None,
    serve: str | None,
    serve_token_file: Path | None,
    serve_tls: Path | None,
    serve_tls_key: Path | None,
    language: Language,
    mirror: bool,
    mqtt: str | None,
    seconds: float | None,
    max_frames: int | None,
) -> None:
    """Score the frames of a camera, live.

    While a frame is scored, newer camera frames replace older ones; files are read in full. Ctrl-C, SIGTERM or a
    terminal that closes (SIGHUP; not under nohup) ends cleanly. Without a frame, or with one that must not be scored,
    the score is empty and gives the reason.

    Exit code 3: something that was to be kept could not be written. Exit code 5: no camera at the start, or its driver
    hangs again and again.
    """
    from fthnet_kit.edge.capture.open_source import make_source, with_password
    from fthnet_kit.edge.errors import InputError, OptionError
    from fthnet_kit.edge.files import read_secret
    from fthnet_kit.edge.guidance.hint_follower import GuideSink
    from fthnet_kit.edge.guidance.hints import Guide, Optics
    from fthnet_kit.edge.guidance.texts import Words
    from fthnet_kit.edge.loop.live_loop import LiveLoop
    from fthnet_kit.edge.outputs.annotated import AnnotatedFrames
    from fthnet_kit.edge.outputs.best_frame import BestFrame
    from fthnet_kit.edge.outputs.best_shot.dicom_context import DicomContext
    from fthnet_kit.edge.outputs.mqtt.sink import MqttSink
    from fthnet_kit.edge.outputs.preview.sink import PageSink
    from fthnet_kit.edge.outputs.terminal import TerminalView
    from fthnet_kit.edge.outputs.watchdog import WatchdogSink
    from fthnet_kit.edge.reporting.console import open_console

    console = open_console(soft_wrap=True)
    words = Words(language)
    config = current_config()
    address = source
    if source_password_file:
        address = with_password(source, read_secret(source_password_file, "the camera's password"))
    make_source(address)  # a wrong URI fails before a model is loaded
    for option, value in (("--dicom", dicom), ("--eye-file", eye_file)):
        if value and not best_shot:
            raise OptionError(f"{option}: expected --best-shot beside it, found none; name a folder for the shots")
    context = DicomContext.read(dicom) if dicom else None
    if rebuild:
        rebuild_engine(bundle, precision)
    if stop_signals.requested():
        return
    broker = MqttSink(mqtt, config.mqtt.options(), follow_best=best_shot is None) if mqtt else None
    with open_scorer(
        bundle, precision, views, backend, threads, cuda_graph=cuda_graph, pick=_pick_beside(config.path)
    ) as scorer:
        console.print(headline(scorer, words))
        loop = LiveLoop(lambda: make_source(address), scorer, config.live.options())
        loop.stop_on_signals()
        if stop_signals.requested():
            loop.stop()
        sinks = Sinks(
            records=open_records(records, rotate_mb, budget_mb, records_key) if records else None,
            best_frame=BestFrame(save_best) if save_best else None,
            annotated=AnnotatedFrames(save_annotated) if save_annotated else None,
            mqtt=broker,
            guide=GuideSink(Guide(Optics(flip_x=mirror)), language),
        )
        if best_shot:
            sinks.keep_best_shots(best_shot, scorer.card.thresholds, context)
        if serve:
            sinks.page = PageSink(
                open_server(
                    serve,
                    serve_token_file,
                    scorer,
                    sinks.best_shot,
                    loop,
                    language,
                    tls=None if serve_tls is None else (serve_tls, serve_tls_key),
                    open_health=config.serve.open_health,
                ),
                lambda: sinks.guide.text,
                lambda: None if sinks.best_shot is None else sinks.best_shot.shot,
            )
            console.print(words.say("page_at", address=sinks.page.server.url))
        if sinks.records is not None:
            sinks.records.tell_heads(sinks.publish_head)
        with (
            TerminalView(console, source, guide=sinks.guide, language=language) as view,
            watched(eye_file, sinks.best_shot),
        ):
            loop.feed([*sinks.all(), view, WatchdogSink()], max_frames, seconds)
    print_summary(console, loop.summary, sinks, words)
    if shortfalls := sinks.shortfalls():
        raise InputError(f"expected a run that is kept whole, found: {'; '.join(shortfalls)}; is the disk full?")


def _pick_beside(config: Path | None) -> Path | None:
    """What `fthnet bench pick --config` left beside a configuration; None where it did not."""
    from fthnet_kit.edge.inference.pick import pick_file

    path = None if config is None else pick_file(config)
    return path if path is not None and path.is_file() else None


def print_summary(console: Console, summary: LiveSummary, sinks: Sinks, words: Words) -> None:
    """Durations, counts, and where the results lie."""
    from fthnet_kit.edge.outputs.terminal import summary_lines, summary_table

    console.print(summary_table(summary, words))
    for line in (*summary_lines(summary, words), *kept_lines(sinks, words)):
        console.print(line)


def kept_lines(sinks: Sinks, words: Words) -> Iterator[str]:
    """Where the results lie, and how many of them are lost."""

    def lost(count: int) -> str:
        return words.say("lost_are", number=count) if count else ""

    best, shots, kept, sent = sinks.best_frame, sinks.best_shot, sinks.records, sinks.mqtt
    if best is not None and best.saved is not None and best.saved.score.value is not None:
        score = words.number(best.saved.score.value, 1)
        yield words.say("best_frame_is", score=score, path=best.folder / "best.png")
    if shots is not None:
        yield words.say("best_shots_are", number=shots.shots, folder=shots.folder) + lost(shots.lost)
    if kept is not None:
        yield words.say("records_are", number=kept.written, path=kept.path, head=f"{kept.head}") + lost(kept.lost)
    if sent is not None:
        yield words.say("sent_are", delivered=sent.delivered, waiting=sent.waiting) + lost(sent.dropped + sent.lost)
