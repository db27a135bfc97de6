"""The README's commands, typed in the order in which they stand there, with small stand-ins for what a reader has."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CAMERA = "sim:?seconds=2&fps=5&realtime=0"
STAND_INS = {
    "--serve 8080": "--serve 0",
    "sudo $(which fthnet) install-service": "fthnet install-service --print",
    "--user screening": "--user nobody",
}


def block_under(heading: str) -> list[str]:
    """The commands of the kit in the block under a heading of the README."""
    text = (ROOT / "README.md").read_text()
    block = re.search(rf"^## {heading}\n\n```\n(.*?)^```", text, re.S | re.M)
    assert block is not None
    return [line for line in block[1].splitlines() if re.search(r"\bfthnet[ )]", line)]


def type_in_order(lines: list[str], folder: Path, settings: dict[str, str], timeout_s: float) -> None:
    """Type commands in a folder; lines of the configuration are set as soon as there is one."""
    environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}
    for line in lines:
        typed = re.sub("|".join(map(re.escape, STAND_INS)), lambda found: STAND_INS[found[0]], line)
        words = shlex.split(typed, comments=True)
        command = [sys.executable, "-m", "fthnet_kit.edge.cli", *words[1:]]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout_s)
        assert done.returncode == 0, (line, done.stderr[-2000:])
        if words[1:3] == ["config", "init"]:
            path = folder / "fthnet.toml"
            text = path.read_text()
            for key, value in settings.items():
                text = re.sub(f"^#{key} = .*$", f"{key} = '{value}'", text, flags=re.M)
            path.write_text(text)


@pytest.mark.long
@pytest.mark.parametrize("heading", ["In a screening unit"])
def test_commands_work_in_the_order_of_the_readme(heading: str, tmp_path: Path) -> None:
    pytest.importorskip("tornado")
    type_in_order(block_under(heading), tmp_path, {"source": CAMERA}, 1800)


def typed_block(page: Path) -> list[str]:
    """The kit's commands of all blocks of a page, in their order."""
    blocks = re.findall(r"^```\n(.*?)^```", page.read_text(), re.S | re.M)
    return [line for block in blocks for line in block.splitlines() if re.search(r"\bfthnet[ )]", line)]


@pytest.mark.long
def test_a_day_can_be_typed_in_order(tmp_path: Path) -> None:
    day = typed_block(ROOT / "docs" / "DAY.md")
    type_in_order(day, tmp_path, {"source": CAMERA, "path": "records.jsonl"}, 600)
