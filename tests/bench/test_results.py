"""Results files: what is written can be read, what is odd is refused in one line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fthnet_kit.bench.results import results_file as results
from fthnet_kit.bench.results.results_file import SCHEMAS, read_results, write_results
from fthnet_kit.bench.speed.latency import MeasuringPlan, Pictures, measure
from fthnet_kit.bench.speed.timing import Limit
from fthnet_kit.edge import InputError, QualityScorer
from fthnet_kit.edge.model.bundle import Bundle
from tests.bench.contents import accuracy_content, bare_content, latency_content
from tests.conftest import ROOT

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def real() -> dict[str, Any]:
    """A short run of the shipped bundle."""
    bundle = Bundle.open(None)
    pictures = Pictures(None, 640, 480)
    plan = MeasuringPlan(Limit(runs=3), capture_s=1.0, idle_s=(0.01,), cold_starts=0)
    content = measure(lambda: QualityScorer.from_bundle(precision="fp32"), bundle, "fp32", pictures, plan)
    pictures.close()
    return content


@pytest.mark.slow
def test_a_real_run_fits_its_schema(real: dict[str, Any], tmp_path: Path) -> None:
    write_results(tmp_path / "run.json", real)
    content = read_results(tmp_path / "run.json")
    assert content["steady"] == real["steady"]
    assert content["model"]["name"] == Bundle.open(None).card.name


@pytest.mark.parametrize("make", [latency_content, bare_content, accuracy_content])
def test_what_is_written_can_be_read(make: Callable[[], dict[str, Any]], tmp_path: Path) -> None:
    write_results(tmp_path / "run.json", make())
    assert read_results(tmp_path / "run.json", tuple(SCHEMAS)) == make()


def test_a_list_of_samples_takes_one_line(tmp_path: Path) -> None:
    write_results(tmp_path / "run.json", latency_content())
    assert len((tmp_path / "run.json").read_text().splitlines()) < 400


def test_numpy_and_infinities_become_json(tmp_path: Path) -> None:
    content = latency_content(load_ms=np.float32(2.5), first_ms=np.float64(3), memory={})
    content["memory"] = {"peak_mb": math.nan, "others_cores": np.float64(np.inf)}
    write_results(tmp_path / "run.json", content)
    found = read_results(tmp_path / "run.json")
    assert (found["load_ms"], found["first_ms"]) == (2.5, 3.0)
    assert found["memory"] == {"peak_mb": None, "others_cores": None}


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("rtsp://admin:secret@10.0.0.9/1", "rtsp://…@10.0.0.9/1"),
        ("rtsp://admin:secr@et@10.0.0.9/1", "rtsp://…@10.0.0.9/1"),
        ("rtspsrc location=x user-id=a user-pw=secret ! fakesink", "rtspsrc location=x user-id=a user-pw=… ! fakesink"),
        ("http://10.0.0.9/a@b", "http://10.0.0.9/a@b"),
        ("\x1b]0;x\x07\u202e", "\ufffd]0;x\ufffd\ufffd"),
    ],
)
def test_passwords_and_control_characters_are_not_written(word: str, written: str, tmp_path: Path) -> None:
    content = latency_content(command=["fthnet", word])
    content["pictures"]["source"] = word
    write_results(tmp_path / "run.json", content)
    found = read_results(tmp_path / "run.json")
    assert found["command"] == ["fthnet", written]
    assert found["pictures"]["source"] == written


def test_content_that_does_not_fit_is_never_written(tmp_path: Path) -> None:
    content = latency_content(load_ms=-1.0)
    with pytest.raises(ValueError, match="load_ms"):
        write_results(tmp_path / "run.json", content)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "run.json"
    write_results(target, bare_content())
    before = target.read_bytes()
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InputError, match="No space left"):
        write_results(target, latency_content())
    assert target.read_bytes() == before


def remove(*keys: str) -> Change:
    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (remove("steady"), "'steady' is a required property"),
        (remove("steady", "summary", "total"), "'total' is a required property"),
        (lambda c: c.update(extra=1), "'extra' was unexpected"),
        (lambda c: c["steady"]["stages_ms"]["total"].__setitem__(70, -5.0), "steady.stages_ms.total"),
        (lambda c: c["steady"]["stages_ms"]["total"].__setitem__(70, "x"), "steady.stages_ms.total.70"),
        (lambda c: c["steady"]["stages_ms"]["total"].__setitem__(70, True), "steady.stages_ms.total.70"),
        (
            lambda c: c["steady"]["stages_ms"]["infer"].pop(),
            "steady.stages_ms.infer: expected 3000 entries, found 2999",
        ),
        (lambda c: c["timeline"]["rss_mb"].pop(), "timeline.rss_mb: expected"),
        (lambda c: c["capture"]["age_ms"].pop(), "capture.age_ms: expected 290 entries, found 289"),
        (lambda c: c.update(unstable=None), "unstable"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(change: Change, words: str, tmp_path: Path) -> None:
    content = latency_content()
    change(content)
    path = tmp_path / "run.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError) as error:
        read_results(path)
    message = str(error.value)
    assert words in message
    assert "fthnet bench latency" in message
    assert len(message.splitlines()) == 1
    assert len(message) < 400


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "found no JSON"),
        ("{", "found no JSON"),
        ("[" * 100_000, "found no JSON"),
        ("\x00\x01", "found no JSON"),
        ("[]", "found another kind of file"),
        ("null", "found another kind of file"),
        ('{"schema": 1}', "found another kind of file"),
        ('{"schema": ["fthnet-latency"]}', "found another kind of file"),
        ('{"schema": "other"}', "found another kind of file"),
        ('{"schema": "fthnet-accuracy", "version": 1}', "found those of `fthnet bench accuracy"),
        ('{"schema": "fthnet-latency", "version": 2}', "expected fthnet-latency version 1, found 2; update this kit"),
        ('{"schema": "fthnet-latency", "version": 0}', "version 1, found 0; measure again"),
        ('{"schema": "fthnet-latency"}', "version 1, found None; measure again"),
    ],
)
def test_another_file_is_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_results(path)
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_results(tmp_path / "none.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="no JSON"):
        read_results(tmp_path / "bytes.json")


def test_infinities_in_a_file_are_no_samples(tmp_path: Path) -> None:
    content = latency_content()
    content["steady"]["stages_ms"]["total"][3] = math.inf
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"steady\.stages_ms\.total\.3"):
        read_results(tmp_path / "run.json")


def described(node: dict[str, Any], place: str = "") -> None:
    """Every named field of a schema says what it is."""
    for name, entry in node.get("properties", {}).items():
        assert entry.get("description"), f"{place}.{name}"
        described(entry, f"{place}.{name}")
    for inner in ("items", "additionalProperties"):
        if isinstance(node.get(inner), dict):
            described(node[inner], f"{place}[]")


def test_every_field_of_the_latency_schema_is_described() -> None:
    schema = json.loads((ROOT / "bench" / "results" / "latency.schema.json").read_text())
    described(schema)
    for name, definition in schema["$defs"].items():
        described(definition, name)
    assert results.SCHEMAS["fthnet-latency"] == "latency.schema.json"
