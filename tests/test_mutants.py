"""Each named break of the product fails a test."""

from __future__ import annotations

import pytest

from tests.mutants import MUTANTS, ROOT, Mutant, failing


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_breaks_still_apply(mutant: Mutant) -> None:
    assert mutant.text() != (ROOT / mutant.file).read_text(encoding="utf-8")


def test_the_breaks_that_no_test_found_once_are_among_them() -> None:
    assert set(MUTANTS) >= {
        "view flips never applied",
        "the gate judges another view than the centre",
        "_await_fresher removed",
        "the catch-up cap removed",
        "the stream's read timeout removed",
        "intervals of 80 % for 95",
        "SmoothQuant the wrong way round",
        "MQTT back-off never doubled",
    }


@pytest.mark.long
@pytest.mark.parametrize("name", MUTANTS)
def test_a_test_fails_for_each_break(name: str) -> None:
    assert failing(MUTANTS[name])
