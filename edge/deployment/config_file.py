"""The TOML configuration of `fthnet run`. Options on the command line override it."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fthnet_kit.edge.deployment.config_sections import Config, Key, known_keys
from fthnet_kit.edge.errors import InputError, found_instead
from fthnet_kit.edge.files import warn_if_others_read
from fthnet_kit.edge.outputs.mqtt.broker import Broker
from fthnet_kit.edge.outputs.records.writer import FILES_WITHIN_BUDGET

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CLOSE_ENOUGH = 0.6
PASSWORD_IN_URL = re.compile(r"(://[^/@\s:]*):[^@/\s]*@")


def load_config(path: Path) -> Config:
    """Read and check a file; relative paths in it start at its folder.

    Raises:
        InputError: no such file, no TOML, an unknown key, or a value that cannot be used; the message names file,
            line and key, and for an unknown key the nearest known one.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except OSError as error:
        raise InputError(
            f"{path}: expected a configuration, found {found_instead(error)}; `fthnet config init` writes one"
        ) from error
    except (ValueError, RecursionError) as error:  # no TOML or no UTF-8; arrays in arrays
        raise InputError(f"{path}: expected TOML, found something else: {error}") from error
    values: dict[str, dict[str, Any]] = {section: {} for section in Config().sections()}
    lines = _lines_of_keys(text)
    for name, value in _flat(content, path, lines):
        known = known_keys().get(name)
        if known is None:
            raise InputError(f"{_place(path, lines, name)}: unknown key {name}{_suggestion(name)}")
        try:
            values[known.section][known.name] = _value(known, value, path)
        except (InputError, ValueError) as error:
            raise InputError(f"{_place(path, lines, name)}: {name}: {error}") from error
    sections = {name: dataclasses.replace(section, **values[name]) for name, section in Config().sections().items()}
    config = Config(
        **sections,  # type: ignore[arg-type]
        path=path,
        keys_set=frozenset(f"{section}.{name}" for section, keys in values.items() for name in keys),
    )
    for name, problem in _contradictions(config):
        raise InputError(f"{_place(path, lines, name)}: {name}: {problem}")
    if config.camera.source and PASSWORD_IN_URL.search(config.camera.source):
        warn_if_others_read(path, "the camera's password")
    return config


def default_map(config: Config) -> dict[str, Any]:
    """Defaults of `fthnet run`'s parameters, for click; keys without an option stay in the configuration."""
    found: dict[str, Any] = {}
    for known in known_keys().values():
        value = getattr(getattr(config, known.section), known.name)
        if known.metadata["option"] is not None and value is not None:
            found[known.metadata["option"]] = str(value) if known.choices else value
    return found


def missing_files(config: Config) -> list[str]:
    """Files and folders that the configuration names and that are not there, in a reader's words."""
    missing = []
    for known in known_keys().values():
        value = getattr(getattr(config, known.section), known.name)
        if known.metadata["must_exist"] and value is not None and not value.exists():
            missing.append(f"{known.full_name}: {value}")
    return missing


def render(config: Config, *, explained: bool = True) -> str:
    """The configuration as a file; `load_config` reads the same from it.

    Args:
        explained: with the explanation of every key, otherwise saying which values come from a file.
    """
    lines = []
    if explained:
        lines += [
            "# Configuration of `fthnet run`; options on the command line override it.",
            "# Each key stands with its default; `#key = value` is an example of one that is not set.",
            "# Relative paths start at the folder of this file.",
        ]
    for section, content in config.sections().items():
        lines += ["", f"[{section}]"] if lines else [f"[{section}]"]
        for known in known_keys().values():
            if known.section == section:
                lines += _rendered(known, getattr(content, known.name), config, explained=explained)
    return "\n".join(lines) + "\n"


def _rendered(known: Key, value: Any, config: Config, *, explained: bool) -> list[str]:
    if not explained:
        origin = "file" if known.full_name in config.keys_set else "default"
        if value is None:
            return [f"# {known.name} is not set"]
        return [f"{known.name} = {_toml(_without_password(value))}  # {origin}"]
    choices = ", ".join(_toml(choice) for choice in known.choices)
    lines = [f"# {known.explained('If it is not set')}"]
    if choices:
        lines.append(f"# One of {choices}.")
    if value is None:
        return [*lines, f"#{known.name} = {_toml(known.metadata['example'])}"]
    return [*lines, f"{known.name} = {_toml(value)}"]


def _toml(value: Any) -> str:
    """A value in TOML."""
    if isinstance(value, (str, Path)):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value).lower() if isinstance(value, bool) else repr(value)


def _without_password(value: Any) -> Any:
    return PASSWORD_IN_URL.sub(r"\1:***@", value) if isinstance(value, str) else value


def _flat(content: Mapping[str, Any], path: Path, lines: Mapping[str, int]) -> Iterator[tuple[str, Any]]:
    """Keys as `section.key`, in the order of the file; an unknown section is refused."""
    sections = Config().sections()
    for section, keys in content.items():
        if section not in sections:
            what = "section" if isinstance(keys, dict) else "key"
            shown = f"[{section}]" if isinstance(keys, dict) else section
            raise InputError(f"{_place(path, lines, section)}: unknown {what} {shown}{_suggestion(section)}")
        if not isinstance(keys, dict):
            raise InputError(
                f"{_place(path, lines, section)}: {section}: expected a section [{section}], found {_shown(keys)}"
            )
        for name, value in keys.items():
            yield f"{section}.{name}", value


