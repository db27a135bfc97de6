"""How good the frame is that the best shot keeps, by what the simulated camera did to it.

Sessions of `sim:` are played frame by frame in simulated time and scored by a model. From the same results a shot
is kept three times: by the appraisal, as `fthnet run` does, by the score alone, and by the truth, which shows what
the rules about stretches cost by themselves. Each kept frame's true quality (1 - severity) is told as a share of the
best that any frame of the session had.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import click
import numpy as np

from fthnet_kit.edge.capture.simulated_camera import Session, SimulatedCamera
from fthnet_kit.edge.cli.options import PATH, signature_option, threads_option
from fthnet_kit.edge.frame import Frame
from fthnet_kit.edge.guidance.measures import Measures, measure
from fthnet_kit.edge.loop.result import LiveResult
from fthnet_kit.edge.model.score import Score
from fthnet_kit.edge.outputs.best_shot.choose import AppraisedBestShot, BestShot
from fthnet_kit.edge.outputs.best_shot.rank import Appraisal
from fthnet_kit.edge.outputs.best_shot.shot import BestShotOptions

WITHIN = 0.05  # share of the best true quality: as good as it
NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)  # simulated frames have no date
WAYS = {"appraisal": "appraisal", "score": "score alone", "truth": "truth"}


@dataclass(frozen=True)
class Kept:
    """True quality of the kept frame of one session, as a share of the best available; 0 where none was kept.

    Attributes:
        seed: of the session.
        best: true quality of the best frame, 0 to 1.
        appraisal, score, truth: by what the frame was chosen.
    """

    seed: int
    best: float
    appraisal: float
    score: float
    truth: float


def quality_of(frame: Frame) -> float:
    """True quality of a simulated frame, 0 to 1."""
    assert frame.truth is not None
    return 1 - float(frame.truth["severity"])


def frames_of(session: Session) -> Iterator[Frame]:
    """The frames of a session, captured in simulated time: the pace of scoring has no influence."""
    camera = SimulatedCamera(session)
    for index in range(session.frames or 0):
        image, truth = camera.render(index)
        yield Frame(image, index, round(1e9 * index / session.fps), truth=truth)


def play(session: Session, score: Callable[[Frame], Score], options: BestShotOptions, folder: Path) -> Kept:
    """Play one session and keep a shot in each of the three ways.

    Args:
        session: of finite length, natural.
        score: of a frame.
        options: when a shot is taken.
        folder: for the shots' files; a new one for each session.
    """
    by = {way: BestShot(folder / way, options, clock_s=lambda: 0.0) for way in WAYS}
    appraised = AppraisedBestShot(by["appraisal"])
    best, before = 0.0, None
    for frame in frames_of(session):
        measures: Measures = measure(frame.image, before)
        before = measures
        quality = quality_of(frame)
        if frame.truth is not None and frame.truth["eye_in_view"]:
            best = max(best, quality)
        result = LiveResult(score(frame), frame, None, NOON, 0.0, 0.0, frame.index + 1, 0)
        appraised.follow(result, measures)
        by["score"].offer(result)
        by["truth"].offer(result, Appraisal(quality, 1, 1, 1))
    appraised.close()
    by["score"].close()
    by["truth"].close()
    return Kept(session.seed, best, **{way: _share(shots, best) for way, shots in by.items()})


def _share(shots: BestShot, best: float) -> float:
    if shots.shot is None or shots.shot.result.frame is None:
        return 0.0
    return quality_of(shots.shot.result.frame) / best


def distribution(shares: Sequence[float]) -> dict[str, float]:
    """What a table shows of the shares of many sessions."""
    values = np.asarray(shares)
    return {
        "min": float(values.min()),
        "p5": float(np.percentile(values, 5)),
        "median": float(np.median(values)),
        "within": float(np.mean(values >= 1 - WITHIN)),
    }


@click.command(name="best-shot")
@click.option("--sessions", type=click.IntRange(1), default=100, show_default=True, help="Sessions to simulate.")
@click.option("--first-seed", type=click.IntRange(0), default=0, show_default=True, help="The others follow it.")
@click.option("--seconds", type=click.FloatRange(1), default=20.0, show_default=True, help="Seconds of a session.")
@click.option("--fps", type=click.FloatRange(1, 120), default=15.0, show_default=True, help="Frames that are scored.")
@signature_option
@click.option("--bundle", type=PATH, help="Bundle folder. Default: the demonstration bundle.")
@threads_option
@click.option("--json", "json_file", type=PATH, help="Write the figures of each session.")
def best_shot(
    sessions: int,
    first_seed: int,
    seconds: float,
    fps: float,
    bundle: Path | None,
    threads: int | None,
    json_file: Path | None,
) -> None:
    """How good the frame that the best shot keeps is, in simulated sessions.

    Prints the kept frame's true quality as a share of the best available, by what the frame was chosen: the
    appraisal, as `fthnet run --best-shot` does, the score alone, and the truth itself within the same rules.
    """
    from rich.progress import track
    from rich.table import Table

    from fthnet_kit.bench.results.results_file import write_file
    from fthnet_kit.edge.inference.scorer import QualityScorer
    from fthnet_kit.edge.reporting.console import open_console

    first = Session(seconds, fps, first_seed, 640, 480, realtime=False)
    errors, kept = open_console(stderr=True), []
    with (
        QualityScorer.from_bundle(bundle, threads=threads) as scorer,
        tempfile.TemporaryDirectory(prefix="fthnet-shots-") as folder,
    ):
        options = BestShotOptions.of(scorer.card.thresholds)
        seeds = range(first_seed, first_seed + sessions)
        for seed in track(seeds, "playing", console=errors, transient=True, disable=not errors.is_terminal):
            kept.append(play(replace(first, seed=seed), scorer.score_frame, options, Path(folder) / str(seed)))
        title = f"{scorer.card.title}, {sessions} sessions of {seconds:g} s at {fps:g} fps"
    table = Table(title=f"{title}: true quality, kept / best available", title_justify="left")
    for column in ("chosen by", "min", "p5", "median", f"within {WITHIN:.0%}"):
        table.add_column(column, justify="left" if column == "chosen by" else "right")
    found = {way: distribution([getattr(one, way) for one in kept]) for way in WAYS}
    for way, name in WAYS.items():
        *shares, within = found[way].values()
        table.add_row(name, *(f"{share:.3f}" for share in shares), f"{within:.0%}")
    open_console().print(table)
    if json_file is not None:
        facts = {"kind": "fthnet-best-shot", "distribution": found, "sessions": [asdict(one) for one in kept]}
        write_file(json_file, (json.dumps(facts, indent=1) + "\n").encode())


if __name__ == "__main__":
    best_shot()
