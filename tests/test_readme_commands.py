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


@pytest.mark.long
@pytest.mark.parametrize("heading", ["In a screening unit"])
def test_commands_work_in_the_order_of_the_readme(heading: str, tmp_path: Path) -> None:
    pytest.importorskip("tornado")
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    for line in block_under(heading):
        typed = re.sub("|".join(map(re.escape, STAND_INS)), lambda found: STAND_INS[found[0]], line)
        words = shlex.split(typed, comments=True)
        command = [sys.executable, "-m", "fthnet_kit.edge.cli", *words[1:]]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, (line, done.stderr[-2000:])
        if words[1:3] == ["config", "init"]:
            settings = tmp_path / "fthnet.toml"
            settings.write_text(re.sub("^#source = .*$", f"source = '{CAMERA}'", settings.read_text(), flags=re.M))


def typed_block(page: Path) -> list[str]:
    """The kit's commands of all blocks of a page, in their order."""
    blocks = re.findall(r"^```\n(.*?)^```", page.read_text(), re.S | re.M)
    return [line for block in blocks for line in block.splitlines() if re.search(r"\bfthnet[ )]", line)]


@pytest.mark.long
def test_a_day_can_be_typed_in_order(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    for line in typed_block(ROOT / "docs" / "DAY.md"):
        typed = re.sub("|".join(map(re.escape, STAND_INS)), lambda found: STAND_INS[found[0]], line)
        words = shlex.split(typed, comments=True)
        command = [sys.executable, "-m", "fthnet_kit.edge.cli", *words[1:]]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, (line, done.stderr[-2000:])
        if words[1:3] == ["config", "init"]:
            settings = tmp_path / "fthnet.toml"
            text = re.sub("^#source = .*$", f"source = '{CAMERA}'", settings.read_text(), flags=re.M)
            settings.write_text(re.sub("^#path = .*$", "path = 'records.jsonl'", text, flags=re.M))
