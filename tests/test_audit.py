"""What CI makes of pip-audit's report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.audit import main

WEAK = {"id": "CVE-2099-1", "fix_versions": ["2"]}


def report(path: Path, *rows: object) -> Path:
    path.write_text(json.dumps({"dependencies": rows, "fixes": []}))
    return path


def test_a_weakness_that_a_newer_version_mends_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = report(tmp_path / "a.json", {"name": "x", "version": "1", "vulns": [WEAK]}, {"name": "y", "skip_reason": ""})
    assert main(path) == 1
    assert "CVE-2099-1 in x 1, fixed in 2" in capsys.readouterr().out
    assert path.exists()


def test_nothing_found_and_nothing_to_be_done_pass(tmp_path: Path) -> None:
    waits = {"name": "x", "version": "1", "vulns": [{**WEAK, "fix_versions": []}]}
    assert main(report(tmp_path / "a.json", waits, {"name": "y", "version": "1", "vulns": []})) == 0


@pytest.mark.parametrize("content", [None, "", "[]", '{"dependencies": [{"name": "x", "skip_reason": "not found"}]}'])
def test_no_answer_is_no_audit(content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_text(content)
    assert main(path) == 0
    assert "skipped" in capsys.readouterr().out
    assert not path.exists()
