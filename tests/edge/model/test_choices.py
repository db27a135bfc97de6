"""One table of the model files, and what is made of it."""

from __future__ import annotations

import pytest

from fthnet_kit.bench.speed.work import WIDTHS
from fthnet_kit.calibration.precision_gate import BUDGETS
from fthnet_kit.convert.engine.agreement import BUDGETS as ENGINE_BUDGETS
from fthnet_kit.convert.precision.gate_table import GATE_MEANING
from fthnet_kit.edge import Bundle
from fthnet_kit.edge.model.choices import FORMS, NAMED_PRECISIONS, Precision, form_of


def test_the_shipped_bundle_has_every_form() -> None:
    assert {form.file for form in FORMS.values()} == {name for name in Bundle.open().card.files if ".onnx" in name}


@pytest.mark.parametrize(
    ("precision", "on_cpu", "elsewhere"),
    [("auto", "fp32", "fp32"), ("fp32", "fp32", "fp32"), ("fp16", "fp16", "fp16"), ("int8", "int8-cpu", "int8")],
)
def test_a_precision_stands_for_a_file(precision: Precision, on_cpu: str, elsewhere: str) -> None:
    assert form_of(precision, onnxruntime_cpu=True).name == on_cpu
    assert form_of(precision, onnxruntime_cpu=False).name == elsewhere


def test_every_form_has_its_place_in_what_is_made_of_the_table() -> None:
    assert {form.precision for form in FORMS.values()} == set(NAMED_PRECISIONS) == set(ENGINE_BUDGETS)
    assert set(WIDTHS) == set(FORMS)
    assert set(FORMS) - set(BUDGETS) == {"fp32"}
    assert all(form.meaning in GATE_MEANING["precision"] for form in FORMS.values())
