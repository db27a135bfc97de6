"""Hand-made content of results files: a Jetson's soak, with everything in it that a file can hold."""

from __future__ import annotations

from typing import Any

import numpy as np

from fthnet_kit.bench.speed.timing import summary

RNG_SEED = 5
SAMPLES = 3000
WARM_UP = 40


def totals() -> np.ndarray:
    """A warm-up that settles, a tail, and a lasting change near the end, ms."""
    rng = np.random.default_rng(RNG_SEED)
    values = 11 + rng.gamma(2.0, 0.25, SAMPLES)
    values[:WARM_UP] += np.linspace(9, 0, WARM_UP)
    values[2200:] += 1.4
    values[[700, 1500, 2500]] = 48.0
    return values


def device(**changes: object) -> dict[str, Any]:
    clock = {"name": "policy0", "current_mhz": 1510.4, "minimum_mhz": 729.6, "maximum_mhz": 1728.0}
    gpu = {"name": "17000000.gpu", "current_mhz": 918.0, "minimum_mhz": 306.0, "maximum_mhz": 918.0}
    return {
        "model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        "soc": "tegra234",
        "cpu_model": None,
        "architecture": "aarch64",
        "cores": 6,
        "governor": "schedutil",
        "cpu_clocks": [clock],
        "gpu_clocks": [gpu],
        "memory_clock": {"name": "emc", "current_mhz": None, "minimum_mhz": None, "maximum_mhz": 3199.0},
        "load_average": [0.5, 0.4, 0.3],
        "memory_total_mb": 7990,
        "memory_available_mb": 5120,
        "disk_free_mb": 40000,
        "kernel": "5.15.148-tegra",
        "system": "Ubuntu 22.04.5 LTS",
        "l4t": "36.4.3",
        "jetpack": "6.2",
        "power_mode": "15W",
        "temperatures_c": {"cpu-thermal": 52.3, "gpu-thermal": 51.0},
        "throttling": [],
        "overcurrent_events": {"oc1": 0},
        "power_mw": {"VDD_IN": 8400},
        "is_jetson": True,
        "clocks_locked": False,
        **changes,
    }


