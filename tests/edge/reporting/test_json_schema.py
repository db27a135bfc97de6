"""What a schema refuses, and at what cost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from fthnet_kit.edge.reporting.json_schema import schema_problem

SCHEMA = {"type": "object", "properties": {"eye": {"properties": {"side": {"enum": ["R", "L"]}}}}, "required": ["eye"]}


def test_a_problem_names_the_place_of_the_value() -> None:
    assert schema_problem({"eye": {"side": "R"}}, SCHEMA) is None
    found = schema_problem({"eye": {"side": "both"}}, SCHEMA)
    assert found is not None
    assert found.place == "eye.side"
    assert "'both'" in found.message


def test_a_problem_of_the_whole_has_no_place() -> None:
    found = schema_problem({}, SCHEMA)
    assert found is not None
    assert found.place == ""
    assert "eye" in found.message


def test_no_card_waits_for_grammars_that_no_schema_needs(tmp_path: Path) -> None:
    """Where Jupyter is installed, jsonschema imports a package that builds 38 grammars."""
    (tmp_path / "rfc3987_syntax.py").write_text("print('grammars built')\nis_valid_syntax = print\n")
    code = (
        "from fthnet_kit.edge.model.bundle import Bundle, shipped_bundle; Bundle.open(shipped_bundle());"
        "import rfc3987_syntax"  # others who ask for it find it
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    plain = subprocess.run(
        [sys.executable, "-c", code.rpartition(";")[0]], env=environment, capture_output=True, text=True, check=True
    )
    assert plain.stdout == ""
    asked = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert asked.stdout == "grammars built\n"
