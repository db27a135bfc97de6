"""Which rule of a JSON schema a content breaks."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

GRAMMARS = "rfc3987_syntax"  # they check a format that no schema of the kit has


@dataclass(frozen=True)
class SchemaProblem:
    """A rule that is broken: `place` is the dotted path of the value, empty for the content as a whole."""

    place: str
    message: str


def schema_problem(content: object, schema: Mapping[str, Any]) -> SchemaProblem | None:
    """The error that best explains why a content does not fit its schema (draft 2020-12); None where it fits."""
    jsonschema = load_jsonschema()
    found = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(content))
    if found is None:
        return None
    return SchemaProblem(".".join(str(part) for part in found.absolute_path), found.message)


def load_jsonschema() -> ModuleType:
    """The library, without the grammars of IRIs that it builds at import where their package is installed.

    Jupyter, for one, installs it; building them takes 3 s of a desktop's processor. Who loads the library by this
    function first has no check of the formats `iri` and `iri-reference` in this process.
    """
    skipped = GRAMMARS not in sys.modules and "jsonschema" not in sys.modules
    if skipped:
        sys.modules[GRAMMARS] = None  # type: ignore[assignment]  # an import of it fails, which jsonschema allows for
    try:
        import jsonschema
    finally:
        if skipped:
            sys.modules.pop(GRAMMARS, None)
    return jsonschema
