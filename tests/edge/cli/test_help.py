"""What `--help` says: whole sentences for every command and option."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from fthnet_kit.edge.cli.main import group


def all_commands(command: click.Command = group, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command and group."""
    yield words
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from all_commands(below, (*words, name))


def command_of(words: tuple[str, ...]) -> click.Command:
    command: click.Command = group
    for word in words:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), word)
        assert found is not None
        command = found
    return command


@pytest.mark.parametrize("words", list(all_commands()), ids=" ".join)
def test_help_is_whole_sentences(words: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(group, [*words, "--help"], terminal_width=100)
    assert shown.exit_code == 0
    assert "…" not in shown.output
    assert "..." not in shown.output.partition("\n\n")[2]  # the usage line may say that a word may be repeated
    for option in command_of(words).params:
        if isinstance(option, click.Option):
            text = option.help or ""
            assert text.rstrip().endswith("."), f"{option.name}: {text!r}"
            assert text.split()[0] not in ("Of", "As", "Default:", "Its"), f"{option.name}: {text!r}"
