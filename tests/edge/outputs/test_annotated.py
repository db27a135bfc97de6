"""Pictures with their field and score drawn in: whole, private, under their names."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from fthnet_kit.edge.cli.score import score as score_command
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.model.field import find_field
from fthnet_kit.edge.model.score import Reason, Score
from fthnet_kit.edge.outputs.annotated import COLOURS, AnnotatedPictures, annotate, caption


def test_the_field_is_framed_in_the_colour_of_the_verdict(photograph: Image) -> None:
    drawn = annotate(photograph, Score(78.0, verdict="good"))
    box = find_field(photograph)
    middle = (box.y + box.height // 2, max(0, box.x))
    assert tuple(drawn[middle]) == COLOURS["good"]
    assert drawn.shape == photograph.shape
    inside = (
        slice(box.y + box.height // 3, box.y + box.height // 2),
        slice(box.x + box.width // 3, box.x + box.width // 2),
    )
    assert np.array_equal(drawn[inside], photograph[inside])


@pytest.mark.parametrize("code", get_args(Reason))
def test_every_reason_has_words(code: str) -> None:
    said = caption(Score(None, reason=code))  # type: ignore[arg-type]
    assert said.startswith("no score: ")
    assert said.isascii()  # OpenCV's letters are ASCII


def test_names_are_kept_and_files_are_private(tmp_path: Path, photograph: Image) -> None:
    pictures = AnnotatedPictures(tmp_path / "drawn")
    for name in ("a.png", "a.jpg", "a.png"):
        pictures.add(photograph, Score(50.0, verdict="usable"), name)
    files = sorted((tmp_path / "drawn").iterdir())
    assert [path.name for path in files] == ["a.jpg.jpg", "a.png-2.jpg", "a.png.jpg"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE((tmp_path / "drawn").stat().st_mode) == 0o700


def test_score_writes_one_for_each_picture(tmp_path: Path, photograph: Image) -> None:
    cv2.imwrite(str(tmp_path / "eye.png"), photograph)
    done = CliRunner().invoke(score_command, [str(tmp_path / "eye.png"), "--annotate", str(tmp_path / "drawn")])
    assert done.exit_code == 0, done.output
    drawn = cv2.imread(str(tmp_path / "drawn" / "eye.png.jpg"))
    assert drawn is not None
    assert drawn.shape == photograph.shape
