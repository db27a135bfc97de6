"""Pictures with what the kit made of them drawn in: the field, the score with its verdict, or the reason."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2

from fthnet_kit.edge.errors import AmbiguousFieldError, InputError, found_instead
from fthnet_kit.edge.files import make_folder, write_atomically
from fthnet_kit.edge.guidance.texts import REASONS, texts
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.loop.result import LiveResult
from fthnet_kit.edge.loop.sink import BackgroundWorker
from fthnet_kit.edge.model.field import find_field
from fthnet_kit.edge.model.score import Score

COLOURS = {"good": (90, 190, 60), "usable": (40, 190, 230), "reject": (60, 60, 230)}  # BGR
NO_SCORE = (220, 120, 220)
WAITING = 32  # pictures
JPEG_QUALITY = 92


def annotate(image: Image, score: Score) -> Image:
    """A copy with the square that is scored, and a line of text at the top left.

    Args:
        image: BGR uint8 (H, W, 3).
        score: of this picture.
    """
    drawn = image.copy()
    colour = COLOURS.get(score.verdict or "", NO_SCORE)
    width = max(2, max(image.shape[:2]) // 400)
    try:
        box = find_field(image)
        cv2.rectangle(drawn, (box.x, box.y), (box.x + box.width - 1, box.y + box.height - 1), colour, width)
    except AmbiguousFieldError:
        pass  # the line says so
    size = max(0.5, min(image.shape[:2]) / 700)
    place = (round(12 * size), round(32 * size))
    for ink, thickness in (((0, 0, 0), 4 * width), (colour, width)):
        cv2.putText(drawn, caption(score), place, cv2.FONT_HERSHEY_SIMPLEX, size, ink, thickness, cv2.LINE_AA)
    return drawn


def caption(score: Score) -> str:
    """Such as ``76.7 good``, or ``no score: no retina in view``."""
    if score.value is not None:
        return f"{score.value:.1f} {score.verdict}"
    return f"no score: {texts()[REASONS[score.reason or 'no_frame']]['en'].lower()}"


class AnnotatedPictures:
    """A folder of annotated pictures, each under the name of its file; a second of a name gets a number.

    Args:
        folder: made for its owner alone, as the pictures are.

    Raises:
        InputError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: Counter[str] = Counter()
        make_folder(folder, private=True)

    def add(self, image: Image, score: Score, name: str) -> Path:
        """Write one picture; returns its file.

        Args:
            image: BGR uint8 (H, W, 3).
            score: of this picture.
            name: of the file that it came from.

        Raises:
            OSError: it cannot be written.
        """
        self._names[name] += 1
        count = self._names[name]
        path = self.folder / (f"{name}.jpg" if count == 1 else f"{name}-{count}.jpg")
        encoded, jpeg = cv2.imencode(".jpg", annotate(image, score), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if not encoded:
            raise OSError("the picture cannot be encoded as JPEG")
        write_atomically(path, jpeg.tobytes(), private=True)
        return path

    def add_still(self, image: Image, score: Score, file: Path) -> Path:
        """As `add`, for a picture that came from a file.

        Raises:
            InputError: it cannot be written.
        """
        try:
            return self.add(image, score, file.name)
        except OSError as error:
            found = found_instead(error)
            raise InputError(f"{self.folder}: expected a folder that can be written, found {found}") from error


class AnnotatedFrames:
    """Writes every frame of a run that has a picture; what the disk cannot follow is left out and counted.

    Args:
        folder: see `AnnotatedPictures`.

    Raises:
        InputError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._pictures = AnnotatedPictures(folder)
        self._worker: BackgroundWorker[LiveResult] = BackgroundWorker(self._save, WAITING, "annotated frames")

    def offer(self, result: LiveResult) -> None:
        """Hand a frame to the thread that draws and writes."""
        if result.frame is not None:
            self._worker.submit(result)

    def _save(self, result: LiveResult) -> None:
        assert result.frame is not None
        name = f"frame-{result.frame.index:06}" if result.name is None else Path(result.name).name
        self._pictures.add(result.frame.image, result.score, name)

    @property
    def shortfall(self) -> str | None:
        """How many pictures are not there, and why; None where all are."""
        if not self._worker.lost:
            return None
        return f"{self._worker.lost} annotated pictures are not in {self._pictures.folder}: {self._worker.complaint}"

    def close(self) -> None:
        """Finish what waits."""
        self._worker.close()
