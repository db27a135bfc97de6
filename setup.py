"""The wheel has models that repeat another one as what is different (`edge/model/delta.py`), and an SBOM (PEP 770)."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


def load(path):
    """A module of the kit by its file: the kit is not installed while it is built."""
    spec = spec_from_file_location(path.stem, path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


delta = load(ROOT / "edge" / "model" / "delta.py")
wheel_sbom = load(ROOT / "bench" / "dossier" / "wheel_sbom.py")


class PackModels(build_py):
    """Copies the packages, and puts deltas in place of the models that they stand for."""

    def run(self) -> None:
        """Copy, then pack; an editable installation reads the checkout's own files."""
        super().run()
        if not self.editable_mode:
            delta.pack(Path(self.build_lib) / "fthnet_kit" / "edge" / "demo")


setup(cmdclass={"build_py": PackModels, "bdist_wheel": wheel_sbom.WheelWithSbom})
