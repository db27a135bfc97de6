"""Names that a user chooses from: precisions and backends."""

from __future__ import annotations

from typing import Literal

Precision = Literal["auto", "fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("auto", "fp32", "fp16", "int8")


BackendName = Literal["auto", "onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "openvino", "tensorrt"]
BACKENDS: tuple[BackendName, ...] = (
    "auto",
    "onnxruntime",
    "onnxruntime-cuda",
    "onnxruntime-tensorrt",
    "openvino",
    "tensorrt",
)
