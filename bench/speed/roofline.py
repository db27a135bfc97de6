"""What a machine could do at most, and how much of it a measured latency uses.

The roofline has two roofs: arithmetic, and moving bytes. Work is counted by formula from the model card; the roofs
come from `jetson_modules.json` for NVIDIA Jetson, and from two measurements on any other CPU.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from fthnet_kit.bench.speed.jetson_modules import TABLE, modules
from fthnet_kit.bench.speed.peaks import Machine, Peaks
from fthnet_kit.bench.speed.work import Work

ESTIMATE = "estimate, not measured"
NEAR = 0.5  # share of a roof from which it is what limits


# Work


# Roofs


# Both together


@dataclass(frozen=True)
class Roofline:
    """The least time that a machine's peaks allow.

    Attributes:
        compute_ms: all arithmetic at the peak rate.
        memory_ms: all bytes at the peak bandwidth. Activations that stay in a cache make it less.
        weights_ms: only the weights.
        intensity: operations per byte.
    """

    compute_ms: float
    memory_ms: float
    weights_ms: float
    intensity: float

    @property
    def floor_ms(self) -> float:
        """The higher roof."""
        return max(self.compute_ms, self.memory_ms)

    @property
    def bound(self) -> Literal["compute", "memory"]:
        """Which of the two it is."""
        return "compute" if self.compute_ms >= self.memory_ms else "memory"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "floor_ms": self.floor_ms, "bound": self.bound}


def estimate(work: Work, peaks: Peaks) -> Roofline:
    """The floor of some work under some peaks; INT8 counts at the floating-point rate where its own is unknown."""
    floating, int8 = work.macs - work.int8_macs, work.int8_macs
    moved = work.weight_bytes + work.activation_bytes
    return Roofline(
        compute_ms=2e-9 * (floating / peaks.tflops + int8 / (peaks.int8_tops or peaks.tflops)),
        memory_ms=1e-6 * moved / peaks.memory_gb_s,
        weights_ms=1e-6 * work.weight_bytes / peaks.memory_gb_s,
        intensity=work.flops / moved,
    )


@dataclass(frozen=True)
class Achieved:
    """A measured latency beside the floor.

    Attributes:
        machine: whose peaks were taken.
        median_ms: of one inference of one image.
        roofline: the floor.
        gflops: 10⁹ operations per second that were reached.
        share: of the floor: 1 is the roof; above 1, activations stayed in a cache or the peaks are too low.
        compute_share: of the arithmetic peak alone.
        sentence: what limits.
    """

    machine: str
    median_ms: float
    roofline: Roofline
    gflops: float
    share: float
    compute_share: float
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "roofline": self.roofline.to_dict()}


def achieved(work: Work, machine: Machine, median_ms: float) -> Achieved:
    """How much of a machine a measured inference uses.

    Args:
        work: of one image.
        machine: `cpu_ceilings` or `module_of`.
        median_ms: of one inference of one image, without preprocessing.
    """
    if not median_ms > 0:
        raise ValueError(f"median_ms: expected more than 0, found {median_ms}")
    peaks = machine.peaks(work.precision)
    roofline = estimate(work, peaks)
    return Achieved(
        peaks.name,
        median_ms,
        roofline,
        gflops=1e-6 * work.flops / median_ms,
        share=roofline.floor_ms / median_ms,
        compute_share=roofline.compute_ms / median_ms,
        sentence=_sentence(roofline, median_ms),
    )


def _sentence(roofline: Roofline, median_ms: float) -> str:
    share = roofline.floor_ms / median_ms
    floor = f"{share:.0%} of the floor's speed ({roofline.floor_ms:.3g} ms)"
    if share > 1:
        return f"limited by less than was counted: {floor}; activations stayed in a cache, or the peaks are too low"
    if share >= NEAR:
        roof = "arithmetic" if roofline.bound == "compute" else "memory bandwidth"
        return f"limited by {roof}: {floor}"
    return (
        f"limited by neither arithmetic nor memory bandwidth: {floor}; the rest is work between the products, starting "
        "kernels, layers in a wider precision, or clocks below the peak's"
    )


@dataclass(frozen=True)
class Row:
    """One line of the table of estimates.

    Attributes:
        module: name.
        precision: of the work.
        tflops: the peak taken, dense; that of INT8 in INT8.
        memory_gb_s: the bandwidth taken.
        roofline: the floor.
        at_20_percent_ms, at_10_percent_ms: at these shares of the arithmetic peak; Swin has been seen at about a tenth.
        unread: figures whose source nobody here has read.
        kind: that nothing of it was measured.
    """

    module: str
    precision: str
    tflops: float
    memory_gb_s: float
    roofline: Roofline
    at_20_percent_ms: float
    at_10_percent_ms: float
    unread: tuple[str, ...]
    kind: str = ESTIMATE

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "roofline": self.roofline.to_dict()}


def estimates(work: Work) -> list[Row]:
    """What the modules that the kit is written for could take, by their peaks alone."""
    known = {module.name: module for module in modules()}
    rows = []
    for name in TABLE:
        peaks = known[name].peaks(work.precision)
        roofline = estimate(work, peaks)
        rows.append(
            Row(
                name,
                work.precision,
                (peaks.int8_tops if work.int8_macs else None) or peaks.tflops,
                peaks.memory_gb_s,
                roofline,
                at_20_percent_ms=roofline.compute_ms / 0.2,
                at_10_percent_ms=roofline.compute_ms / 0.1,
                unread=known[name].unread,
            )
        )
    return rows
