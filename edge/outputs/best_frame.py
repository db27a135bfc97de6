"""The best frame of a run, kept as PNG and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import cv2

from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.files import write_atomically
from fthnet_kit.edge.loop.result import LiveResult
from fthnet_kit.edge.loop.sink import BackgroundWorker


class BestFrame:
    """Keeps the best-scored frame of a run: `best.png` and `best.json` in a folder, replaced as better ones come."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.best: LiveResult | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: expected a folder that can be written, found {error.strerror}") from error
        self._worker: BackgroundWorker[bool] = BackgroundWorker(self._save, 1, "best frame")

    def offer(self, result: LiveResult) -> None:
        """Note the frame if it beats all before; the newest best is saved as soon as the disk is free."""
        value = result.score.value
        if value is not None and (self.best is None or value > (self.best.score.value or 0.0)):
            self.best = result
            self._worker.wake(True)

    def _save(self, _: bool) -> None:
        best = self.best
        assert best is not None and best.frame is not None
        ok, png = cv2.imencode(".png", best.frame.image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        if not ok:
            raise OSError("the frame cannot be encoded as PNG")
        write_atomically(self.folder / "best.png", png.tobytes())
        write_atomically(self.folder / "best.json", (json.dumps(best.to_dict(), indent=2) + "\n").encode())

    def close(self) -> None:
        """Finish the save that is under way or due."""
        self._worker.close()
