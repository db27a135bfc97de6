"""The final table of an engine's layers, in either of the two forms in which TensorRT gives it.

The builder prints it into its verbose log (one line a layer), on a machine with no GPU too; the engine inspector
gives it as JSON where the engine can be loaded. Both have the same keys, so everything else reads one form: a mapping
a layer, with `Name`, `LayerType`, `Inputs`, `TacticName` and `Metadata`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from fthnet_kit.edge.errors import EngineError

Layer = Any  # a mapping; an engine without detailed profiling verbosity has bare names instead

ROW = re.compile(
    r"^Name: (?P<Name>.*?), LayerType: (?P<LayerType>[^,]*), Inputs: \[(?P<Inputs>.*?)\], "
    r"(?:Constants: \[.*?\], )?Outputs: \[.*?\], (?:.*?, )?TacticName: (?P<TacticName>.*?), StreamId.*?"
    r"Metadata: (?P<Metadata>.*)$"
)
TENSOR = re.compile(r"\{ Name: (.*?), .*?Datatype: ([^,}]*)")
ONNX_NAME = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


def from_log(table: str) -> list[Layer]:
    """Layers of the table in a build's verbose log; none of a text that is no table."""
    rows = map(ROW.match, table.split("\n"))  # names in Metadata may be parted by what `splitlines` splits at
    return [_layer(row) for row in rows if row]


def _layer(row: re.Match[str]) -> Mapping[str, Any]:
    tensors = [{"Name": name, "Datatype": kind.strip()} for name, kind in TENSOR.findall(row["Inputs"])]
    return {**row.groupdict(), "Inputs": tensors}


def from_inspector(information: str) -> list[Layer]:
    """Layers of `EngineInspector.get_engine_information(LayerInformationFormat.JSON)`.

    Raises:
        EngineError: the text is none of the inspector's.
    """
    try:
        layers = json.loads(information)["Layers"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EngineError(f"engine inspector: expected JSON with Layers, found something else ({error})") from error
    if not isinstance(layers, list):
        raise EngineError(f"engine inspector: expected a list of Layers, found {type(layers).__name__}")
    return layers


def entry(layer: Layer, key: str) -> str:
    """A layer's text under a key; empty where it has none, as a layer that is only a name, or another type."""
    value = layer.get(key) if isinstance(layer, dict) else None
    return value if isinstance(value, str) else ""


def onnx_names(layer: Layer) -> list[str]:
    """ONNX nodes that a layer computes, by its metadata."""
    return ONNX_NAME.findall(entry(layer, "Metadata"))


def input_types(layer: Layer) -> Iterator[str]:
    """Data types of a layer's inputs; TensorRT 11 split `Format/Datatype` in two."""
    tensors = layer.get("Inputs") if isinstance(layer, dict) else None
    for tensor in tensors if isinstance(tensors, list) else ():
        for key in tensor if isinstance(tensor, dict) else ():
            if "datatype" in key.lower().replace(" ", ""):
                yield entry(tensor, key)
