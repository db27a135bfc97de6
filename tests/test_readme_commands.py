"""The README's commands, typed in the order in which they stand there, with small stand-ins for what a reader has."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from fthnet_kit.edge.capture.degradations import degrade
from fthnet_kit.edge.image import Image

ROOT = Path(__file__).parents[1]
CAMERA = "sim:?seconds=2&fps=5&realtime=0"
STAND_INS = {  # a minute for an hour, a simulated camera for a real one
    "net_g.pth": str(ROOT / "edge" / "demo" / "checkpoint.safetensors"),
    "edge/demo/checkpoint.safetensors": str(ROOT / "edge" / "demo" / "checkpoint.safetensors"),
    "--minutes 60": "--minutes 0.05",
    "--source 0": f"--source '{CAMERA}'",
    "--serve 8080": "--serve 0",
    "fthnet quantize trained": "fthnet quantize trained --images 32 --held-out 32",
    "fthnet verify trained": "fthnet verify trained --images 32",
    "sudo fthnet install-service": "fthnet install-service --print",
    "--user screening": "--user root",
}


def block_under(heading: str) -> list[str]:
    """The commands of the kit in the block under a heading of the README."""
    text = (ROOT / "README.md").read_text()
    block = re.search(rf"^## {heading}\n\n```\n(.*?)^```", text, re.S | re.M)
    assert block is not None
    return [line for line in block[1].splitlines() if "fthnet " in line]


def make_photographs(folder: Path, photograph: Image, count: int) -> None:
    """A folder in FQS form: one photograph, the less sharp the lower its label."""
    folder.mkdir()
    small = cv2.resize(photograph, (480, 480), interpolation=cv2.INTER_AREA)
    rows = ["file_name,meanOpinionScore,split,patient"]
    for index in range(count):
        severity = index / count
        turned = np.ascontiguousarray(np.rot90(small, index % 4))
        cv2.imwrite(str(folder / f"{index}.jpg"), degrade(turned, "defocus", severity, index))
        rows.append(f"{index}.jpg,{80 - 70 * severity:.1f},{'val' if index % 5 == 0 else 'train'},{index}")
    (folder / "scores.csv").write_text("\n".join(rows))


@pytest.mark.long
@pytest.mark.parametrize("heading", ["Your own model", "In a screening unit"])
def test_commands_work_in_the_order_of_the_readme(heading: str, tmp_path: Path, photograph: Image) -> None:
    pytest.importorskip("torch")
    make_photographs(tmp_path / "photographs", photograph, 80)
    make_photographs(tmp_path / "other-photographs", cv2.flip(photograph, 1), 40)
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    for line in block_under(heading):
        typed = re.sub("|".join(map(re.escape, STAND_INS)), lambda found: STAND_INS[found[0]], line)
        words = shlex.split(typed, comments=True)
        command = [sys.executable, "-m", "fthnet_kit.edge.cli", *words[1:]]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1800)
        allowed = (0, 7) if words[1] in ("quantize", "verify") else (0,)  # 7: a gate that a model of seconds may miss
        assert done.returncode in allowed, (line, done.stderr[-2000:])
        if words[1:3] == ["config", "init"]:
            settings = tmp_path / "fthnet.toml"
            settings.write_text(re.sub("^#source = .*$", f"source = '{CAMERA}'", settings.read_text(), flags=re.M))
