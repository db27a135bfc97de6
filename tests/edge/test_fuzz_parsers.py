"""What others write, the kit reads or refuses in one line: configuration, addresses, records, cards, DICOM, markup.

Each parser gets inputs that are made for it: valid ones with a part replaced, and text of any kind. `make test` tries
some hundreds each; `make test-long` goes on for FTHNET_FUZZ_SECONDS (ten minutes) a parser, with new seeds:

    python -m pytest -m long tests/edge/test_fuzz_parsers.py -s      prints the number of cases of each
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from rich.console import Console

from fthnet_kit.edge.capture.open_source import make_source, with_password
from fthnet_kit.edge.deployment.config_file import default_map, load_config, missing_files, render
from fthnet_kit.edge.deployment.config_sections import Config, known_keys
from fthnet_kit.edge.deployment.run_assembly import headline
from fthnet_kit.edge.errors import KitError
from fthnet_kit.edge.guidance.texts import Words
from fthnet_kit.edge.inference.scorer import QualityScorer
from fthnet_kit.edge.model.card import ModelCard
from fthnet_kit.edge.outputs.best_shot.dicom_context import DicomContext
from fthnet_kit.edge.outputs.mqtt.broker import Broker, MqttOptions, credentials, tls_context
from fthnet_kit.edge.outputs.mqtt.sink import Link, MqttSink
from fthnet_kit.edge.outputs.preview.access import Address
from fthnet_kit.edge.outputs.records.chain import ORIGIN, chain_value, read_records
from fthnet_kit.edge.outputs.records.export import write_csv, write_parquet
from fthnet_kit.edge.outputs.records.plot import _number, draw
from fthnet_kit.edge.outputs.records.verify import verify
from fthnet_kit.edge.outputs.records.writer import Records
from fthnet_kit.edge.outputs.terminal import TerminalView
from tests.conftest import ROOT, FakeBackend, make_card
from tests.fuzzing import explore, explore_long

FEW = 60  # each; `make test-long` goes on for longer
AT_ONCE = 500
CARD = json.loads((ROOT / "edge" / "demo" / "model_card.json").read_text())
ODD = ["", "\0", "\ud800", "[/red]", "[bold", "../../etc/passwd", "²", "१", "nan", "inf", "1e999", "-1", "0", "9" * 400]
ODD += ["a" * 300, "a" * 5000, "x\ny", "\x1b[2J", "%s%n", "~nobody/x", "/proc/self/mem", "{device}", "::1", "[::1]:1"]
TEXT = st.one_of(
    st.sampled_from(ODD), st.text(max_size=30), st.text(alphabet="[]/\\:?&=%@#.-_ab01\n\"'{}", max_size=40)
)
DEEP = "[" * 3000
NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([10**400, -(10**400), 2**63, 2**64, 1e308]))
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, TEXT)
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6
)


def dumped(value: Any) -> str:
    """As JSON; numbers of any length stay as they are."""
    with contextlib.suppress(ValueError):
        return json.dumps(value)
    return repr(value)


@st.composite
def altered(draw: st.DrawFn, valid: Any) -> Any:
    """A valid value with one to three members replaced, removed or added, at any depth."""
    content = json.loads(json.dumps(valid))
    for _ in range(draw(st.integers(1, 3))):
        place = content
        while isinstance(place, (dict, list)) and place:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], (dict, list)) and place[key] and draw(st.booleans()):
                place = place[key]
                continue
            what = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
            if what == "replace":
                place[key] = draw(JSON)
            elif what == "remove":
                del place[key]
            elif isinstance(place, dict):
                place[draw(TEXT)] = draw(JSON)
            break
    return content


def json_texts(valid: Any) -> st.SearchStrategy[bytes]:
    """JSON that is nearly valid, and bytes that are none."""
    near = altered(valid).map(lambda value: dumped(value).encode("utf-8", "surrogatepass"))
    whole = json.dumps(valid).encode()
    cut = st.tuples(st.integers(0, len(whole)), st.binary(max_size=4)).map(lambda at: whole[: at[0]] + at[1])
    return st.one_of(near, cut, st.sampled_from([DEEP.encode(), b'{"a":' * 3000, b"\xef\xbb\xbf{}", b"1" * 5000]))


def toml_value(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return dumped(value).replace(": ", " = ")
    return json.dumps(value) if not isinstance(value, float) else repr(value)


@st.composite
def configurations(draw: st.DrawFn) -> bytes:
    """TOML with known and unknown keys and values of every kind; or the full file with a part overwritten."""
    if draw(st.integers(0, 3)) == 0:
        text = render(Config())
        at, length = draw(st.integers(0, len(text))), draw(st.integers(0, 20))
        return (text[:at] + draw(TEXT) + text[at + length :]).encode("utf-8", "surrogatepass")
    lines = []
    for _ in range(draw(st.integers(1, 4))):
        key = draw(st.sampled_from([*known_keys().values()]))
        name = draw(st.sampled_from([key.name, key.name, key.name, "x", '"a b"', "a.b", "source.x"]))
        value = draw(
            st.one_of(JSON.map(toml_value), st.sampled_from(["1979-05-27", "07:32:00", "0x7f", "inf", "nan", DEEP]))
        )
        lines += [draw(st.sampled_from([f"[{key.section}]", f"[[{key.section}]]", "[x]", ""])), f"{name} = {value}"]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


@st.composite
def record_files(draw: st.DrawFn) -> bytes:
    """Lines with a valid chain and any content, altered lines, and other bytes."""
    before, out = ORIGIN, b""
    for seq in range(draw(st.integers(1, 4))):
        valid = {"frame": 1, "captured_at": "2026-01-01T00:00:00+00:00", "score": 50.0, "stage_ms": {"infer": 1.0}}
        members = draw(altered({"seq": seq, "prev": before, "lost_before": 1, "removed_through": 1, **valid}))
        members = {"seq": seq, **members} if isinstance(members, dict) else {"seq": seq}
        body = dumped(members).replace(", ", ",").replace(": ", ":")[:-1].encode("utf-8", "surrogatepass")
        before = chain_value(before, body)
        line = body + b',"chain":"' + before.encode() + b'"}\n'
        if draw(st.integers(0, 4)) == 0:
            at = draw(st.integers(0, len(line)))
            line = line[:at] + draw(st.binary(max_size=5)) + line[at + 1 :]
        out += line
    return out


# Parsers: each is given a case and a folder of its own


def read_configuration(content: bytes, folder: Path) -> None:
    (folder / "fthnet.toml").write_bytes(content)
    config = load_config(folder / "fthnet.toml")
    default_map(config)
    missing_files(config)
    render(config, explained=False)
    (folder / "again.toml").write_text(render(config), encoding="utf-8")
    load_config(folder / "again.toml")


def read_mqtt(case: tuple[str, str, str, str], folder: Path) -> None:
    url, topic, device, user = case
    options = MqttOptions(topic=topic, device=device, user=user, queue=folder / "q", ca_file=folder / "none.pem")
    broker = Broker.parse(url)
    with contextlib.suppress(KitError):
        tls_context(options)
    credentials(broker, options)
    options.base_topic()
    sink = MqttSink.__new__(MqttSink)  # without its threads
    sink.topic, sink.broker, sink.options, sink._tls = options.base_topic(), broker, options, None
    sink._user, sink._password = credentials(broker, options)
    sink._client(Link())


def read_source(text: str, _: Path) -> None:
    if "\0" in text or not os.path.isdir(text):  # noqa: PTH112  (no walk through all files of this machine)
        make_source(text)
    with_password(text, "secret")


def read_address(text: str, _: Path) -> None:
    Address.parse(text)


def read_record_file(content: bytes, folder: Path) -> None:
    path = folder / "r.jsonl"
    path.write_bytes(content)
    verify(path, "0" * 64)
    list(read_records(path))
    with contextlib.suppress(KitError):
        write_csv(path, io.BytesIO())
    with contextlib.suppress(KitError):
        write_parquet(path, io.BytesIO())
    Records(path).close()
    verify(path)


def draw_record_file(content: bytes, folder: Path) -> None:
    (folder / "r.jsonl").write_bytes(content)
    draw(folder / "r.jsonl", folder / "r.png")


def read_card(content: bytes, folder: Path) -> None:
    (folder / "model_card.json").write_bytes(content)
    card = ModelCard.read(folder / "model_card.json")
    assert ModelCard.from_json(card.to_json()) == card


def read_dicom(content: bytes, folder: Path) -> None:
    (folder / "dicom.json").write_bytes(content)
    DicomContext.read(folder / "dicom.json")


def show(text: str, _: Path) -> None:
    console = Console(markup=False, file=io.StringIO(), force_terminal=True, width=200)
    console.print(TerminalView(console, text)._render())
    line = headline(QualityScorer(make_card(name=text, version=text), FakeBackend()), Words())
    console.print(line)
    for shown in (line, str(KitError(text))):
        assert shown.isprintable()
        shown.encode()


DICOM = {"laterality": "R", "device_type": "fundus_camera", "pixel_spacing_mm": 0.006, "patient_name": "A^B"}
DICOM |= {"birth_date": "19700101", "sex": "F", "uid_root": "1.2.3.", "pupil_dilated": True, "lossy_ratio": 10}
SCHEMES = st.sampled_from(
    ["", "0?", "csi://", "csi://0?", "gst:", "rtsp://", "http://", "sim:?", "/dev/video", "photos/"]
)
QUERIES = st.lists(
    st.tuples(st.sampled_from(["width", "height", "fps", "seed", "seconds", "fourcc", "defect", "x"]), TEXT), max_size=4
).map(lambda pairs: "&".join(f"{name}={value}" for name, value in pairs))
URLS = st.tuples(st.sampled_from(["mqtt://", "mqtts://", "http://", ""]), TEXT).map("".join)
PARSERS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any, Path], None]]] = {
    "configuration": (st.one_of(configurations(), st.binary(max_size=40)), read_configuration),
    "MQTT settings": (st.tuples(URLS, TEXT, TEXT, TEXT), read_mqtt),
    "source addresses": (st.tuples(SCHEMES, st.one_of(TEXT, QUERIES)).map("".join), read_source),
    "page addresses": (TEXT, read_address),
    "records": (st.one_of(record_files(), st.binary(max_size=60)), read_record_file),
    "records as a picture": (record_files(), draw_record_file),
    "model card": (json_texts(CARD), read_card),
    "DICOM context": (json_texts(DICOM), read_dicom),
    "terminal lines": (TEXT, show),
}


@pytest.mark.parametrize("name", PARSERS)
def test_what_others_wrote_is_read_or_refused_in_one_line(name: str) -> None:
    pytest.importorskip("paho")
    pytest.importorskip("pyarrow")
    few = FEW // 15 if name == "records as a picture" else FEW
    assert explore(*PARSERS[name], few, number=1) >= few // 2


@pytest.mark.long
@pytest.mark.parametrize("name", PARSERS)
def test_parsers_for_ten_minutes_each(name: str) -> None:
    tried = explore_long(*PARSERS[name], AT_ONCE)
    print(f"{name}: {tried} cases, 0 escapes")


def test_whole_numbers_without_bound_are_refused_or_left_out(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    endless = "1" + "0" * 400
    with pytest.raises(KitError, match="expected a number"):
        read_configuration(f"[live]\nuseless_s = {endless}\n".encode(), tmp_path)
    assert _number(int(endless)) is None
