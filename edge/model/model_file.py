"""The bytes of a graph, read once: what was checked is what a runtime gets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fthnet_kit.edge.errors import EngineError
from fthnet_kit.edge.files import read_regular

MOST_BYTES = 1 << 29  # 512 MiB of one file of a bundle; the released configuration's FP32 graph has 90 MB
IR_VERSION = b"\x08"  # the first field of a serialised ONNX model; other formats that runtimes take begin otherwise
OUTSIDE = {  # names that stand in every graph that makes a runtime open another file, and in none of the kit's
    b"location": "external data",  # key of `TensorProto.external_data`
    b"EPContext": "a compiled graph in a file of its own",
}


@dataclass(frozen=True)
class ModelFile:
    """A graph and the name that messages give it."""

    name: str
    content: bytes

    @classmethod
    def of(cls, model: ModelFile | Path | bytes) -> ModelFile:
        """A graph from its file, or its content.

        Raises:
            EngineError: no file that can be read, no ONNX graph, or one that refers to other files.
        """
        if isinstance(model, Path):
            try:
                model = cls(str(model), read_regular(model.resolve(), MOST_BYTES))
            except OSError as error:
                raise EngineError(f"{model}: expected an ONNX file, found {error.strerror}") from error
        elif isinstance(model, bytes):
            model = cls("model", model)
        return model.checked()

    def checked(self) -> ModelFile:
        """Itself; raises EngineError for anything but an ONNX graph that is whole in itself."""
        if not self.content.startswith(IR_VERSION):
            raise EngineError(f"{self.name}: expected an ONNX graph, found something else; copy the bundle again")
        for mark, what in OUTSIDE.items():
            if mark in self.content:
                raise EngineError(
                    f"{self.name}: expected a graph that is whole in itself, found that it refers to {what}, which no "
                    "hash covers; make the file with `fthnet export`"
                )
        return self
