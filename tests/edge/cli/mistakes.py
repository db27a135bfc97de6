"""Likely mistakes over all commands, as a table: what is typed, the exit code, and what the line says.

``python -m tests.edge.cli.mistakes`` prints what the commands answer, as a Markdown table.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import cv2

from fthnet_kit.edge.cli.main import group, main

ROOT = Path(__file__).parents[3]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Exit code | typed after `fthnet` | part of the line.
TABLE = """
3 | run --source nothere.mp4 | found no such f
3 | run --source empty | found none
3 | run --source sim:?seconds=abc | found 'abc'
3 | run --source sim:?colour=1 | found colour
3 | run --source rtsp:// | found no host
5 | run --source http://127.0.0.1:9/x | 127.0.0.1:9 refuses the connection
5 | run --source rtsp://127.0.0.1:9/x | 127.0.0.1:9 refuses the connection
5 | run --source /dev/video77 | found none
5 | run --source 77 | found none
4 | run --source r.jpg --bundle nothere | found no such f
4 | run --source r.jpg --bundle empty | found none
2 | run --source r.jpg --views 3 | Invalid value for '--views': '3' is not
3 | run --source r.jpg --config nothere.toml | found no such f
3 | run --config bad.toml | found something else: Expected ']' at the end of a
3 | run --config typo.toml | typo.toml:2: unknown key camera.sorce
2 | run --source r.jpg --serve 99999 | found '99999'
2 | run --source r.jpg --serve nothere:80 | found 'nothere:80'
2 | run --source r.jpg --mqtt http://x | found 'http://x'
2 | run --source r.jpg --dicom x.json | found none
3 | run --source r.jpg --dicom x.json --best-shot b | found None
3 | run --source r.jpg --records empty | found a folder, device or pipe
3 | run --source r.jpg --save-best text.txt | found a file
3 | run --source r.jpg --require-signature nothere.pub | found no such f
2 | run --sorce r.jpg | Did you mean
2 | eye | found none
2 | eye --laterality R | found none
2 | eye --eye-file e.json | found none or several of them
3 | eye --eye-file e.json --birth-date 1.2.1970 | found a key or value that it does not
3 | eye --config nothere.toml --laterality R | found no such f
2 | eye --eye-file e.json --end --laterality R | found none or several of them
3 | eye --eye-file empty --laterality R | found a folder, device or pipe
3 | score nothere.jpg | found no such f
3 | score empty | found none
3 | score text.txt | 1 of 1 images could not be read
3 | score zero.jpg | 1 of 1 images
3 | score 'no*.jpg' | found none
4 | score r.jpg --bundle nothere | found no such f
4 | score r.jpg --bundle r.jpg | found no such folder
2 | score r.jpg --jsn | Did you mean
3 | score http://x/y.jpg | found no such file
3 | archive score nothere -o o | found no such f
3 | archive score empty -o o | found none
3 | archive score bad.csv -o o | found a, b
3 | archive score photos -o text.txt | text.txt
2 | archive score photos -o o --shard-index 3 | --shard-index: expected a number from 0 to below -
2 | archive score photos -o o --shard-index 3 --shard-count 2 | --shard-index: expected a number from 0 to below -
4 | archive score photos -o o --bundle nothere | found no such f
3 | archive verify nothere | found no such f
3 | archive verify empty | found no such file
3 | archive verify r.jpg | run.json
3 | archive summary nothere | found no such f
3 | archive summary empty | found no such file
2 | archive sumary empty | Did you mean
2 | bundle sgn | Did you mean
3 | bundle keygen text.txt | found File exists
3 | bundle sign nothere --key k --release 1 | found no such f
3 | bundle sign empty --key k --release 1 | found no such f
4 | bundle verify nothere --key k.pub | found no such f
4 | bundle show nothere | found no such f
4 | bundle show empty | found none
4 | bundle install nothere --slots s | found no such f
4 | bundle install empty --slots s | found none
4 | bundle activate --slots s | found none
4 | bundle rollback --slots s | found none
4 | bundle reference empty photos | found none
4 | bundle reference nothere r.jpg | found no such f
3 | config init full/a.txt | found one, which stays as it is
3 | config init /proc/x/y.toml | found No such file or directory
3 | config check nothere.toml | found no such f
3 | config check bad.toml | found something else: Expected ']' at the end of a
3 | config check typo.toml | typo.toml:2: unknown key camera.sorce
3 | config check empty | found a folder
3 | config check r.jpg | found something else: 'utf-8' codec can't decode b
3 | config show nothere.toml | found no such f
3 | config show bad.toml | found something else: Expected ']' at the end of a
2 | config chek bad.toml | Did you mean
3 | records verify nothere | found no such file
3 | records verify empty | found none
3 | records verify text.txt | found 1 problem
3 | records verify r.jpg | found 1186 problems
3 | records verify text.txt --key nothere.pub | found no such f
3 | records export nothere -o o.csv | found no such file
3 | records export text.txt -o o.csv | found none
3 | records export text.txt -o o.xyz | found .xyz
3 | records plot text.txt -o o.png | found none
3 | records plot nothere -o o.png | found no such file
3 | install-service --config nothere.toml | found no such f
3 | install-service --config bad.toml --print | found something else: Expected ']' at the end of a
3 | install-service --config typo.toml --print | typo.toml:2: unknown key camera.sorce
3 | install-service --config empty --print | found a folder
2 | install-service --confg x | Did you mean
2 | doctor --jsn | Did you mean
3 | session nothere.jsonl | found no such file
3 | session empty | found none
3 | session text.txt | found none
3 | session r.jpg | found none
3 | session x.json -o o.png | found none
3 | severity --data nothere | found no such f
3 | severity --data empty | found none
3 | severity --data photos | found none
4 | severity nothere --data photos | found no such folder
3 | thresholds --data nothere --sensitivity 0.9 | found no such f
3 | thresholds --data empty --sensitivity 0.9 | found none
3 | thresholds --data photos --sensitivity 0.9 | found none
2 | thresholds --data photos --sensitivity 90 | Invalid value for '--sensitivity': 90.0
4 | thresholds nothere --data photos --sensitivity 0.9 | found no such f
2 | bench latncy | Did you mean
4 | bench latency nothere | found no such f
2 | bench latency --frames x | Did you mean
3 | bench latency --compare nothere.json | found none of these
3 | bench latency --compare x.json | found another kind of file
4 | bench pick nothere | found no such f
3 | bench accuracy --data nothere | found no such f
3 | bench accuracy --data empty | found none
3 | bench accuracy --data photos | found none
2 | bench accuracy --data photos --views 3 | Invalid value for '--views': expected so
4 | bench accuracy nothere --data photos | found no such f
3 | bench report nothere | found no such f
3 | bench report empty | found no JSON file
3 | bench report r.jpg | found no such folder
3 | bench report full | found no JSON file
3 | bench report . -o empty | x.json
4 | bench best-shot --bundle nothere | found no such f
4 | export nothere.pth -o b | found no such f
4 | export empty -o b | found no such file
4 | export r.jpg -o b | found a picture
4 | export text.txt -o b | found something else
3 | export nothere.pth -o full | found one
3 | export nothere.pth -o text.txt | found one
2 | export nothere.pth -o b --usable 80 --good 60 | found 80.0 and 60.0
4 | export nothere.pth -o b --images nothere | found no such f
3 | train --data nothere -o b --minutes 1 | found no such f
3 | train --data empty -o b --minutes 1 | found none
3 | train --data photos -o b --minutes 1 | found none
3 | train --data photos -o full --minutes 1 | found one
3 | train --data photos -o b --minutes 1 --batch 3 | found none
3 | train --data photos -o b --minutes 1 --from nothere.pth | found none
3 | train --data photos -o b --minutes 1 --new-head | found none
4 | quantize nothere --data photos | found no such f
4 | quantize empty --data photos | found none
4 | quantize r.jpg --data photos | found no such folder
4 | verify nothere --data photos | found no such f
3 | verify --data nothere | found no such f
3 | verify --data empty | found none
3 | verify --data photos | found 1
4 | build nothere | found no such f
4 | build empty | found none
"""


@dataclass(frozen=True)
class Mistake:
    """What is typed after `fthnet`, and what must come of it."""

    words: tuple[str, ...]
    code: int
    says: str

    @property
    def typed(self) -> str:
        return " ".join(("fthnet", *map(shlex.quote, self.words)))


def commands(
    command: click.Command = group, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that is no group, with its words."""
    if not isinstance(command, click.Group):
        yield words, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        assert below is not None
        yield from commands(below, (*words, name))