def latency_content(**changes: object) -> dict[str, Any]:
    """Of `fthnet bench latency --minutes`, on TensorRT."""
    total = totals()
    shares = {"decode": 0.25, "preprocess": 0.12, "gate": 0.02, "infer": 0.6, "post": 0.01}
    shares |= {"h2d": 0.02, "gpu_compute": 0.54, "d2h": 0.01, "enqueue": 0.05}
    stages = {name: share * total for name, share in shares.items()} | {"total": total}
    started = np.concatenate([[0.0], np.cumsum(total)[:-1]]) / 1e3
    seconds = [float(at) for at in np.arange(0.0, started[-1], 0.25)]
    rng = np.random.default_rng(RNG_SEED)
    age, latency = rng.uniform(1, 14, 290), rng.gamma(9.0, 3.0, 290)
    one, other = rng.normal(11.5, 0.4, 200), rng.normal(21.0, 0.6, 200)
    count = len(seconds)
    return {
        "schema": "fthnet-latency",
        "version": 1,
        "kit_version": "0.1.0",
        "measured_at": "2026-02-11T10:20:30+00:00",
        "command": ["fthnet", "bench", "latency", "--minutes", "1", "--compare", "fp32"],
        "model": {
            "name": "FTHNet demo",
            "version": "1.2",
            "manufacturer": "tests",
            "weights_sha256": "5" * 64,
            "precision": "fp16",
            "views": 1,
            "backend": {"library": "tensorrt 10.3.0", "gpu": "Orin", "batch": "1", "provider": "TensorRT"},
        },
        "pictures": {"source": "simulated camera", "width": 1920, "height": 1080, "stage": "decode"},
        "device": device(),
        "device_after": device(load_average=[1.9, 0.8, 0.4], temperatures_c={"cpu-thermal": 66.5}),
        "clock": {"name": "time.perf_counter", "resolution_ms": 4.1e-05, "garbage_collection": "off"},
        "load_ms": 812.0,
        "first_ms": 96.4,
        "first_stages_ms": {"decode": 9.0, "infer": 80.0},
        "warm_up": {"samples": WARM_UP, "settled": True, "rule": "median of 20 within the settled quartiles."},
        "steady": {
            "stages_ms": {name: values.tolist() for name, values in stages.items()},
            "started_s": started.tolist(),
            "summary": {name: summary(values[WARM_UP:]) for name, values in stages.items()},
            "throughput_fps": 81.6,
        },
        "idle": [
            {"pause_s": 1.0, "total_ms": [13.1, 12.9, 14.0], "median_ms": 13.1},
            {"pause_s": 30.0, "total_ms": [31.2], "median_ms": 31.2},
        ],
        "capture": {
            "fps": 30.0,
            "seconds": 10.0,
            "captured": 300,
            "scored": 290,
            "dropped": 10,
            "age_ms": age.tolist(),
            "latency_ms": latency.tolist(),
            "summary": {
                "frame age": summary(age),
                "capture to score": summary(latency),
                "loop overhead": summary(rng.uniform(0.1, 0.6, 290)),
            },
        },
        "cold_start": {"total_ms": [3210.0, 1870.0, 1855.0], "median_ms": 1870.0},
        "memory": {"peak_mb": 612.5, "others_cores": 0.31},
        "timeline": {
            "seconds": seconds,
            "rss_mb": np.linspace(590, 612, count).tolist(),
            "shared_mb": np.linspace(2600, 2640, count).tolist(),
            "hottest_c": [None, *(66.5 - 14 * np.exp(-np.arange(1, count) / 20)).tolist()],
            "cpu_mhz": [1510.4 if at < 0.7 * count else 1190.4 for at in range(count)],
            "gpu_mhz": [918.0] * count,
            "power_mw": rng.normal(8400, 150, count).tolist(),
            "throttling": [[]] * count,
        },
        "roofline": roofline(),
        "comparison": {
            "names": ["this", "fp32"],
            "rounds": 200,
            "median_ms": [float(np.median(one)), float(np.median(other))],
            "ratio": {"value": 0.548, "low": 0.545, "high": 0.551},
            "samples_ms": [one.tolist(), other.tolist()],
        },
        "soak": {
            "seconds": float(started[-1]),
            "frames": SAMPLES,
            "drift": {"at_s": float(started[2200]), "before": 11.5, "after": 12.9},
            "leak": {"mb": 22.0, "mb_per_hour": 1980.0},
            "rss_mb": {"first": 590.0, "last": 612.0},
        },
        "unstable": [
            "other programs kept 0.3 cores busy; stop them",
            "the CPU governor is schedutil: the clock follows the load; set performance",
            "the clocks are not locked: sudo jetson_clocks",
        ],
        **changes,
    }


def roofline() -> dict[str, Any]:
    floor = {
        "compute_ms": 0.9,
        "memory_ms": 1.4,
        "weights_ms": 0.4,
        "intensity": 90.0,
        "floor_ms": 1.4,
        "bound": "memory",
    }
    estimate = {
        "module": "Jetson Orin NX 16GB",
        "precision": "fp16",
        "tflops": 25.0,
        "memory_gb_s": 102.4,
        "roofline": floor,
        "at_20_percent_ms": 4.5,
        "at_10_percent_ms": 9.0,
        "unread": ["memory_gb_s"],
        "kind": "estimate, not measured",
    }
    return {
        "work": {
            "precision": "fp16",
            "macs": 4 * 10**9,
            "int8_macs": 0,
            "flops": 8 * 10**9,
            "weight_bytes": 30 * 10**6,
            "activation_bytes": 90 * 10**6,
        },
        "machine": {"name": "Jetson Orin Nano 8GB Super", "memory_gb_s": 102.0, "unread": ["fp16_tflops"], "notes": []},
        "achieved": {
            "machine": "Jetson Orin Nano 8GB Super",
            "median_ms": 6.6,
            "roofline": floor,
            "gflops": 1212.0,
            "share": 0.21,
            "compute_share": 0.14,
            "sentence": "limited by neither arithmetic nor memory bandwidth: 21% of the floor's speed (1.4 ms)",
        },
        "estimates": [estimate],
    }


