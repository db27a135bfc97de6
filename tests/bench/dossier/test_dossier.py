"""What a maker files: whole, valid by the formats' own rules, private, and the same but for the time."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner

from fthnet_kit.bench.dossier.inventory import Component, read_components
from fthnet_kit.bench.dossier.knowledge import anomalies, hazards, weaknesses
from fthnet_kit.bench.dossier.vex import judge, write_vex
from fthnet_kit.bench.dossier.write import write_dossier
from fthnet_kit.bench.results.results_file import write_results
from fthnet_kit.edge.cli.main import group
from fthnet_kit.edge.errors import InputError, KitError, MissingExtraError
from fthnet_kit.edge.model.bundle import Bundle
from fthnet_kit.edge.model.card import ModelCard
from fthnet_kit.edge.model.score import Thresholds
from tests.bench.contents import accuracy_content, latency_content
from tests.conftest import make_card

pytest.importorskip("cyclonedx")

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
VEX_SCHEMA = json.loads((Path(__file__).parent / "openvex.schema.json").read_text())
SOAK = {"kind": "fthnet-fault-soak", "checks": {"stale scores": {"passed": True, "found": "0"}}}


def make_bundle(folder: Path, **changes: Any) -> Bundle:
    """A bundle of one small file."""
    folder.mkdir()
    (folder / "a.onnx").write_bytes(b"graph")
    card: ModelCard = make_card(files={"a.onnx": hashlib.sha256(b"graph").hexdigest()}, **changes)
    (folder / "model_card.json").write_text(card.to_json())
    return Bundle.open(folder)


def invoke(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(group, ["dossier", *map(str, words)])
    if isinstance(done.exception, KitError):
        return done.exception.exit_code, str(done.exception)
    return done.exit_code, done.output


def without_times(path: Path) -> str:
    """Content of a dossier's file but for its times."""
    found = json.loads(path.read_text())
    found.get("metadata", found).pop("timestamp", None)
    for statement in found.get("statements", ()):
        del statement["timestamp"]
    found.pop("written_at", None)
    found.pop("files", None)  # hashes of the files with times
    return json.dumps(found)


