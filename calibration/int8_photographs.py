"""Which photographs calibrate and which judge: evenly over the score range, the same ones every time.

A calibration is only as good as its photographs. What would quietly spoil it (too few, black or repeated
pictures, all alike, labels that belong to other photographs) is refused here, before anything is computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from fthnet_kit.calibration.agreement import srcc
from fthnet_kit.calibration.label_table import TABLES
from fthnet_kit.calibration.labelled_images import LabelledImage, read_image_set
from fthnet_kit.edge.capture.image_files import find_images
from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.inference.retina_gate import shows_retina
from fthnet_kit.edge.model.bundle import sha256_of
from fthnet_kit.edge.model.preprocess import Preprocessing, prepare_file

FEWEST = 32  # photographs to calibrate on, and to judge on
WANTED = 128  # 500 gave no smaller error, 40 nearly the same (docs/CONVERSION.md)
HELD_OUT = 256
BINS = 10  # equal parts of the score range; each gives as many photographs as it can, in turn
FEWEST_RETINAS = 0.5  # share of the photographs in which a retina may be seen
LEAST_SPREAD = 5.0  # points, standard deviation of the scores
LEAST_AGREEMENT = 0.3  # SRCC of labels with the FP32 score; shuffled labels come out near 0


@dataclass(frozen=True)
class Photograph:
    """A photograph as network input.

    Attributes:
        path: the file.
        label: its MOS, 0-100, or None.
        view: RGB uint8 (384, 384, 3), centre view.
        sha256: of the view.
    """

    path: Path
    label: float | None
    view: Image
    sha256: str


Entry = LabelledImage | Path  # a photograph of a table, or of a folder without one


def find_photographs(folders: Sequence[Path]) -> list[Entry]:
    """Photographs of folders, with labels where a folder is in FQS form.

    Raises:
        InputError: no folder or no photographs, or a table that is wrong.
    """
    found: list[Entry] = []
    for folder in folders:
        if folder.is_dir() and any(path.suffix.lower() in TABLES for path in folder.iterdir()):
            found += read_image_set(folder)
        else:
            found += find_images([str(folder / "images" if (folder / "images").is_dir() else folder)])
    return found


def load(entry: Entry, preprocessing: Preprocessing) -> Photograph:
    """Read and prepare one photograph."""
    path, label = (entry, None) if isinstance(entry, Path) else (entry.path, entry.mos)
    view = prepare_file(path, preprocessing, 1)[0]
    return Photograph(path, label, view, hashlib.sha256(view.tobytes()).hexdigest())


def path_of(entry: Entry) -> Path:
    """The photograph's file."""
    return entry if isinstance(entry, Path) else entry.path


def without_repeats(entries: Sequence[Entry]) -> list[Entry]:
    """The first of each group of identical files."""
    return list({sha256_of(path_of(entry)): entry for entry in reversed(entries)}.values())[::-1]


def stratify(values: npt.NDArray[np.floating], count: int) -> list[int]:
    """Indices of up to `count` values that cover their range evenly; the same for the same values.

    The range is cut into equal bins; each bin in turn gives the value that splits its rest most evenly.
    """
    low, high = float(values.min()), float(values.max())
    place = np.minimum(((values - low) / max(high - low, 1e-9) * BINS).astype(int), BINS - 1)
    queues = [
        _spread_out(np.flatnonzero(place == index)[np.argsort(values[place == index], kind="stable")])
        for index in range(BINS)
    ]
    chosen: list[int] = []
    for turn in range(max(len(queue) for queue in queues)):
        chosen += [queue[turn] for queue in queues if turn < len(queue)]
    return sorted(chosen[:count])


def _spread_out(sorted_indices: npt.NDArray[np.intp]) -> list[int]:
    """The indices in an order whose every beginning is spread over them: bit-reversed."""
    bits = max(1, int(len(sorted_indices) - 1).bit_length())
    order = (int(format(index, f"0{bits}b")[::-1], 2) for index in range(2**bits))
    return [int(sorted_indices[index]) for index in order if index < len(sorted_indices)]


def split(values: npt.NDArray[np.floating], count: int, held_out: int) -> tuple[list[int], list[int]]:
    """Indices of photographs to calibrate on and to judge on, both spread over `values`; none is in both.

    Where there are few, a third judges.

    Raises:
        InputError: fewer than 64 photographs.
    """
    refuse_too_few(len(values), len(values) // 2)
    judging = stratify(values, min(held_out, max(FEWEST, len(values) // 3)))
    rest = np.setdiff1d(np.arange(len(values)), judging)
    return [int(rest[index]) for index in stratify(values[rest], count)], judging


def refuse_too_few(found: int, part: int) -> None:
    """Raises InputError where the smaller part, of those that calibrate and those that judge, is below 32."""
    if part < FEWEST:
        raise InputError(
            f"calibration: expected at least {2 * FEWEST} different photographs ({FEWEST} to calibrate on, {FEWEST} to "
            f"judge on), found {found}; add photographs of all qualities"
        )


def refuse_unfit(photographs: Sequence[Photograph]) -> None:
    """Raises InputError where most photographs show no retina: black, white, lens cap."""
    retinas = sum(shows_retina(photograph.view) for photograph in photographs)
    if retinas < FEWEST_RETINAS * len(photographs):
        raise InputError(
            f"calibration: expected photographs of retinas, found one in only {retinas} of {len(photographs)}; "
            "check the folder"
        )


def refuse_unfit_scores(photographs: Sequence[Photograph], scores: npt.NDArray[np.floating]) -> None:
    """Raises InputError where FP32 scores hardly differ, or labels do not go with them.

    Args:
        photographs: with or without labels.
        scores: of the FP32 graph, points.
    """
    spread = float(np.std(scores))
    if spread < LEAST_SPREAD:
        raise InputError(
            f"calibration: expected photographs of all qualities, found scores that differ by only {spread:.1f} points "
            f"(standard deviation; at least {LEAST_SPREAD:g} wanted); add poor and good ones"
        )
    labelled = [(score, p.label) for score, p in zip(scores, photographs, strict=True) if p.label is not None]
    if len(labelled) < FEWEST:
        return
    agreement = srcc(*np.array(labelled, float).T)
    if not agreement >= LEAST_AGREEMENT:
        raise InputError(
            f"calibration: expected labels that go with the model's scores (SRCC of {LEAST_AGREEMENT:g} or more), "
            f"found SRCC {agreement:.2f}; the table may be shuffled or belong to other photographs"
        )


def contact_sheet(photographs: Sequence[Photograph], columns: int = 25, side: int = 64) -> bytes:
    """All photographs in one JPEG, in order, to look at."""
    tiles = [cv2.resize(p.view, (side, side), interpolation=cv2.INTER_AREA) for p in photographs]
    blank = np.zeros((side, side, 3), np.uint8)
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    sheet = np.vstack([np.hstack([*row, *[blank] * (columns - len(row))]) for row in rows])
    _, packed = cv2.imencode(".jpg", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])
    return packed.tobytes()
