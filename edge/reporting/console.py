"""What is printed in a terminal: text as it is, so that ``P001 [os].jpg`` keeps its brackets.

rich takes ``[os]`` for markup and ``:eye:`` for a picture unless it is told otherwise, which happens here, once: every
console and every bar of the kit is made by this module.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

T = TypeVar("T")

LOG_WIDTH = 160  # characters; a table's width in a file or pipe


def open_console(*, stderr: bool = False, soft_wrap: bool = False) -> Console:
    """A console that prints names as they are, 160 columns wide where no terminal is.

    Args:
        stderr: print there, not on stdout.
        soft_wrap: leave long lines whole.
    """
    from rich.console import Console

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(
        stderr=stderr,
        soft_wrap=soft_wrap,
        markup=False,
        emoji=False,
        highlight=False,
        width=None if terminal or stderr else LOG_WIDTH,
    )


def open_progress(console: Console, *columns: ProgressColumn, **options: Any) -> Progress:
    """Bars with their descriptions as they are.

    Args:
        console: from `open_console`.
        columns: after the description; default: bar, percentage and time left.
        options: of `rich.progress.Progress`.
    """
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    description = TextColumn("{task.description}", markup=False)
    shown = columns or (BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(description, *shown, console=console, **options)


@contextmanager
def tracked(items: Sequence[T], what: str, console: Console | None = None, least: int = 1) -> Iterator[Iterable[T]]:
    """The items of a loop, with a bar that is gone afterwards, also where the loop is interrupted.

    Args:
        items: all of them.
        what: to say before the bar.
        console: from `open_console`, where the loop prints, too; default: stderr.
        least: with fewer items there is no bar; nor where the console is no terminal.
    """
    console = console or open_console(stderr=True)
    hidden = len(items) < least or not console.is_terminal
    with open_progress(console, transient=True, disable=hidden) as progress:
        yield progress.track(items, description=what)


@contextmanager
def busy(console: Console, what: str) -> Iterator[Callable[[str], None]]:
    """Says what is being done while it is; the function that is yielded says something else."""
    from rich.text import Text

    with console.status(Text(what)) as status:
        yield lambda text: status.update(Text(text))
