"""Names appear as they are, whatever rich makes of brackets and colons."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from fthnet_kit.edge.reporting.console import busy, open_console, open_progress

NAMES = ("P001 [os].jpg", "IM[/OD].jpg", "best[os]/x.png", ":eye:.jpg", "[bold]b[/bold]", r"a\[b].png", "[link=x]y[/]")
ROOTS = ("edge", "convert", "calibration", "bench")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("soft_wrap", [False, True])
def test_lines_tables_and_bars_show_names_as_they_are(
    name: str, soft_wrap: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    console = open_console(soft_wrap=soft_wrap)
    console.print(f"skipped: {name}")
    table = Table(title=f"title {name}", caption=f"caption {name}", title_justify="left")
    table.add_column(f"column {name}")
    table.add_row(f"cell {name}")
    console.print(table)
    with open_progress(console) as bar:
        bar.add_task(f"task {name}")
    with busy(console, f"busy {name}") as say:
        say(f"still {name}")
    shown = capsys.readouterr().out
    for what in ("skipped:", "title", "caption", "column", "cell", "task"):
        assert f"{what} {name}" in shown


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
def test_any_text_is_printed_as_it_is(text: str) -> None:
    console = open_console(soft_wrap=True)
    with console.capture() as captured:
        console.print(text)
    assert captured.get() == text + "\n"


def test_every_console_is_made_in_one_place() -> None:
    """Elsewhere, names would be taken for markup; the demo is a program of its own."""
    made = re.compile(r"(?<!open_)\bConsole\(|rich\.progress import .*\b(Progress|TextColumn)\b|\.status\(")
    found = {
        str(path)
        for root in ROOTS
        for path in Path(root).rglob("*.py")
        if "demo" not in path.parts and made.search(path.read_text(encoding="utf-8"))
    }
    assert found == {"edge/reporting/console.py"}


def test_a_run_names_its_folders_as_they_are(
    tmp_path: Path, fthnet: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    pictures = tmp_path / "IM[" / "OD]"
    pictures.mkdir(parents=True)
    shutil.copy("edge/assets/retina.jpg", pictures / "P001 [os].jpg")
    best, records = tmp_path / "best[os]", tmp_path / "records [x].jsonl"
    done = fthnet("run", "--source", pictures, "--save-best", best, "--records", records)
    assert done.returncode == 0, done.stderr
    assert f"{best}/best.png" in done.stdout
    assert f"in {records}" in done.stdout
    assert "P001 [os].jpg" in records.read_text()
    assert "Traceback" not in done.stderr
