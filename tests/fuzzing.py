"""Tries a parser with many cases: each is answered, or refused in one line."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from fthnet_kit.edge.errors import KitError


def explore(
    strategy: st.SearchStrategy[Any],
    parse: Callable[[Any, Path], object],
    cases: int,
    number: int,
    until: float = math.inf,
) -> int:
    """Try a parser; the number of cases. Anything but an answer or an error of one line is raised.

    Args:
        strategy: of the cases.
        parse: takes a case and an empty folder.
        cases: how many, at most.
        number: seed.
        until: monotonic seconds; cases after that are not tried.
    """
    tried = 0

    @seed(number)
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(case=strategy)
    def answered(case: Any) -> None:
        nonlocal tried
        if time.monotonic() > until:
            return
        tried += 1
        with tempfile.TemporaryDirectory() as folder:
            try:
                parse(case, Path(folder))
            except KitError as error:
                assert "\n" not in str(error), repr(str(error))

    answered()
    return tried


def explore_long(strategy: st.SearchStrategy[Any], parse: Callable[[Any, Path], object], at_once: int) -> int:
    """`explore` with new seeds for FTHNET_FUZZ_SECONDS (ten minutes), from FTHNET_FUZZ_SEED on; the number of cases."""
    until = time.monotonic() + float(os.environ.get("FTHNET_FUZZ_SECONDS", "600"))
    tried, number = 0, int(os.environ.get("FTHNET_FUZZ_SEED", time.time_ns() % 2**32))
    while time.monotonic() < until:
        number += 1
        tried += explore(strategy, parse, at_once, number, until)
    return tried
