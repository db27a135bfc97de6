"""Results files: JSON that states its schema and version and is checked when it is written and when it is read.

The schemas lie beside this module and describe every field with its unit: ``latency.schema.json``,
``accuracy.schema.json``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from fthnet_kit.edge.errors import InputError, found_instead
from fthnet_kit.edge.files import write_files
from fthnet_kit.edge.reporting.json_schema import schema_problem

SCHEMAS = {"fthnet-latency": "latency.schema.json", "fthnet-accuracy": "accuracy.schema.json"}
COMMANDS = {"fthnet-latency": "fthnet bench latency --json", "fthnet-accuracy": "fthnet bench accuracy -o FOLDER"}
LONG = 64  # numbers; a longer list is checked by its least and largest
SECRETS = re.compile(r"(?<=://)[^/\s]+(?=@)|(?<=user-pw=)\S+")  # in an address; in a GStreamer pipeline


def write_results(path: Path, content: Mapping[str, Any]) -> None:
    """Write results, whole or not at all; null where a number is not finite, and without passwords in addresses.

    Raises:
        InputError: the file cannot be written.
        ValueError: the content does not fit the schema that it names.
    """
    tidy = plain(content)
    problem = _problem(tidy)
    if problem is not None:
        raise ValueError(f"results do not fit their schema: {problem}")
    write_file(path, f"{_text(tidy)}\n".encode())


def write_file(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    write_files(path.parent, {path.name: content})


def read_results(path: Path, schemas: Sequence[str] = ("fthnet-latency",)) -> dict[str, Any]:
    """Read results and check them.

    Args:
        path: the file.
        schemas: those that will do.

    Raises:
        InputError: unreadable, of another schema or version, or not as the schema says.
    """
    wanted = " or ".join(COMMANDS[schema] for schema in schemas)
    expected = f"{path}: expected results of `{wanted}`, found"
    try:
        content = plain(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"{expected} {found_instead(error)}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{expected} no JSON ({_one_line(error)})") from error
    found = content.get("schema") if isinstance(content, dict) else None
    if not isinstance(found, str) or found not in SCHEMAS:
        raise InputError(f"{expected} another kind of file, which it does not take")
    if found not in schemas:
        raise InputError(f"{expected} those of `{COMMANDS[found]}`")
    _check_version(path, content)
    problem = _problem(content)
    if problem is not None:
        raise InputError(f"{path}: {problem}; measure again with `{COMMANDS[found]}`")
    return content


def plain(value: Any) -> Any:
    """The same content in JSON's types: no infinities, no NumPy scalars, nothing unprintable, no passwords."""
    if isinstance(value, Mapping):
        return {printable(str(key)): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return printable(SECRETS.sub("…", value)) if isinstance(value, str) else value


def printable(text: str) -> str:
    """Without control characters, which could command a terminal or turn the direction of writing."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _check_version(path: Path, content: Mapping[str, Any]) -> None:
    """Refuse what a newer or an older kit wrote."""
    name = content["schema"]
    ours, theirs = _schema(name)["properties"]["version"]["const"], content.get("version")
    if theirs == ours:
        return
    newer = isinstance(theirs, int) and theirs > ours
    remedy = "update this kit" if newer else f"measure again with `{COMMANDS[name]}`"
    raise InputError(f"{path}: expected {name} version {ours}, found {_one_line(repr(theirs))}; {remedy}")


@cache
def _schema(name: str) -> dict[str, Any]:
    return json.loads((files(__package__) / SCHEMAS[name]).read_text(encoding="utf-8"))


def _problem(content: Mapping[str, Any]) -> str | None:
    """What does not fit the schema, in one line; None where everything does."""
    found = schema_problem(_shortened(content), _schema(content["schema"]))
    if found is not None:
        return f"{found.place or 'the file'}: {_one_line(found.message)}"
    return next(_uneven(content), None)


def _shortened(value: Any) -> Any:
    """Long lists of numbers as their least and largest, which break every rule that any of them breaks."""
    if isinstance(value, dict):
        return {key: _shortened(entry) for key, entry in value.items()}
    if not isinstance(value, list):
        return value
    if len(value) > LONG and {type(entry) for entry in value} <= {int, float}:
        return [min(value), max(value)]
    return [_shortened(entry) for entry in value]


def _uneven(content: Mapping[str, Any]) -> Iterator[str]:
    """Lists that belong together and differ in length."""
    if content["schema"] == "fthnet-latency":
        steady, timeline = content["steady"], content["timeline"]
        yield from _lengths("steady.stages_ms", steady["stages_ms"].items(), len(steady["started_s"]))
        yield from _lengths("timeline", timeline.items(), len(timeline["seconds"]))
        if content["capture"] is not None:
            both = {name: content["capture"][name] for name in ("age_ms", "latency_ms")}
            yield from _lengths("capture", both.items(), content["capture"]["scored"])


def _lengths(place: str, lists: Iterable[tuple[str, Any]], length: int) -> Iterator[str]:
    for name, values in lists:
        if isinstance(values, list) and len(values) != length:
            yield f"{place}.{name}: expected {length} entries, found {len(values)}"


def _one_line(problem: object, most: int = 160) -> str:
    line = " ".join(str(problem).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _text(value: Any, indent: int = 0) -> str:
    """JSON with one entry a line and lists in one line, however long."""
    if isinstance(value, dict) and value:
        pad = " " * (indent + 2)
        rows = (
            f"{pad}{json.dumps(key, ensure_ascii=False)}: {_text(entry, indent + 2)}" for key, entry in value.items()
        )
        return "{\n" + ",\n".join(rows) + "\n" + " " * indent + "}"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
