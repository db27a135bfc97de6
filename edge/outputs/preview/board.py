"""What the preview page shows: the newest result, its last minute, and the shot that waits for a decision."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from fthnet_kit.edge.image import Image
from fthnet_kit.edge.loop.result import LiveResult
from fthnet_kit.edge.model.score import Verdict

if TYPE_CHECKING:
    from fthnet_kit.edge.outputs.best_shot.shot import Shot

CURRENT_S = 2.0  # health: a result older than this is not current
HISTORY_S, HISTORY_STEP_S = 60.0, 0.5
HISTORY_STEPS = round(HISTORY_S / HISTORY_STEP_S)
RATE_WINDOW_S = 3.0
MOST_SHOTS = 12  # shots of the session that the page lists
Decision = Literal["waiting", "accepted", "retaken", "kept"]  # kept: the eye has left without a decision
CAMERA_STATES = {"no_frame": "lost", "stalled": "stalled", "frozen": "frozen"}


@dataclass(frozen=True)
class WaitingShot:
    """A best shot that waits for the operator to accept it or to take another.

    Attributes:
        id: names it; a decision is refused if a better shot has taken its place meanwhile.
        image: BGR uint8 (H, W, 3).
        eye, take: of which eye, and how often that was taken anew.
    """

    id: str
    image: Image
    score: float
    verdict: Verdict | None
    captured_at: datetime
    eye: int = 1
    take: int = 1

    @classmethod
    def of(cls, shot: Shot | None) -> WaitingShot | None:
        """What `BestShot.shot` says, where that waits for a decision."""
        if shot is None or shot.accepted or shot.result.frame is None:
            return None
        return cls(
            id=shot.id,
            image=shot.result.frame.image,
            score=shot.value,
            verdict=shot.result.score.verdict,
            captured_at=shot.result.captured_at,
            eye=shot.eye,
            take=shot.take,
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON; without the picture."""
        return {
            "id": self.id,
            "score": round(self.score, 3),
            "verdict": self.verdict,
            "captured_at": self.captured_at.isoformat(timespec="milliseconds"),
        }


@dataclass(frozen=True)
class SessionShot:
    """What the page remembers of a shot of this session: what it was, and what became of it."""

    shot: dict[str, Any]
    decision: Decision


