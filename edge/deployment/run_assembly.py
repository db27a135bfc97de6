"""A run put together: source, scorer, loop and outputs, from its configuration."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fthnet_kit.edge.errors import one_line
from fthnet_kit.edge.loop import stop_signals
from fthnet_kit.edge.model.choices import BackendName, Precision

if TYPE_CHECKING:
    from fthnet_kit.edge.guidance.hint_follower import GuideSink
    from fthnet_kit.edge.guidance.texts import Language, Words
    from fthnet_kit.edge.inference.scorer import QualityScorer
    from fthnet_kit.edge.loop.live_loop import LiveLoop
    from fthnet_kit.edge.loop.sink import Sink
    from fthnet_kit.edge.model.preprocess import Views
    from fthnet_kit.edge.model.score import Thresholds
    from fthnet_kit.edge.outputs.annotated import AnnotatedFrames
    from fthnet_kit.edge.outputs.best_frame import BestFrame
    from fthnet_kit.edge.outputs.best_shot.choose import BestShot
    from fthnet_kit.edge.outputs.best_shot.dicom_context import DicomContext
    from fthnet_kit.edge.outputs.best_shot.shot import Shot
    from fthnet_kit.edge.outputs.mqtt.sink import MqttSink
    from fthnet_kit.edge.outputs.preview.server import PreviewServer
    from fthnet_kit.edge.outputs.preview.sink import PageSink
    from fthnet_kit.edge.outputs.records.checkpoints import Checkpoint
    from fthnet_kit.edge.outputs.records.writer import Records

LOG = logging.getLogger("fthnet")


@dataclass
class Sinks:
    """Where the results of a run go; what was not asked for is None."""

    guide: GuideSink
    records: Records | None = None
    best_frame: BestFrame | None = None
    annotated: AnnotatedFrames | None = None
    best_shot: BestShot | None = None
    page: PageSink | None = None
    mqtt: MqttSink | None = None

    def all(self) -> list[Sink]:
        """Those that there are, and a thread that measures for two of them; the page comes after what it shows."""
        from fthnet_kit.edge.guidance.measuring import MeasuringSink
        from fthnet_kit.edge.outputs.best_shot.choose import AppraisedBestShot

        shots = [] if self.best_shot is None else [AppraisedBestShot(self.best_shot)]
        measuring = MeasuringSink([self.guide, *shots])
        sinks = (self.records, self.best_frame, self.annotated, measuring, self.mqtt, self.page)
        return [sink for sink in sinks if sink is not None]

    def keep_best_shots(self, folder: Path, thresholds: Thresholds, context: DicomContext | None) -> None:
        """Take the best shot of each eye; a broker may say whose eye it is."""
        from fthnet_kit.edge.outputs.best_shot.choose import BestShot
        from fthnet_kit.edge.outputs.best_shot.shot import BestShotOptions

        self.best_shot = BestShot(folder, BestShotOptions.of(thresholds), self.publish, dicom=context)
        if self.mqtt is not None:
            self.mqtt.on_eye = self.best_shot.set_eye_json

    def shortfalls(self) -> list[str]:
        """What was to be kept and is not, in words; empty where all of it is there."""
        keepers = (self.records, self.best_frame, self.annotated, self.best_shot, self.mqtt)
        return [keeper.shortfall for keeper in keepers if keeper is not None and keeper.shortfall is not None]

    def publish(self, shot: Shot) -> None:
        """A best shot to the broker."""
        if self.mqtt is not None:
            self.mqtt.publish_best(shot.result)

    def publish_head(self, checkpoint: Checkpoint) -> None:
        """A signed head of the records to where others keep it."""
        if self.mqtt is not None:
            self.mqtt.publish_head(checkpoint.to_bytes())
        if self.page is not None:
            self.page.server.metrics.note_head(checkpoint.seq, checkpoint.chain)


def open_scorer(
    bundle: Path | None,
    precision: Precision,
    views: Views | None,
    backend: BackendName,
    threads: int | None,
    *,
    cuda_graph: bool,
    pick: Path | None,
) -> QualityScorer:
    """The scorer of a run; in a device's slots, one that failed to start three times is replaced by the one before."""
    from fthnet_kit.edge.deployment.bundle_slots import slots_of
    from fthnet_kit.edge.inference.scorer import QualityScorer

    slots = slots_of(bundle)
    if slots is not None:
        slots.begin_start()
    scorer = QualityScorer.from_bundle(bundle, precision, views, backend, threads, cuda_graph=cuda_graph, pick=pick)
    if slots is not None:
        slots.end_start()
    return scorer


