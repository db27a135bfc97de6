"""docs/MQTT.md: its topics and examples are what a real broker gets and gives."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("paho", reason="needs the extra [mqtt]")

from fthnet_kit.edge.image import Image
from fthnet_kit.edge.loop.result import LiveResult
from fthnet_kit.edge.outputs.best_shot.eye_context import EyeContext
from fthnet_kit.edge.outputs.mqtt.sink import MqttSink
from fthnet_kit.edge.outputs.records.checkpoints import Checkpoint
from tests.conftest import fake_scorer
from tests.edge.test_mqtt import Listener, Mosquitto, needs_mosquitto, options, until

PAGE = (Path(__file__).parents[3] / "docs" / "MQTT.md").read_text()
EXAMPLES: dict[str, Any] = {
    name: json.loads(text) for name, text in re.findall(r"^```json (\w+)\n(.*?)^```$", PAGE, re.S | re.M)
}
TOPICS = set(re.findall(r"^\| `TOPIC/(\w+)` ", PAGE, re.M))


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    mosquitto = Mosquitto(tmp_path)
    mosquitto.start()
    yield mosquitto
    mosquitto.kill()


def shape(value: Any) -> Any:
    """Names of members and kinds of values; any number will do where a number stands."""
    if isinstance(value, dict):
        return {key: shape(entry) for key, entry in value.items()}
    return "number" if isinstance(value, int | float) else type(value).__name__


@needs_mosquitto
def test_the_page_shows_what_a_broker_gets(broker: Mosquitto, tmp_path: Path, photograph: Image) -> None:
    listener = Listener(broker.port)
    eyes: list[bytes] = []
    sink = MqttSink(broker.url, options(tmp_path, take_eye=True))
    sink.on_eye = eyes.append
    with fake_scorer(lambda _: 76.731) as scorer:
        score = scorer.score(photograph)
    now = datetime.now(timezone.utc)
    sink.offer(LiveResult(score, None, None, now, age_ms=12.3, latency_ms=88.1, captured=42, dropped=3))
    head = Checkpoint(**EXAMPLES["records_head"])
    sink.publish_head(head.to_bytes())
    until(lambda: sink.connected and sink.waiting == 0, "not delivered")
    eye = json.dumps(EXAMPLES["eye"]).encode()
    listener.client.publish("fthnet/camera-1/eye", eye, qos=1)
    until(lambda: eyes == [eye], "no eye came")
    sink.close()
    until(lambda: listener.states() == [b"online", b"offline"], "no goodbye")
    listener.close()
    got = {topic.rpartition("/")[2]: payload for topic, payload, _ in listener.seen}
    assert set(got) == TOPICS
    expected = shape(EXAMPLES["result"])
    for name in ("result", "best"):
        found = shape(json.loads(got[name]))
        assert {**found, "frame": "number"} == {**expected, "frame": "number"}  # the frame has no number here
    assert json.loads(got["records_head"]) == EXAMPLES["records_head"]
    assert EyeContext.parse(eye).laterality == "R"