@pytest.fixture(scope="module")
def filed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dossier of the shipped bundle, with evidence of everything."""
    folder = tmp_path_factory.mktemp("filed")
    write_results(folder / "latency.json", latency_content())
    write_results(folder / "accuracy.json", accuracy_content())
    (folder / "faults.json").write_text(json.dumps(SOAK))
    write_dossier(folder / "out", Bundle.open(), "Example maker", [folder])
    return folder / "out"


def test_the_sbom_is_valid_and_holds_the_model_with_its_hashes(filed: Path) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = (filed / "sbom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    sbom = json.loads(text)
    (model,) = (each for each in sbom["components"] if each["type"] == "machine-learning-model")
    card = Bundle.open().card
    hashes = {each["name"]: each["hashes"][0]["content"] for each in model["components"]}
    assert hashes == {**card.files, "model_card.json": Bundle.open().card_sha256}
    assert (model["name"], model["version"]) == (card.name, card.version)
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert {"type": "SRCC", "value": "0.9201"}.items() <= next(
        each for each in metrics if each["type"] == "SRCC"
    ).items()
    scopes = {each["name"]: each["scope"] for each in sbom["components"] if each["type"] == "library"}
    assert scopes["numpy"] == "required"
    assert scopes["tornado"] == "optional"
    assert scopes["pytest"] == "excluded"
    assert sbom["metadata"]["component"]["name"] == "fthnet-edge-kit"


def test_the_vex_document_is_valid(filed: Path) -> None:
    content = json.loads((filed / "vex.openvex.json").read_text())
    jsonschema.Draft202012Validator(VEX_SCHEMA, format_checker=jsonschema.FormatChecker()).validate(content)
    assert {each["vulnerability"]["name"] for each in content["statements"]} == {
        weakness.vulnerability for weakness in weaknesses()
    }


def library(name: str, version: str) -> Component:
    return Component(name, version, "MIT", "required", (), "", ())


def test_a_weakness_is_judged_by_what_is_installed(tmp_path: Path) -> None:
    from datetime import datetime, timezone

    components = [library("onnx", "1.20.0"), library("torch", "2.13.0+cpu")]
    judged = {each.vulnerability: each for each in judge(components)}
    assert judged["CVE-2025-51480"].status == "affected"
    assert "1.21" in judged["CVE-2025-51480"].note
    assert judged["CVE-2026-24747"].status == "fixed"
    assert judged["CVE-2024-28219"].status == "not_affected"
    content = json.loads(write_vex([*judged.values()], "us", components, datetime.now(timezone.utc)))
    jsonschema.Draft202012Validator(VEX_SCHEMA, format_checker=jsonschema.FormatChecker()).validate(content)


def test_what_an_audit_finds_is_under_investigation(tmp_path: Path) -> None:
    found = {"id": "PYSEC-1", "aliases": ["CVE-2099-1"], "fix_versions": ["9"], "description": ""}
    audit = tmp_path / "audit.json"
    rows = [{"name": "Numpy", "version": "1", "vulns": [found]}, {"name": "x", "skip_reason": "no"}]
    audit.write_text(json.dumps({"dependencies": rows, "fixes": []}))
    (new,) = (each for each in judge([library("numpy", "1")], audit) if each.status == "under_investigation")
    assert (new.vulnerability, new.component, new.version) == ("CVE-2099-1", "numpy", "1")


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"dependencies": [1]}', "nothing", '{"dependencies": [{"vulns": 1}]}']
)
def test_what_is_no_audit_is_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "audit.json").write_text(content)
    with pytest.raises(InputError, match="pip-audit"):
        judge([], tmp_path / "audit.json")


def test_every_test_that_a_hazard_names_is_there() -> None:
    for hazard in hazards():
        assert hazard.tests
        for test in hazard.tests:
            path, _, name = test.partition("::")
            names = {
                node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)
            }
            assert name in names, f"{hazard.id} names {test}"


@pytest.mark.parametrize("read", [hazards, anomalies], ids=["hazards", "anomalies"])
def test_identifiers_are_unique_and_known_where_they_are_cited(read: Callable[[], list[Any]]) -> None:
    import re

    names = [each.id for each in read()]
    assert len(names) == len(set(names))
    known = {each.id for each in (*hazards(), *anomalies())}
    cited = {name for each in hazards() for name in re.findall(r"\b[AH]-\d\d\b", str(each))}
    assert cited <= known


def test_the_docs_show_the_same_anomalies() -> None:
    page = (ROOT / "docs" / "DOSSIER.md").read_text()
    rows = [f"| {each.id} | {each.component} {each.versions} | {each.what} | {each.control} |" for each in anomalies()]
    assert "\n".join(rows) in page, "docs/DOSSIER.md should hold:\n" + "\n".join(rows)


def test_anomalies_are_those_of_the_versions_that_are_installed(filed: Path) -> None:
    found = json.loads((filed / "dossier.json").read_text())["anomalies"]
    assert "A-01" in found
    other = next(each for each in anomalies() if each.id == "A-01")
    assert other.concerns("FTHNet demo small", "0.6.0")
    assert not other.concerns("FTHNet demo small", "0.5.0")
    assert not other.concerns("another model", "0.6.0")


def test_evidence_is_copied_with_its_hash_and_figures(filed: Path) -> None:
    facts = json.loads((filed / "dossier.json").read_text())
    for name, sha256 in facts["evidence"].items():
        assert hashlib.sha256((filed / "evidence" / name).read_bytes()).hexdigest() == sha256
    assert facts["figures"]["latency.json"]["p50, ms"] > 10
    assert "drift" in facts["figures"]["latency.json"]
    assert facts["figures"]["faults.json"] == {"stale scores": "passed: 0"}
    assert facts["figures"]["bundle/accuracy.json"]["fundus, split val, SRCC"] == 0.9201
    assert "no evidence" not in (filed / "index.html").read_text()
    for name, sha256 in facts["files"].items():
        assert hashlib.sha256((filed / name).read_bytes()).hexdigest() == sha256, name


def test_missing_evidence_is_named(tmp_path: Path) -> None:
    code, output = invoke(tmp_path / "out", "--bundle", make_bundle(tmp_path / "bundle").folder)
    assert code == 0
    assert "no evidence of latency: fthnet bench latency" in output
    assert "no evidence of soak" in (tmp_path / "out" / "index.html").read_text()


def test_two_runs_differ_in_nothing_but_the_time(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    for name in ("one", "two"):
        write_dossier(tmp_path / name, bundle, "us")
    for name in ("sbom.cdx.json", "vex.openvex.json", "dossier.json"):
        assert without_times(tmp_path / "one" / name) == without_times(tmp_path / "two" / name)
    for name in ("soup.html", "hazards.html", "anomalies.html", "evidence.html", "model_card.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert invoke("diff", tmp_path / "one", tmp_path / "two") == (0, "nothing changed\n")


def test_diff_names_what_changed_and_ends_with_1(tmp_path: Path) -> None:
    evidence = tmp_path / "latency.json"
    write_results(evidence, latency_content())
    write_dossier(tmp_path / "old", make_bundle(tmp_path / "b1"), "us", [evidence])
    content = latency_content()
    content["steady"]["throughput_fps"] = 1.5
    write_results(evidence, content)
    changed = make_bundle(tmp_path / "b2", version="2", thresholds=Thresholds(usable=50, good=60))
    write_dossier(tmp_path / "new", changed, "us", [evidence])
    facts = json.loads((tmp_path / "new" / "dossier.json").read_text())
    facts["components"]["numpy"]["version"] = "9"
    del facts["hazards"]["H-01"]
    (tmp_path / "new" / "dossier.json").write_text(json.dumps(facts))
    code, output = invoke("diff", tmp_path / "old", tmp_path / "new")
    assert code == 1
    lines = output.splitlines()
    assert "~ model: version: 1 -> 2" in lines
    assert "~ model: thresholds usable: 40 -> 50" in lines
    assert any(line.startswith("~ model: card_sha256: ") for line in lines)
    assert any(line.startswith("~ components: numpy version: ") and line.endswith(" -> 9") for line in lines)
    assert "- hazards: H-01: A bad photograph is called good" in lines
    assert any(line.startswith("~ figures: latency.json pictures a second: ") for line in lines)
    assert any(line.startswith("~ evidence: latency.json: ") for line in lines)
    code, output = invoke("diff", "--json", tmp_path / "old", tmp_path / "new")
    assert code == 1
    assert {"part": "model", "what": "version", "old": "1", "new": "2"} in json.loads(output)


def test_diff_of_what_is_nested_too_deeply_is_one_line(tmp_path: Path) -> None:
    deep = '{"a":' * 5000 + "1" + "}" * 5000
    (tmp_path / "dossier.json").write_text(f'{{"schema": "fthnet-dossier", "version": 1, "model": {deep}}}')
    code, line = invoke("diff", tmp_path, tmp_path)
    assert (code, line.count("\n")) == (InputError.exit_code, 0)


@pytest.mark.parametrize("content", [None, "no JSON", "[]", "{}", '{"schema": "fthnet-dossier", "version": 2}'])
def test_diff_of_what_is_no_dossier_is_one_line(content: str | None, filed: Path, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "dossier.json").write_text(content)
    code, line = invoke("diff", filed, tmp_path)
    assert code == InputError.exit_code
    assert "expected a dossier" in line


def test_everything_is_private_whatever_the_umask(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    before = os.umask(0)
    try:
        write_dossier(tmp_path / "out", bundle, "us")
    finally:
        os.umask(before)
    for path in (tmp_path / "out", *(tmp_path / "out").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_place_that_is_taken_is_left_alone(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("1")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    for name in ("out", "link"):
        with pytest.raises(InputError, match="expected a new folder"):
            write_dossier(tmp_path / name, bundle, "us")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "empty", "link", "out"]
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_dossier_that_cannot_be_finished_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fthnet_kit.bench.dossier import write

    def full(path: Path, content: bytes, *, private: bool = False) -> None:
        if path.name == "soup.html":
            raise OSError(28, "No space left on device", str(path))
        path.write_bytes(content)

    bundle = make_bundle(tmp_path / "bundle")
    monkeypatch.setattr(write, "write_atomically", full)
    with pytest.raises(InputError, match="No space left"):
        write_dossier(tmp_path / "out", bundle, "us")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.json").write_text("{}")
    with pytest.raises(InputError, match=r"a second x\.json"):
        write_dossier(tmp_path / "out", make_bundle(tmp_path / "bundle"), "us", [tmp_path / "a", tmp_path / "b"])


@pytest.mark.parametrize("name", ["missing.json", "text.json"])
def test_evidence_that_cannot_be_read_is_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "text.json").write_text("no JSON")
    code, line = invoke(tmp_path / "out", "--bundle", make_bundle(tmp_path / "b").folder, "--evidence", tmp_path / name)
    assert code == InputError.exit_code
    assert name in line


def test_an_altered_bundle_is_not_filed(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "bundle").folder
    (folder / "a.onnx").write_bytes(b"other")
    code, line = invoke(tmp_path / "out", "--bundle", folder)
    assert code == 4
    assert "altered" in line


def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cyclonedx.output.json", None)
    with pytest.raises(MissingExtraError, match=r"fthnet-edge-kit\[dossier\]"):
        write_dossier(tmp_path / "out", make_bundle(tmp_path / "bundle"), "us")


def test_components_say_what_they_are_for_and_who_needs_them() -> None:
    found = {component.name: component for component in read_components()}
    assert found["numpy"].purpose == "arrays of pictures and scores"
    assert found["markdown-it-py"].purpose == "needed by rich"
    assert found["numpy"].licence.startswith("BSD-3-Clause")
    assert "A-12" in found["opencv-python"].anomalies
