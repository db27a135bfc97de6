"""`fthnet`: the one console command, and the only module that may reach every folder.

Subcommands are imported when they are called or listed, and import heavy libraries only when they run,
so that `fthnet --help` answers at once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

import click

from fthnet_kit.edge.cli.lazy_group import LazyGroup
from fthnet_kit.edge.errors import InputError, KitError, MissingExtraError, StoppedError, found_instead
from fthnet_kit.edge.loop import stop_signals

COMMANDS = {
    "run": "fthnet_kit.edge.cli.run:run",
    "eye": "fthnet_kit.edge.cli.eye:eye",
    "score": "fthnet_kit.edge.cli.score:score",
    "archive": "fthnet_kit.edge.cli.archive:archive",
    "bundle": "fthnet_kit.edge.cli.bundle:bundle_group",
    "config": "fthnet_kit.edge.cli.config:config_group",
    "records": "fthnet_kit.edge.cli.records:records",
    "install-service": "fthnet_kit.edge.cli.install_service:install_service",
    "cameras": "fthnet_kit.edge.cli.cameras:cameras",
    "doctor": "fthnet_kit.edge.cli.doctor:doctor",
    "bench": "fthnet_kit.bench.commands.group:bench",
    "dossier": "fthnet_kit.bench.commands.dossier:dossier",
    "session": "fthnet_kit.bench.commands.group:session",
    "severity": "fthnet_kit.bench.commands.group:severity",
    "thresholds": "fthnet_kit.calibration.thresholds_command:thresholds",
    "export": "fthnet_kit.convert.commands.export:export",
    "train": "fthnet_kit.convert.commands.train:train",
    "quantize": "fthnet_kit.convert.commands.quantize:quantize",
    "verify": "fthnet_kit.convert.commands.verify:verify",
    "build": "fthnet_kit.convert.commands.build:build",
}

KEPT = {  # after Ctrl-C, by command
    "archive": "finished shards are kept; the same command goes on from there",
    "train": "its last checkpoint is kept; the same command goes on from there",
    "export": "no bundle was made; run it again",
    "quantize": "the bundle is as it was; run it again",
    "build": "no engine was installed; run it again",
    "bench": "nothing was kept; run it again",
}

MISSING_LIBRARY = re.compile(r"(lib[\w.+-]*\.so[\w.]*): cannot open shared object file")
SYSTEM_PACKAGES = {  # Debian's and Ubuntu's names; OpenCV and ONNX Runtime load them
    "libGL.so.1": "libgl1",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libgomp.so.1": "libgomp1",
}
EXIT_CODES = """\b
Exit codes:
  0  done
  1  interrupted, or an error that is not listed here
  2  wrong options
  3  an image, video, table or output that cannot be used
  4  a bundle or checkpoint that is missing, altered or not ours
  5  a camera or stream that is not there
  6  the inference engine refused or failed
  7  a conversion changed the score by more than its budget
  8  an optional dependency is missing
"""


def _show_version(context: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    """The kit's version on the first line, then what it runs on."""
    if not asked or context.resilient_parsing:
        return
    click.echo(f"fthnet, version {version('fthnet-edge-kit')}")
    click.echo(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    for library in ("numpy", "opencv-python", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "torch"):
        with contextlib.suppress(PackageNotFoundError):
            click.echo(f"{library} {version(library)}")
    context.exit()


class Kit(LazyGroup):
    """All commands; one that is interrupted says what is kept."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command that is named."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort) as error:
            kept = KEPT.get(ctx.invoked_subcommand or "", "nothing was changed")
            raise StoppedError(f"stopped: {kept}") from error


@click.group(
    cls=Kit,
    commands_by_name=COMMANDS,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the versions of the kit, Python and the libraries, and exit.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="warning",
    show_default=True,
    help="Least level of the log lines on stderr; debug also shows what OpenCV and FFmpeg say.",
)
def group(log_level: str) -> None:
    """Fundus image quality, 0 to 100, by FTHNet: score frames live, score stills, convert and train models.

    A score says how well a photograph shows the retina, as people judged it; it is no diagnosis.
    """
    logging.getLogger().setLevel(log_level.upper())
    if log_level != "debug":  # the kit says in its own line what failed; both are read when OpenCV is loaded
        os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


def main(arguments: list[str] | None = None) -> None:
    """Run a command; a user's mistake ends in one line on stderr and a documented exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    options = 2 if words[:1] == ["--log-level"] else sum(word.startswith("--log-level=") for word in words[:1])
    if words[options : options + 1] == ["run"]:
        stop_signals.watch()  # before the imports and the model, which take seconds
    logging.basicConfig(format="%(message)s", stream=sys.stderr)  # its level is an option of the group
    try:
        group.main(arguments, standalone_mode=True)
    except KitError as error:
        _end(str(error), error.exit_code)
    except OSError as error:
        _end(_in_words(error), InputError.exit_code)
    except ImportError as error:
        library = MISSING_LIBRARY.match(str(error))
        if library is None:
            raise
        package = SYSTEM_PACKAGES.get(library[1], f"the package that has {library[1]}")
        _end(
            f"{error.name or 'a module'}: expected the system library {library[1]}, found none; "
            f"sudo apt install {package}",
            MissingExtraError.exit_code,
        )
    except SystemExit:
        _flush_output()
        raise


def _in_words(error: OSError) -> str:
    """A disk that is full, a right that is missing: what no command has put into better words."""
    place = "output" if error.filename is None else error.filename
    return f"{place}: expected to read or write it, found {found_instead(error)}"


def _flush_output() -> None:
    """What is not on its way yet may meet a full disk, too."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough
        _forget_output()
    except OSError as error:
        _forget_output()
        _end(_in_words(error), InputError.exit_code)


def _forget_output() -> None:
    """Nothing more goes to stdout, so that the interpreter does not try again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end(message: str, code: int) -> NoReturn:
    click.echo(f"fthnet: {message}", err=True)
    try:
        sys.stdout.flush()
    except OSError:
        _forget_output()
    sys.exit(code)
