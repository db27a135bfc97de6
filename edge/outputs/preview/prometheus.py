"""What Prometheus reads of a live run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import version

from fthnet_kit.edge.device.sensors import read_temperatures
from fthnet_kit.edge.errors import MissingExtraError
from fthnet_kit.edge.loop.result import LiveResult, LiveSummary
from fthnet_kit.edge.model.card import ModelCard
from fthnet_kit.edge.outputs.preview.board import Board

try:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
    from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError as error:
    raise MissingExtraError("prometheus_client", "serve", purpose="the metrics of the preview") from error

STAGE_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics(Collector):
    """What Prometheus reads. Counters of the loop are passed on as they stand, the rest is counted here.

    Args:
        summary: of the loop, for reconnects and faults.
        viewers: how many are connected now.
    """

    CONTENT_TYPE = CONTENT_TYPE_LATEST

    def __init__(self, board: Board, card: ModelCard, summary: LiveSummary, viewers: Callable[[], int]) -> None:
        self._board = board
        self._summary = summary
        self._registry = registry = CollectorRegistry()
        registry.register(self)
        ProcessCollector(registry=registry)
        self._scored = Counter("fthnet_frames_scored", "Frames that have a score", registry=registry)
        self._without = Counter(
            "fthnet_results_without_score", "Results without a score", ["reason"], registry=registry
        )
        self._scores = Histogram(
            "fthnet_score_points", "Scores, 0 to 100", buckets=[*range(10, 101, 10)], registry=registry
        )
        self._stages = Histogram(
            "fthnet_stage_seconds", "Duration of a stage", ["stage"], buckets=STAGE_BUCKETS_S, registry=registry
        )
        self._age = Histogram(
            "fthnet_frame_age_seconds",
            "Age of a frame when its scoring began",
            buckets=STAGE_BUCKETS_S,
            registry=registry,
        )
        self._latency = Histogram(
            "fthnet_capture_to_score_seconds", "From capture to score", buckets=STAGE_BUCKETS_S, registry=registry
        )
        self._records_head = Gauge(
            "fthnet_records_head",
            "Number of the last record that was signed; its chain value",
            ["chain"],
            registry=registry,
        )
        score = Gauge("fthnet_score", "The current score, 0 to 100; NaN where there is none", registry=registry)
        score.set_function(board.score_now)
        Gauge("fthnet_viewers", "Browsers that are connected", registry=registry).set_function(viewers)
        build = Gauge(
            "fthnet_build_info", "What runs", ["version", "model", "model_version", "origin"], registry=registry
        )
        build.labels(version("fthnet-edge-kit"), card.name, card.version, card.origin).set(1)

    def note_head(self, seq: int, chain: str) -> None:
        """The last signed checkpoint of the records, for others to keep."""
        self._records_head.clear()
        self._records_head.labels(chain).set(seq)

    def note(self, result: LiveResult) -> None:
        """Count one result."""
        if result.score.reason is not None:
            self._without.labels(result.score.reason).inc()
            return
        self._scored.inc()
        self._scores.observe(result.score.value or 0.0)
        for stage, ms in result.score.stage_ms.items():
            self._stages.labels(stage).observe(ms / 1e3)
        if result.age_ms is not None and result.latency_ms is not None:
            self._age.observe(result.age_ms / 1e3)
            self._latency.observe(result.latency_ms / 1e3)

    def collect(self) -> Iterator[Metric]:
        """What others count, as it stands now."""
        latest = self._board.latest
        captured, dropped = (latest.captured, latest.dropped) if latest else (0, 0)
        yield CounterMetricFamily("fthnet_frames_captured", "Frames that the camera gave", value=captured)
        yield CounterMetricFamily("fthnet_frames_dropped", "Frames that newer ones replaced", value=dropped)
        yield CounterMetricFamily("fthnet_camera_reconnects", "Times opened again", value=self._summary.reconnects)
        faults = CounterMetricFamily("fthnet_faults", "Errors that were contained, by where", labels=["where"])
        for where, count in list(self._summary.faults.items()):
            faults.add_metric([where], count)
        yield faults
        warmth = GaugeMetricFamily("fthnet_temperature_celsius", "Temperature by thermal zone", labels=["zone"])
        for zone, celsius in read_temperatures().items():
            warmth.add_metric([zone], celsius)
        yield warmth

    def render(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)
