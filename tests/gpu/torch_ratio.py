"""The shipped network in PyTorch on the GPU: eager, one CUDA graph and `torch.compile`, FP32 without TF32 and FP16.

Prints a JSON line each: median and 99th percentile of the time of one image by CUDA events, and the largest difference
in points from eager FP32. Needs a PyTorch with CUDA on the machine, which the pack does not bring.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

SECONDS = 4.0


def timed(torch: Any, run: Callable[[], object]) -> dict[str, float]:
    """Milliseconds by CUDA events."""
    for _ in range(30):
        run()
    torch.cuda.synchronize()
    spent, end = [], time.monotonic() + SECONDS
    while time.monotonic() < end:
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        run()
        last.record()
        last.synchronize()
        spent.append(first.elapsed_time(last))
    return {"p50_ms": float(np.median(spent)), "p99_ms": float(np.percentile(spent, 99)), "runs": len(spent)}


def main() -> int:
    """Measure all of them."""
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed here: nothing to compare with")
        return 0
    if not torch.cuda.is_available():
        print("this PyTorch sees no GPU: nothing to compare with")
        return 0
    from fthnet_kit.convert.engine.agreement import pictures
    from fthnet_kit.convert.network.checkpoint import load_checkpoint
    from fthnet_kit.convert.onnx_graph.export import ScoringGraph
    from fthnet_kit.edge.model.bundle import CHECKPOINT_NAME, Bundle

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    bundle = Bundle.open()
    preprocessing = bundle.card.preprocessing
    images = torch.from_numpy(pictures(preprocessing)).cuda()
    network = load_checkpoint(bundle.folder / CHECKPOINT_NAME).network
    model = ScoringGraph(network, preprocessing).eval().cuda()
    one = images[:1].clone()

    def forward(of: Any = model, on: Any = one, half: bool = False) -> Any:
        with torch.autocast("cuda", torch.float16, enabled=half):
            return of(on)

    def captured(half: bool) -> Callable[[], object]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                forward(half=half)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            forward(half=half)
        return graph.replay  # type: ignore[no-any-return]

    failed = 0
    with torch.inference_mode():
        expected = forward(on=images).float().cpu().numpy()
        for half in (False, True):
            compiled = torch.compile(model)
            ways: dict[str, Callable[[], Callable[[], object]]] = {
                "eager": lambda half=half: partial(forward, half=half),  # type: ignore[misc]
                "CUDA graph": partial(captured, half),
                "compile": lambda half=half, of=compiled: partial(forward, of, half=half),  # type: ignore[misc]
            }
            worst = float(np.abs(forward(on=images, half=half).float().cpu().numpy() - expected).max())
            for name, make in ways.items():
                row: dict[str, object] = {"torch": name, "precision": "fp16" if half else "fp32", "worst": worst}
                try:
                    row |= timed(torch, make())
                except Exception as error:  # whatever the library raises is told, and the next one tried
                    row["error"] = f"{type(error).__name__}: {error}"[:400]
                    failed = 1
                print(json.dumps(row), flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
