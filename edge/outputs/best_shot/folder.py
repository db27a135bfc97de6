"""The files of best shots.

Each eye has a folder, numbered on from the highest that is there already, so that neither a restart nor
a clock that jumps can overwrite one:

    EYE-000001/best.png     the frame at full resolution, pixel for pixel
               best.json    score, algorithm, what decided (`appraisal`), every score and rank of the stretch,
                            SHA-256 of the other files
               best.dcm     with a DICOM context: the photograph
               best_quality.dcm     and the report with its score (`dicom_report`)

`best.json` is written last: its hashes tell whether a power cut fell between two files.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2

from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.files import make_folder, new_private_folder, parse_json, write_atomically
from fthnet_kit.edge.outputs.best_shot.dicom_photograph import ophthalmic_photograph
from fthnet_kit.edge.outputs.best_shot.dicom_report import quality_report
from fthnet_kit.edge.outputs.best_shot.shot import BestShotOptions, Shot

LOG = logging.getLogger("fthnet")
FOLDER_NAME = re.compile(r"EYE-(\d{6,})")
DICOM_NAMES = ("best.dcm", "best_quality.dcm")
RECORD_NAME = "best.json"


class ShotFolder:
    """The folders of eyes, each with the files of its shot. One thread at a time may write them.

    Args:
        folder: of the eyes' folders; made where it is missing.
        options: when a shot is taken; stated in each record.

    Raises:
        InputError: the folder cannot be written.
    """

    def __init__(self, folder: Path, options: BestShotOptions) -> None:
        self._folder = folder
        self._options = options
        self._own: set[Path] = set()  # eyes' folders that this process made
        make_folder(folder, private=True)
        try:
            for left_over in folder.glob("EYE-*/.*.tmp"):  # left by a run that was killed
                left_over.unlink()
        except OSError as error:
            raise self._unwritable(error) from error

    def highest_eye(self) -> int:
        """The highest number of an eye that has a folder; 0 where there is none.

        Raises:
            InputError: the folder cannot be read.
        """
        try:
            names = [path.name for path in self._folder.iterdir()]
        except OSError as error:
            raise self._unwritable(error) from error
        return max((int(match[1]) for name in names if (match := FOLDER_NAME.fullmatch(name))), default=0)

    def of_eye(self, number: int) -> Path:
        """The folder of an eye, whether it exists or not."""
        return self._folder / f"EYE-{number:06d}"

    def save(self, shot: Shot) -> None:
        """Write the files of a shot; a take before it that lies there still is set aside, never overwritten.

        Raises:
            OSError: something cannot be written, or another process has taken the eye's number meanwhile.
        """
        if shot.folder not in self._own:
            new_private_folder(shot.folder)
            self._own.add(shot.folder)
        record = shot.folder / RECORD_NAME
        if record.exists() and _read_record(record).get("take") != shot.take:
            self.set_aside(shot)
        files = {"best.png": _png(shot), **_dicom_files(shot)}
        for name in set(DICOM_NAMES) - set(files):
            (shot.folder / name).unlink(missing_ok=True)  # files of the revision that is replaced
        for name, content in files.items():
            write_atomically(shot.folder / name, content, private=True)
        write_atomically(record, _to_json(_record(shot, self._options, files)), private=True)

    def mark_accepted(self, shot: Shot) -> bool:
        """Note it in the record; the other files stay as they are.

        Returns:
            False where it is not this shot that lies there.

        Raises:
            OSError: the record cannot be written.
        """
        path = shot.folder / RECORD_NAME
        record = _read_record(path)
        if (record.get("take"), record.get("revision")) != (shot.take, shot.revision):
            return False
        write_atomically(path, _to_json({**record, "accepted": True}), private=True)
        return True

    def set_aside(self, shot: Shot) -> None:
        """Rename the files that lie in a shot's folder, the record last, to the first free `retaken-N` names.

        Raises:
            OSError: a file cannot be renamed.
        """
        number = 1
        while list(shot.folder.glob(f"retaken-{number}[._]*")):
            number += 1
        for name in ("best.png", *DICOM_NAMES, RECORD_NAME):
            path = shot.folder / name
            if path.exists():
                path.rename(shot.folder / name.replace("best", f"retaken-{number}"))

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(f"{self._folder}: expected a folder that can be written, found {error.strerror}")


def _png(shot: Shot) -> bytes:
    assert shot.result.frame is not None
    try:
        ok, png = cv2.imencode(".png", shot.result.frame.image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    except cv2.error as error:
        raise OSError(f"the frame cannot be encoded as PNG: {error}") from error
    if not ok:
        raise OSError("the frame cannot be encoded as PNG")
    return png.tobytes()


def _dicom_files(shot: Shot) -> dict[str, bytes]:
    """The DICOM files of a shot, by name; none where they are not asked for or cannot be made."""
    context, frame, score = shot.context, shot.result.frame, shot.result.score
    if context is None or frame is None:
        return {}
    try:
        photograph = ophthalmic_photograph(
            frame.image, score, context, captured_at=shot.result.captured_at, instance_number=shot.eye
        )
        report = quality_report(photograph, score, context, instance_number=shot.eye)
    except Exception as error:  # the PNG and its record are written whatever DICOM says
        LOG.warning("best shot: no DICOM files of eye %d: %s", shot.eye, error)
        return {}
    return dict(zip(DICOM_NAMES, (photograph, report), strict=True))


def _read_record(path: Path) -> dict[str, Any]:
    """A record; empty where there is none that can be read."""
    try:
        record = parse_json(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _to_json(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, indent=2) + "\n").encode()


def _record(shot: Shot, options: BestShotOptions, files: dict[str, bytes]) -> dict[str, Any]:
    """What `best.json` holds. No patient data: those are in the DICOM files alone."""
    best_s = next(sample.at_s for sample in shot.stretch if sample.rank == shot.rank)
    return {
        "eye": shot.eye,
        "take": shot.take,
        "revision": shot.revision,
        "accepted": shot.accepted,
        "laterality": None if shot.context is None else shot.context.laterality,
        **shot.result.to_dict(),
        "ranked_by": "score" if shot.appraisal is None else "appraisal",
        "appraisal": None if shot.appraisal is None else shot.appraisal.to_dict(),
        "stretch": [
            {
                "frame": sample.frame,
                "seconds": round(sample.at_s - best_s, 3),
                "score": round(sample.score, 3),
                "rank": round(sample.rank, 3),
            }
            for sample in shot.stretch
        ],
        "options": asdict(options),
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
