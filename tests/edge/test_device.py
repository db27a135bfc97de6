"""What the kit reads about a machine, on recorded text of Jetsons, on a plain computer and on nonsense."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fthnet_kit.edge.device.machine import free_disk_mb, read_device, run_command
from fthnet_kit.edge.device.sensors import Clock
from fthnet_kit.edge.device.sysfs import integer, line, text

# Orin Nano Super, JetPack 6.2.1 from apt on Jetson Linux 36.4.7.
ORIN = {
    "etc/nv_tegra_release": (
        "# R36 (release), REVISION: 4.7, GCID: 42132812, BOARD: generic, EABI: aarch64, "
        "DATE: Thu Sep 18 22:54:44 UTC 2025\n# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n"
        "TARGET_USERSPACE_LIB_DIR_PATH=usr/lib/aarch64-linux-gnu/nvidia\n"
    ),
    "etc/os-release": 'PRETTY_NAME="Ubuntu 22.04.5 LTS"\nNAME="Ubuntu"\nVERSION_ID="22.04"\n',
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0",
    "proc/driver/nvidia/version": (
        "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build  "
        "(buildbrain@mobile-u64-6336-d8000)  Tue Jan  7 17:35:12 PST 2025\n"
        "GCC version:  collect2: error: ld returned 1 exit status\n"
    ),
    "proc/loadavg": "7.29 5.77 4.38 3/1024 12345\n",
    "proc/meminfo": "MemTotal:        7802740 kB\nMemFree:           91136 kB\nMemAvailable:    5081088 kB\n",
    "proc/self/status": "Name:\tpython3\nCpus_allowed:\t3f\nCpus_allowed_list:\t0-5\n",
    "proc/sys/kernel/osrelease": "5.15.148-tegra\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "306000000\n",
    "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "1020000000\n",
    "sys/class/devfreq/15340000.vic/cur_freq": "115200000\n",
    "sys/class/hwmon/hwmon0/name": "pwmfan\n",
    "sys/class/hwmon/hwmon1/name": "ina3221\n",
    "sys/class/hwmon/hwmon1/in1_label": "VDD_IN\n",
    "sys/class/hwmon/hwmon1/in1_input": "4984\n",
    "sys/class/hwmon/hwmon1/curr1_input": "1856\n",
    "sys/class/hwmon/hwmon1/in7_label": "sum of shunt voltages\n",
    "sys/class/hwmon/hwmon1/in7_input": "3200\n",
    "sys/class/hwmon/hwmon3/name": "soctherm_oc\n",
    "sys/class/hwmon/hwmon3/oc1_event_cnt": "0\n",
    "sys/class/hwmon/hwmon3/oc2_event_cnt": "0\n",
    "sys/class/hwmon/hwmon3/oc3_event_cnt": "2\n",
    "sys/class/hwmon/hwmon3/oc1_throt_en": "1\n",
    "sys/class/thermal/cooling_device0/type": "cpu-throttle-alert\n",
    "sys/class/thermal/cooling_device0/cur_state": "0\n",
    "sys/class/thermal/cooling_device1/type": "hot-surface-alert\n",
    "sys/class/thermal/cooling_device1/cur_state": "1\n",
    "sys/class/thermal/cooling_device2/type": "pwm-fan\n",
    "sys/class/thermal/cooling_device2/cur_state": "3\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "63625\n",
    "sys/class/thermal/thermal_zone2/type": "cv0-thermal\n",  # its temperature cannot be read
    "sys/class/thermal/thermal_zone8/type": "tj-thermal\n",
    "sys/class/thermal/thermal_zone8/temp": "63781\n",
    "sys/devices/system/cpu/online": "0-5\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "schedutil\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "729600\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq": "729600\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "1728000\n",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_governor": "schedutil\n",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_max_freq": "1728000\n",
    "sys/kernel/nvpmodel_clk_cap/emc": "3199000000\n",
}
ORIN_SAYS = {
    "uname": "aarch64\n",
    "nvpmodel": "NVPM WARN: fan mode is not set!\nNV Power Mode: MAXN_SUPER\n2\n",
    "dpkg-query": "installed 6.2.1+b38",
}

# AGX Thor, JetPack 7.0 on Jetson Linux 38.2.2, its GPU at work and too hot.
THOR = {
    "etc/nv_tegra_release": (
        "# R38 (release), REVISION: 2.2, GCID: 42205042, BOARD: generic, EABI: aarch64, "
        "DATE: Thu Sep 25 22:47:11 UTC 2025\n# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n"
    ),
    "proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit\0",
    "sys/class/devfreq/gpu-gpc-0/cur_freq": "1575000000\n",
    "sys/class/devfreq/gpu-gpc-0/min_freq": "1575000000\n",
    "sys/class/devfreq/gpu-gpc-0/max_freq": "1575000000\n",
    "sys/class/devfreq/gpu-nvd-0/cur_freq": "1692000000\n",
    "sys/class/devfreq/gpu-nvd-0/min_freq": "1692000000\n",
    "sys/class/devfreq/gpu-nvd-0/max_freq": "1692000000\n",
    "sys/class/hwmon/hwmon5/name": "ina3221\n",
    "sys/class/hwmon/hwmon5/in1_label": "VDD_GPU\n",
    "sys/class/hwmon/hwmon5/in1_input": "12040\n",
    "sys/class/hwmon/hwmon5/curr1_input": "640\n",
    "sys/class/hwmon/hwmon5/in3_label": "VIN_SYS_5V0\n",
    "sys/class/hwmon/hwmon5/in3_input": "5088\n",
    "sys/class/hwmon/hwmon5/curr3_input": "1740\n",
    "sys/class/hwmon/hwmon5/in4_input": "1240\n",
    "sys/class/hwmon/hwmon5/curr4_input": "1600\n",
    "sys/class/hwmon/hwmon6/name": "ina238\n",
    "sys/class/hwmon/hwmon6/power1_input": "40250000\n",
    "sys/class/thermal/cooling_device8/type": "cpu-throttle-alert\n",
    "sys/class/thermal/cooling_device8/cur_state": "0\n",
    "sys/class/thermal/cooling_device9/type": "gpu-throttle-alert\n",
    "sys/class/thermal/cooling_device9/cur_state": "1\n",
    "sys/class/thermal/cooling_device12/type": "devfreq-gpu-gpc-0\n",
    "sys/class/thermal/cooling_device12/cur_state": "18\n",
    "sys/class/thermal/thermal_zone4/type": "tj-thermal\n",
    "sys/class/thermal/thermal_zone4/temp": "108900\n",
}
THOR_SAYS = {"uname": "aarch64\n", "nvpmodel": "NV Power Mode: 120W\n1\n"}

COMPUTER = {
    "etc/os-release": "NAME=Fedora\nPRETTY_NAME=Fedora\n",
    "proc/cpuinfo": "processor\t: 0\nmodel name\t: AMD EPYC 7763\n\nprocessor\t: 1\nmodel name\t: AMD EPYC 7763\n",
    "proc/self/status": "Cpus_allowed_list:\t0-127\n",
    "sys/devices/system/cpu/online": "0,2-3\n",
    "sys/class/thermal/thermal_zone0/type": "acpitz\n",
    "sys/class/thermal/thermal_zone0/temp": "27800\n",
    "sys/class/thermal/thermal_zone1/type": "acpitz\n",
    "sys/class/thermal/thermal_zone1/temp": "31000\n",
}


def machine(root: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def says(answers: Mapping[str, str]) -> Callable[[Sequence[str]], str | None]:
    return lambda command: answers.get(Path(command[0]).name)


def test_an_orin_with_jetpack_6(tmp_path: Path) -> None:
    device = read_device(machine(tmp_path, ORIN), says(ORIN_SAYS))
    assert device.is_jetson
    assert device.model == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert (device.soc, device.l4t, device.jetpack) == ("tegra234", "36.4.7", "6.2.1")
    assert (device.architecture, device.kernel, device.system) == ("aarch64", "5.15.148-tegra", "Ubuntu 22.04.5 LTS")
    assert (device.power_mode, device.governor, device.cores) == ("MAXN_SUPER", "schedutil", 6)
    assert device.cpu_clocks == (Clock("policy0", 729.6, 729.6, 1728.0), Clock("policy4", None, None, 1728.0))
    assert device.gpu_clocks == (Clock("17000000.gpu", 306.0, 306.0, 1020.0),)
    assert device.memory_clock == Clock("emc", None, None, 3199.0)
    assert device.clocks_locked is False
    assert device.load_average == (7.29, 5.77, 4.38)
    assert (device.memory_total_mb, device.memory_available_mb) == (7990, 5203)
    assert device.temperatures_c == {"cpu-thermal": 63.625, "tj-thermal": 63.781}
    assert device.throttling == ()
    assert device.overcurrent_events == {"oc1": 0, "oc2": 0, "oc3": 2}
    assert device.power_mw == {"VDD_IN": 9250}


def test_a_hot_thor_with_jetpack_7(tmp_path: Path) -> None:
    device = read_device(machine(tmp_path, THOR), says(THOR_SAYS))
    assert (device.l4t, device.jetpack, device.power_mode) == ("38.2.2", "7.0", "120W")
    assert [clock.name for clock in device.gpu_clocks] == ["gpu-gpc-0", "gpu-nvd-0"]
    assert device.clocks_locked is True
    assert device.throttling == ("gpu-throttle-alert",)
    assert device.temperatures_c == {"tj-thermal": 108.9}
    assert device.power_mw == {"VDD_GPU": 7705, "VIN_SYS_5V0": 8853, "ina238": 40250}


def test_a_computer(tmp_path: Path) -> None:
    device = read_device(machine(tmp_path, COMPUTER), says({"uname": "x86_64\n"}))
    assert not device.is_jetson
    assert device.model == device.cpu_model == "AMD EPYC 7763"
    assert (device.cores, device.system, device.architecture) == (3, "Fedora", "x86_64")
    assert device.temperatures_c == {"acpitz": 31.0}
    assert device.clocks_locked is None


def test_nothing_at_all(tmp_path: Path) -> None:
    device = read_device(tmp_path / "none", says({}))
    content = device.to_dict()
    assert content.pop("disk_free_mb") > 0  # of the disk that would hold it
    assert content.pop("is_jetson") is False
    assert not any(content.values()), content


@pytest.mark.parametrize(
    ("release", "jetpack"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64", "6.2"),
        ("# R36 (release), REVISION: 9.9, GCID: 1", "6"),
        ("# R39 (release), REVISION: 2.0, GCID: 45755727, BOARD: generic, EABI: aarch64", "7.2"),
        ("# R35 (release), REVISION: 4.1, GCID: 12345, BOARD: t186ref", "5"),
        ("# R99 (release), REVISION: 1.0", None),
        ("garbage", None),
    ],
)
def test_jetpack_from_the_release_where_no_package_tells_it(tmp_path: Path, release: str, jetpack: str | None) -> None:
    root = machine(tmp_path, {"etc/nv_tegra_release": release})
    assert read_device(root, says({})).jetpack == jetpack
    removed = says({"dpkg-query": "config-files 6.0+b87"})  # of a package that is no longer there
    assert read_device(root, removed).jetpack == jetpack


def test_a_jetson_in_a_container_without_the_release_file(tmp_path: Path) -> None:
    root = machine(tmp_path, {"proc/device-tree/compatible": "acme,box\0nvidia,tegra264\0"})
    device = read_device(root, says({}))
    assert device.is_jetson
    assert (device.soc, device.l4t, device.jetpack) == ("tegra264", None, None)


def test_a_sensor_that_is_switched_off_is_no_temperature(tmp_path: Path) -> None:
    zone = "sys/class/thermal/thermal_zone1"
    root = machine(tmp_path, {f"{zone}/type": "gpu-thermal\n", f"{zone}/temp": "-256000\n"})
    assert read_device(root, says({})).temperatures_c == {}


def test_odd_files_are_unknown(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "empty").touch()
    (tmp_path / "huge").write_text("9" * 5000)
    for name in ("folder", "pipe", "loop", "empty", "none"):
        assert text(tmp_path / name) is None
        assert line(tmp_path / name) is None
    assert integer(tmp_path / "huge") is None


def test_a_sensor_without_a_value_yet_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sensors of parts that are asleep answer EAGAIN, as does an empty pipe that does not block."""
    path = tmp_path / "temp"
    path.write_text("51000\n")
    assert integer(path) == 51000
    reader, writer = os.pipe2(os.O_NONBLOCK)
    monkeypatch.setattr(Path, "open", lambda *_: os.fdopen(reader, "rb"))
    try:
        assert integer(path) is None
    finally:
        os.close(writer)


