"""The best shot of each eye: what a photographer would have kept, without pressing a button.

The score decides which frames may be kept, and their *rank* which of them is: what `appraisal` says about
detail and field, or the score where a frame was not appraised.

An *eye* begins with the first frame that shows a retina (has a score) and ends when none did for
`gone_s`, or at once when the camera is lost. Within it, a *stretch* is an unbroken run of frames whose
scores are at least `usable` and whose ranks lie at most `band` points below the run's best; where a better
frame comes, frames that fell out of the band leave at the front. A stretch of `stable_s` and three frames
is *stable*. A bad frame, a blink, a frame without a score, a gap: each ends the stretch. Nothing is
smoothed, neither the decision nor the score: what is stored is the frame's own score.

The shot is *taken* when a stable stretch has ended, or when its best frame is `good` and nothing better
came for `patience_s`; the best frame of that stretch is kept. It is taken once per eye. Until the eye
leaves, a stable stretch whose rank is better by `margin` points replaces it: the same files, each replaced
atomically, with a higher `revision` in the record. When the eye has left, the next one may be taken.

The operator may `accept` a shot: it is not replaced any more. `retake` discards it and arms again; the
discarded files are kept beside it under other names (`retaken-1.png` …), never deleted. `folder` says how the
files lie on the disk. While the disk is full the old files stay, and the newest shot is tried again every
five seconds.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from fthnet_kit.edge.guidance.measures import Measures
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.loop.result import LiveResult
from fthnet_kit.edge.loop.sink import BackgroundWorker
from fthnet_kit.edge.outputs.best_shot.dicom_context import DicomContext
from fthnet_kit.edge.outputs.best_shot.eye_context import EyeContext
from fthnet_kit.edge.outputs.best_shot.folder import ShotFolder
from fthnet_kit.edge.outputs.best_shot.rank import Appraisal
from fthnet_kit.edge.outputs.best_shot.shot import BestShotOptions, Shot
from fthnet_kit.edge.outputs.best_shot.stretch import Stretch

LOG = logging.getLogger("fthnet")
CAMERA_LOST = ("no_frame", "stalled", "frozen")


class AppraisedBestShot:
    """Appraises measured results and offers them to a `BestShot` (`measuring.Follower`).

    Args:
        best_shot: closed with it.
    """

    def __init__(self, best_shot: BestShot) -> None:
        self._best_shot = best_shot

    def follow(self, result: LiveResult, measures: Measures | None) -> None:
        """One result; an unmeasured picture ranks last."""
        self._best_shot.offer(result, None if result.frame is None else Appraisal.of(measures or Measures()))

    def idle(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Take what there is, and finish writing."""
        self._best_shot.close()


class _Job(NamedTuple):
    kind: Literal["save", "accept", "discard"]
    shot: Shot