def _suggestion(name: str) -> str:
    """The nearest known key or section, if one is near."""
    section, _, last = name.rpartition(".")
    if not section:
        near = difflib.get_close_matches(last, list(Config().sections()), 1, CLOSE_ENOUGH)
        if near:
            return f"; did you mean [{near[0]}]?"
    siblings = [known.name for known in known_keys().values() if known.section == section]
    near = difflib.get_close_matches(last, siblings, 1, CLOSE_ENOUGH)
    if near:
        return f"; did you mean {section}.{near[0]}?"
    others: dict[str, list[str]] = {}
    for known in known_keys().values():
        others.setdefault(known.name, []).append(known.full_name)
    near = difflib.get_close_matches(last, list(others), 1, CLOSE_ENOUGH)
    if near:
        return f"; did you mean {' or '.join(others[near[0]])}?"
    known_here = siblings or [f"[{each}]" for each in Config().sections()]
    return f"; known are {', '.join(known_here)}"


def _value(known: Key, value: Any, path: Path) -> Any:
    """A value of the file as the configuration holds it.

    Raises:
        ValueError: it cannot be used, and why.
    """
    if choices := known.choices:
        matching = [choice for choice in choices if choice == value and type(choice) is type(value)]
        if not matching:
            near = difflib.get_close_matches(str(value), [str(choice) for choice in choices], 1, CLOSE_ENOUGH)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"expected one of {', '.join(map(str, choices))}, found {_shown(value)}{hint}")
        return matching[0]
    if known.kind is bool:
        if not isinstance(value, bool):
            raise ValueError(f"expected true or false, found {_shown(value)}")
        return value
    if known.kind in (int, float):
        return _number(known, value)
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"expected {'a path' if known.kind is Path else 'text'}, found {_shown(value)}")
    if known.kind is Path:
        try:
            return path.absolute().parent / Path(value).expanduser()
        except RuntimeError as error:
            raise ValueError(f"expected a path, found one of an unknown user, {_shown(value)}") from error
    if known.metadata["check"] is not None:
        known.metadata["check"](value)
    return value


def _number(known: Key, value: Any) -> float:
    whole = known.kind is int
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not _is_finite(value):
        raise ValueError(f"expected a {'whole ' if whole else ''}number, found {_shown(value)}")
    least, most, above = (known.metadata[name] for name in ("least", "most", "above"))
    if least is not None and value < least:
        raise ValueError(f"expected {least} or more, found {value}")
    if above is not None and value <= above:
        raise ValueError(f"expected more than {above}, found {value}")
    if most is not None and value > most:
        raise ValueError(f"expected {most} or less, found {value}")
    return value if whole else float(value)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # TOML's whole numbers have no bound here
        return False


def _contradictions(config: Config) -> Iterator[tuple[str, str]]:
    """Values that are right one by one and wrong together: the key, and what is wrong."""
    for name, section in (("mqtt", config.mqtt), ("live", config.live)):
        if section.longest_backoff_s < section.first_backoff_s:
            found = f"found {section.longest_backoff_s}"
            yield f"{name}.longest_backoff_s", f"expected first_backoff_s ({section.first_backoff_s}) or more, {found}"
    if config.live.abandon_s <= config.live.stall_s:
        found = f"found {config.live.abandon_s}"
        yield "live.abandon_s", f"expected more than live.stall_s ({config.live.stall_s}), {found}"
    if config.records.budget_mb < FILES_WITHIN_BUDGET * config.records.rotate_mb:
        found = f"found {config.records.budget_mb}"
        yield "records.budget_mb", f"expected at least twice records.rotate_mb ({config.records.rotate_mb}), {found}"
    if config.mqtt.key_file is not None and config.mqtt.cert_file is None:
        yield "mqtt.key_file", "expected mqtt.cert_file beside it, found none"
    if config.mqtt.url is not None and Broker.parse(config.mqtt.url).scheme == "mqtt":
        for name in ("ca_file", "cert_file", "insecure_tls"):
            if getattr(config.mqtt, name):
                yield f"mqtt.{name}", "expected an mqtts:// URL beside it, found an unencrypted mqtt:// one"


def _shown(value: Any) -> str:
    """A value of the file in a message, short."""
    if isinstance(value, dict):
        return "a section"
    text = _toml(value) if isinstance(value, (str, bool)) else str(value)
    text = _without_password(text)
    return text if len(text) <= 60 else f"{text[:57]}…"


HEADER = re.compile(r"\s*\[\s*([\w-]+)\s*\]\s*(?:#.*)?$")
ASSIGNMENT = re.compile(r"""\s*["']?([\w-]+)["']?(?:\s*\.\s*["']?([\w-]+)["']?)?\s*=""")


def _lines_of_keys(text: str) -> dict[str, int]:
    """Line of each key and section as far as can be found without a parser that counts lines."""
    lines: dict[str, int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := HEADER.match(line):
            section = header[1]
            lines.setdefault(section, number)
        elif assignment := ASSIGNMENT.match(line):
            names = [part for part in (section, assignment[1], assignment[2]) if part]
            lines.setdefault(".".join(names), number)
            lines.setdefault(names[0], number)
    return lines


def _place(path: Path, lines: Mapping[str, int], name: str) -> str:
    line = lines.get(name, lines.get(name.partition(".")[0]))
    return str(path) if line is None else f"{path}:{line}"
