"""Which key bundles must be signed with: one setting for a process and all that it starts."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "FTHNET_REQUIRE_SIGNATURE"


def required_key() -> Path | None:
    """File of the public key that every bundle must be signed with; None where none is asked for."""
    found = os.environ.get(VARIABLE, "")
    return Path(found) if found else None


def require_key(path: Path | None) -> None:
    """Ask for a key from now on; None changes nothing."""
    if path is not None:
        os.environ[VARIABLE] = str(path.absolute())
