"""What is printed in a terminal: text as it is, so that ``P001 [os].jpg`` keeps its brackets.

rich takes ``[os]`` for markup and ``:eye:`` for a picture unless it is told otherwise. It is told here, once: every
console and every bar of the kit is made by this module.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

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
def busy(console: Console, what: str) -> Iterator[Callable[[str], None]]:
    """Says what is being done while it is; the function that is yielded says something else."""
    from rich.text import Text

    with console.status(Text(what)) as status:
        yield lambda text: status.update(Text(text))
