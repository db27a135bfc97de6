"""Training: samples are what they say, a killed run goes on, and it learns."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fthnet_kit.calibration.labelled_images import of_split, read_image_set
from fthnet_kit.calibration.trainer import Recipe, Trainer, ranking_loss
from fthnet_kit.calibration.training_samples import FAULTS, LOSS_AT_WORST, SampleSource, remaining
from fthnet_kit.convert.network.config import FTHNetConfig
from fthnet_kit.convert.network.fthnet import FTHNet
from fthnet_kit.edge import Bundle, InputError, Preprocessing, QualityScorer
from fthnet_kit.edge.capture.degradations import DEGRADATIONS, degrade
from fthnet_kit.edge.model.preprocess import canonical

TINY = FTHNetConfig(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))


@pytest.fixture(scope="module")
def photographs(photograph: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set in FQS form: one retina, more and more in the dark."""
    folder = tmp_path_factory.mktemp("set")
    small = cv2.resize(photograph, (420, 420), interpolation=cv2.INTER_AREA)
    rows = ["file_name,meanOpinionScore,split"]
    for index in range(24):
        severity = index / 24
        cv2.imwrite(str(folder / f"{index}.jpg"), degrade(small, "under_exposure", severity, index))
        rows.append(f"{index}.jpg,{90 - 85 * severity:.1f},{'val' if index % 4 == 1 else 'train'}")
    (folder / "scores.csv").write_text("\n".join(rows))
    return folder


def trainer(photographs: Path, folder: Path, **changes: float) -> Trainer:
    images = read_image_set(photographs)
    recipe = Recipe(**{"minutes": 0.05, "warmup_steps": 5, "validate_every_s": 1.0, "save_every_s": 0.5, **changes})
    return Trainer(FTHNet(TINY), of_split(images, "train"), of_split(images, "val"), recipe, folder, fresh=True)


def test_every_degradation_is_a_fault_with_a_cost() -> None:
    assert set(FAULTS) == set(DEGRADATIONS) == set(LOSS_AT_WORST)
    for name in FAULTS:
        kept = [remaining(name, severity) for severity in (0, 0.2, 0.6, 1)]
        assert kept[0] == 1
        assert kept == sorted(kept, reverse=True)
        assert 0 < kept[-1] < 0.5


def test_pairs_are_reproducible_and_labelled_by_their_faults(photograph: np.ndarray) -> None:
    fields = [canonical(photograph, Preprocessing())] * 3
    source = SampleSource(fields, np.array([80.0, 60, 20]), seed=3)
    contrast = 0
    for index in range(40):
        a, b = source.pair(index)
        again = SampleSource(fields, np.array([80.0, 60, 20]), seed=3).pair(index)
        np.testing.assert_array_equal(a.image, again[0].image)
        for sample in (a, b):
            assert sample.image.shape == (384, 384, 3)
            assert 0 <= sample.quality <= 0.8
            untouched = not sample.severities.any() and not sample.hidden
            assert (sample.quality in (0.8, 0.6, 0.2, 0.0)) == untouched  # 0: no retina
        worse = ((b.severities - a.severities) > 0).sum() == 1 or b.hidden > a.hidden
        contrast += bool(worse and b.quality < a.quality)
    assert contrast >= 12


def test_ranking_loss_is_zero_only_in_the_right_order() -> None:
    target = torch.tensor([0.1, 0.5, 0.9])
    assert ranking_loss(target, target) == 0
    assert ranking_loss(2 * target, target) == 0
    assert ranking_loss(-target, target) > 0.5
    assert ranking_loss(target, torch.full((3,), 0.4)) == 0


def test_learning_rate_warms_up_and_ends_low() -> None:
    recipe = Recipe(minutes=10, warmup_steps=100)
    assert recipe.learning_rate(0, 0) == pytest.approx(recipe.peak_lr / 100)
    assert recipe.learning_rate(200, 0) == pytest.approx(recipe.peak_lr)
    assert recipe.learning_rate(5000, 1) == pytest.approx(recipe.final_lr)


