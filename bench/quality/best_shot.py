"""How good the frame is that the best shot keeps, against the photograph that the simulated camera looked at.

Sessions of `sim:` are played over photographs frame by frame in simulated time and scored by a model. How good a
frame is, two full-reference measures tell (`full_reference`): what it still shows of the undegraded photograph, over
the whole retinal field, beside the aperture and under a lid too. Neither shares anything with the rank, nor with the
simulator's settings. From the same results a shot is kept in several ways (`WAYS`), and each kept frame's measure is
told as a share of the best that any frame of the session had.

The photographs differ in exposure by themselves, and are shown at three (`EXPOSURES`); the light of a whole session is
off by up to `LIGHT_OFF` stops on top of how it wanders, so that the middle of a session is not the right exposure.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import click
import cv2
import numpy as np
import numpy.typing as npt

from fthnet_kit.bench.quality.full_reference import ms_ssim, vif
from fthnet_kit.bench.quality.looks import DARK, tone
from fthnet_kit.calibration.agreement import DRAWS, percentile_interval
from fthnet_kit.calibration.labelled_images import LabelledImage, Split, of_split, read_image_set
from fthnet_kit.calibration.options import FQS_FOLDER, points_option
from fthnet_kit.edge.capture.simulated_camera import Matrix, Session, SimulatedCamera, photograph_of, square_field
from fthnet_kit.edge.cli.options import PATH, signature_option, threads_option
from fthnet_kit.edge.cli.settings import setting
from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.formats.read import read_image
from fthnet_kit.edge.frame import Frame
from fthnet_kit.edge.guidance.measures import Measures, measure
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.loop.result import LiveResult
from fthnet_kit.edge.model.choices import Precision
from fthnet_kit.edge.model.score import Score
from fthnet_kit.edge.outputs.best_shot.choose import BestShot
from fthnet_kit.edge.outputs.best_shot.rank import Appraisal
from fthnet_kit.edge.outputs.best_shot.shot import BestShotOptions
from fthnet_kit.edge.reporting.console import open_console, tracked

Truth = Literal["information", "likeness"]  # by VIF, by MS-SSIM
TRUTHS: dict[Truth, str] = {"information": "VIF", "likeness": "MS-SSIM"}
WAYS = {
    "rank": "rank",
    "learned": "rank and exposure, aim learned",
    "fixed": "rank and exposure, aim at middle gray",
    "score": "score alone",
}
MIDDLE_GRAY_STOPS = math.log2(0.18)  # below white: the photographer's exposure, whatever the camera
TOLERANCE_STOPS = 2.0  # so far from the aim, too dark or too bright, a frame's rank counts 61 %
KIND = "fthnet-best-shot"
WITHIN = 0.05  # share of the best frame's measure: as good as it
NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)  # simulated frames have no date
EXPOSURES = (0.0, -1.0, 0.5)  # stops: how brightly cameras show the same retina
LIGHT_OFF = 0.5  # stops: how far the light of a whole session is off at most
LEAST_MOS = 75.0  # a photograph that is looked at has this: little is wrong with it before the camera degrades it
RIM = np.ones((7, 7), np.uint8)  # the edge of the field is not retina
BESIDE = 96  # pixels around a frame, where the field reaches that the camera has lost
PICTURE = np.zeros((4, 4, 3), np.uint8)  # in place of a frame, once it is measured and scored


@dataclass(frozen=True)
class Look:
    """What a session looks at.

    Attributes:
        reference: the undegraded photograph, BGR uint8, a square around the field.
        shown: the same in the light of this session.
    """

    reference: Image
    shown: Image

    @classmethod
    def of(cls, photograph: Image, seed: int) -> Look:
        """At one of the exposures, with the light off by a seeded amount."""
        rng = np.random.default_rng([seed, 5])
        stops, off = EXPOSURES[seed % len(EXPOSURES)], float(rng.uniform(-LIGHT_OFF, LIGHT_OFF))
        return cls(tone(photograph, rng, stops=stops), tone(photograph, rng, stops=stops + off))


@dataclass(frozen=True)
class Seen:
    """One frame of a session: its score, its measures without their maps, and its similarity to the photograph."""

    score: Score
    measures: Measures
    truth: dict[Truth, float]


@dataclass(frozen=True)
class Watched:
    """A session that was played.

    Attributes:
        seed: of everything random.
        photograph: its file's name; empty for the one that the kit carries.
        fps: frames a second.
        frames: in order.
    """

    seed: int
    photograph: str
    fps: float
    frames: tuple[Seen, ...]

    def best(self, truth: Truth) -> float:
        """Of the best frame, whether it may be kept or not."""
        return max(seen.truth[truth] for seen in self.frames)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; `from_dict` reads it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Watched:
        """A session of an earlier run."""
        frames = [
            Seen(
                Score(**one["score"]),
                Measures(**{name: _tuple(value) for name, value in one["measures"].items()}),
                one["truth"],
            )
            for one in content["frames"]
        ]
        return cls(content["seed"], content["photograph"], content["fps"], tuple(frames))


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def truth_of(frame: Image, reference: Image, view: Matrix) -> dict[Truth, float]:
    """What a frame still shows of the photograph, by each measure.

    Args:
        frame: BGR uint8 (H, W, 3).
        reference: the photograph, a square around the field.
        view: from its pixels to those of the frame (`SimulatedCamera.view`); the photograph is moved, never the frame.
    """
    matrix = view.copy()
    matrix[:, 2] += BESIDE
    size = (frame.shape[1] + 2 * BESIDE, frame.shape[0] + 2 * BESIDE)
    field = cv2.erode((reference.max(axis=2) > DARK).astype(np.uint8), RIM, borderValue=0)
    field = cv2.warpAffine(field, matrix, size, flags=cv2.INTER_NEAREST)
    x, y, width, height = cv2.boundingRect(field)
    here = np.s_[y : y + height, x : x + width]
    moved = cv2.warpAffine(reference, matrix, size, flags=cv2.INTER_AREA)
    seen = cv2.copyMakeBorder(frame, BESIDE, BESIDE, BESIDE, BESIDE, cv2.BORDER_CONSTANT, value=(0, 0, 0))
    expected, found = (cv2.cvtColor(one[here], cv2.COLOR_BGR2GRAY).astype(np.float32) for one in (moved, seen))
    inside = field[here].astype(np.float32)
    return {"information": vif(expected, found, inside), "likeness": ms_ssim(expected, found, inside)}


def watch(session: Session, look: Look, score: Callable[[Frame], Score], name: str = "") -> Watched:
    """Play a session in simulated time: the pace of scoring has no influence.

    Args:
        session: of finite length, natural.
        look: what it looks at.
        score: of a frame.
        name: of the photograph's file.
    """
    camera, frames, before = SimulatedCamera(session, look.shown), [], None
    for index in range(session.frames or 0):
        image, done = camera.render(index)
        measures = measure(image, before)
        before = measures
        scored = score(Frame(image, index, round(1e9 * index / session.fps), truth=done))
        truth = dict.fromkeys(TRUTHS, 0.0)  # a frame that can never be kept
        if scored.value is not None:
            truth = truth_of(image, look.reference, camera.view(index))
        plain = Score(scored.value, verdict=scored.verdict, reason=scored.reason)
        frames.append(Seen(plain, replace(measures, detail=None, inside=None), truth))
    return Watched(session.seed, name, session.fps, tuple(frames))


def keep(watched: Watched, way: str, options: BestShotOptions, folder: Path) -> Seen | None:
    """The frame that is kept of a session; None where none is.

    Args:
        watched: the session.
        way: by what the frame is chosen, a key of `WAYS` or `TRUTHS`.
        options: when a shot is taken.
        folder: for the shot's files.
    """
    shots = BestShot(folder, options, clock_s=lambda: 0.0)
    for index, (seen, points) in enumerate(zip(watched.frames, ranks(watched, way, options.usable), strict=True)):
        frame = Frame(PICTURE, index, round(1e9 * index / watched.fps))
        score = replace(seen.score, frame_index=index, captured_ns=frame.captured_ns)
        result = LiveResult(score, frame, None, NOON, 0.0, 0.0, index + 1, 0)
        shots.offer(result, Appraisal(points / 100, 1))
    shots.close()
    kept = None if shots.shot is None else shots.shot.result.score.frame_index
    return None if kept is None else watched.frames[kept]


def ranks(watched: Watched, way: str, usable: float) -> list[float]:
    """What each frame is chosen by, in points.

    With ``learned`` the exposure that is aimed at is the middle of what usable frames had so far.
    """
    points, middles = [], []
    for seen in watched.frames:
        value, rank = seen.score.value, Appraisal.of(seen.measures).rank
        if value is not None and value >= usable:
            middles.append(seen.measures.middle_stops)
        aim = statistics.median(middles) if way == "learned" and middles else MIDDLE_GRAY_STOPS
        exposure = math.exp(-(((seen.measures.middle_stops - aim) / TOLERANCE_STOPS) ** 2) / 2)
        if way in TRUTHS:
            points.append(100 * seen.truth[way])
        else:
            points.append({"score": value or 0.0, "rank": rank}.get(way, rank * exposure))
    return points


@dataclass(frozen=True)
class Shares:
    """What was kept in many sessions, by one way and one truth: shares of each session's best frame.

    Attributes:
        values: one a session in which the rules let anything be kept; 0 where this way kept nothing.
        photographs: what each session looked at; those of one photograph are drawn together.
    """

    values: npt.NDArray[np.float64]
    photographs: tuple[str, ...]

    def within(self) -> npt.NDArray[np.float64]:
        """1 where the kept frame is as good as the best, otherwise 0."""
        return (self.values >= 1 - WITHIN).astype(np.float64)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, and what the table shows; of no session there is nothing to show."""
        if not len(self.values):
            return {"sessions": 0}
        return {
            "sessions": len(self.values),
            "min": float(self.values.min()),
            "p5": float(np.percentile(self.values, 5)),
            "median": float(np.median(self.values)),
            "within": float(self.within().mean()),
            "interval": interval(self.within(), self.photographs),
        }


