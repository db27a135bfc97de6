"""NVIDIA's parser and strongly typed builder take the files, ahead of time and without a GPU."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from fthnet_kit.calibration.int8_fit import Int8Layer, quantised, weight_scales
from fthnet_kit.convert.network.config import FTHNetConfig
from fthnet_kit.convert.network.fthnet import FTHNet
from fthnet_kit.convert.onnx_graph.export import weights_of
from fthnet_kit.convert.onnx_graph.fthnet_graph import GraphPlan, Weights, layer_parameters, write_graph
from fthnet_kit.edge import Preprocessing

pytestmark = pytest.mark.slow

trt = pytest.importorskip("tensorrt_rtx")

SIZES = {"embed_dim": 8, "depths": (1, 2, 1, 1), "num_heads": (1, 2, 4, 8), "target_in": 192, "hyper_in": 64}
PREPROCESSING = Preprocessing()


@pytest.fixture(scope="module", params=["soft", "avg"])
def config(request: pytest.FixtureRequest) -> FTHNetConfig:
    return FTHNetConfig(request.param, **SIZES)


@pytest.fixture(scope="module")
def weights(config: FTHNetConfig) -> Weights:
    torch.manual_seed(0)
    network = FTHNet(config)
    network.initialise()
    return weights_of(network)


def int8_layers(weights: Weights, config: FTHNetConfig, *, all_but: str = "nothing") -> dict[str, Int8Layer]:
    layers = {}
    for site in write_graph(weights, config, PREPROCESSING).sites:
        weight, bias = layer_parameters(weights, config, site.layer)
        scale = weight_scales(weight)
        bias = np.zeros(len(scale), np.float32) if bias is None else bias
        layers[site.layer] = Int8Layer(quantised(weight, scale), scale, bias, -3.0, 5.0)
    return {name: layer for name, layer in layers.items() if not name.endswith(all_but)}


class Built:
    """A parsed network and its engine."""

    def __init__(self, content: bytes) -> None:
        logger = trt.Logger(trt.Logger.ERROR)
        builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        assert parser.parse(content), [parser.get_error(index).desc() for index in range(parser.num_errors)]
        self.layers = Counter(network.get_layer(index).type for index in range(network.num_layers))
        self.inputs = [self.tensor(network.get_input(index)) for index in range(network.num_inputs)]
        self.outputs = [self.tensor(network.get_output(index)) for index in range(network.num_outputs)]
        configuration = builder.create_builder_config()
        configuration.num_compute_capabilities = 1
        assert configuration.set_compute_capability(trt.ComputeCapability.SM86, 0)
        self.engine = builder.build_serialized_network(network, configuration)

    @staticmethod
    def tensor(value: trt.ITensor) -> tuple[str, object, tuple[int, ...]]:
        return value.name, value.dtype, tuple(value.shape)


def check(built: Built, batch: int) -> None:
    assert built.inputs == [("image", trt.DataType.UINT8, (batch, 384, 384, 3))]
    assert built.outputs == [("score", trt.DataType.FLOAT, (batch,))]
    assert built.engine is not None
    assert built.engine.nbytes > 100_000


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("arithmetic", ["fp32", "fp16"])
def test_floating_point_graphs_build(weights: Weights, config: FTHNetConfig, arithmetic: str, batch: int) -> None:
    plan = GraphPlan(arithmetic)  # type: ignore[arg-type]
    built = Built(write_graph(weights, config, PREPROCESSING, batch, plan).model.SerializeToString())
    check(built, batch)
    assert trt.LayerType.QUANTIZE not in built.layers


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("all_but", ["nothing", ".mlp.fc2"])
def test_int8_graphs_build(weights: Weights, config: FTHNetConfig, all_but: str, batch: int) -> None:
    layers = int8_layers(weights, config, all_but=all_but)
    gemms = sum(3 if name.endswith(".qkv") else 1 for name in layers)
    built = Built(
        write_graph(weights, config, PREPROCESSING, batch, GraphPlan("fp16", layers)).model.SerializeToString()
    )
    check(built, batch)
    assert built.layers[trt.LayerType.QUANTIZE] == gemms
    assert built.layers[trt.LayerType.DEQUANTIZE] == 2 * gemms  # of the input and of the weight
