"""Every metric of page, dashboard and alert rules is one that a run serves, and the page leaves none out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fthnet_kit.edge.loop.result import LiveSummary
from fthnet_kit.edge.outputs.preview.board import Board
from tests.conftest import make_card

pytest.importorskip("prometheus_client", reason="needs the extra [serve]")
prometheus = pytest.importorskip("fthnet_kit.edge.outputs.preview.prometheus")
ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "METRICS.md"
DASHBOARD = ROOT / "docs" / "grafana" / "fthnet.json"
ALERTS = ROOT / "docs" / "grafana" / "alerts.yaml"
NAME = re.compile(r"\b((?:fthnet|process)_\w+)")
SERIES = re.compile(r"_(?:bucket|sum|count)$")


def served() -> set[str]:
    """Names of all families that a run serves, counters with their ending."""
    metrics = prometheus.Metrics(Board(), make_card(), LiveSummary(), lambda: 0)
    kinds = re.findall(r"^# TYPE (\S+) (\S+)$", metrics.render().decode(), re.M)
    return {name for name, _ in kinds if not name.endswith("_created")}


def asked(text: str) -> set[str]:
    return {SERIES.sub("", name) for name in NAME.findall(text)}


def test_the_page_names_all_metrics() -> None:
    named = set(re.findall(r"^\| `(\w+)`", PAGE.read_text(), re.M))
    assert named == {name for name in served() if name.startswith("fthnet_")}


def test_the_dashboard_asks_for_metrics_that_are_there() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(queries) >= len(panels) > 10
    assert asked(" ".join(queries)) <= served()


def test_the_rules_ask_for_metrics_that_are_there() -> None:
    yaml = pytest.importorskip("yaml")
    [rules] = yaml.safe_load(ALERTS.read_text())["groups"]
    assert asked(" ".join(rule["expr"] for rule in rules["rules"])) <= served()
    assert all(rule["annotations"]["summary"] for rule in rules["rules"])
