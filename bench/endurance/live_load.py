"""Does anyone who watches slow the live loop? The real `fthnet run`, alone and then with all outputs in use.

The camera is real MJPEG over HTTP at 1080p. In use are: records, guidance, best shot, the page with viewers of its
pictures and events, `/metrics` scraped every second, and MQTT to a mosquitto where one is installed.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from fthnet_kit.edge.cli.options import signature_option
from fthnet_kit.edge.errors import EngineError, KitError

WIDTH, HEIGHT = 1920, 1080
KIND = "fthnet-live-load"
MOST_OVERHEAD_MS = 2.0  # at p95, of a scored frame
MQTT_PLACES = "/usr/sbin:/usr/local/sbin:/usr/bin"
ROWS = ("frame age", "capture to score", "loop overhead")
PERCENTILES = ("p50", "p95", "p99", "max")
END_S, START_S = 30.0, 60.0
SCRAPE_S = 1.0


@dataclass(frozen=True)
class Load:
    """A run of `fthnet run`.

    Attributes:
        name: of what was in use.
        scored, captured: frames.
        ms: percentiles of each of `ROWS`, as the command itself printed them.
        delivered: what the viewers got: pictures, events, scrapes, MQTT messages.
    """

    name: str
    scored: int
    captured: int
    ms: dict[str, dict[str, float]]
    delivered: dict[str, int]

    def failures(self, fps: float) -> list[str]:
        """Which figures are beyond what the kit promises: age within one frame interval, overhead, both at p95."""
        found = {"frame age": 1e3 / fps, "loop overhead": MOST_OVERHEAD_MS}
        return [
            f"{self.name}: {row} p95 {self.ms[row]['p95']:.2f} ms, expected at most {limit:.2f}"
            for row, limit in found.items()
            if self.ms[row]["p95"] > limit
        ]


class Viewers:
    """Whoever reads the page's streams: one thread each, until `close`.

    Args:
        url: of the page.
    """

    def __init__(self, url: str) -> None:
        self.counts = {"pictures": 0, "events": 0, "scrapes": 0}
        self._ends = threading.Event()
        jobs: dict[str, Callable[[], None]] = {
            "pictures": lambda: self._follow(f"{url}/stream.mjpg", b"Content-Type: image/jpeg", "pictures"),
            "events": lambda: self._follow(f"{url}/events", b"data:", "events"),
            "scrapes": lambda: self._scrape(f"{url}/metrics"),
        }
        self._threads = [threading.Thread(target=job, name=name, daemon=True) for name, job in jobs.items()]
        for thread in self._threads:
            thread.start()

    def _follow(self, url: str, mark: bytes, name: str) -> None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=10) as stream:  # noqa: S310  (ours)
            while not self._ends.is_set() and (data := stream.read1(1 << 18)):
                self.counts[name] += data.count(mark)

    def _scrape(self, url: str) -> None:
        while not self._ends.wait(SCRAPE_S):
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  (ours)
                self.counts["scrapes"] += b"fthnet" in answer.read()

    def close(self) -> dict[str, int]:
        """Stop reading; what was read."""
        self._ends.set()
        for thread in self._threads:
            thread.join(1.0)
        return self.counts


@contextlib.contextmanager
def broker(folder: Path) -> Iterator[str | None]:
    """A mosquitto on loopback; None where it is not installed."""
    program = shutil.which("mosquitto", path=MQTT_PLACES)
    if program is None:
        yield None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = folder / "mosquitto.conf"
    settings.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
    process = subprocess.Popen([program, "-c", str(settings)], stderr=subprocess.DEVNULL)  # noqa: S603  (as installed)
    try:
        yield f"mqtt://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def measure(name: str, camera: str, seconds: float, arguments: list[str], output: Path) -> Load:
    """Run `fthnet run` on a camera for so long, reading its page where it has one.

    Args:
        name: of the run.
        camera: its address.
        seconds: how long.
        arguments: of the command.
        output: file for what it says.

    Raises:
        EngineError: it did not start, or did not end cleanly.
    """
    command = [sys.executable, "-u", "-m", "fthnet_kit.edge.cli", "run", "--source", camera, *arguments]
    with output.open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)  # noqa: S603  (our own command)
    try:
        viewers = Viewers(_page_of(process, output)) if "--serve" in arguments else None
        time.sleep(seconds)
        delivered = viewers.close() if viewers else {}
        process.send_signal(signal.SIGTERM)
        process.wait(END_S)
    finally:
        process.kill()
        process.wait()
    text = output.read_text(errors="replace")
    if process.returncode:
        raise EngineError(f"live: expected `fthnet run` to end cleanly, found exit code {process.returncode}: {text}")
    if sent := re.search(r"MQTT: (\d+) delivered", text):
        delivered["MQTT messages"] = int(sent[1])
    return Load(name, _number(text, r"(\d+) frames? scored"), _number(text, r"captured (\d+)"), _table(text), delivered)


def _page_of(process: subprocess.Popen[bytes], output: Path) -> str:
    """The address that the command says."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"page: (http\S+)", output.read_text(errors="replace")):
            return found[1].rstrip("/")
        time.sleep(0.05)
    raise EngineError(f"live: expected the page's address, found {output.read_text(errors='replace')!r}")


