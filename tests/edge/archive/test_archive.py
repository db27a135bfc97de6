"""Archives: exactly one row an input, whatever is killed, broken or asked for again."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from fthnet_kit.edge import QualityScorer
from fthnet_kit.edge.archive.inputs import list_inputs
from fthnet_kit.edge.archive.run_file import ArchiveRun, ModelOptions
from fthnet_kit.edge.archive.shard import TIMES, ShardTask, score_shard, shard_path
from fthnet_kit.edge.archive.summary import summarise
from fthnet_kit.edge.archive.table import read_rows, verify
from fthnet_kit.edge.cli.archive import archive
from fthnet_kit.edge.errors import EngineError, InputError
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.outputs.best_shot.dicom_context import DicomContext
from fthnet_kit.edge.outputs.best_shot.dicom_photograph import ophthalmic_photograph

pyarrow = pytest.importorskip("pyarrow")
pytest.importorskip("pyarrow.parquet")

PICTURES = 18
SHARD = 2


def archive_command(*arguments: object) -> Result:
    return CliRunner().invoke(archive, [*map(str, arguments)])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, photograph: Image) -> Path:
    """Photographs of falling sharpness in two folders, one picture without a retina among them."""
    folder = tmp_path_factory.mktemp("pictures")
    small = cv2.resize(photograph, (400, 400), interpolation=cv2.INTER_AREA)
    for number in range(PICTURES):
        place = folder / ("left" if number % 3 else "right")
        place.mkdir(exist_ok=True)
        picture = cv2.GaussianBlur(small, (0, 0), 0.3 + number / 3) if number else np.zeros_like(small)
        assert cv2.imwrite(str(place / f"eye <{number:02}>.png"), picture)
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    output = tmp_path_factory.mktemp("undisturbed")
    done = archive_command("score", pictures, "-o", output, "--shard-size", SHARD, "--workers", 1, "--threads", 1)
    assert done.exit_code == 0, done.output
    return output


def rows_but_times(folder: Path) -> list[dict[str, object]]:
    table = read_rows(ArchiveRun.read(folder), folder)
    return table.drop_columns(list(TIMES)).to_pylist()


def bytes_but_times(folder: Path) -> list[bytes]:
    found = []
    for path in sorted((folder / "shards").glob("*.parquet")):
        sink = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(pyarrow.parquet.read_table(path).drop_columns(list(TIMES)), sink)
        found.append(sink.getvalue().to_pybytes())
    return found


@contextlib.contextmanager
def running(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """The command in a process group of its own, which ends with the test."""
    command = [sys.executable, "-m", "fthnet_kit.edge.cli", "archive", *map(str, arguments)]
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)


def group_members(group: int) -> list[int]:
    """Processes of a group that have not ended."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, found = stat.read_text().rpartition(")")[2].split()[:3]
            if int(found) == group and state != "Z":
                members.append(int(stat.parent.name))
    return members