class BestShot:
    """A sink that takes the best shot of each eye. `accept` and `retake` may be called from any thread.

    Args:
        folder: of the eyes' folders; made where it is missing.
        options: when a shot is taken.
        on_shot: called with each shot when it is taken (`revision` 1) and when it is replaced, on the
            thread that called `offer` or `close`, before the files are written; must not block.
        dicom: also write DICOM files, of this camera; what it says of a patient or an eye holds for the first eye
            alone, as after each `set_eye`.
        clock_s: monotonic seconds, for results without a frame.

    Raises:
        InputError: the folder cannot be written, or the DICOM context lacks what the standard requires.
        MissingExtraError: DICOM files are asked for and pydicom is not installed.
    """

    WAITING_JOBS = 4
    RETRY_S = 5.0
    CLOSE_TIMEOUT_S = 15.0  # a PNG of 12 megapixels takes seconds on a small board

    def __init__(
        self,
        folder: Path,
        options: BestShotOptions | None = None,
        on_shot: Callable[[Shot], None] | None = None,
        *,
        dicom: DicomContext | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self.options = options or BestShotOptions()
        self.shots = 0
        self.shot: Shot | None = None
        self._last_known: tuple[EyeContext, DicomContext | None] | None = None
        self._camera: DicomContext | None = None  # what holds for every eye
        self._context: DicomContext | None = None  # for the eye in view, or the next
        self._eye: EyeContext | None = None
        self._known_since_s = -math.inf
        self._on_shot = on_shot
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._now_s = -math.inf
        if dicom is not None:
            dicom.check()
            self._camera = EyeContext().applied_to(dicom)
            self._begin_context(EyeContext.of(dicom))
        self._seen_s: float | None = None  # until when a retina was last seen; None between two eyes
        self._stretch: Stretch | None = None
        self._spare: Image | None = None  # the buffer of a stretch that gave no shot
        self._taken: Shot | None = None  # shot of the eye in view
        self._take = 1
        self._armed_eye: int | None = None  # number for the next take of the eye in view
        self._unsaved: Shot | None = None  # the newest, until the worker has written it
        self._missing: dict[tuple[int, int], Shot] = {}  # by eye and take, until the worker has written them
        self._retry_s = math.inf
        self._jobs = 0  # that wait or are under way
        self._jobs_lock = threading.Lock()
        self._files = ShotFolder(folder, self.options)
        self._next_eye = self._files.highest_eye() + 1
        self._worker: BackgroundWorker[_Job] = BackgroundWorker(self._do, self.WAITING_JOBS, "best shot")
        self._worker.CLOSE_TIMEOUT_S = self.CLOSE_TIMEOUT_S

    @property
    def lost(self) -> int:
        """How often something could not be written."""
        return self._worker.lost

    @property
    def shortfall(self) -> str | None:
        """Which shots are not on the disk, and why; None where all are."""
        if not self._missing:
            return None
        eyes = ", ".join(str(eye) for eye in sorted({eye for eye, _ in self._missing}))
        why = self._worker.complaint or "the disk does not answer"
        return f"the newest shot of eye {eyes} is not saved in {self.folder}: {why}"

    @property
    def eye(self) -> EyeContext | None:
        """Whose eye the next shot is of; None where that is unknown."""
        return self._eye

    def set_eye(self, eye: EyeContext | None) -> None:
        """From now on it is this eye; None: nobody knows whose. Any thread may call it.

        It ends when the eye has left or another is set. Frames that were captured before are of neither: a shot
        that this call interrupts is not taken, whatever its frames were worth.
        """
        with self._lock:
            if self._stretch is not None:
                LOG.warning("best shot: the eye was set amid a shot, which is refused")
            self._stretch = None
            shots = self._leave()
            self._begin_context(eye)
            self._known_since_s = self._clock_s()
        for shot in shots:
            self._announce(shot)

    def set_eye_json(self, content: bytes) -> None:
        """The same from JSON, as `assets/eye_context.schema.json` describes it; an empty object ends a context.

        Raises:
            InputError: something else; what was set stays.
        """
        self.set_eye(EyeContext.parse(content))

    def _begin_context(self, eye: EyeContext | None) -> None:
        """What DICOM files say from now on; two eyes of one patient and order share their study."""
        before, self._eye = self._eye, eye
        if self._camera is None:
            return
        context = (eye or EyeContext()).applied_to(self._camera)
        last = self._last_known if before is None else (before, self._context)
        if eye is not None and last is not None and last[1] is not None and eye.same_study(last[0]):
            names = ("study_instance_uid", "photograph_series_uid", "report_series_uid")
            context = replace(context, **{name: getattr(last[1], name) for name in names})
        self._context = context.with_study()
        if eye is not None:
            self._last_known = (eye, self._context)

    def offer(self, result: LiveResult, appraisal: Appraisal | None = None) -> None:
        """One result, with what its frame is ranked by; without an appraisal the score ranks it.

        Appraise all frames or none: a rank compares with a rank.
        """
        with self._lock:
            shots = self._follow(result, appraisal)
            self._save_again()
        for shot in shots:
            self._announce(shot)

    def accept(self, shot_id: str | None = None) -> bool:
        """The operator takes the last shot as it is: it is not replaced any more.

        Returns:
            False where there is no shot, where it is not the one with this id, or where its record cannot be queued.
        """
        with self._lock:
            if self.shot is None or shot_id not in (None, self.shot.id):
                return False
            self.shot = replace(self.shot, accepted=True)
            if self._taken is not None and self._taken.eye == self.shot.eye:
                self._taken = self.shot
            return self._save_soon(self.shot, "accept")

    def retake(self, shot_id: str | None = None) -> bool:
        """The operator discards the last shot; the eye in view may be taken again.

        The discarded files are kept under other names. What was seen before counts no more.

        Returns:
            False where there is no shot, where it is not the one with this id, or where the renaming cannot be queued.
        """
        with self._lock:
            if self.shot is None or shot_id not in (None, self.shot.id):
                return False
            discarded, self.shot = self.shot, None
            if self._taken is not None and self._taken.eye == discarded.eye:
                self._taken, self._stretch = None, None
                self._armed_eye, self._take = discarded.eye, discarded.take + 1
            self._unsaved = None
            self._missing.pop((discarded.eye, discarded.take), None)
            return self._submit(_Job("discard", discarded))

    def close(self) -> None:
        """Take what the eye in view has given so far, and finish writing."""
        with self._lock:
            shots = self._leave()
            self._retry_s = -math.inf
            self._save_again()
        for shot in shots:
            self._announce(shot)
        self._worker.close()

    def _follow(self, result: LiveResult, appraisal: Appraisal | None) -> list[Shot]:
        """What a result changes; the shots that it gave."""
        captured_s = self._clock_s() if result.frame is None else result.frame.captured_ns / 1e9
        self._now_s = max(self._now_s, captured_s)
        if result.frame is not None and captured_s < self._known_since_s:
            return []  # nobody can say whose eye it was
        value = result.score.value
        if result.score.reason in CAMERA_LOST:
            return self._leave()
        if value is None or not math.isfinite(value) or result.frame is None:
            shots = self._end_stretch()
            if self._seen_s is not None and self._now_s - self._seen_s >= self.options.gone_s:
                shots += self._leave()
            return shots
        shots = []
        if self._seen_s is not None and self._now_s - self._seen_s > self.options.gone_s:
            shots += self._end_stretch()  # nobody knows what happened in between
        self._seen_s = self._now_s + (result.latency_ms or 0.0) / 1e3  # a slow scorer looks at nothing else meanwhile
        if value < self.options.usable:
            return shots + self._end_stretch()
        if self._stretch is None or not self._stretch.add(result, appraisal, self._now_s):
            shots += self._end_stretch()
            self._stretch = Stretch(self.options.band, self._spare)
            self._spare = None
            self._stretch.add(result, appraisal, self._now_s)
        return shots + self._consider(ended=False)

    def _end_stretch(self) -> list[Shot]:
        shots = self._consider(ended=True)
        if self._stretch is not None:
            self._spare = self._stretch.buffer
        self._stretch = None
        return shots

    def _leave(self) -> list[Shot]:
        """The eye has left; the next may be taken."""
        shots = self._end_stretch()
        if self._seen_s is not None and self._eye is not None:
            self._begin_context(None)
        self._seen_s = self._taken = self._armed_eye = None
        self._take = 1
        return shots

    def _consider(self, *, ended: bool) -> list[Shot]:
        """Take or replace the shot, if the stretch gives reason to."""
        stretch, options = self._stretch, self.options
        if stretch is None or not stretch.is_stable(options.stable_s):
            return []
        waited = stretch.value >= options.good and self._now_s - stretch.best_s >= options.patience_s
        if not (ended or waited):
            return []
        taken = self._taken
        if taken is None:
            eye = self._next_eye if self._armed_eye is None else self._armed_eye
            self._next_eye = max(self._next_eye, eye + 1)
            self.shots += 1
            folder = self._files.of_eye(eye)
            samples = tuple(stretch.samples)
            shot = Shot(eye, self._take, 1, folder, stretch.best, samples, stretch.appraisal, context=self._context)
        elif not taken.accepted and stretch.rank >= taken.rank + options.margin:
            shot = replace(
                taken,
                revision=taken.revision + 1,
                result=stretch.best,
                stretch=tuple(stretch.samples),
                appraisal=stretch.appraisal,
                context=self._context,
            )
        else:
            return []
        stretch.buffer = None  # it is the shot's now
        self._taken = self.shot = shot
        self._save_soon(shot)
        return [shot]

    def _announce(self, shot: Shot) -> None:
        if self._on_shot is None:
            return
        try:
            self._on_shot(shot)
        except Exception:
            LOG.exception("best shot: the callback failed; scoring goes on")

    def _save_soon(self, shot: Shot, kind: Literal["save", "accept"] = "save") -> bool:
        self._unsaved, self._retry_s = shot, self._now_s + self.RETRY_S
        self._missing[shot.eye, shot.take] = shot
        return self._submit(_Job(kind, shot))

    def _save_again(self) -> None:
        """Try the newest shot again from time to time while a disk is full; never while the worker is busy."""
        if self._unsaved is not None and self._jobs == 0 and self._now_s >= self._retry_s:
            self._save_soon(self._unsaved, "accept" if self._unsaved.accepted else "save")

    def _submit(self, job: _Job) -> bool:
        with self._jobs_lock:
            self._jobs += 1
        accepted = self._worker.submit(job)
        if not accepted:
            with self._jobs_lock:
                self._jobs -= 1
        return accepted

    def _do(self, job: _Job) -> None:
        """In the worker's thread; an OSError is counted by the worker, and no other error ends the thread."""
        try:
            if job.kind == "discard":
                self._files.set_aside(job.shot)
                return
            if job.kind == "save" or not self._files.mark_accepted(job.shot):
                self._files.save(job.shot)
            with self._lock:
                if self._unsaved is job.shot:
                    self._unsaved = None
                if self._missing.get((job.shot.eye, job.shot.take)) is job.shot:
                    del self._missing[job.shot.eye, job.shot.take]
        except OSError:
            raise
        except Exception as error:
            LOG.exception("best shot: eye %d cannot be written", job.shot.eye)
            raise OSError(str(error)) from error
        finally:
            with self._jobs_lock:
                self._jobs -= 1