def _number(text: str, pattern: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise EngineError(f"live: expected a summary of `fthnet run`, found {text!r}")
    return int(found[1])


def _table(text: str) -> dict[str, dict[str, float]]:
    """The rows of the summary that `fthnet run` prints."""
    rows = {}
    for row in ROWS:
        found = re.search(rf"{row}\W+" + r"([\d.]+)\W+" * len(PERCENTILES), text)
        if found is None:
            raise EngineError(f"live: expected scored frames, found no durations in {text!r}")
        rows[row] = dict(zip(PERCENTILES, map(float, found.groups()), strict=True))
    return rows


@click.command()
@click.option(
    "--seconds", type=click.FloatRange(3), default=30.0, show_default=True, help="Seconds of each of the two runs."
)
@click.option(
    "--fps",
    type=click.FloatRange(1, 60),
    default=20.0,
    show_default=True,
    help="Frames a second of the camera, at 1080p.",
)
@signature_option
@click.option("--bundle", type=click.Path(path_type=Path), help="Bundle folder. Default: the demonstration bundle.")
@click.option("--precision", help="Number format of the network, as of `fthnet run`.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all figures.")
def live(seconds: float, fps: float, bundle: Path | None, precision: str | None, json_file: Path | None) -> None:
    """Run `fthnet run` alone, then with every output in use, and compare.

    A 1080p camera on loopback; page with viewers, metrics scraped, MQTT, best shot, records. Exit code 1 where, at p95,
    a scored frame is older than one frame interval or the loop with its sinks adds more than 2 ms.
    """
    from rich.table import Table

    from fthnet_kit.bench.endurance.faulty_camera import MisbehavingCamera
    from fthnet_kit.bench.results.results_file import plain, write_file
    from fthnet_kit.edge.model.bundle import Bundle
    from fthnet_kit.edge.reporting.console import busy, open_console

    Bundle.open(bundle)  # fails before a camera starts
    model = [] if bundle is None else ["--bundle", str(bundle)]
    model += [] if precision is None else ["--precision", precision]
    with (
        tempfile.TemporaryDirectory(prefix="fthnet-live-") as name,
        broker(Path(name)) as mqtt,
        MisbehavingCamera(fps, WIDTH, HEIGHT) as camera,
    ):
        outputs = ["--records", f"{name}/records.jsonl", "--best-shot", f"{name}/shots", "--serve", "127.0.0.1:0"]
        outputs += ["--mqtt", mqtt] if mqtt else []
        runs = {"alone": model, "all outputs in use": [*model, *outputs]}
        loads = []
        with busy(open_console(stderr=True), "starting") as say:
            for what, arguments in runs.items():
                say(f"{what}, {seconds:g} s")
                loads.append(measure(what, camera.url, seconds, arguments, Path(name) / what))
    table = Table(title=f"1080p at {fps:g} frames a second, ms", title_justify="left")
    table.add_column("")
    table.add_column("scored")
    for row in ROWS:
        table.add_column(f"{row} p50 / p95 / p99", justify="right")
    for load in loads:
        cells = (" / ".join(f"{load.ms[row][p]:.2f}" for p in PERCENTILES[:3]) for row in ROWS)
        table.add_row(load.name, f"{load.scored} of {load.captured}", *cells)
    console = open_console()
    console.print(table)
    console.print("delivered meanwhile: " + ", ".join(f"{n} {what}" for what, n in loads[1].delivered.items()))
    if mqtt is None:
        console.print("mosquitto is not installed: MQTT was not in use")
    if json_file is not None:
        measured = plain([asdict(load) for load in loads])
        facts: dict[str, Any] = {"kind": KIND, "fps": fps, "seconds": seconds, "loads": measured}
        write_file(json_file, (json.dumps(facts, indent=1) + "\n").encode())
    if failed := [what for load in loads for what in load.failures(fps)]:
        raise KitError("live: " + "; ".join(failed))


if __name__ == "__main__":
    from fthnet_kit.edge.cli.main import main

    main(["bench", "live", *sys.argv[1:]])
