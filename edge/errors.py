"""What can go wrong, in the words a user sees, with the exit code of the command that met it.

Every message is one line: what was expected, what was found, what to do next.
"""

from __future__ import annotations

from typing import Literal

PictureFault = Literal["missing", "damaged", "unsupported", "too_large", "unclear"]


def one_line(text: str) -> str:
    """Text of others as it may be shown: line breaks become spaces, and what a terminal would obey is spelled out."""
    return "".join(letter if letter.isprintable() else _spelled_out(letter) for letter in text)


def _spelled_out(letter: str) -> str:
    return " " if letter.isspace() else ascii(letter)[1:-1]


def found_instead(error: OSError) -> str:
    """What was found where a file should be, in the same words everywhere."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return "a folder" if isinstance(error, IsADirectoryError) else error.strerror or str(error)


class KitError(Exception):
    """Base of all errors that are the user's to mend. `exit_code` is the process's exit code.

    Args:
        message: becomes one line, whatever it quotes.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class InputError(KitError):
    """An image, a video, a table or an output that cannot be used."""

    exit_code = 3


class AmbiguousFieldError(InputError):
    """A picture in which the retinal field cannot be found: two eyes, or nothing but pages and bars."""


class PictureError(InputError):
    """A picture that cannot be scored.

    Attributes:
        kind: ``missing`` (no such file), ``damaged`` (it lost a part), ``unsupported`` (a format or variant that the
            kit does not read), ``too_large``, or ``unclear`` (it can be read in more than one way).
    """

    def __init__(self, message: str, kind: PictureFault) -> None:
        super().__init__(message)
        self.kind: PictureFault = kind


class OptionError(InputError):
    """An option that is wrong in itself, or that does not go with the others."""

    exit_code = 2


class StoppedError(KitError):
    """Somebody ended a command before it was done."""


class BundleError(KitError):
    """A bundle or checkpoint that is missing, incomplete, altered or not ours."""

    exit_code = 4


class CameraError(KitError):
    """A camera or stream that cannot be opened or gave no frame."""

    exit_code = 5


class EngineError(KitError):
    """The inference backend refused the model or failed while running it."""

    exit_code = 6


class ParityError(KitError):
    """A conversion changed the score by more than its budget."""

    exit_code = 7


class MissingExtraError(KitError, ImportError):
    """An optional dependency is not installed."""

    exit_code = 8

    def __init__(self, module: str, extra: str, *, purpose: str, install: str | None = None) -> None:
        how = install or f"pip install 'fthnet-edge-kit[{extra}]'"
        super().__init__(f"{purpose} needs {module}, which is not installed: {how}")
        self.name = module
        self.extra = extra
