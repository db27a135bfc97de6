"""The best frame of a run, kept as PNG and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import cv2

from fthnet_kit.edge.files import make_folder, write_atomically
from fthnet_kit.edge.loop.result import LiveResult
from fthnet_kit.edge.loop.sink import BackgroundWorker


class BestFrame:
    """Keeps the best-scored frame of a run: `best.png` and `best.json` in a folder, replaced as better ones come.

    Attributes:
        best: the best so far.
        saved: the one that lies on the disk.

    Raises:
        InputError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.best: LiveResult | None = None
        self.saved: LiveResult | None = None
        make_folder(folder, private=True)
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
        write_atomically(self.folder / "best.png", png.tobytes(), private=True)
        record = (json.dumps(best.to_dict(), indent=2) + "\n").encode()
        write_atomically(self.folder / "best.json", record, private=True)
        self.saved = best

    @property
    def shortfall(self) -> str | None:
        """Why the best frame is not on the disk; None where it is, or where there is none."""
        if self.best is self.saved:
            return None
        return f"the best frame is not saved in {self.folder}: {self._worker.complaint or 'the disk does not answer'}"

    def close(self) -> None:
        """Finish the save that is under way or due; one that failed is tried once more."""
        if self.best is not self.saved:
            self._worker.wake(True)
        self._worker.close()
