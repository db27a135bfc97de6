"""Training: samples are what they say, a killed run goes on, and it learns."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fthnet_kit.calibration.agreement import Agreement, agreement
from fthnet_kit.calibration.dim_labels import gain_to_full_light, in_full_light
from fthnet_kit.calibration.labelled_images import of_split, read_image_set
from fthnet_kit.calibration.other_fields import OTHER_FIELD_KEPT
from fthnet_kit.calibration.sharp_labels import sharpened, vessel_gradient
from fthnet_kit.calibration.trainer import (
    OUTER_WEIGHT,
    Progress,
    Recipe,
    Trainer,
    Validation,
    centre_view,
    has_bfloat16,
    normalise,
    ranking_loss,
)
from fthnet_kit.calibration.training_report import curves_and_scatter
from fthnet_kit.calibration.training_samples import FAULTS, LOSS_AT_WORST, SampleSource, remaining
from fthnet_kit.convert.bundle.train_to_bundle import (
    CONFIGS,
    TrainingResult,
    TrainingRun,
    starting_network,
    train_to_bundle,
)
from fthnet_kit.convert.bundle.write import Identity
from fthnet_kit.convert.network.aliveness import Aliveness
from fthnet_kit.convert.network.checkpoint import NetworkCheckpoint, load_checkpoint, save_checkpoint
from fthnet_kit.convert.network.config import FTHNetConfig
from fthnet_kit.convert.network.fthnet import FTHNet
from fthnet_kit.edge import Bundle, InputError, Preprocessing, QualityScorer
from fthnet_kit.edge.capture.degradations import DEGRADATIONS, degrade
from fthnet_kit.edge.model.preprocess import canonical, prepare_file

LABELS = np.linspace(10, 90, 9)
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


class Ticks:
    """A clock that goes on by so many seconds whenever it is read: a run then depends on no machine."""

    def __init__(self, seconds: float = 1.0) -> None:
        self.now, self.seconds = 0.0, seconds

    def __call__(self) -> float:
        self.now += self.seconds
        return self.now


def trainer(
    photographs: Path, folder: Path, clock: Ticks | None = None, *, fresh: bool = True, **changes: float
) -> Trainer:
    images = read_image_set(photographs)
    recipe = Recipe(**{"minutes": 2, "batch": 4, "warmup_steps": 5, "save_every_s": 10, "new_head": True, **changes})
    network = FTHNet(TINY)
    split = of_split(images, "train"), of_split(images, "val")
    return Trainer(network, *split, recipe, folder, fresh=fresh, clock=clock or Ticks())


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
            kept = OTHER_FIELD_KEPT if sample.other_field else 1
            assert (sample.quality in (0.8 * kept, 0.6 * kept, 0.2, 0.0)) == untouched  # 0: no retina
        worse = b.other_field or ((b.severities - a.severities) > 0).sum() == 1 or b.hidden > a.hidden
        contrast += bool(worse and b.quality < a.quality)
    assert contrast >= 12


def test_ranking_loss_is_zero_only_in_the_right_order() -> None:
    target = torch.tensor([0.1, 0.5, 0.9])
    assert ranking_loss(target, target) == 0
    assert ranking_loss(2 * target, target) == 0
    assert ranking_loss(-target, target) > 0.5
    assert ranking_loss(target, torch.full((3,), 0.4)) == 0


def test_the_arithmetic_of_training_is_not_emulated() -> None:
    layer, tokens = torch.nn.Linear(64, 256), torch.randn(20_000, 64)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(8):  # in turn, so that another job's work falls on both
        for enabled, found in seconds.items():
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled and has_bfloat16(torch.device("cpu"))):
                began = time.process_time()
                layer(tokens)
                found.append(time.process_time() - began)
    assert min(seconds[True]) < 2 * min(seconds[False])


def test_learning_rate_warms_up_and_ends_low() -> None:
    recipe = Recipe(minutes=10, warmup_steps=100)
    assert recipe.learning_rate(0, 0) == pytest.approx(recipe.peak_lr / 100)
    assert recipe.learning_rate(200, 0) == pytest.approx(recipe.peak_lr)
    assert recipe.learning_rate(5000, 1) == pytest.approx(recipe.final_lr)


@pytest.mark.long
def test_a_run_ends_when_what_follows_still_fits(photographs: Path, tmp_path: Path) -> None:
    told: list[Progress] = []
    run = trainer(photographs, tmp_path / "run", Ticks(1.0))
    best = run.run(told.append)
    left = run.limit - run.elapsed
    wanted = run.end_s - run.validation_s  # the caller's measurements and the bundle
    assert wanted - 15 <= left <= wanted + 30  # a step and a validation read the clock some times
    assert run.step > 5
    assert [validation.step for validation in run.history] == sorted({v.step for v in run.history})
    assert run.history[0].step == 0
    assert run.history[-1].step == run.step
    assert np.isfinite([validation.loss for validation in run.history]).all()
    assert best.step > 0
    minutes = [progress.minutes for progress in told]
    assert minutes == sorted(minutes)
    assert len(set(minutes)) > 10
    assert {progress.stage for progress in told} == {"training", "validating"}


@pytest.mark.slow
def test_a_run_too_short_for_anything_takes_one_step_and_tells_a_loss(photographs: Path, tmp_path: Path) -> None:
    run = trainer(photographs, tmp_path / "run", minutes=0.001)
    best = run.run()
    assert run.step == 1
    assert [validation.step for validation in run.history] == [0, 1]
    assert np.isfinite([validation.loss for validation in run.history]).all()
    assert best == run.history[1]
    assert run.many_view_images == 0
    assert run.best_path.exists()


def test_parts_of_a_batch_add_up_to_its_step(photographs: Path, tmp_path: Path) -> None:
    plain = {"ranking_weight": 0.0, "new_head": False, "warmup_steps": 1}
    whole, parts = (trainer(photographs, tmp_path / str(size), at_once=size, fresh=False, **plain) for size in (4, 2))
    parts.network.load_state_dict(whole.network.state_dict())
    parts.head.load_state_dict(whole.head.state_dict())
    before = {name: tensor.clone() for name, tensor in whole.network.state_dict().items()}
    for each in (whole, parts):
        each._train_step(*next(each._batches()), progress=0.0)
    assert float(parts._smooth_loss) == pytest.approx(float(whole._smooth_loss), rel=1e-4)
    moved = {name: tensor - before[name] for name, tensor in whole.network.state_dict().items()}
    other = {name: tensor - before[name] for name, tensor in parts.network.state_dict().items()}
    cosine = sum(float((moved[name] * other[name]).sum()) for name in moved)
    size = sum(float((tensor**2).sum()) for tensor in moved.values())
    assert cosine / size > 0.98  # AdamW's first step is nearly a sign: what is close to zero may differ


def says_70() -> FTHNet:
    """A network that says 70 of everything."""
    network = FTHNet(TINY)
    network.initialise()
    with torch.no_grad():
        network.weight_conv[-1].weight.zero_()
        network.weight_conv[-1].bias.zero_()
        network.bias_conv[-1].weight.zero_()
        network.bias_conv[-1].bias.fill_(0.7)
    return network


@pytest.mark.slow
def test_raised_labels_are_said_in_card_report_and_terminal(photographs: Path, tmp_path: Path) -> None:
    save_checkpoint(says_70(), tmp_path / "parent.safetensors")
    recipe = Recipe(0.001, batch=4, relight=0.5)
    start, bundle = tmp_path / "parent.safetensors", tmp_path / "b"
    run = TrainingRun([photographs], None, start, None, recipe, bundle, Identity("n", training_data=""))
    result = train_to_bundle(run, lambda progress: None)
    (said,) = [fact for fact in result.facts if "were changed by" in fact]
    assert said in Bundle.open(bundle).card.training_data
    assert said.split(";")[0] in (bundle / "reports" / "training.html").read_text()


@pytest.mark.slow
def test_labels_of_dim_photographs_are_raised_once_and_kept(photographs: Path, tmp_path: Path) -> None:
    network = says_70()
    split = [of_split(read_image_set(photographs), name) for name in ("train", "val")]
    recipe = Recipe(0.001, batch=4, relight=0.5)
    run = Trainer(network, *split, recipe, tmp_path / "run", clock=Ticks())
    gains = np.array([gain_to_full_light(field) for field in run.source.photographs])
    dim = (gains > 1.8) & (run.mos < 70)
    assert 3 < dim.sum() < len(dim) - 3
    np.testing.assert_allclose(run.source.mos[dim], (run.mos[dim] + 70) / 2, atol=0.01)
    bright = (gains < 1.2) | (run.mos > 70)
    np.testing.assert_array_equal(run.source.mos[bright], run.mos[bright])
    assert len(run.relabelled) == (run.source.mos > run.mos).sum()
    run.run()
    with torch.no_grad():
        network.bias_conv[-1].bias.fill_(0.1)
    again = Trainer(network, *split, recipe, tmp_path / "run", clock=Ticks())
    np.testing.assert_array_equal(again.source.mos, run.source.mos)
    assert again.source.mos.max() > 40


def test_a_share_of_each_label_is_sharpness_and_no_validation_label_is(photographs: Path, tmp_path: Path) -> None:
    split = [of_split(read_image_set(photographs), name) for name in ("train", "val")]
    run = Trainer(says_70(), *split, Recipe(0.001, batch=4, sharpness=0.5), tmp_path / "run", clock=Ticks())
    gradients = [vessel_gradient(centre_view(field)) for field in run.source.photographs]
    np.testing.assert_allclose(run.source.mos, sharpened(run.mos, np.array(gradients), 0.5))
    np.testing.assert_array_equal(run.val_mos, [image.mos for image in split[1]])
    assert len(run.relabelled) == (run.source.mos != run.mos).sum() > 0


def test_a_head_that_comes_saturated_is_drawn_back_and_not_all_at_once(photographs: Path, tmp_path: Path) -> None:
    run = trainer(photographs, tmp_path / "run", fresh=False, new_head=False)
    run.network.initialise()
    bias = run.network.bias_conv[3].bias
    pulls = []
    for excess in (30.0, 300.0):
        with torch.no_grad():
            bias.fill_(-excess)
        run.optimizer.zero_grad()
        run._loss(*next(run._batches())).backward()
        pulls.append(float(-bias.grad.sum()))  # a step goes against the gradient: up, out of saturation
    assert pulls == pytest.approx([OUTER_WEIGHT] * 2, rel=0.2)


def test_where_only_the_head_learns_the_backbone_stays(photographs: Path, tmp_path: Path) -> None:
    run = trainer(photographs, tmp_path / "run", fresh=False, new_head=False, head_only=True, warmup_steps=1)
    run.network.initialise()
    before = {name: tensor.clone() for name, tensor in run.network.state_dict().items()}
    run._train_step(*next(run._batches()), progress=0.0)
    moved = {name for name, tensor in run.network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved
    head = ("bbone.fcl_merge", "bbone.fcl_fc", "conv1x1", "weight_conv", "bias_conv")
    assert {name.split(".0")[0] for name in moved} >= {"bbone.fcl_fc", "weight_conv"}
    assert all(name.startswith(head) for name in moved)


@pytest.mark.parametrize(("head_only", "least", "most"), [(False, 0.1, 0.4), (True, 0.4, 0.8)])
def test_a_run_also_shows_photographs_as_they_came(
    photographs: Path, tmp_path: Path, *, head_only: bool, least: float, most: float
) -> None:
    source = trainer(photographs, tmp_path / "run", fresh=False, new_head=False, head_only=head_only).source
    known = {
        np.ascontiguousarray(centre_view(view)).tobytes()
        for field in source.photographs
        for view in (field, in_full_light(field))
    }
    pairs = [source.pair(index) for index in range(60)]
    plain = np.mean([all(sample.image.tobytes() in known for sample in pair) for pair in pairs])
    assert least < plain < most


def test_plain_pairs_show_photographs_as_they_are_or_in_full_light(photograph: np.ndarray) -> None:
    field = canonical(photograph, Preprocessing())
    dim = cv2.convertScaleAbs(field, alpha=0.3)
    source = SampleSource([field, dim], np.array([90.0, 40.0]), seed=2, plain=1.0)
    known = [cv2.cvtColor(each[64:448, 64:448], cv2.COLOR_BGR2RGB) for each in (field, dim, in_full_light(dim))]
    seen = set()
    for index in range(20):
        for sample in source.pair(index):
            (which,) = [number for number, view in enumerate(known) if np.array_equal(view, sample.image)] or [-1]
            seen.add((which, sample.quality))
    assert seen - {(-1, 0.9)} == {(0, 0.9), (1, 0.4), (2, 0.4)}  # -1: the bright one in full light, if that is another
    assert SampleSource([field], np.array([90.0]), seed=2).plain == 0


@pytest.mark.parametrize("option", [("--relight", 0.5), ("--head-only",)])
def test_what_needs_weights_that_have_seen_something_asks_for_them(
    option: tuple, photographs: Path, tmp_path: Path, fthnet
) -> None:
    done = fthnet("train", "--data", photographs, "-o", tmp_path / "b", "--minutes", 1, *option)
    assert done.returncode == 2
    assert f"{option[0]}: expected --from" in done.stderr


@pytest.mark.long
def test_validations_take_a_tenth_at_most(photographs: Path, tmp_path: Path) -> None:
    run = trainer(photographs, tmp_path / "run", validate_every_s=0.1)
    run.run()
    between = [v for v in run.history if 0 < v.step < run.step]
    assert len(between) * run.validation_s <= 0.12 * run.limit


@pytest.mark.slow
def test_new_generators_learn_slower_and_are_mixed_in_late(photographs: Path, tmp_path: Path) -> None:
    recipe = Recipe(minutes=10, new_head=True)
    assert [recipe.own_share(p) for p in (0, 0.4, 0.7, 1)] == pytest.approx([0, 0, 1, 1])
    assert 0 < recipe.own_share(0.5) < 1
    assert Recipe(minutes=10).own_share(0) == 1
    rates = {group["rate"] for group in trainer(photographs, tmp_path / "new").optimizer.param_groups}
    assert rates == {1.0, 0.3}
    old = trainer(photographs, tmp_path / "old", fresh=False, new_head=False)
    assert {group["rate"] for group in old.optimizer.param_groups} == {1.0}


@pytest.mark.slow
def test_a_new_head_keeps_the_backbone(photographs: Path, tmp_path: Path) -> None:
    torch.manual_seed(4)
    before = FTHNet(TINY).bbone.state_dict()
    torch.manual_seed(4)
    after = trainer(photographs, tmp_path / "run", fresh=False).network.state_dict()
    head = ("fcl_merge", "fcl_fc")
    for name, value in before.items():
        same = torch.equal(value, after[f"bbone.{name}"])
        assert same != name.startswith(head), name


def test_judging_another_network_leaves_what_a_picture_costs(photographs: Path, tmp_path: Path) -> None:
    run = trainer(photographs, tmp_path / "run")
    run.image_s = 7.0  # as a resumed run has it; the parent may be a third as wide
    found = run.judge(FTHNet(TINY))
    assert run.image_s == 7.0
    assert found.agreement.rmse > 0
    assert run.history == []


def test_a_wider_network_starts_from_a_narrow_one_with_a_new_head(tmp_path: Path) -> None:
    parent = NetworkCheckpoint(FTHNet(CONFIGS["small"]), tmp_path / "parent.safetensors")
    run = TrainingRun([], "base", parent.source, None, Recipe(1, new_head=True), tmp_path, Identity("n"))
    assert starting_network(run, parent).config == CONFIGS["base"]
    assert starting_network(replace(run, config=None), parent) is parent.network
    with pytest.raises(InputError, match="--config base: expected --new-head"):
        starting_network(replace(run, recipe=Recipe(1)), parent)


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_training import trainer
run = trainer(Path(sys.argv[1]), Path(sys.argv[2]))
print("from", run.step, run.elapsed, flush=True)
def report(progress):
    if sys.argv[4] == "hang" and (Path(sys.argv[2]) / "state.pt").exists():
        print("hangs", flush=True)
        time.sleep(1000)
run.run(report)
print("at", run.step, run.elapsed, flush=True)
"""