class Board:
    """The newest result and the last minute; written by the scoring thread, read by the server's.

    Args:
        current_s: patience of `health`.
    """

    def __init__(self, current_s: float = CURRENT_S) -> None:
        self.results = 0
        self.latest: LiveResult | None = None
        self._current_s = current_s
        self._lock = threading.Lock()
        self._hint: str | None = None
        self._shot: WaitingShot | None = None
        self._decided: str | None = None  # the last shot that was accepted or sent back
        self._shots: dict[tuple[int, int], SessionShot] = {}  # by eye and take
        self.field: dict[str, float] | None = None  # field of the newest picture, in shares of its width and height
        self._engine = "waiting"
        self._received_s = self._meant_s = -math.inf
        self._scored_s: deque[float] = deque()
        self._history: deque[tuple[int, float, int]] = deque(maxlen=HISTORY_STEPS)  # step, sum, count

    def note(self, result: LiveResult, hint: str | None, shot: WaitingShot | None) -> None:
        """The newest result; what was before is forgotten but for the minute's scores."""
        now = time.monotonic()
        value, reason = result.score.value, result.score.reason
        with self._lock:
            self.results += 1
            self.latest, self._hint, self._shot, self._received_s = result, hint, shot, now
            self._remember(shot)
            if value is not None or reason in ("no_retina", "ambiguous_field"):  # it says something about the picture
                self._meant_s, self._engine = now, "ok"
            elif reason == "engine_fault":
                self._engine = "fault"
            if value is not None:
                self._scored_s.append(now)
                step = int(now / HISTORY_STEP_S)
                _, total, count = self._history.pop() if self._is_last(step) else (step, 0.0, 0)
                self._history.append((step, total + value, count + 1))
            while self._scored_s and now - self._scored_s[0] > RATE_WINDOW_S:
                self._scored_s.popleft()

    def _remember(self, waiting: WaitingShot | None) -> None:
        """Note the shot that waits; one that waited before and does no more was kept."""
        place = None if waiting is None else (waiting.eye, waiting.take)
        for other, noted in self._shots.items():
            if noted.decision == "waiting" and other != place:
                self._shots[other] = replace(noted, decision="kept")
        if waiting is None or place is None or waiting.id == self._decided:
            return
        before = self._shots.get(place)
        if before is None or before.shot["id"] != waiting.id:
            self._shots[place] = SessionShot({**waiting.to_dict(), "eye": waiting.eye}, "waiting")
            for oldest in list(self._shots)[:-MOST_SHOTS]:
                del self._shots[oldest]

    def _is_last(self, step: int) -> bool:
        return bool(self._history) and self._history[-1][0] == step

    @property
    def shot(self) -> WaitingShot | None:
        """The shot that waits for a decision."""
        with self._lock:
            return None if self._shot is None or self._shot.id == self._decided else self._shot

    def settle(self, shot: WaitingShot, decision: Decision = "accepted") -> None:
        """A decision was made: do not ask for one again."""
        with self._lock:
            self._decided = shot.id
            self._shots[shot.eye, shot.take] = SessionShot({**shot.to_dict(), "eye": shot.eye}, decision)

    def age_s(self) -> float | None:
        """Time since the newest result; None before the first."""
        return None if self.latest is None else time.monotonic() - self._received_s

    def camera(self) -> str:
        """``waiting``, ``reading``, ``lost``, ``stalled`` or ``frozen``."""
        latest = self.latest
        return "waiting" if latest is None else CAMERA_STATES.get(latest.score.reason or "", "reading")

    def score_now(self) -> float:
        """The current score; NaN where there is none."""
        latest, age_s = self.latest, self.age_s()
        if latest is None or age_s is None or age_s > self._current_s or latest.score.value is None:
            return math.nan
        return latest.score.value

    def state(self) -> dict[str, Any]:
        """What a page shows, in the names of the kit's JSON; `results` changes with each result."""
        shot, age_s, camera = self.shot, self.age_s(), self.camera()
        with self._lock:
            now = time.monotonic()
            record = self.latest.to_dict() if self.latest else {}
            return {
                "results": self.results,
                "result_age_ms": None if age_s is None else round(1e3 * age_s),
                **{name: record.get(name) for name in ("score", "verdict", "reason", "frame", "age_ms", "latency_ms")},
                "captured": self.latest.captured if self.latest else 0,
                "dropped": self.latest.dropped if self.latest else 0,
                "fps": self._rate(now),
                "camera": camera,
                "engine": self._engine,
                "hint": self._hint,
                "history": self._means(now),
                "shot": None if shot is None else shot.to_dict(),
                "shots": [{**noted.shot, "decision": noted.decision} for noted in reversed(self._shots.values())],
                "field": self.field,
            }

    def _rate(self, now: float) -> float:
        """Scores a second, of late."""
        recent = [when for when in self._scored_s if now - when <= RATE_WINDOW_S]
        return round((len(recent) - 1) / (recent[-1] - recent[0]), 1) if len(recent) > 2 else 0.0

    def _means(self, now: float) -> list[float | None]:
        """The mean score of each step of the last minute, the newest last; None where there was none."""
        means: list[float | None] = [None] * HISTORY_STEPS
        for step, total, count in self._history:
            place = HISTORY_STEPS - 1 - (int(now / HISTORY_STEP_S) - step)
            if 0 <= place < HISTORY_STEPS:
                means[place] = round(total / count, 1)
        return means

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether results are current, and why not.

        Current: within the last two seconds a picture was scored, or found to show no retina. A single
        broken frame is no illness.
        """
        age_s, camera = self.age_s(), self.camera()
        with self._lock:
            now = time.monotonic()
            healthy = now - self._meant_s <= self._current_s
            last_score_s = self._scored_s[-1] if self._scored_s else None
            return healthy, {
                "status": "ok" if healthy else "unavailable",
                "reason": None if healthy else self._why_unhealthy(age_s),
                "result_age_s": None if age_s is None else round(age_s, 3),
                "score_age_s": None if last_score_s is None else round(now - last_score_s, 3),
                "camera": camera,
                "engine": self._engine,
            }

    def _why_unhealthy(self, age_s: float | None) -> str:
        if self.latest is None or age_s is None:
            return "waiting for the first result"
        reason = self.latest.score.reason
        return f"no result for {age_s:.1f} s" if age_s > self._current_s or reason is None else reason