def test_free_space_of_a_folder_that_is_still_to_be_made(tmp_path: Path) -> None:
    here, there = free_disk_mb(tmp_path), free_disk_mb(tmp_path / "a" / "b")
    assert here is not None
    assert there is not None


def test_commands_answer_or_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_command(["echo", "NV Power Mode: 15W"]) == "NV Power Mode: 15W\n"
    assert run_command(["false"]) is None
    assert run_command(["no-such-program-anywhere"]) is None
    monkeypatch.setattr("fthnet_kit.edge.device.machine.COMMAND_TIMEOUT_S", 0.2)
    assert run_command(["sleep", "30"]) is None


def test_this_machine_is_valid_json() -> None:
    content = json.loads(json.dumps(read_device().to_dict(), allow_nan=False))
    assert content["cores"] >= 1
    assert content["memory_total_mb"] > content["memory_available_mb"] > 0


garbage = st.one_of(
    st.binary(max_size=60),
    st.text(alphabet="0123456789-,.: knaif\n\0\x1b٣", max_size=40).map(str.encode),
    st.sampled_from(["9" * 400, "1e999", "nan nan nan", "0-99999999999", "5-1", "-", "MemTotal: kB"]).map(str.encode),
)


@settings(max_examples=25)
@given(st.lists(garbage, min_size=3, max_size=6), st.integers(0, 5), st.text(max_size=40))
def test_garbage_never_raises(contents: list[bytes], start: int, said: str) -> None:
    """Nonsense in every file; names of devices stay, so that their other files are read."""
    names = sorted({**ORIN, **THOR})
    files: dict[str, str | bytes] = {
        name: ORIN.get(name) or THOR[name]
        if name.endswith(("/name", "/type", "_label"))
        else contents[(start + number) % len(contents)]
        for number, name in enumerate(names)
    }
    with tempfile.TemporaryDirectory() as folder:
        device = read_device(machine(Path(folder), files), lambda _: said)
    json.dumps(device.to_dict(), allow_nan=False)
    for word in (device.model, device.governor, device.kernel, device.power_mode, *device.temperatures_c):
        assert word is None or word.isprintable()