KILLED = """
import sys
from pathlib import Path
from fthnet_kit.calibration.labelled_images import of_split, read_image_set
from fthnet_kit.calibration.trainer import Recipe, Trainer
from fthnet_kit.convert.network.fthnet import FTHNet, FTHNetConfig
images = read_image_set(Path(sys.argv[1]))
network = FTHNet(FTHNetConfig(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8)))
recipe = Recipe(minutes=0.3, warmup_steps=5, validate_every_s=2.0, save_every_s=0.5)
trainer = Trainer(network, of_split(images, "train"), of_split(images, "val"), recipe, Path(sys.argv[2]), fresh=True)
print("from", trainer.step, trainer.elapsed, flush=True)
trainer.run(lambda p: print("at", p.step, p.minutes, flush=True))
"""


@pytest.mark.slow
def test_a_run_killed_with_9_goes_on_and_ends_with_the_same_schedule(photographs: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(photographs), str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not (tmp_path / "run" / "state.pt").exists():
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert process.returncode == -signal.SIGKILL  # before its end
    assert state["elapsed"] > 0
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout.splitlines()
    _, step, elapsed = lines[0].split()
    assert int(step) >= state["step"] > 0
    assert float(elapsed) >= state["elapsed"]
    *_, before, last = [0.0, *(float(line.split()[2]) for line in lines[1:])]
    assert before < 0.3 <= last  # the first step beyond the granted minutes is the last, however long it took
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert history[-1]["minutes"] >= 0.3


def test_resuming_with_another_recipe_is_refused(photographs: Path, tmp_path: Path) -> None:
    trainer(photographs, tmp_path / "run").run()
    with pytest.raises(InputError, match=r"found another batch, seed"):
        trainer(photographs, tmp_path / "run", seed=1, batch=4)


@pytest.mark.slow
def test_train_command_makes_a_bundle_that_learned(photographs: Path, tmp_path: Path, fthnet) -> None:
    bundle = tmp_path / "bundle"
    arguments = ["train", "--data", photographs, "-o", bundle, "--minutes", 1.0, "--name", "dark"]
    done = fthnet(*arguments, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "SRCC" in done.stdout
    card = Bundle.open(bundle).card
    assert card.name == "dark"
    assert card.training_data.startswith("18 photographs")
    assert [entry["views"] for entry in card.accuracy] == [1, 20]
    page = (bundle / "reports" / "training.html").read_text()
    assert "data:image/png" in page
    with QualityScorer.from_bundle(bundle) as scorer:
        assert scorer.score(cv2.imread(str(photographs / "0.jpg"))).value is not None
    assert "expected no such folder" in fthnet(*arguments).stderr


def test_an_ambiguous_photograph_is_named(photographs: Path, tmp_path: Path, fthnet) -> None:
    eye = cv2.imread(str(photographs / "0.jpg"))
    for image in ("0.jpg", "1.jpg"):
        (tmp_path / image).write_bytes((photographs / image).read_bytes())
    cv2.imwrite(str(tmp_path / "two [eyes].png"), np.hstack([eye, eye[:, ::-1]]))
    rows = "file_name,meanOpinionScore,split\n0.jpg,50,train\n1.jpg,50,val\ntwo [eyes].png,50,train\n"
    (tmp_path / "scores.csv").write_text(rows)
    done = fthnet("train", "--data", tmp_path, "-o", tmp_path / "b", "--minutes", 1)
    assert done.returncode == 3
    assert f"fthnet: {tmp_path / 'two [eyes].png'}: expected one retinal field, found two" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "row", ["z.jpg,50,train", "1.jpg,120,val", "0.jpg,50,train"], ids=["missing", "range", "twice"]
)
def test_wrong_tables_are_told_before_training(photographs: Path, tmp_path: Path, fthnet, row: str) -> None:
    for image in ("0.jpg", "1.jpg"):
        (tmp_path / image).write_bytes((photographs / image).read_bytes())
    (tmp_path / "scores.csv").write_text(f"file_name,meanOpinionScore,split\n0.jpg,50,train\n{row}\n")
    done = fthnet("train", "--data", tmp_path, "-o", tmp_path / "b", "--minutes", 1)
    assert done.returncode == 3
    assert len([line for line in done.stderr.splitlines() if line.startswith("fthnet: ")]) == 1
    assert not (tmp_path / "b").exists()
