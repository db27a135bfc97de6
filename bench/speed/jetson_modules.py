"""NVIDIA's Jetson modules and their published peaks."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from typing import Any

from fthnet_kit.bench.speed.peaks import Peaks
from fthnet_kit.bench.speed.work import WIDTHS
from fthnet_kit.edge.device.machine import Device

TABLE = ("Jetson Orin Nano 8GB Super", "Jetson Orin NX 16GB", "Jetson AGX Orin 64GB")
MB, GIB_MB = 10**6, 2**30 / 10**6
SLACK = 1.01  # clocks are known to one percent


@dataclass(frozen=True)
class Module:
    """Peaks of the GPU of a Jetson module, from `jetson_modules.json`.

    Attributes:
        name: as NVIDIA names it.
        int8_tops, fp16_tflops, fp32_tflops: dense; None where no figure was found.
        memory_gb_s: GB of 10⁹ bytes per second.
        gpu_mhz, memory_mhz: the clocks that the figures hold for.
        power_modes: the power modes that have these clocks.
        unread: figures whose source nobody here has read.
        notes: what makes the figures doubtful on this device.
    """

    name: str
    int8_tops: float | None
    fp16_tflops: float
    fp32_tflops: float
    memory_gb_s: float
    gpu_mhz: float
    memory_mhz: float
    power_modes: tuple[str, ...]
    unread: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def peaks(self, precision: str) -> Peaks:
        """The roofs for a precision: FP32 runs on the CUDA cores, the others on the Tensor cores."""
        floating = self.fp32_tflops if WIDTHS[precision].other == 4 else self.fp16_tflops
        return Peaks(self.name, floating, self.int8_tops, self.memory_gb_s)

    def at_clocks(self, gpu_mhz: float | None, memory_mhz: float | None) -> Module:
        """The same module where its clocks may not rise as high; None: not known, or no limit."""
        compute, memory = _share(gpu_mhz, self.gpu_mhz), _share(memory_mhz, self.memory_mhz)
        if compute == memory == 1:
            return self
        note = (
            f"scaled to limits of {self.gpu_mhz * compute:.0f} MHz (GPU) and {self.memory_mhz * memory:.0f} MHz "
            "(memory); a power mode that also switches off parts of the GPU lowers the peak further"
        )
        return replace(
            self,
            int8_tops=None if self.int8_tops is None else self.int8_tops * compute,
            fp16_tflops=self.fp16_tflops * compute,
            fp32_tflops=self.fp32_tflops * compute,
            memory_gb_s=self.memory_gb_s * memory,
            gpu_mhz=self.gpu_mhz * compute,
            memory_mhz=self.memory_mhz * memory,
            notes=(*self.notes, note),
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def modules() -> tuple[Module, ...]:
    """All modules of `jetson_modules.json`."""
    return tuple(_module(entry) for entry in _table()["modules"])


def module_of(device: Device) -> Module | None:
    """The Jetson module of a device, its peaks scaled down to the limits that its clocks have at present.

    The name in the device tree is the carrier board's firmware's: it can be wrong, and it does not tell 8 from
    16 GB, so the memory must fit too. Where the power mode is none that the figures hold for, a note says so.
    """
    found = [entry for entry in _table()["modules"] if _matches(entry, device)]
    if not found:
        return None
    least = min(entry["memory_gib"] for entry in found)
    found = [entry for entry in found if entry["memory_gib"] == least]
    exact = [entry for entry in found if device.power_mode in entry["power_modes"]]
    module = _module((exact or found)[0])
    if not exact:
        module = replace(
            module,
            notes=(
                *module.notes,
                f"the figures hold in {' or '.join(module.power_modes)}, "
                f"the power mode is {device.power_mode or 'not known'}",
            ),
        )
    gpu = [clock.maximum_mhz for clock in device.gpu_clocks if clock.maximum_mhz and "nvd" not in clock.name]
    memory = device.memory_clock.maximum_mhz if device.memory_clock else None
    return module.at_clocks(max(gpu, default=None), memory)


def _matches(entry: Mapping[str, Any], device: Device) -> bool:
    named = re.search(entry["model"], device.model or "") is not None
    fits = device.memory_total_mb is not None and device.memory_total_mb <= entry["memory_gib"] * GIB_MB
    return named and fits and (device.soc is None or device.soc in entry["soc"])


def _module(entry: Mapping[str, Any]) -> Module:
    figures = entry["figures"]
    values: dict[str, Any] = {name: None if figure is None else figure["value"] for name, figure in figures.items()}
    return Module(
        entry["name"],
        **values,
        gpu_mhz=entry["gpu_mhz"],
        memory_mhz=entry["memory_mhz"],
        power_modes=tuple(entry["power_modes"]),
        unread=tuple(name for name, figure in figures.items() if figure is not None and not figure["read"]),
        notes=(entry["note"],) if "note" in entry else (),
    )


def _table() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((files(__package__) / "jetson_modules.json").read_text(encoding="utf-8"))
    return content


def _share(limit_mhz: float | None, full_mhz: float) -> float:
    return 1.0 if limit_mhz is None or limit_mhz * SLACK >= full_mhz else limit_mhz / full_mhz
