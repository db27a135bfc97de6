"""The roofline: counted work against the graph's own count, and peaks against the figures they come from."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fthnet_kit.bench.speed.cpu_ceilings import Ceilings, copy_rate, cpu_ceilings, gemm_model, last_cache_mb
from fthnet_kit.bench.speed.jetson_modules import module_of, modules
from fthnet_kit.bench.speed.peaks import Peaks
from fthnet_kit.bench.speed.roofline import ESTIMATE, achieved, estimate, estimates
from fthnet_kit.bench.speed.work import WIDTHS, Work, layers_of, model_work
from fthnet_kit.convert.network.config import FTHNetConfig
from fthnet_kit.edge.device.machine import Device
from fthnet_kit.edge.device.sensors import Clock

RELEASED, SMALL = FTHNetConfig(), FTHNetConfig(embed_dim=32)
DATA = json.loads((Path(__file__).parents[2] / "bench" / "speed" / "jetson_modules.json").read_text(encoding="utf-8"))
CEILINGS = Ceilings("ONNX Runtime", 2, {"1x1x1": 100.0, "2x2x2": 200.0}, {"1x1x1": 800.0}, 20.0, 64, 4)


def attention_macs(config: FTHNetConfig) -> int:
    """Q k^T and the product with v, which the graph counts in no layer."""
    return sum(
        2 * config.depths[stage] * config.grid(stage) ** 2 * config.window_size**2 * config.stage_dim(stage)
        for stage in range(4)
    )


def target_macs(config: FTHNetConfig) -> int:
    """The products with generated weights, which the graph counts in no layer either."""
    widths = [*(config.target_width(layer) for layer in range(5)), 1]
    return sum(wide * narrow for wide, narrow in itertools.pairwise(widths))


@pytest.mark.parametrize(
    "config",
    [RELEASED, SMALL, FTHNetConfig("avg", 8, (1, 2, 1, 1), (1, 2, 4, 8), target_in=192, hyper_in=64)],
    ids=["released", "small", "tiny"],
)
def test_work_is_what_the_graph_counts(config: FTHNetConfig) -> None:
    pytest.importorskip("torch")
    from fthnet_kit.convert.network.fthnet import FTHNet
    from fthnet_kit.convert.onnx_graph.export import weights_of
    from fthnet_kit.convert.onnx_graph.fthnet_graph import write_graph
    from fthnet_kit.edge import Preprocessing

    weights = weights_of(FTHNet(config))
    graph = write_graph(weights, config, Preprocessing())
    work = model_work(config.to_dict(), "int8")
    assert work.int8_macs == sum(site.macs for site in graph.sites)
    assert work.macs == work.int8_macs + graph.other_macs + attention_macs(config) + target_macs(config)
    counted = sum(layer.weights for layer in layers_of(config))
    assert counted == sum(
        weight.size for name, weight in weights.items() if name.endswith(".weight") and "norm" not in name
    )
    if config.embed_dim >= SMALL.embed_dim:
        assert counted > 0.98 * sum(weight.size for weight in weights.values())


@pytest.mark.parametrize(("config", "gmac"), [(RELEASED, 6.85), (SMALL, 2.16)])
def test_work_is_what_was_measured_before(config: FTHNetConfig, gmac: float) -> None:
    assert model_work(config.to_dict(), "fp32").macs / 1e9 == pytest.approx(gmac, abs=0.006)


def test_bytes_follow_the_precision() -> None:
    fp32, fp16, int8, cpu = (model_work(RELEASED.to_dict(), precision) for precision in WIDTHS)
    assert fp32.weight_bytes == 2 * fp16.weight_bytes
    image = 3 * 384**2
    assert fp32.activation_bytes - image == 2 * (fp16.activation_bytes - image)
    assert int8.weight_bytes < fp16.weight_bytes
    assert int8.activation_bytes < fp16.activation_bytes < cpu.activation_bytes < fp32.activation_bytes
    assert fp32.int8_macs == fp16.int8_macs == 0 < int8.int8_macs == cpu.int8_macs < int8.macs
    assert json.loads(json.dumps(int8.to_dict()))["flops"] == 2 * int8.macs
    with pytest.raises(ValueError, match="expected one of fp32"):
        model_work(RELEASED.to_dict(), "auto")


def test_the_higher_roof_is_the_floor() -> None:
    work = Work("fp16", macs=10**9, int8_macs=0, weight_bytes=10**7, activation_bytes=3 * 10**7)
    fast, slow = (estimate(work, Peaks("x", 10, None, gb)) for gb in (400, 40))
    assert (fast.compute_ms, fast.memory_ms, fast.floor_ms) == pytest.approx((0.2, 0.1, 0.2))
    assert (slow.memory_ms, slow.weights_ms, slow.floor_ms) == pytest.approx((1.0, 0.25, 1.0))
    assert (fast.bound, slow.bound) == ("compute", "memory")
    assert fast.intensity == pytest.approx(50)


def test_int8_runs_at_its_own_rate_and_the_rest_does_not() -> None:
    work = Work("int8", macs=10**9, int8_macs=8 * 10**8, weight_bytes=1, activation_bytes=1)
    assert estimate(work, Peaks("x", 10, 20, 100)).compute_ms == pytest.approx(0.04 + 0.08)
    assert estimate(work, Peaks("x", 10, None, 100)).compute_ms == pytest.approx(0.2)


def test_the_table_of_estimates() -> None:
    rows = {row.module: row for row in estimates(model_work(RELEASED.to_dict(), "fp16"))}
    expected = {
        "Jetson Orin Nano 8GB Super": (0.82, 4.1, 8.2),
        "Jetson Orin NX 16GB": (0.91, 4.6, 9.1),
        "Jetson AGX Orin 64GB": (0.32, 1.6, 3.2),
    }
    for name, times in expected.items():
        row = rows[name]
        found = (row.roofline.compute_ms, row.at_20_percent_ms, row.at_10_percent_ms)
        assert found == pytest.approx(times, rel=0.02)
        assert row.kind == ESTIMATE
        assert json.loads(json.dumps(row.to_dict()))["roofline"]["floor_ms"] >= times[0] * 0.98


# Figures


def test_every_figure_has_a_source() -> None:
    for entry in DATA["modules"]:
        assert set(entry["figures"]) == {"int8_tops", "fp16_tflops", "fp32_tflops", "memory_gb_s"}
        for figure in filter(None, entry["figures"].values()):
            assert figure["value"] > 0
            assert figure["sources"]
            assert figure["how"]
            assert figure["read"] == all(DATA["sources"][source]["read"] for source in figure["sources"])
    for source in DATA["sources"].values():
        assert source["url"].startswith("https://")


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.name)
def test_dense_int8_is_twice_fp16(module) -> None:
    if module.int8_tops is not None:
        assert module.int8_tops / module.fp16_tflops == pytest.approx(2, rel=0.02)
    assert module.fp32_tflops < module.fp16_tflops
    assert module.peaks("fp32").tflops == module.peaks("int8-cpu").tflops == module.fp32_tflops
    assert module.peaks("int8").tflops == module.peaks("fp16").tflops == module.fp16_tflops


SUPER = "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"


@pytest.mark.parametrize(
    ("model", "soc", "memory_mb", "mode", "expected"),
    [
        (SUPER, "tegra234", 7990, "MAXN_SUPER", "Jetson Orin Nano 8GB Super"),
        ("NVIDIA Jetson Orin Nano Developer Kit", "tegra23x", 7800, "15W", "Jetson Orin Nano 8GB"),
        (SUPER, "tegra234", 3850, "10W", "Jetson Orin Nano 4GB"),
        ("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", "tegra234", 16370, "MAXN", "Jetson Orin NX 16GB"),
        (
            "NVIDIA Jetson Orin NX Engineering Reference Developer Kit Super",
            "tegra234",
            8000,
            "40W",
            "Jetson Orin NX 8GB Super",
        ),
        ("Jetson AGX Orin", "tegra23x", 32000, "MAXN", "Jetson AGX Orin 32GB"),
        ("NVIDIA Jetson AGX Orin Developer Kit", "tegra234", 64300, "MAXN", "Jetson AGX Orin 64GB"),
        ("NVIDIA Jetson AGX Thor Developer Kit", "tegra264", 131000, "MAXN", "Jetson AGX Thor (T5000)"),
        ("NVIDIA Jetson Xavier NX Developer Kit", "tegra194", 8000, "MAXN", "Jetson Xavier NX"),
        ("NVIDIA Jetson Orin Nano Developer Kit", None, 7800, "15W", "Jetson Orin Nano 8GB"),
    ],
)
def test_a_device_is_recognised(model: str, soc: str | None, memory_mb: int, mode: str, expected: str) -> None:
    found = module_of(Device(model=model, soc=soc, memory_total_mb=memory_mb, power_mode=mode))
    assert found is not None
    assert found.name == expected
    assert not any("the figures hold in" in note for note in found.notes)


@pytest.mark.parametrize(
    "device",
    [
        Device(),
        Device(model="KVM", memory_total_mb=8000),
        Device(model="Orin Nano look-alike", soc="tegra264", memory_total_mb=7990),
        Device(model=SUPER, soc="tegra234"),
        Device(model=SUPER, soc="tegra234", memory_total_mb=60000),
    ],
)
def test_other_machines_are_no_module(device: Device) -> None:
    assert module_of(device) is None


def test_limits_of_the_clocks_scale_the_peaks() -> None:
    found = module_of(
        Device(
            model=SUPER,
            soc="tegra234",
            memory_total_mb=7990,
            power_mode="25W",
            gpu_clocks=(Clock("17000000.gpu", maximum_mhz=918.0),),
            memory_clock=Clock("emc", maximum_mhz=2133.0),
        )
    )
    assert found is not None
    assert found.fp16_tflops == pytest.approx(16.75 * 0.9)
    assert found.memory_gb_s == pytest.approx(68.3, abs=0.1)
    assert "power mode is 25W" in found.notes[0]
    assert "918 MHz" in found.notes[1]
    assert json.loads(json.dumps(found.to_dict()))["gpu_mhz"] == pytest.approx(918)


def test_full_clocks_change_nothing() -> None:
    clocks = (Clock("gpu-gpc-0", maximum_mhz=1575.0), Clock("gpu-nvd-0", maximum_mhz=1692.0))
    found = module_of(
        Device(
            model="NVIDIA Jetson AGX Thor Developer Kit",
            soc="tegra264",
            memory_total_mb=131000,
            power_mode="MAXN",
            gpu_clocks=clocks,
        )
    )
    assert found in modules()


# Measured latencies


@pytest.mark.parametrize(
    ("median_ms", "sentence"),
    [
        (75.0, "limited by arithmetic: 91%"),
        (690.0, "limited by neither arithmetic nor memory bandwidth: 10%"),
        (60.0, "limited by less than was counted: 114%"),
    ],
)
def test_a_latency_beside_the_floor(median_ms: float, sentence: str) -> None:
    found = achieved(model_work(RELEASED.to_dict(), "fp32"), CEILINGS, median_ms)
    assert found.sentence.startswith(sentence)
    assert found.share == pytest.approx(found.roofline.floor_ms / median_ms)
    assert found.gflops == pytest.approx(2 * 6.85 / median_ms * 1e3, rel=0.01)
    assert json.loads(json.dumps(found.to_dict()))["roofline"]["bound"] == "compute"


def test_memory_can_be_the_roof() -> None:
    narrow = Ceilings("ONNX Runtime", 2, {"1x1x1": 1000.0}, {"1x1x1": 1000.0}, 1.0, 64, 4)
    work = model_work(SMALL.to_dict(), "fp32")
    floor = estimate(work, narrow.peaks("fp32")).floor_ms
    assert achieved(work, narrow, 1.2 * floor).sentence.startswith("limited by memory bandwidth: 83%")


@pytest.mark.parametrize("median_ms", [0.0, -1.0, float("nan")])
def test_a_latency_that_is_none_is_refused(median_ms: float) -> None:
    with pytest.raises(ValueError, match="median_ms"):
        achieved(model_work(SMALL.to_dict(), "fp32"), CEILINGS, median_ms)


# Measured ceilings


@pytest.mark.parametrize("integer", [False, True])
def test_the_hand_written_model_multiplies(integer: bool) -> None:
    import onnxruntime as ort

    rng = np.random.default_rng(1)
    if integer:
        # Processors without VNNI add pairs of products in 16 bits, which larger weights would saturate.
        x, weight = rng.integers(0, 256, (5, 300), np.uint8), rng.integers(-63, 64, (300, 7), np.int8)
    else:
        x, weight = rng.standard_normal((5, 300), np.float32), rng.standard_normal((300, 7), np.float32)
    content = gemm_model(x, weight)
    (found,) = ort.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    wide = np.int32 if integer else np.float32
    np.testing.assert_allclose(found, x.astype(wide) @ weight.astype(wide), rtol=1e-4, atol=1e-4)
    onnx = pytest.importorskip("onnx")
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)


def test_this_cpu_in_a_few_seconds() -> None:
    import onnxruntime  # noqa: F401  (its import is no part of the measurement)

    started = time.perf_counter()
    found = cpu_ceilings(threads=1)
    assert time.perf_counter() - started < 6  # 3 on a machine with nothing else to do
    assert found.library.startswith("ONNX Runtime ")
    assert min(*found.gflops.values(), *found.int8_gops.values(), found.memory_gb_s) > 0.1
    assert found.peaks("fp16").tflops == max(found.gflops.values()) / 1e3
    assert json.loads(json.dumps(found.to_dict()))["threads"] == 1


def test_the_copy_leaves_the_cache_and_the_memory_alone(tmp_path: Path) -> None:
    for index, size in enumerate(("48K", "2048K", "32768K", "odd")):
        folder = tmp_path / f"sys/devices/system/cpu/cpu0/cache/index{index}"
        folder.mkdir(parents=True)
        (folder / "size").write_text(size + "\n")
    assert last_cache_mb(tmp_path) == 33
    assert last_cache_mb(tmp_path / "nothing") is None
    assert copy_rate(1, 160, 4000)[0] == 100
    assert copy_rate(1, None, None)[0] == 64
    assert copy_rate(1, 500, 600)[0] == 75


def test_needs_neither_torch_nor_onnx() -> None:
    code = (
        "import sys; from fthnet_kit.bench.speed import cpu_ceilings, roofline, work; "
        "roofline.estimates(work.model_work({}, 'int8')); cpu_ceilings.cpu_ceilings(1); "
        "print(sorted({'torch', 'onnx', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("[]", "['cv2']")