def open_records(path: Path, rotate_mb: float, budget_mb: float, key: Path | None) -> Records:
    """The records, signed where a key is given."""
    from fthnet_kit.edge.outputs.records.checkpoints import CheckpointWriter
    from fthnet_kit.edge.outputs.records.writer import Records

    checkpoints = None if key is None else CheckpointWriter(key, path)
    return Records(path, rotate_mb=rotate_mb, budget_mb=budget_mb, checkpoints=checkpoints)


def headline(scorer: QualityScorer, words: Words) -> str:
    """Which model runs, and on what."""
    facts = scorer.backend.describe()
    names = {"model": scorer.card.title, "library": facts["library"], "provider": facts["provider"]}
    return one_line(words.count("model_on", int(facts["threads"]), **names, views=scorer.views))


def open_server(
    serve: str,
    token_file: Path | None,
    scorer: QualityScorer,
    best_shot: BestShot | None,
    loop: LiveLoop,
    language: Language,
    *,
    tls: tuple[Path, Path | None] | None = None,
    open_health: bool = False,
) -> PreviewServer:
    """The page, wired to the best shot where there is one.

    Args:
        tls: certificate and key of HTTPS.
        open_health: everybody may ask whether it is alive.
    """
    from fthnet_kit.edge.outputs.preview.access import parse_address, read_token
    from fthnet_kit.edge.outputs.preview.server import PreviewServer, tls_context

    token = read_token(token_file)
    address = parse_address(serve, token)
    context = None if tls is None else tls_context(*tls)
    if context is None and not address.loopback:
        LOG.warning("preview: without --serve-tls, whoever is on the network can read the token and the picture")
    decisions: dict[str, Any] = {}
    if best_shot is not None:
        decisions = {
            "accept": best_shot.accept,
            "retake": best_shot.retake,
            "set_eye": best_shot.set_eye_json,
            "eye": lambda: best_shot.eye,
        }
    return PreviewServer(
        address,
        token,
        scorer.card,
        summary=loop.summary,
        language=language,
        tls=context,
        open_health=open_health,
        **decisions,
    )


@contextmanager
def watched(eye_file: Path | None, best_shot: BestShot | None) -> Iterator[None]:
    """Whose eye comes next, from a file, while the run goes on."""
    from fthnet_kit.edge.outputs.best_shot.eye_context import EyeFile

    if eye_file is None or best_shot is None:
        yield
        return
    watcher = EyeFile(eye_file, best_shot.set_eye)
    try:
        yield
    finally:
        watcher.close()


def rebuild_engine(bundle: Path | None, precision: Precision) -> None:
    """Build the bundle's engine for this machine if it has none that may run here.

    In a process of its own: the builder's memory, on a Jetson the GPU's too, is free again before the camera starts.
    """
    from fthnet_kit.edge.errors import EngineError
    from fthnet_kit.edge.inference.engine_manifest import EngineRefusedError
    from fthnet_kit.edge.inference.open_backend import checked_engine, engine_precision
    from fthnet_kit.edge.model.bundle import Bundle

    try:
        checked_engine(Bundle.open(bundle), engine_precision(precision))
    except EngineRefusedError as refused:
        click.echo(f"building the engine: {refused}", err=True)
        code = _wait_for([sys.executable, "-m", "fthnet_kit.edge.cli", *refused.rebuild])
        if code and not stop_signals.requested():
            raise EngineError(
                f"expected an engine, found that its build ended with exit code {code}; its reason stands above"
            ) from refused


def _wait_for(command: list[str]) -> int:
    """Exit code of one of the kit's commands; it is ended where a signal asks for the end of this one."""
    with subprocess.Popen(command) as process:  # noqa: S603
        while True:
            try:
                return process.wait(0.2)
            except subprocess.TimeoutExpired:
                if stop_signals.requested():
                    process.terminate()