@pytest.mark.long
def test_a_run_killed_with_9_goes_on_and_ends_with_the_same_schedule(photographs: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, photographs, tmp_path / "run", Path(__file__).parent]
    with subprocess.Popen([*command, "hang"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert any(line == "hangs\n" for line in process.stdout)
        finally:
            process.kill()
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert 0 < state["elapsed"] < 120
    done = subprocess.run([*command, "go on"], capture_output=True, text=True, check=True, timeout=900)
    (_, step, elapsed), (_, last, end) = (line.split() for line in done.stdout.splitlines())
    assert int(step) == state["step"] > 0
    assert float(elapsed) >= state["elapsed"]
    assert int(last) > int(step)
    assert float(end) <= 120
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert history[0]["step"] == 0
    assert history[-1]["step"] == int(last)


@pytest.mark.slow
def test_resuming_with_another_recipe_is_refused(photographs: Path, tmp_path: Path) -> None:
    trainer(photographs, tmp_path / "run", minutes=0.001).run()
    with pytest.raises(InputError, match=r"found another seed"):
        trainer(photographs, tmp_path / "run", minutes=0.001, seed=1)


def test_a_result_worse_than_its_parent_is_told() -> None:
    def validation(srcc: float) -> Validation:
        return Validation(5, 1.0, 0.1, Agreement(0.9, srcc, 8.0), 40.0)

    parent = {"name": "demo", "version": "0.4.0", "weights_sha256": "0" * 64}
    alive = Aliveness(20, 0.01, 20.0, 0.0, 2.0, 0.8)
    worse = TrainingResult([], alive, parent, validation(0.9), validation(0.8))
    assert len(worse.warnings) == 1
    assert "demo 0.4.0" in worse.warnings[0]
    assert "SRCC 0.900 to 0.800" in worse.warnings[0]
    assert TrainingResult([], alive, parent, validation(0.8), validation(0.9)).warnings == []
    fresh = TrainingResult([], replace(alive, taps_points=0.2), None, None, validation(0.8))
    assert fresh.comparison == ""
    assert len(fresh.warnings) == 1
    assert "dead" in fresh.warnings[0]


def test_charts_of_a_short_run_show_its_points() -> None:
    agreements = Agreement(0.2, 0.1, 30.0), Agreement(float("nan"), float("nan"), 30.0)
    history = [Validation(step, step, 0.3, found, float("nan")) for step, found in enumerate(agreements)]
    picture = cv2.imdecode(np.frombuffer(curves_and_scatter(history, LABELS, LABELS), np.uint8), cv2.IMREAD_COLOR)
    third = picture.shape[1] // 3
    for column in range(3):  # each chart has coloured ink besides its frame
        part = picture[:, column * third : (column + 1) * third].astype(int)
        assert (np.ptp(part, axis=2) > 20).sum() > 15


@pytest.mark.slow
def test_fine_tuning_names_its_parent_in_card_and_report(photographs: Path, tmp_path: Path, fthnet) -> None:
    network = FTHNet(TINY)
    network.initialise()
    save_checkpoint(network, tmp_path / "parent.safetensors")
    arguments = ["train", "--data", photographs, "-o", tmp_path / "b", "--minutes", 0.01, "--new-head"]
    done = fthnet(*arguments, "--from", tmp_path / "parent.safetensors")
    assert done.returncode == 0, done.stderr
    card = Bundle.open(tmp_path / "b").card
    assert card.parent["name"] == "parent.safetensors"
    assert card.parent["weights_sha256"] == load_checkpoint(tmp_path / "parent.safetensors").weights_sha256
    assert card.hypernetwork["images"] == 6
    page = (tmp_path / "b" / "reports" / "training.html").read_text()
    assert "<h1>Training of b: FTHNet</h1>" in page
    assert "its parent parent.safetensors" in page
    report = (tmp_path / "b" / "reports" / "training.json").read_text()
    assert "NaN" not in report
    assert "parent.safetensors" in done.stdout
    val = of_split(read_image_set(photographs), "val")  # the parent's own scores, not those of its renewed head
    views = torch.from_numpy(np.concatenate([prepare_file(image.path, Preprocessing(), 1) for image in val]))
    with torch.no_grad():
        scores = 100 * network.eval()(normalise(views)).numpy()  # not clipped, as training sees them
    own = agreement(scores, np.array([image.mos for image in val]))
    assert json.loads(report)["before"]["rmse"] == pytest.approx(own.rmse, rel=1e-4)


@pytest.mark.long
def test_train_command_makes_a_bundle_that_learned(photographs: Path, tmp_path: Path, fthnet) -> None:
    bundle = tmp_path / "bundle"
    arguments = ["train", "--data", photographs, "-o", bundle, "--minutes", 1.0, "--name", "dark"]
    done = fthnet(*arguments, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "SRCC" in done.stdout
    card = Bundle.open(bundle).card
    assert card.name == "dark"
    assert card.training_data.startswith("18 photographs")
    assert [entry["views"] for entry in card.accuracy] in ([1], [1, 20])  # 20 views where they fit
    assert set(card.hypernetwork) > {"saturated", "taps_points", "weights_points"}
    assert not card.parent
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