def bare_content(**changes: object) -> dict[str, Any]:
    """Of `fthnet bench latency --quick` where the machine tells nothing: whatever can be absent is."""
    nothing = dict.fromkeys(device(), None) | {
        "cpu_clocks": [],
        "gpu_clocks": [],
        "load_average": [],
        "temperatures_c": {},
        "throttling": [],
        "overcurrent_events": {},
        "power_mw": {},
        "is_jetson": False,
    }
    readings = ("shared_mb", "hottest_c", "cpu_mhz", "gpu_mhz", "power_mw")
    total = [20.0]
    return latency_content(
        device=nothing,
        device_after=nothing,
        warm_up={"samples": None, "settled": False, "rule": "a rule"},
        steady={
            "stages_ms": {"total": total},
            "started_s": [0.0],
            "summary": {"total": summary(total)},
            "throughput_fps": 50.0,
        },
        idle=[],
        capture=None,
        cold_start=None,
        memory={"peak_mb": None, "others_cores": None},
        timeline={"seconds": [0.0], "rss_mb": [0.0], "throttling": [[]], **{name: [None] for name in readings}},
        roofline=None,
        comparison=None,
        soak=None,
        unstable=[],
        **changes,
    )


def accuracy_content(**changes: object) -> dict[str, Any]:
    """Of `fthnet bench accuracy`: two precisions on one set."""
    names = (
        "model", "soc", "cpu_model", "architecture", "cores", "governor", "load_average", "memory_total_mb", "system",
        "kernel", "l4t", "jetpack", "power_mode",
    )  # fmt: skip
    estimate = {"value": 0.934, "low": 0.912, "high": 0.951}
    return {
        "schema": "fthnet-accuracy",
        "version": 1,
        "kit_version": "0.1.0",
        "measured_at": "2026-02-11T11:00:00+00:00",
        "model": {
            "name": "FTHNet demo",
            "version": "1.2",
            "weights_sha256": "5" * 64,
            "thresholds": {"usable": 40, "good": 60},
            "preprocessing": {},
            "precisions": ["fp16", "fp32"],
        },
        "device": {name: device()[name] for name in names},
        "method": {
            "bootstrap": {"draws": 1000, "seed": 0, "level": 0.95, "interval": "percentile"},
            "logistic_fit": False,
            "score_of_no_retina": {"mos": 0, "classes": -1},
        },
        "data": [
            {
                "folder": "/data/fqs",
                "images": 2,
                "labels": "mos",
                "split": "val",
                "photographs": [{"file": "a.png", "mos": 20.0}, {"file": "b.png", "mos": 80.0}],
            }
        ],
        "left_out": {"int8": "the bundle has none"},
        "runs": [
            {
                "data": 0,
                "precision": form,
                "form": form,
                "emulated": form == "fp16",
                "backend": {"library": "onnxruntime 1.22", "provider": "CPUExecutionProvider", "threads": "2"},
                "views": 1,
                "images": 2,
                "without_score": 1,
                "metrics": {"PLCC": estimate, "SRCC": estimate | {"low": None}, "RMSE": estimate},
                "ms_per_picture": {"median": 30.5, "p95": None},
                "scores": [None, 78.0],
                "ms": [30.0, 31.0],
            }
            for form in ("fp32", "fp16")
        ],
        "agreement": [
            {
                "data": 0,
                "views": 1,
                "reference": "fp32",
                "form": "fp16",
                "cost": {
                    "images": 2,
                    "mean": 0.05,
                    "p99": 0.2,
                    "worst": 0.3,
                    "shift": 0.0,
                    "srcc": 0.9999,
                    "flips": 1,
                },
                "verdicts": {
                    row: dict.fromkeys(("good", "usable", "reject"), 0) for row in ("good", "usable", "reject")
                },
                "changes": {"SRCC": estimate},
            }
        ],
        **changes,
    }
