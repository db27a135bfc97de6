"""Separation of expert classes, over real files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from fthnet_kit.bench import separation
from fthnet_kit.edge import degradations
from fthnet_kit.edge.errors import InputError


@pytest.fixture
def classes(photograph: np.ndarray, tmp_path: Path) -> Path:
    small = cv2.resize(photograph, (512, 512), interpolation=cv2.INTER_AREA)
    rows = ["file_name,quality"]
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"good{index}.png"), np.roll(small, index, axis=0))
        cv2.imwrite(str(tmp_path / f"bad{index}.png"), degradations.degrade(small, "defocus", 1 - index / 10, index))
        rows += [f"good{index}.png,good", f"bad{index}.png,bad"]
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros((512, 512, 3), np.uint8))
    rows.append("black.png,outlier")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    return tmp_path


def test_sharp_photographs_part_from_blurred_ones(classes: Path) -> None:
    done = CliRunner().invoke(separation.main, [str(classes)])
    assert done.exit_code == 0, done.output
    assert "AUC of 3 good against 3 bad: 1.000 [1.000, 1.000]" in done.output
    assert "outlier: mean -1.0, 1 of 1 below" in done.output


def test_a_folder_without_classes_is_refused(classes: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected labels\.csv"):
        separation.read_labels(tmp_path / "nowhere")
    (classes / "labels.csv").write_text("file_name,quality\ngood0.png,good\n")
    done = CliRunner().invoke(separation.main, [str(classes)])
    assert isinstance(done.exception, InputError)


def test_the_interval_holds_the_value() -> None:
    rng = np.random.default_rng(1)
    higher, lower = rng.normal(1, 1, 40), rng.normal(0, 1, 30)
    low, high = separation.auc_interval(higher, lower)
    assert low <= separation.auc(higher, lower) <= high
