"""What docs/PYTHON.md promises: its examples run and are typed, errors are named, scores of many are scores of each."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from fthnet_kit.edge import EngineError, InputError, QualityScorer, Score
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.model.score import Algorithm
from tests.conftest import ROOT, FakeBackend, fake_scorer, make_card

PAGE = (ROOT / "docs" / "PYTHON.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE, re.S | re.M)


@pytest.fixture
def examples(tmp_path: Path) -> list[Path]:
    shutil.copy(ROOT / "edge" / "assets" / "retina.jpg", tmp_path / "fundus.jpg")
    paths = [tmp_path / f"example_{number}.py" for number in range(len(EXAMPLES))]
    for path, text in zip(paths, EXAMPLES, strict=True):
        path.write_text(text)
    return paths


@pytest.mark.slow
def test_examples_run(examples: list[Path]) -> None:
    said = []
    for path in examples:
        done = subprocess.run([sys.executable, path], cwd=path.parent, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, f"{path.read_text()}\n{done.stderr}"
        said.append(done.stdout)
    assert re.match(r"\d+\.\d good, \d+ ms\n", said[0])
    assert all("None" not in line.replace("None,", "") for line in said[2:])


@pytest.mark.slow
def test_examples_are_typed(examples: list[Path]) -> None:
    command = [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml", *examples]
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout


def test_what_imread_did_not_find_is_said() -> None:
    with pytest.raises(InputError, match=r"found None: cv2\.imread gives it where it reads no file"):
        fake_scorer().score(None)


class Brightness(FakeBackend):
    """Scores by the mean of each view, and counts how often and how concurrently it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.inside = self.most_inside = 0
        self.fails = False

    def infer(self, images: Image) -> np.ndarray:
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        self.sizes.append(len(images))
        time.sleep(0.01)
        self.inside -= 1
        if self.fails:
            raise EngineError("gone")
        return images.mean(axis=(1, 2, 3), dtype=np.float32) / 3


def shades(photograph: Image) -> list[Image]:
    return [(photograph[::4, ::4] * share).astype(np.uint8) for share in (1.0, 0.9, 0.0, 0.8, 0.7, 0.6, 0.5)]


@pytest.mark.parametrize("views", [1, 5])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_many_are_scored_as_each_alone(photograph: Image, views: int, batch: int) -> None:
    backend = Brightness()
    scorer = QualityScorer(make_card(), backend, views)  # type: ignore[arg-type]
    alone = [scorer.score(picture) for picture in shades(photograph)]
    backend.sizes.clear()
    together = list(scorer.score_many(iter(shades(photograph)), batch))
    assert [(score.value, score.reason, score.verdict) for score in together] == [
        (score.value, score.reason, score.verdict) for score in alone
    ]
    assert together[2].reason == "no_retina"
    assert len({score.value for score in together}) == 7
    assert sum(backend.sizes) == 6 * views
    assert max(backend.sizes) <= batch * views
    assert len(backend.sizes) <= -(-7 // batch)


def test_many_reads_no_further_than_it_needs(photograph: Image) -> None:
    taken = []

    def pictures() -> object:
        for number, picture in enumerate(shades(photograph)):
            taken.append(number)
            yield picture

    scores = QualityScorer(make_card(), Brightness()).score_many(pictures(), batch=2)  # type: ignore[arg-type]
    next(scores)
    assert taken == [0, 1]


def test_a_refused_picture_comes_after_the_scores_before_it(photograph: Image) -> None:
    scores = QualityScorer(make_card(), Brightness()).score_many([photograph, None, photograph])
    assert next(scores).value is not None
    with pytest.raises(InputError, match="found None"):
        next(scores)


def test_a_failing_engine_is_a_reason_for_each(photograph: Image) -> None:
    backend = Brightness()
    backend.fails = True
    found = list(QualityScorer(make_card(), backend).score_many(shades(photograph)))
    assert [score.reason for score in found] == ["engine_fault"] * 2 + ["no_retina"] + ["engine_fault"] * 4


def test_threads_and_asyncio_share_a_scorer(photograph: Image) -> None:
    backend = Brightness()
    scorer = QualityScorer(make_card(), backend)
    expected = [scorer.score(picture).value for picture in shades(photograph)]

    async def together() -> list[Score]:
        return await asyncio.gather(*(asyncio.to_thread(scorer.score, each) for each in shades(photograph) * 3))

    assert [score.value for score in asyncio.run(together())] == expected * 3
    assert backend.most_inside == 1
    assert threading.active_count() < 60


def test_a_notebook_shows_value_or_reason_without_markup_of_others() -> None:
    algorithm = Algorithm("<script>", "1", "m", "p")
    shown = Score(61.25, 61.25, "good", algorithm=algorithm)._repr_html_()
    assert "<b>61.2</b> good" in shown
    assert "width:61.2%" in shown
    assert "<script>" not in shown
    assert "no score: no_retina" in Score(None, reason="no_retina")._repr_html_()