def interval(values: npt.NDArray[np.float64], photographs: Sequence[str]) -> tuple[float, float]:
    """95 % bootstrap interval of a mean over sessions; whole photographs are drawn, with all their sessions."""
    names, groups = np.unique(photographs, return_inverse=True)
    sums, counts = np.bincount(groups, values), np.bincount(groups)
    drawn = np.random.default_rng(0).integers(len(names), size=(DRAWS, len(names)))
    return percentile_interval(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))


def compare(sessions: Sequence[Watched], options: BestShotOptions, folder: Path) -> dict[Truth, dict[str, Shares]]:
    """What each way keeps, by each truth, of the sessions in which the rules let the truth keep anything.

    Args:
        sessions: that were played.
        options: when a shot is taken.
        folder: for the shots' files.
    """
    kept = {
        way: [keep(one, way, options, folder / way / str(number)) for number, one in enumerate(sessions)]
        for way in (*WAYS, *TRUTHS)
    }
    found: dict[Truth, dict[str, Shares]] = {}
    for truth in TRUTHS:
        possible = [number for number, seen in enumerate(kept[truth]) if seen is not None]
        names = tuple(sessions[number].photograph for number in possible)
        found[truth] = {}
        for way in (*WAYS, truth):
            pairs = [(kept[way][number], sessions[number].best(truth)) for number in possible]
            shares = [0.0 if seen is None else seen.truth[truth] / best for seen, best in pairs]
            found[truth][way] = Shares(np.array(shares), names)
    return found


