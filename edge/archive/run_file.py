"""`run.json`: what the rows of an archive were made from; another bundle, option or list of inputs is refused."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from fthnet_kit.edge.archive.inputs import inputs_hash
from fthnet_kit.edge.errors import InputError, found_instead
from fthnet_kit.edge.files import make_folder
from fthnet_kit.edge.model.bundle import Bundle
from fthnet_kit.edge.model.choices import BackendName, Precision
from fthnet_kit.edge.model.preprocess import Views

RUN_NAME = "run.json"


@dataclass(frozen=True)
class ModelOptions:
    """What scores the pictures.

    Attributes:
        bundle: its folder; None: the demonstration bundle.
        precision, backend, views, cuda_graph: as `QualityScorer.from_bundle` takes them.
        threads: threads of one inference; not pinned: another number moves some scores by a thousandth.
        bits: as `read_image` takes them.
    """

    bundle: Path | None = None
    precision: Precision = "auto"
    backend: BackendName = "auto"
    views: Views | None = None
    cuda_graph: bool = False
    threads: int = 1
    bits: int | None = None


@dataclass(frozen=True)
class ArchiveRun:
    """What is pinned: a row of this run can have come from nothing else.

    Attributes:
        kit: version of the kit.
        bundle: name and version from the model card.
        bundle_sha256: SHA-256 of the card, which holds the hashes of all other files.
        precision, backend, views, cuda_graph, bits: as asked for.
        shard_size: pictures a shard.
        inputs: number of pictures.
        inputs_sha256: over their names, in their order.
    """

    kit: str
    bundle: str
    bundle_sha256: str
    precision: str
    backend: str
    views: int
    cuda_graph: bool
    shard_size: int
    inputs: int
    inputs_sha256: str
    bits: int | None = None

    @classmethod
    def of(cls, options: ModelOptions, names: Sequence[str], shard_size: int) -> ArchiveRun:
        """The run that these options and inputs make.

        Raises:
            BundleError: the bundle is missing, incomplete or altered.
        """
        bundle = Bundle.open(options.bundle)
        return cls(
            kit=version("fthnet-edge-kit"),
            bundle=f"{bundle.card.name} {bundle.card.version}",
            bundle_sha256=bundle.card_sha256,
            precision=options.precision,
            backend=options.backend,
            views=options.views or bundle.card.preprocessing.views,
            cuda_graph=options.cuda_graph,
            shard_size=shard_size,
            inputs=len(names),
            inputs_sha256=inputs_hash(names),
            bits=options.bits,
        )

    @classmethod
    def read(cls, folder: Path) -> ArchiveRun:
        """The run of a folder.

        Raises:
            InputError: none that this version of the kit can read.
        """
        path = folder / RUN_NAME
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise InputError(
                f"{path}: expected the run file of an archive, found {found_instead(error)}; "
                "`fthnet archive score` makes one"
            ) from error
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{path}: expected the run file of an archive, found none that can be read; "
                "`fthnet archive score` makes one"
            ) from error

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.inputs // self.shard_size)

    def ids(self, shard: int) -> range:
        """Places of a shard's pictures in the list of all."""
        return range(shard * self.shard_size, min(self.inputs, (shard + 1) * self.shard_size))

    def claim(self, folder: Path) -> None:
        """Make the folder this run's, or check that it is; of several processes that start at once, one writes.

        Raises:
            InputError: the folder holds another run, or cannot be written.
        """
        make_folder(folder / "shards")
        content = json.dumps(asdict(self), indent=2) + "\n"
        try:
            handle, temporary = tempfile.mkstemp(prefix=f".{RUN_NAME}.", dir=folder)
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                with contextlib.suppress(FileExistsError):
                    os.link(temporary, folder / RUN_NAME)
            finally:
                Path(temporary).unlink()
        except OSError as error:
            raise InputError(f"{folder}: expected a folder that can be written, found {error.strerror}") from error
        self._compare(ArchiveRun.read(folder), folder)

    def _compare(self, there: ArchiveRun, folder: Path) -> None:
        ours, theirs = asdict(self), asdict(there)
        other = [f"{name} {theirs[name]}, now {ours[name]}" for name in ours if ours[name] != theirs[name]]
        if other:
            raise InputError(f"{folder}: expected the run that was begun there, found another ({'; '.join(other)})")
