"""Names that a user chooses from, precisions and backends, and the model files that stand for a precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["auto", "fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("auto", "fp32", "fp16", "int8")
NAMED_PRECISIONS = PRECISIONS[1:]  # without the one that stands for another


@dataclass(frozen=True)
class Budget:
    """Most that a conversion may cost against FP32: points, mean, 99th percentile and largest; least SRCC."""

    mean: float
    p99: float = float("inf")
    worst: float = float("inf")
    srcc: float = -1.0

    def tightened(self, share: float) -> Budget:
        """A share of the budget, for choices made on photographs other than those that judge."""
        srcc = 1 - share * (1 - self.srcc) if self.srcc > 0 else self.srcc
        return Budget(self.mean * share, self.p99 * share, self.worst * share, srcc)


FP16_BUDGET = Budget(mean=0.1, worst=0.5)
INT8_BUDGET = Budget(mean=0.5, p99=2.0, srcc=0.998)


@dataclass(frozen=True)
class ModelForm:
    """One ONNX file of a bundle.

    Attributes:
        name: as cards, reports and names of files spell it.
        precision: what a user asks for to get it.
        meaning: what it computes in, and where it runs, for readers of reports.
        site_bytes: of a number: weights and inputs of the layers that INT8 may run.
        other_bytes: of all other numbers.
        budget: most that it may cost against FP32; None for FP32 itself.
        engine_points: most that one score may differ between ONNX Runtime and a TensorRT engine of it; None where
            TensorRT builds none.
    """

    name: str
    precision: Precision
    meaning: str
    site_bytes: int
    other_bytes: int
    budget: Budget | None = None
    engine_points: float | None = None

    @property
    def file(self) -> str:
        """Its file in a bundle."""
        return f"fthnet.{self.name}.onnx"


FORMS = {
    form.name: form
    for form in (
        ModelForm("fp32", "fp32", "single precision", 4, 4, None, 0.05),
        ModelForm("fp16", "fp16", "half precision with FP32 islands, for GPUs", 2, 2, FP16_BUDGET, 0.5),
        ModelForm(
            "int8", "int8", "INT8 layers and FP16 around them, for TensorRT and OpenVINO", 1, 2, INT8_BUDGET, 2.0
        ),
        ModelForm(
            "int8-cpu",
            "int8",
            "the same layers in INT8 and FP32 around them, for ONNX Runtime's CPU kernels",
            1,
            4,
            INT8_BUDGET,
        ),
    )
}
MEANINGS = "; ".join(f"{form.name}: {form.meaning}" for form in FORMS.values())


def form_of(precision: Precision, *, onnxruntime_cpu: bool) -> ModelForm:
    """The file that a precision stands for; ``auto`` is FP32, and ONNX Runtime on a CPU takes an INT8 of its own."""
    if precision == "int8" and onnxruntime_cpu:
        return FORMS["int8-cpu"]
    return FORMS["fp32" if precision == "auto" else precision]


BackendName = Literal["auto", "onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "openvino", "tensorrt"]
BACKENDS: tuple[BackendName, ...] = (
    "auto",
    "onnxruntime",
    "onnxruntime-cuda",
    "onnxruntime-tensorrt",
    "openvino",
    "tensorrt",
)