def looks_of(folder: Path | None, split: Split) -> list[tuple[str, Image]]:
    """Name and square field of the photographs that sessions look at: the best of each patient.

    Args:
        folder: in FQS form; None: the photograph that the kit carries.
        split: of its photographs.

    Raises:
        InputError: no photograph is good enough, or one cannot be read.
    """
    if folder is None:
        return [("", photograph_of(Session()))]
    best: dict[str, LabelledImage] = {}
    for image in sorted(of_split(read_image_set(folder), split), key=lambda image: -image.mos):
        if image.mos >= LEAST_MOS:
            best.setdefault(_patient(image), image)
    if not best:
        raise InputError(f"{folder}: expected a photograph of split {split} with MOS >= {LEAST_MOS:g}, found none")
    chosen = sorted(best.values(), key=lambda image: image.path.name)
    return [(image.path.name, square_field(read_image(image.path))) for image in chosen]


def _patient(image: LabelledImage) -> str:
    """As the table says; where it does not, what stands before the first underscore of the file's name."""
    return image.path.name.partition("_")[0] if image.group == image.path.name else image.group


@click.command(name="best-shot")
@click.option("--data", "folder", type=PATH, help=f"{FQS_FOLDER} Default: the photograph that the kit carries.")
@click.option("--split", type=click.Choice(["val", "train"]), default="val", show_default=True, help="Part of --data.")
@click.option("--sessions", type=click.IntRange(1), default=100, show_default=True, help="Number of sessions to play.")
@click.option("--first-seed", type=click.IntRange(0), default=0, show_default=True, help="The others follow it.")
@click.option("--seconds", type=click.FloatRange(1), default=6.0, show_default=True, help="Length of a session.")
@click.option("--fps", type=click.FloatRange(1, 120), default=8.0, show_default=True, help="Frames scored a second.")
@signature_option
@click.option("--bundle", type=PATH, help="Bundle folder. Default: the demonstration bundle.")
@setting("model.precision")
@threads_option
@points_option("--usable", None, "Score from which a frame may be kept. Default: the model card's.")
@click.option("--json", "json_file", type=PATH, help="Write the figures, and score and measures of every frame.")
@click.option("--again", type=PATH, help="Keep shots of the frames in this file of --json, without playing sessions.")
def best_shot(
    folder: Path | None,
    split: Split,
    sessions: int,
    first_seed: int,
    seconds: float,
    fps: float,
    bundle: Path | None,
    precision: Precision,
    threads: int | None,
    usable: float | None,
    json_file: Path | None,
    again: Path | None,
) -> None:
    """How good the frame is that the best shot keeps, in simulated sessions over photographs.

    Prints what the kept frame still shows of the undegraded photograph, as a share of the session's best frame, by two
    full-reference measures, and by what the frame was chosen: the rank, as `fthnet run --best-shot` does; the rank
    and how near the exposure is to an aim; the score alone; and the measure itself within the same rules.
    """
    from fthnet_kit.bench.results.results_file import write_file
    from fthnet_kit.edge.inference.scorer import QualityScorer

    with QualityScorer.from_bundle(bundle, precision, threads=threads) as scorer:
        options = BestShotOptions.of(scorer.card.thresholds)
        if usable is not None:
            options = replace(options, usable=usable, good=max(usable, options.good))
        if again is None:
            first = Session(seconds, fps, first_seed, 640, 480, realtime=False)
            plan = [replace(first, seed=first_seed + number) for number in range(sessions)]
            played = list(_play(plan, looks_of(folder, split), scorer.score_frame))
        else:
            played = read_sessions(again)
    with tempfile.TemporaryDirectory(prefix="fthnet-shots-") as shots:
        found = compare(played, options, Path(shots))
    _print(found, f"{scorer.card.title}, {len(played)} sessions", len({one.photograph for one in played}))
    if json_file is not None:
        figures = {truth: {way: one.to_dict() for way, one in ways.items()} for truth, ways in found.items()}
        facts = {"kind": KIND, "figures": figures, "sessions": [one.to_dict() for one in played]}
        write_file(json_file, (json.dumps(facts) + "\n").encode())


