"""What a request may ask of the preview: its state, its pictures, and the operator's decisions."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2

from fthnet_kit.edge.device.sensors import read_memory_mb, read_temperatures, read_throttling
from fthnet_kit.edge.device.sysfs import ROOT
from fthnet_kit.edge.errors import AmbiguousFieldError, KitError, MissingExtraError
from fthnet_kit.edge.guidance.texts import texts
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.model.preprocess import Preprocessing, field_box
from fthnet_kit.edge.outputs.preview.access import Access
from fthnet_kit.edge.outputs.preview.board import Board, Decision
from fthnet_kit.edge.outputs.preview.feed import Feed
from fthnet_kit.edge.outputs.preview.prometheus import Metrics

if TYPE_CHECKING:
    from fthnet_kit.edge.outputs.best_shot.eye_context import EyeContext

try:
    from tornado import web
except ImportError as error:
    raise MissingExtraError("tornado", "serve", purpose="the preview in a browser") from error


BOUNDARY = b"--frame\r\n"
Action = Literal["accept", "retake"]
DECIDED: Mapping[Action, Decision] = {"accept": "accepted", "retake": "retaken"}


class Refusal(web.HTTPError):
    """An HTTP error with a message for programs and one for the operator.

    Args:
        status: of HTTP.
        words: why, in English, for programs.
        shown: why, in the operator's language, for the page; None where `words` have to do.
        retry_s: after how long asking again makes sense.
    """

    def __init__(self, status: int, words: str, shown: str | None = None, *, retry_s: float | None = None) -> None:
        super().__init__(status)
        self.words = words
        self.shown = shown
        self.retry_s = retry_s


PICTURE_PX, PICTURE_QUALITY = 960, 75
SHOT_PX, SHOT_QUALITY = 1600, 90


def encode(image: Image, longest_px: int, quality: int, *, fast: bool = False) -> bytes:
    """JPEG of a picture (BGR uint8, H x W x 3), reduced so that its longer side fits.

    `fast` makes each pixel of a large picture from four of its own: enough for a live view, in a fifth of the time.
    """
    scale = longest_px / max(image.shape[:2])
    if scale < 1:
        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        if fast and scale < 0.5:
            image = cv2.resize(image, (2 * width, 2 * height), interpolation=cv2.INTER_NEAREST)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def field_in(image: Image, preprocessing: Preprocessing) -> dict[str, float] | None:
    """The part of a picture that is scored, in shares of its width and height; None if it cannot be found."""
    height, width = image.shape[:2]
    try:
        box = field_box(image, preprocessing)
    except AmbiguousFieldError:
        return None
    return {"x": box.x / width, "y": box.y / height, "width": box.width / width, "height": box.height / height}


def read_vitals(root: Path = ROOT) -> dict[str, Any]:
    """What the page shows of the device: its hottest part, its free memory, and what is slowed down for heat."""
    temperatures = read_temperatures(root)
    return {
        "temperature_c": max(temperatures.values(), default=None),
        "throttling": read_throttling(root),
        "memory_available_mb": read_memory_mb(root, "MemAvailable"),
        "memory_total_mb": read_memory_mb(root, "MemTotal"),
    }


@dataclass
class Operations:
    """Everything that a request can reach; made by the server, handed to its handlers.

    Attributes:
        access: who may ask.
        words, assets: the page's words and files, in its language.
        board: the newest result and the shot that waits.
        events, pictures: the two streams.
        metrics: for Prometheus.
        decisions: called with the id of the shot that the operator decided on.
        workers: threads for what takes time.
        set_eye: called with JSON that says whose eye comes next; None where no shots are kept.
        eye: gives whose eye comes next, None where that is unknown.
        open_health: everybody may ask whether it is alive, and nothing else.
    """

    access: Access
    words: Mapping[str, str]
    assets: Mapping[str, bytes]
    board: Board
    events: Feed
    pictures: Feed
    metrics: Metrics
    decisions: Mapping[Action, Callable[[str], object]]
    workers: concurrent.futures.Executor
    open_health: bool = False
    set_eye: Callable[[bytes], object] | None = None
    eye: Callable[[], EyeContext | None] = lambda: None
    _deciding: asyncio.Lock = field(default_factory=asyncio.Lock)
    _shot_jpeg: tuple[str, bytes] = ("", b"")

    def asked(self) -> dict[str, Any]:
        """What the page asks of who looks at it: the eye, without a name, and whether there is a session to end."""
        eye = self.eye()
        known = {"known": eye is not None, "laterality": None if eye is None else eye.laterality}
        return {"eye": None if self.set_eye is None else known, "login": self.access.needs_token}

    def in_thread(self, work: Callable[[], Any]) -> Awaitable[Any]:
        """Run what would hold up the server's thread in another."""
        return asyncio.get_running_loop().run_in_executor(self.workers, work)

    async def shot_jpeg(self) -> bytes | None:
        """The best shot as a JPEG, encoded once; None where none waits."""
        shot = self.board.shot
        if shot is None:
            return None
        if self._shot_jpeg[0] != shot.id:
            self._shot_jpeg = (shot.id, await self.in_thread(partial(encode, shot.image, SHOT_PX, SHOT_QUALITY)))
        return self._shot_jpeg[1]

    async def decide(self, action: Action, shot_id: object) -> None:
        """Carry out the operator's decision on the best shot; one at a time, and one for each shot.

        Raises:
            Refusal: this shot does not wait for a decision, or the decision failed.
        """
        async with self._deciding:
            shot = self.board.shot
            if shot is None or shot.id != shot_id:
                raise self.refusal(409, "shot_settled")
            try:
                done = await self.in_thread(partial(self.decisions[action], shot.id))
            except (KitError, OSError) as error:
                raise Refusal(500, str(error)) from error
            if done is False:
                raise self.refusal(500, "try_again")
            self.board.settle(shot, DECIDED[action])

    def refusal(self, status: int, key: str, **values: object) -> Refusal:
        """A refusal in the words of the page's table, in English and in the page's language."""
        return Refusal(status, texts()[key]["en"].format(**values), self.words[key].format(**values))
