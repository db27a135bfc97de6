"""Records what TensorRT for RTX makes of the kit's graphs: the builder's own table of layers, without a GPU.

    python -m tests.golden.layer_tables.make [NAME ...]

Each recording holds the table as the build's log prints it, beside what the parsed network asks for. Its weights are
drawn from a seed: which kernels are taken depends on shapes and types alone, so the recordings outlive every training.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fthnet_kit.convert.engine.build import build_plan
from fthnet_kit.convert.engine.layer_table import Layer, from_log
from fthnet_kit.convert.engine.layers import AttentionBlock, Product, Wanted
from fthnet_kit.convert.network.config import FTHNetConfig
from fthnet_kit.convert.network.fthnet import FTHNet
from fthnet_kit.convert.onnx_graph.export import weights_of
from fthnet_kit.convert.onnx_graph.fthnet_graph import GraphPlan, Weights, write_graph
from fthnet_kit.edge import Preprocessing
from fthnet_kit.edge.inference.engine_manifest import Target
from fthnet_kit.edge.inference.tensorrt_library import load_tensorrt
from fthnet_kit.edge.model.model_file import ModelFile
from tests.convert.test_engine_build import int8_layers

HERE = Path(__file__).parent
CONFIGS = {
    "small": FTHNetConfig(embed_dim=32),  # the shipped model's
    "released": FTHNetConfig(embed_dim=64),  # the authors'
}
DEVICE = "sm86"
NAMES = tuple(f"{config}-{precision}-{DEVICE}" for config in CONFIGS for precision in ("fp32", "fp16", "int8"))


@dataclass(frozen=True)
class Recording:
    """A table of layers, and what its network asks for."""

    library: str
    table: str
    wanted: Wanted

    @property
    def layers(self) -> list[Layer]:
        return from_log(self.table)

    def to_json(self) -> dict[str, Any]:
        return {
            "library": self.library,
            "products": [[product.name, product.macs, product.asked] for product in self.wanted.products],
            "attention": [[block.name, sorted(block.nodes), block.asked] for block in self.wanted.attention],
            "table": self.table,
        }


def read(name: str) -> Recording:
    """A recording by its name."""
    content = json.loads(gzip.decompress((HERE / f"{name}.json.gz").read_bytes()))
    attention = tuple(AttentionBlock(block, frozenset(nodes), asked) for block, nodes, asked in content["attention"])
    wanted = Wanted(tuple(Product(*product) for product in content["products"]), attention)
    return Recording(content["library"], content["table"], wanted)


def drawn_weights(config: FTHNetConfig) -> Weights:
    torch.manual_seed(0)
    network = FTHNet(config)
    network.initialise()
    return weights_of(network)


def graph_of(config: FTHNetConfig, precision: str) -> bytes:
    """The ONNX file that a bundle of drawn weights would hold for TensorRT."""
    weights = drawn_weights(config)
    plans: dict[str, Callable[[], GraphPlan]] = {
        "fp32": GraphPlan,
        "fp16": lambda: GraphPlan("fp16"),
        "int8": lambda: GraphPlan("fp16", int8_layers(weights, config)),
    }
    return write_graph(weights, config, Preprocessing(), plan=plans[precision]()).model.SerializeToString()


def record(graph: bytes) -> Recording:
    """Builds a graph and keeps the table."""
    tensorrt = load_tensorrt("tensorrt_rtx")
    target = Target("tensorrt_rtx", str(tensorrt.version), f"{DEVICE[2:-1]}.{DEVICE[-1]}")
    plan = build_plan(tensorrt, ModelFile.of(graph), target, workspace=1024)
    return Recording(f"{tensorrt.name} {tensorrt.version}", plan.table, plan.wanted)


def main() -> None:
    for name in sys.argv[1:] or NAMES:
        config, precision, _ = name.split("-")
        content = json.dumps(record(graph_of(CONFIGS[config], precision)).to_json())
        (HERE / f"{name}.json.gz").write_bytes(gzip.compress(content.encode(), mtime=0))
        print(name)


if __name__ == "__main__":
    main()
