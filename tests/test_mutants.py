"""Each named break of the product fails a test."""

from __future__ import annotations

import pytest

from tests.mutants import MUTANTS, ROOT, Mutant, failing


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_breaks_still_apply(mutant: Mutant) -> None:
    assert mutant.text() != (ROOT / mutant.file).read_text(encoding="utf-8")


@pytest.mark.long
@pytest.mark.parametrize("name", MUTANTS)
def test_a_test_fails_for_each_break(name: str) -> None:
    assert failing(MUTANTS[name])