def mistakes() -> Iterator[Mistake]:
    """The table, then what can be mistyped in every command: its name, its options and their values."""
    for line in TABLE.strip().splitlines():
        code, typed, says = (part.strip() for part in line.split(" | "))
        yield Mistake(tuple(shlex.split(typed)), int(code), says)
    for words, command in commands():
        if words[0] != "dossier":  # whose first word may be a folder
            yield Mistake((*words[:-1], f"{words[-1]}x"), 2, "")
        yield Mistake((*words, "--nosuch"), 2, "")
        yield from mistyped_options(words, command)


def mistyped_options(words: tuple[str, ...], command: click.Command) -> Iterator[Mistake]:
    """Every option without its value, and with one that is none of its kind."""
    for option in command.params:
        if not isinstance(option, click.Option) or option.is_flag or option.is_eager:
            continue
        flag = option.opts[-1]
        if flag != "--ray":  # whose value may be left out
            yield Mistake((*words, flag), 2, "requires an argument")
        if isinstance(option.type, click.Choice | click.types.IntParamType | click.types.FloatParamType):
            yield Mistake((*words, flag, "nonsense"), 2, "nonsense")


def lay_out(folder: Path) -> None:
    """What the table names."""
    for name in ("empty", "full", "photos"):
        (folder / name).mkdir()
    (folder / "full" / "a.txt").write_text("x")
    (folder / "text.txt").write_text("hello\n")
    (folder / "x.json").write_text("{}")
    (folder / "zero.jpg").touch()
    (folder / "bad.toml").write_text("[camera\n")
    (folder / "typo.toml").write_text("[camera]\nsorce = 0\n")
    (folder / "bad.csv").write_text("a,b\n1,2\n")
    for name in ("r.jpg", "photos/r.jpg"):
        shutil.copy(ROOT / "edge/assets/retina.jpg", folder / name)


