"""What changed between two dossiers: the list that change control asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fthnet_kit.bench.dossier.write import DOSSIER_NAME, SCHEMA, VERSION
from fthnet_kit.edge.errors import InputError, found_instead
from fthnet_kit.edge.files import parse_json, read_regular

MOST_BYTES = 64 << 20
PARTS = (
    "maker",
    "kit",
    "model",
    "platform",
    "components",
    "vulnerabilities",
    "hazards",
    "anomalies",
    "figures",
    "evidence",
)


@dataclass(frozen=True)
class Change:
    """A fact that differs.

    Attributes:
        part: of the dossier, such as ``components``.
        what: names it, such as ``numpy version``.
        old, new: its values; None where it is not there.
    """

    part: str
    what: str
    old: str | None
    new: str | None

    def to_dict(self) -> dict[str, str | None]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        if self.old is None:
            return f"+ {self.part}: {self.what}: {self.new}"
        if self.new is None:
            return f"- {self.part}: {self.what}: {self.old}"
        return f"~ {self.part}: {self.what}: {self.old} -> {self.new}"


def read_dossier(folder: Path) -> Mapping[str, Any]:
    """What `write_dossier` gathered in a folder.

    Raises:
        InputError: it is none.
    """
    path = folder / DOSSIER_NAME
    try:
        found = parse_json(read_regular(path, MOST_BYTES))
    except OSError as error:
        raise InputError(
            f"{path}: expected a dossier, found {found_instead(error)}; `fthnet dossier` writes one"
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: expected a dossier, found no JSON ({error})") from error
    if not isinstance(found, dict) or (found.get("schema"), found.get("version")) != (SCHEMA, VERSION):
        raise InputError(f"{path}: expected a dossier of version {VERSION}, found something else")
    return found


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Everything that differs, but for the time; a part that is there or not is one change.

    Raises:
        InputError: both are nested too deeply.
    """
    try:
        return [change for part in PARTS for change in _compare(part, (), old.get(part), new.get(part))]
    except RecursionError as error:
        raise InputError("dossier: expected what `fthnet dossier` writes, found it nested too deeply") from error


def _compare(part: str, path: tuple[str, ...], old: Any, new: Any) -> Iterator[Change]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in dict.fromkeys([*old, *new]):
            yield from _compare(part, (*path, str(name)), old.get(name), new.get(name))
    elif old != new and repr(old) != repr(new):  # NaN is not equal to itself
        yield Change(part, " ".join(path) or part, _text(old), _text(new))


def _text(value: Any) -> str | None:
    if isinstance(value, Mapping):
        return str(value.get("version") or value.get("hazard") or value.get("what") or f"{len(value)} entries")
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return None if value is None else str(value)