def until_more_shards(folder: Path, than: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while len(list((folder / "shards").glob("*.parquet"))) <= than and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_row_is_what_the_scorer_says(undisturbed: Path, pictures: Path, demo_scorer) -> None:
    rows = rows_but_times(undisturbed)
    assert [row["id"] for row in rows] == list(range(PICTURES))
    assert len({row["file"] for row in rows}) == PICTURES
    for row in rows[::5]:
        path = Path(str(row["file"]))
        score = demo_scorer.score(cv2.imread(str(path)))
        assert row["score"] == (None if score.value is None else pytest.approx(score.value, abs=0.0015))  # threads
        assert (row["verdict"], row["reason"]) == (score.verdict, score.reason)
        assert row["bytes_read"] == path.stat().st_size
    assert {row["backend"].split(";")[1] for row in rows} == {"CPUExecutionProvider"}  # type: ignore[attr-defined]
    assert [row["reason"] for row in rows].count("no_retina") == 1


@pytest.mark.long
def test_killed_runs_go_on_and_end_in_the_same_rows(undisturbed: Path, pictures: Path, tmp_path: Path) -> None:
    asked = ("score", pictures, "-o", tmp_path, "--shard-size", SHARD, "--workers", 2, "--threads", 1)
    pause = random.Random(5)
    for _ in range(3):
        with running(*asked) as process:
            until_more_shards(tmp_path, len(list((tmp_path / "shards").glob("*.parquet"))), process)
            time.sleep(pause.uniform(0, 0.2))
            process.kill()
            process.wait(60)
            deadline = time.monotonic() + 60
            while group_members(process.pid):  # workers end with their parent
                assert time.monotonic() < deadline
                time.sleep(0.02)
    with running(*asked) as process:
        output = process.communicate(timeout=280)[0]
        assert process.returncode == 0, output
    assert rows_but_times(tmp_path) == rows_but_times(undisturbed)
    assert bytes_but_times(tmp_path) == bytes_but_times(undisturbed)
    assert list((tmp_path / "shards").glob(".*")) == []
    assert verify(tmp_path).problems == []


@pytest.mark.slow
def test_a_killed_worker_is_replaced(undisturbed: Path, pictures: Path, tmp_path: Path) -> None:
    asked = ("score", pictures, "-o", tmp_path, "--shard-size", SHARD, "--workers", 2, "--threads", 1)
    with running(*asked) as process:
        until_more_shards(tmp_path, 0, process)
        workers = [
            member
            for member in group_members(process.pid)
            if b"spawn_main" in Path(f"/proc/{member}/cmdline").read_bytes()
        ]
        os.kill(workers[0], signal.SIGKILL)
        output = process.communicate(timeout=280)[0]
    assert process.returncode == 0, output
    assert "a worker was killed" in output
    assert rows_but_times(tmp_path) == rows_but_times(undisturbed)


def test_what_cannot_be_scored_is_quarantined_by_name(pictures: Path, photograph: Image, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    jpeg = cv2.imencode(".jpg", photograph)[1].tobytes()
    bad = {"cut.jpg": jpeg[: len(jpeg) // 2], "empty.png": b"", "foreign.tif": b"%PDF-1.7 not a picture"}
    for name, content in bad.items():
        (folder / name).write_bytes(content)
    listed = tmp_path / "all.txt"
    others = sorted(pictures.rglob("*.png"))[:9]
    listed.write_text("\n".join([*map(str, others), *(f"in/{name}" for name in bad), "in/absent.jpg"]) + "\n")

    output = tmp_path / "out"
    asked = ("score", listed, "-o", output, "--shard-size", 5)
    refused = archive_command(*asked, "--max-failure-rate", "0.3", "--workers", 1)
    assert isinstance(refused.exception, InputError)
    assert "found 4 pictures that cannot be scored" in str(refused.exception)
    done = archive_command(*asked, "--max-failure-rate", "0.4", "--workers", 1)
    assert done.exit_code == 0, done.output
    with (output / "quarantine.csv").open() as file:
        named = {Path(row["file"]).name: row["reason"] for row in csv.DictReader(file)}
    expected = {"cut.jpg": "damaged", "empty.png": "unsupported", "foreign.tif": "unsupported", "absent.jpg": "missing"}
    assert named == expected
    rows = rows_but_times(output)
    assert len(rows) == 13
    assert sum(row["score"] is not None for row in rows) + sum(row["reason"] is not None for row in rows) == 13
    assert next(row["bytes_read"] for row in rows if str(row["file"]).endswith("cut.jpg")) == len(jpeg) // 2


def test_too_many_failures_stop_the_run_early(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:02}.png").write_bytes(b"")
    asked = ("score", folder, "-o", tmp_path / "out", "--shard-size", 4, "--workers", 1)
    refused = archive_command(*asked, "--max-failure-rate", "0.25")
    assert isinstance(refused.exception, InputError)
    assert len(list((tmp_path / "out" / "shards").glob("*.parquet"))) == 3  # the 11th failure lies in the third shard


@pytest.mark.slow
@pytest.mark.parametrize("change", ["inputs", "precision", "shard", "bundle"])
def test_another_run_is_refused(change: str, undisturbed: Path, pictures: Path, tmp_path: Path) -> None:
    asked: list[object] = ["score", pictures, "-o", undisturbed, "--shard-size", SHARD, "--workers", 1]
    said = {"inputs": "inputs", "precision": "precision", "shard": "shard_size", "bundle": "bundle_sha256"}[change]
    if change == "inputs":
        asked[1] = pictures / "left"
    elif change == "precision":
        asked += ["--precision", "fp32"]
    elif change == "shard":
        asked[5] = SHARD + 1
    else:
        asked += ["--bundle", other_bundle(tmp_path)]
    refused = archive_command(*asked)
    assert isinstance(refused.exception, InputError)
    assert f"{said} " in str(refused.exception)


def other_bundle(folder: Path) -> Path:
    """The shipped bundle with another line in its card."""
    import shutil

    from fthnet_kit.edge.model.bundle import shipped_bundle

    copy = folder / "bundle"
    shutil.copytree(shipped_bundle(), copy)
    card = json.loads((copy / "model_card.json").read_text())
    (copy / "model_card.json").write_text(json.dumps({**card, "intended_use": "another"}))
    return copy


def test_a_bundle_that_changes_during_a_run_is_refused(pictures: Path, tmp_path: Path) -> None:
    bundle = other_bundle(tmp_path)
    options = ModelOptions(bundle)
    names = list_inputs([str(pictures)])
    run = ArchiveRun.of(options, names, PICTURES)
    run.claim(tmp_path / "out")
    card = json.loads((bundle / "model_card.json").read_text())
    (bundle / "model_card.json").write_text(json.dumps({**card, "intended_use": "yet another"}))
    with pytest.raises(Exception, match="expected the card of this run"):
        score_shard(ShardTask(tmp_path / "out", run, options, 0, tuple(names)))


def test_a_finished_run_does_nothing_again(undisturbed: Path, pictures: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (undisturbed / "shards").iterdir()}
    done = archive_command("score", pictures, "-o", undisturbed, "--shard-size", SHARD, "--workers", 1)
    assert done.exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in (undisturbed / "shards").iterdir()} == before


@pytest.mark.slow
def test_tasks_of_an_array_share_the_work(undisturbed: Path, pictures: Path, tmp_path: Path) -> None:
    for index in range(2):
        asked = ("score", pictures, "-o", tmp_path, "--shard-size", SHARD, "--workers", 1, "--threads", 1)
        done = archive_command(*asked, "--shard-index", index, "--shard-count", 2)
        assert done.exit_code == 0, done.output
        missing = verify(tmp_path).missing
        assert list(missing) == ([] if index else list(range(1, PICTURES // SHARD, 2)))
    assert bytes_but_times(tmp_path) == bytes_but_times(undisturbed)
    lone = archive_command("score", pictures, "-o", tmp_path, "--shard-index", 1)
    assert isinstance(lone.exception, InputError)


@pytest.mark.parametrize("harm", ["gone", "doubled", "renamed", "cut", "stray"])
def test_verify_finds_what_was_changed(harm: str, undisturbed: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "archive"
    shutil.copytree(undisturbed, folder)
    path = shard_path(folder, 1)
    table = pyarrow.parquet.read_table(path)
    if harm == "gone":
        path.unlink()
    elif harm == "doubled":
        pyarrow.parquet.write_table(pyarrow.concat_tables([table, table.slice(0, 1)]), path)
    elif harm == "renamed":
        column = pyarrow.array(["x.png", *table.column("file").to_pylist()[1:]])
        pyarrow.parquet.write_table(table.set_column(1, "file", column), path)
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        shutil.copy(path, path.with_name("900000.parquet"))
    done = archive_command("verify", folder)
    assert isinstance(done.exception, InputError)
    assert len(done.output.splitlines()) == 2
    assert archive_command("verify", undisturbed).exit_code == 0


def test_the_summary_counts_what_the_rows_hold(undisturbed: Path, tmp_path: Path) -> None:
    rows = rows_but_times(undisturbed)
    scores = {str(row["file"]): float(row["score"]) for row in rows if row["score"] is not None}  # type: ignore[arg-type]
    found = summarise(undisturbed)
    assert sum(found.histogram) == len(scores)
    assert found.worst[0] == min(scores.items(), key=lambda pair: pair[1])
    assert found.best[0] == max(scores.items(), key=lambda pair: pair[1])
    assert {each.folder.rpartition("/")[2]: each.pictures for each in found.folders} == {"left": 12, "right": 6}
    assert found.reasons == {"no_retina": 1}
    done = archive_command("summary", undisturbed, "-o", tmp_path / "page.html")
    assert done.exit_code == 0, done.output
    page = (tmp_path / "page.html").read_text()
    assert "eye &lt;" in page
    assert "eye <" not in page
    assert json.loads((tmp_path / "page.json").read_text())["rows"] == PICTURES


def test_inputs_come_from_folders_lists_tables_and_addresses(pictures: Path, tmp_path: Path) -> None:
    everything = list_inputs([str(pictures)])
    assert len(everything) == PICTURES
    assert list_inputs([str(pictures), str(pictures / "left")]) == everything  # none twice
    assert list_inputs([f"{pictures}/left/*.png", f"{pictures}/right"]) == everything
    inside = [name.removeprefix(f"{pictures}/") for name in everything]
    (pictures / "list.txt").write_text("\n".join(inside) + "\n")
    assert list_inputs([str(pictures / "list.txt")]) == everything
    with (pictures / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("patient", "photo"), *enumerate(inside)])
    assert list_inputs([str(pictures / "table.csv")], "photo") == everything
    pyarrow.parquet.write_table(pyarrow.table({"path": inside}), pictures / "table.parquet")
    assert list_inputs([str(pictures / "table.parquet")]) == everything
    assert list_inputs([pictures.as_uri()]) == [(pictures / name).as_uri() for name in inside]
    for wrong in ("table.csv", "absent.txt", "absent.csv"):
        with pytest.raises(InputError, match=wrong):
            list_inputs([str(pictures / wrong)])
    with pytest.raises(InputError, match="nowhere"):
        list_inputs(["nowhere://bucket/a"])
    with pytest.raises(InputError, match="row 2: expected 2 fields"):
        (tmp_path / "ragged.csv").write_text("file,eye\na.png,left\nb.png\n")
        list_inputs([str(tmp_path / "ragged.csv")])


def test_pictures_at_an_address_are_scored(undisturbed: Path, pictures: Path, tmp_path: Path) -> None:
    names = list_inputs([(pictures / "right").as_uri()])[:2]
    run = ArchiveRun.of(ModelOptions(), names, 2)
    run.claim(tmp_path)
    assert score_shard(ShardTask(tmp_path, run, ModelOptions(), 0, tuple(names))).failed == 0
    expected = {Path(str(row["file"])).name: row["score"] for row in rows_but_times(undisturbed)}
    assert [row["score"] for row in rows_but_times(tmp_path)] == [expected[Path(unquote(name)).name] for name in names]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, str]]:
    """An S3 server of its own with a bucket: a client, and the options of an address that lead to it."""
    pytest.importorskip("moto")
    pytest.importorskip("flask")
    import boto3
    from moto.server import ThreadedMotoServer

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    try:
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
        client.create_bucket(Bucket="clinic")
        yield client, f"?scheme=http&endpoint_override={host}:{port}&region=us-east-1"
    finally:
        server.stop()


def test_an_object_store_is_scored(bucket: tuple[Any, str], undisturbed: Path, pictures: Path, tmp_path: Path) -> None:
    client, options = bucket
    put = sorted((pictures / "right").glob("*.png"))[:3]
    for path in put:
        client.put_object(Bucket="clinic", Key=f"day 1/{path.name}", Body=path.read_bytes())
    client.put_object(Bucket="clinic", Key="day 1/notes.txt", Body=b"no picture")
    done = archive_command("score", f"s3://clinic/day%201{options}", "-o", tmp_path, "--workers", 1)
    assert done.exit_code == 0, done.output
    expected = {Path(str(row["file"])).name: row["score"] for row in rows_but_times(undisturbed)}
    assert [row["score"] for row in rows_but_times(tmp_path)] == [expected[path.name] for path in put]
    with pytest.raises(InputError, match="expected a picture or a folder"):
        list_inputs([f"s3://clinic/day%202{options}"])


def test_dicom_photographs_are_scored(photograph: Image, tmp_path: Path, demo_scorer: QualityScorer) -> None:
    pytest.importorskip("pydicom")
    score = demo_scorer.score(photograph)
    content = ophthalmic_photograph(photograph, score, DicomContext(laterality="R", pixel_spacing_mm=0.012))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "eye.dcm").write_bytes(content)
    (tmp_path / "in" / "cut.dcm").write_bytes(content[: len(content) // 2])
    done = archive_command("score", tmp_path / "in", "-o", tmp_path / "out", "--workers", 1, "--max-failure-rate", 0.6)
    assert done.exit_code == 0, done.output
    cut, whole = rows_but_times(tmp_path / "out")
    assert whole["score"] == pytest.approx(score.value, abs=0.001)
    assert cut["score"] is None


def test_a_broken_engine_leaves_no_rows(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo_scorer
) -> None:
    options = ModelOptions(threads=2)
    names = list_inputs([str(pictures / "left")])
    run = ArchiveRun.of(options, names, 99)
    run.claim(tmp_path)

    def fail(_: object, images: Image) -> np.ndarray:
        raise EngineError("gone")

    monkeypatch.setattr(type(demo_scorer.backend), "infer", fail)
    with pytest.raises(EngineError, match="nothing was written"):
        score_shard(ShardTask(tmp_path, run, options, 0, tuple(names)))
    assert list((tmp_path / "shards").iterdir()) == []
