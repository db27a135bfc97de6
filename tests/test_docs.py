"""README and docs: what they name is there, and their commands are commands of the kit."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from fthnet_kit.edge.cli.main import group

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PRODUCT_PATH = re.compile(r"`((?:edge|convert|calibration|bench|tests|docs)/[\w./-]+)`")
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[\w-]+)?\)")


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> Iterator[str]:
    """Fenced blocks without a language: what a reader types."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.S | re.M)
    yield from (text for language, text in fences if not language)


def commands(page: Path) -> list[str]:
    """Commands of the kit in the page's blocks, each on one line and without its comment."""
    lines = "\n".join(blocks(page)).replace("\\\n", " ").splitlines()
    plain = [line.strip().replace("sudo $(which fthnet)", "fthnet") for line in lines]
    return [line for line in plain if line.startswith("fthnet ")]


COMMANDS = [(page, line) for page in PAGES for line in commands(page)]


def resolved(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that a line names, and the words that are left for it."""
    command: click.Command = group
    context = click.Context(command, info_name="fthnet")
    while isinstance(command, click.Group):
        _, found, words = command.resolve_command(context, words)
        assert found is not None, f"no command in {words}"
        command = found
    return command, words


def test_the_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_lines_fit_a_terminal(page: Path) -> None:
    lines = page.read_text().splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith(("|", '{"'))] == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_root_finds_the_command_of_a_virtual_environment(page: Path) -> None:
    """sudo looks for commands in the system's folders alone."""
    assert "sudo fthnet" not in page.read_text()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_to_files(page: Path) -> None:
    assert [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_named_files_are_there(page: Path) -> None:
    paths = [path for path in PRODUCT_PATH.findall(page.read_text()) if "*" not in path]
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{named(page)}: {line}" for page, line in COMMANDS])
def test_commands_are_understood(page: Path, line: str) -> None:
    words = shlex.split(line, comments=True)
    command, rest = resolved(words[words.index("fthnet") + 1 :])
    rest = rest[: next((at for at, word in enumerate(rest) if word in (">", "|", "&&")), None)]
    parser = command.make_parser(click.Context(command))
    parser.parse_args([word.strip("[]…") for word in rest if word.strip("[]…")])  # raises for an unknown option
