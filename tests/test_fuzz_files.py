"""Label tables, contexts of eyes, signed lists, audits and dossiers that others wrote: read, or refused in one line.

As `tests/edge/test_fuzz_parsers.py`, which fuzzes what a run reads.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from fthnet_kit.bench.dossier.compare import compare, read_dossier
from fthnet_kit.bench.dossier.pages import vulnerabilities_page
from fthnet_kit.bench.dossier.vex import judge, write_vex
from fthnet_kit.calibration.label_table import read_table
from fthnet_kit.edge.outputs.best_shot.eye_context import EyeContext
from fthnet_kit.edge.trust.manifest import SignedFile, SignedManifest
from tests.edge.test_fuzz_parsers import AT_ONCE, FEW, JSON, ODD, TEXT, dumped, json_texts
from tests.fuzzing import explore, explore_long

EYE = {"laterality": "R", "patient_id": "1", "patient_name": "A^B", "birth_date": "19700101", "pupil_dilated": True}
MANIFEST = SignedManifest("m", "1", 2, "0" * 16, "2026-01-01T00:00:00+00:00", {"a": SignedFile(3, "0" * 64)})
FOUND = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2"]}
AUDIT = {"dependencies": [{"name": "x", "version": "1", "vulns": [FOUND]}], "fixes": []}
DOSSIER = {
    "schema": "fthnet-dossier",
    "version": 1,
    "model": {"name": "m", "files": {"a": "0"}},
    "components": {"numpy": {"version": "1", "needs": ["x"]}},
    "figures": {"a.json": {"SRCC": 0.9}},
}
COLUMNS = ["file_name", "meanOpinionScore"]
CELL = st.one_of(TEXT, st.sampled_from(['"', '"a,b"', "a,b", "\ufeff", "1,5", "100", *ODD]))
ROWS = st.lists(st.lists(CELL, max_size=4).map(",".join), max_size=6).map("\n".join)
CSV = st.one_of(
    st.binary(max_size=80),
    ROWS.map(lambda rows: f"{','.join(COLUMNS)}\n{rows}".encode(errors="surrogatepass")),
)


@lru_cache(maxsize=1)
def workbook() -> dict[str, bytes]:
    """The parts of a small XLSX file."""
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (COLUMNS, ["a.png", 50], ["b.png", "=1+1"]):
        book.active.append(row)
    file = io.BytesIO()
    book.save(file)
    with zipfile.ZipFile(file) as parts:
        return {name: parts.read(name) for name in parts.namelist()}


@st.composite
def workbooks(draw: st.DrawFn) -> bytes:
    """A workbook of which a part is altered, missing or another; or one with bytes altered."""
    parts = dict(workbook())
    name = draw(st.sampled_from(sorted(parts)))
    content = bytearray(parts[name])
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        content[place : place + draw(st.integers(0, 12))] = draw(st.binary(max_size=12))
    if draw(st.booleans()):
        parts[name] = bytes(content)
    else:
        del parts[name]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        for each, value in parts.items():
            written.writestr(each, value)
    whole = bytearray(file.getvalue())
    for _ in range(draw(st.integers(0, 2))):
        whole[draw(st.integers(0, len(whole) - 1))] = draw(st.integers(0, 255))
    return bytes(whole)


def read_csv(content: bytes, folder: Path) -> None:
    (folder / "t.csv").write_bytes(content)
    read_table(folder / "t.csv", COLUMNS)


def read_workbook(content: bytes, folder: Path) -> None:
    (folder / "t.xlsx").write_bytes(content)
    read_table(folder / "t.xlsx", COLUMNS)


def read_eye(content: bytes, _: Path) -> None:
    EyeContext.parse(content)


def read_list(content: bytes, _: Path) -> None:
    SignedManifest.from_bytes(content, "here")


def read_audit(content: bytes, folder: Path) -> None:
    (folder / "audit.json").write_bytes(content)
    judgements = judge([], folder / "audit.json")
    json.loads(write_vex(judgements, "us", [], datetime.now(timezone.utc)))
    assert vulnerabilities_page(judgements)


def compare_dossiers(content: bytes, folder: Path) -> None:
    (folder / "dossier.json").write_bytes(content)
    found = read_dossier(folder)
    for change in (*compare(found, DOSSIER), *compare(DOSSIER, found)):
        assert str(change)
    assert compare(found, found) == []


PARSERS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any, Path], None]]] = {
    "CSV tables": (CSV, read_csv),
    "workbooks": (workbooks(), read_workbook),
    "contexts of an eye": (json_texts(EYE), read_eye),
    "signed lists": (
        st.one_of(json_texts(json.loads(MANIFEST.to_bytes())), JSON.map(dumped).map(str.encode)),
        read_list,
    ),
    "audits": (json_texts(AUDIT), read_audit),
    "dossiers": (json_texts(DOSSIER), compare_dossiers),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PARSERS)
def test_files_of_others_are_read_or_refused_in_one_line(name: str) -> None:
    pytest.importorskip("openpyxl")
    assert explore(*PARSERS[name], FEW, number=1) >= FEW // 3


@pytest.mark.long
@pytest.mark.parametrize("name", PARSERS)
def test_files_for_ten_minutes_each(name: str) -> None:
    pytest.importorskip("openpyxl")
    tried = explore_long(*PARSERS[name], AT_ONCE)
    print(f"{name}: {tried} cases, 0 escapes")