@contextlib.contextmanager
def as_typed(folder: Path) -> Iterator[None]:
    """In a folder, with an environment and signals of its own."""
    place, environment = Path.cwd(), dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    level = cv2.utils.logging.getLogLevel()
    os.chdir(folder)
    cv2.utils.logging.setLogLevel(0)  # as the command asks for where it loads OpenCV
    try:
        yield
    finally:
        os.chdir(place)
        cv2.utils.logging.setLogLevel(level)
        os.environ.clear()
        os.environ.update(environment)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def exit_code_of(mistake: Mistake, folder: Path) -> int:
    """Types it, here in this process."""
    with as_typed(folder):
        try:
            main(list(mistake.words))
        except SystemExit as ended:
            return int(ended.code or 0)
    return 0


def answer(output: str) -> str:
    """The line that says what is wrong."""
    return re.sub(r"^(fthnet|Error): ", "", output.strip().splitlines()[-1]) if output.strip() else ""


if __name__ == "__main__":
    print("| typed | exit code | line |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        lay_out(Path(name))
        for each in mistakes():
            said = io.StringIO()
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                code = exit_code_of(each, Path(name))
            line = answer(said.getvalue()).replace("|", "\\|")
            print(f"| `{each.typed}` | {code} | {line} |")
    sys.stdout.flush()