def read_sessions(path: Path) -> list[Watched]:
    """The sessions in a file of ``--json``.

    Raises:
        InputError: no such file.
    """
    try:
        facts = json.loads(path.read_bytes())
        if facts["kind"] != KIND:
            raise ValueError(facts["kind"])
        return [Watched.from_dict(one) for one in facts["sessions"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: expected a file of `fthnet bench best-shot --json`, found {type(error).__name__}: {error}"
        ) from error


def _play(
    plan: Sequence[Session], looks: Sequence[tuple[str, Image]], score: Callable[[Frame], Score]
) -> Iterator[Watched]:
    with tracked(plan, "playing") as shown:
        for session in shown:
            name, photograph = looks[session.seed % len(looks)]
            yield watch(session, Look.of(photograph, session.seed), score, name)


def _print(found: dict[Truth, dict[str, Shares]], title: str, photographs: int) -> None:
    from rich.table import Table

    for truth, ways in found.items():
        count = len(ways["rank"].values)
        words = f"{title} over {photographs} photographs; in {count} a shot could be kept"
        table = Table(title=f"{words}: {TRUTHS[truth]}, kept / best available", title_justify="left")
        for column in ("chosen by", "min", "p5", "median", f"within {WITHIN:.0%}", "95 % interval"):
            table.add_column(column, justify="left" if column == "chosen by" else "right")
        for way, one in ways.items() if count else ():
            figures = one.to_dict()
            low, high = figures["interval"]
            shares = (f"{figures[name]:.3f}" for name in ("min", "p5", "median"))
            name = WAYS.get(way, f"{TRUTHS[truth]} itself")
            table.add_row(name, *shares, f"{figures['within']:.0%}", f"{low:.0%} to {high:.0%}")
        if count:
            better = ways["rank"].within() - ways["score"].within()
            low, high = interval(better, ways["rank"].photographs)
            table.caption = f"rank minus score alone: {better.mean():+.0%} [{low:+.0%}, {high:+.0%}]"
        open_console().print(table)


if __name__ == "__main__":
    best_shot()
