"""Ten likely mistakes a command, over all commands: the exit code, one line, no traceback, no raw line of a library."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.edge.cli.mistakes import Mistake, answer, commands, exit_code_of, lay_out, mistakes

MISTAKES = list(mistakes())
NEEDS = {"export": "torch", "train": "torch", "quantize": "onnx", "archive": "pyarrow"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mistakes")
    lay_out(folder)
    return folder


@pytest.mark.parametrize("mistake", MISTAKES, ids=[each.typed for each in MISTAKES])
def test_a_mistake_is_told_in_one_line(
    place: Path, mistake: Mistake, capfd: pytest.CaptureFixture[str], fthnet: Callable[..., Any]
) -> None:
    if mistake.words[0] in NEEDS:
        pytest.importorskip(NEEDS[mistake.words[0]])
    if any(word.startswith("rtsp://") for word in mistake.words):  # FFmpeg is told once in a process what it may print
        done = fthnet(*mistake.words, cwd=place)
        code, said = done.returncode, done.stderr
    else:
        code = exit_code_of(mistake, place)
        said = capfd.readouterr().err
    if "is not installed: pip install" in said:
        pytest.skip("needs an extra")
    assert code == mistake.code, said
    assert mistake.says in answer(said)
    lines = [line for line in said.splitlines() if line.strip()]
    if lines[0].startswith("Usage: "):
        assert code == 2
        assert re.match(r"Error: .+", lines[-1])
    else:
        told = [line for line in lines if not line.startswith(("skipped: ", "left out: "))]
        assert len(told) == 1, said


def test_every_command_has_its_mistakes() -> None:
    for words, _ in commands():
        typed = [each for each in MISTAKES if each.words[: len(words)] == words]
        assert typed, words
