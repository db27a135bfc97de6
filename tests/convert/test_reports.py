"""The reports on precisions: what the JSON holds, pages that need nothing beside them, names that bite."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rich.console import Console

pytest.importorskip("onnx")
pytest.importorskip("matplotlib")

from fthnet_kit.calibration.int8_fit import LayerCalibration
from fthnet_kit.calibration.int8_photographs import Photograph
from fthnet_kit.calibration.precision_gate import cost
from fthnet_kit.convert.precision.quantize import Outcome, Sensitivity
from fthnet_kit.convert.precision.quantize_report import layer_rows, quantization_reports
from fthnet_kit.convert.precision.verify import PrecisionVerification
from fthnet_kit.convert.precision.verify_report import noise_line, verification_reports, verification_table
from fthnet_kit.edge import Thresholds
from tests.conftest import make_card

QKV, PROJ, FC2, MERGE, LAST = (
    "bbone.layers.0.blocks.0.attn.qkv",
    "bbone.layers.0.blocks.0.attn.proj",
    "bbone.layers.0.blocks.0.mlp.fc2",
    "bbone.layers.1.downsample.reduction",
    "conv1x1.4.0",
)
SHAPES = {QKV: (32, 96), PROJ: (32, 32), FC2: (128, 32), MERGE: (128, 64), LAST: (48, 24)}
MACS = {QKV: 0.1875, PROJ: 0.0625, FC2: 0.25, MERGE: 0.125, LAST: 0.0011}
HOSTILE = ("<script>alert(1)<!--.jpg", '"><img src=x onerror=y>.png', "a&amp;b'c.jpg", "\udcff\n[red].jpg")
CARD = make_card(name="<b>Söhne & Co</b>")


def calibration(shape: tuple[int, int], *, smoothed: bool) -> LayerCalibration:
    inputs, outputs = shape
    smoothing = np.geomspace(0.5, 4, inputs, dtype=np.float32) if smoothed else None
    zeros = np.zeros(outputs, np.float32)
    return LayerCalibration(smoothing, -0.17, 12.5, zeros + 1, zeros, zeros, 1.25e-5)


def photographs(count: int, seed: int) -> list[Photograph]:
    rng = np.random.default_rng(seed)
    names = [*HOSTILE, *(f"{seed}-{index}.jpg" for index in range(count - len(HOSTILE)))]
    views = rng.integers(0, 256, (count, 384, 384, 3), np.uint8)
    return [
        Photograph(Path("secret") / name, None if i % 2 else 40.5, view, f"{seed:032}{i:032}")
        for i, (name, view) in enumerate(zip(names, views, strict=True))
    ]


def points(count: int = 40) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(7)
    reference = rng.uniform(5, 95, count).astype(np.float32)
    spreads = {"fp16": 0.02, "int8": 0.3, "int8-cpu": 3.0}
    return reference, {form: (reference + rng.normal(0, s, count)).astype(np.float32) for form, s in spreads.items()}


def make_outcome() -> Outcome:
    reference, scores = points()
    return Outcome(
        models={},
        costs={form: cost(reference, found, CARD.thresholds) for form, found in scores.items()},
        int8_layers=[QKV, FC2],
        int8_macs=0.75,
        macs=MACS,
        layers={name: calibration(shape, smoothed=name in (QKV, PROJ)) for name, shape in SHAPES.items()},
        sensitivities=[
            Sensitivity(MERGE, 0.316, 1.5, 0.125),
            Sensitivity(PROJ, 0.2, 0.4, 0.0625),
            Sensitivity(FC2, 0.05, 0.1, 0.25),
            Sensitivity(QKV, 0.01, 0.02, 0.1875),
        ],
        calibration=photographs(32, 1),
        held_out=photographs(40, 2),
        reference=reference,
        scores=scores,
    )


def make_verification() -> PrecisionVerification:
    reference, scores = points()
    return PrecisionVerification(
        images=[photograph.path.name for photograph in photographs(40, 2)],
        reference=reference,
        scores=scores,
        costs={form: cost(reference, found, CARD.thresholds) for form, found in scores.items()},
        noise_floor=1.234,
    )


@pytest.fixture(scope="module")
def quantization() -> dict[str, bytes]:
    return quantization_reports(make_outcome(), CARD)


@pytest.fixture(scope="module")
def verification() -> dict[str, bytes]:
    return verification_reports(make_verification(), CARD)


def strict_json(content: bytes) -> Any:
    return json.loads(content.decode(), parse_constant=pytest.fail)


class Page(HTMLParser):
    """Text, tags and pictures of a page; counts tags that are not closed."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.text, self.tags, self.addresses, self.open = "", set[str](), list[str](), list[str]()
        self.feed(content.decode())
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "data", "action")]
        assert not any(name.startswith("on") for name, _ in attributes)
        if tag not in ("meta", "img", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def decoded(content: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def pictures(page: Page) -> list[np.ndarray]:
    shown = [address for address in page.addresses if address != "data:,"]  # the empty icon
    assert all(address.startswith("data:image/") for address in shown)
    return [decoded(base64.b64decode(address.partition("base64,")[2], validate=True)) for address in shown]


def test_what_quantisation_leaves(quantization: dict[str, bytes]) -> None:
    assert set(quantization) == {"quantization.json", "quantization.html"}


def test_the_json_has_budgets_costs_and_photographs(quantization: dict[str, bytes]) -> None:
    content, outcome = strict_json(quantization["quantization.json"]), make_outcome()
    assert content["model"] == {"name": CARD.name, "version": "1", "weights_sha256": "0" * 64}
    assert {form: entry["holds"] for form, entry in content["precisions"].items()} == {
        "fp16": True,
        "int8": False,
        "int8-cpu": False,
    }
    assert content["precisions"]["int8"]["shortfalls"] == ["INT8 share of MACs 0.75 < 0.8"]
    assert content["precisions"]["fp16"]["budget"] == {"mean": 0.1, "worst": 0.5}
    assert content["precisions"]["int8"]["budget"] == {"mean": 0.5, "p99": 2, "srcc": 0.998}
    assert content["precisions"]["int8"]["cost"]["mean"] == pytest.approx(outcome.costs["int8"].mean, rel=1e-5)
    assert (content["int8_mac_share"], content["least_int8_mac_share"]) == (0.75, 0.8)
    assert [entry["file"] for entry in content["calibration"]] == [p.path.name for p in outcome.calibration]
    assert content["held_out"][0]["label"] == 40.5
    assert content["held_out"][1]["label"] is None
    assert content["held_out"][3]["points"]["int8"] == pytest.approx(float(outcome.scores["int8"][3]), rel=1e-5)
    assert b"secret" not in quantization["quantization.json"]  # the photographs' folder is nobody's business


def test_the_json_says_what_became_of_every_layer(quantization: dict[str, bytes]) -> None:
    layers = strict_json(quantization["quantization.json"])["layers"]
    assert [entry["layer"] for entry in layers] == [QKV, PROJ, FC2, MERGE, LAST]
    assert [entry["state"] for entry in layers] == ["int8", "floating point", "int8", "floating point", "too small"]
    assert [entry["int8"] for entry in layers] == [True, False, True, False, False]
    assert [entry["alone_worst"] for entry in layers] == [0.02, 0.4, 0.1, 1.5, None]
    assert [entry["channel_spread"] for entry in layers] == [8, 8, None, None, None]
    wanted = {"low": -0.17, "high": 12.5, "output_error": 1.25e-5}
    assert wanted.items() <= layers[0].items()
    assert layers[0]["mac_share"] == pytest.approx(0.1875)


@pytest.mark.slow
def test_the_same_outcome_gives_the_same_bytes(quantization: dict[str, bytes], verification: dict[str, bytes]) -> None:
    assert quantization_reports(make_outcome(), CARD) == quantization
    assert verification_reports(make_verification(), CARD) == verification


def test_pages_need_nothing_beside_them(quantization: dict[str, bytes], verification: dict[str, bytes]) -> None:
    for content, count in ((quantization["quantization.html"], 1), (verification["verify.html"], 1)):
        page = Page(content)
        assert page.open == []
        assert len(pictures(page)) == count
        assert not page.tags & {"script", "iframe", "b"}
        assert all(address.startswith("data:") for address in page.addresses)
        assert not re.search(r"@import|url\(", content.decode())
        assert "Nothing was run on a GPU" in page.text


@pytest.mark.slow
def test_names_are_escaped(quantization: dict[str, bytes], verification: dict[str, bytes]) -> None:
    for content, title in (
        (quantization["quantization.html"], "Quantisation"),
        (verification["verify.html"], "Verification"),
    ):
        assert f"{title} of <b>Söhne & Co</b> 1" in Page(content).text
    page = Page(quantization["quantization.html"])
    assert all(name in page.text for name in HOSTILE[:3])
    assert "\\udcff\n[red].jpg" in page.text
    found = make_verification()
    found.scores["int8"][: len(HOSTILE)] += 50
    assert all(name in Page(verification_reports(found, CARD)["verify.html"]).text for name in HOSTILE[:3])


def test_the_page_has_every_layer_and_the_gate(quantization: dict[str, bytes]) -> None:
    text, outcome = Page(quantization["quantization.html"]).text, make_outcome()
    for row in layer_rows(outcome):
        assert all(cell in text for cell in row.cells())
    assert "2 of 5 layers run in INT8: 75.0 % of the weighted layers' MACs (at least 80 % wanted)" in text
    assert "INT8 share of MACs 0.75 < 0.8" in text
    assert "mean ≤ 0.5, p99 ≤ 2, SRCC ≥ 0.998" in text


def test_what_verification_leaves(verification: dict[str, bytes]) -> None:
    assert set(verification) == {"verify.json", "verify.png", "verify.html"}
    content, found = strict_json(verification["verify.json"]), make_verification()
    assert content["noise_floor"] == 1.234
    assert content["thresholds"] == {"usable": 40, "good": 60}
    assert content["precisions"]["fp16"]["holds"]
    assert content["precisions"]["int8-cpu"]["shortfalls"] == found.shortfalls("int8-cpu") != []
    assert [entry["file"] for entry in content["images"]] == found.images
    assert content["images"][5]["points"] == pytest.approx(
        {form: float(scores[5]) for form, scores in {"fp32": found.reference, **found.scores}.items()}, rel=1e-5
    )
    assert decoded(verification["verify.png"]).shape[1] > 1000


def test_the_table_for_the_terminal() -> None:
    console, found = Console(width=160, file=io.StringIO()), make_verification()
    with console.capture() as capture:
        console.print(verification_table(found))
    text = capture.get()
    assert text.count("holds") == 2
    assert found.shortfalls("int8-cpu")[0] in text
    assert f"{found.costs['int8'].p99:.3f}" in text
    assert noise_line(found).startswith("Noise floor: 1.23 points")


def test_scores_that_are_not_finite_are_told() -> None:
    found = make_verification()
    found.scores["int8"][2], found.scores["int8"][3] = np.nan, np.inf
    found.scores["fp16"][:] = np.nan
    costs = {form: cost(found.reference, s, CARD.thresholds) for form, s in found.scores.items()}
    files = verification_reports(dataclasses.replace(found, costs=costs), CARD)
    content = strict_json(files["verify.json"])
    assert content["images"][2]["points"]["int8"] is None
    assert content["precisions"]["fp16"]["cost"]["mean"] is None
    assert not content["precisions"]["fp16"]["holds"]
    assert HOSTILE[2] in Page(files["verify.html"]).text
    decoded(files["verify.png"])


def test_a_layer_that_overflows_alone_is_told() -> None:
    outcome = make_outcome()
    outcome.sensitivities[0] = dataclasses.replace(outcome.sensitivities[0], mean=np.inf, worst=np.nan)
    files = quantization_reports(outcome, CARD)
    layers = strict_json(files["quantization.json"])["layers"]
    assert next(entry["alone_mean"] for entry in layers if entry["layer"] == MERGE) is None
    assert "inf" in Page(files["quantization.html"]).text


def test_a_bundle_without_converted_graphs_has_no_picture() -> None:
    files = verification_reports(dataclasses.replace(make_verification(), scores={}, costs={}), CARD)
    assert set(files) == {"verify.json", "verify.html"}
    assert "holds no converted graph" in Page(files["verify.html"]).text


def test_flips_depend_on_the_cards_thresholds() -> None:
    found = make_verification()
    card = dataclasses.replace(CARD, thresholds=Thresholds(usable=0, good=0))
    assert verification_reports(found, card)["verify.png"] != verification_reports(found, CARD)["verify.png"]
