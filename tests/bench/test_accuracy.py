"""Agreement with labels, over real files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from click.testing import CliRunner

from fthnet_kit.bench import accuracy
from fthnet_kit.edge import degradations


def test_scores_of_blurred_copies_agree_with_falling_labels(photograph: np.ndarray, tmp_path: Path) -> None:
    small = cv2.resize(photograph, (512, 512), interpolation=cv2.INTER_AREA)
    rows = ["file_name,meanOpinionScore,split"]
    for index in range(8):
        name = f"{index}.png"
        cv2.imwrite(str(tmp_path / name), degradations.degrade(small, "defocus", index / 8, 0))
        rows.append(f"{name},{80 - 9 * index},val")
    (tmp_path / "scores.csv").write_text("\n".join(rows))
    done = CliRunner().invoke(accuracy.main, ["--data", str(tmp_path), "--views", "1", "--views", "5"])
    assert done.exit_code == 0, done.output
    first, second = done.output.splitlines()
    assert first.startswith("8 photographs, 1 views: PLCC 0.9")
    assert second.startswith("8 photographs, 5 views: PLCC 0.9")
    assert "SRCC 1.000 [" in first
