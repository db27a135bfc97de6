"""The wheel carries models that repeat another one as what is different (`edge/model/delta.py`)."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SPEC = spec_from_file_location("delta", Path(__file__).parent / "edge" / "model" / "delta.py")
delta = module_from_spec(SPEC)
SPEC.loader.exec_module(delta)


class PackModels(build_py):
    """Copies the packages, and puts deltas in place of the models that they stand for."""

    def run(self) -> None:
        """Copy, then pack; an editable installation reads the checkout's own files."""
        super().run()
        if not self.editable_mode:
            delta.pack(Path(self.build_lib) / "fthnet_kit" / "edge" / "demo")


setup(cmdclass={"build_py": PackModels})
