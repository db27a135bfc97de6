"""The configuration: what is written is read back, what is wrong is told in one line, the command line goes before."""

from __future__ import annotations

import dataclasses
import string
import tempfile
from pathlib import Path
from typing import Any, Literal, get_args

import click
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from fthnet_kit.edge.cli.config import config_group, config_option, current_config
from fthnet_kit.edge.cli.options import SIGNED
from fthnet_kit.edge.cli.run import run
from fthnet_kit.edge.cli.settings import setting_options
from fthnet_kit.edge.deployment.config_file import default_map, load_config, missing_files, render
from fthnet_kit.edge.deployment.config_sections import Config, Key, known_keys
from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.loop.options import LiveOptions
from fthnet_kit.edge.outputs.mqtt.broker import MqttOptions


def written(folder: Path, text: str) -> Path:
    path = folder / "fthnet.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(folder: Path, text: str) -> str:
    with pytest.raises(InputError) as caught:
        load_config(written(folder, text))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(folder / "fthnet.toml"))
    return message.removeprefix(str(folder / "fthnet.toml"))


def test_the_written_file_holds_the_defaults_and_every_key(tmp_path: Path) -> None:
    path = written(tmp_path, render(Config()))
    assert load_config(path) == Config()
    lines = path.read_text().splitlines()
    for key in known_keys().values():
        assert any(line.startswith((f"{key.name} = ", f"#{key.name} = ")) for line in lines), key.full_name
        assert f"# {key.explained('If it is not set')}" in lines


def test_every_example_is_valid(tmp_path: Path) -> None:
    lines = render(Config()).splitlines()
    everything = [line[1:] if line[:1] == "#" and line[1:2] != " " else line for line in lines]
    config = load_config(written(tmp_path, "\n".join(everything)))
    assert config.keys_set == set(known_keys())
    assert config.records.path == Path("/var/lib/fthnet/records.jsonl")
    assert config.model.views == 1


def test_sections_cover_the_options_they_stand_for() -> None:
    for section, options in ((Config().live, LiveOptions()), (Config().mqtt, MqttOptions())):
        assert section.options() == options
        names = {field.name for field in dataclasses.fields(section)} - {"url"}
        assert names == {field.name for field in dataclasses.fields(options)}


def test_defaults_are_those_of_the_command_line() -> None:
    defaults = default_map(Config())
    for parameter in run.params:
        if parameter.name in defaults:
            assert parameter.get_default(click.Context(run)) == defaults[parameter.name], parameter.name
    assert {"precision", "backend", "cuda_graph"} <= {p.name for p in run.params} & set(defaults)


def test_every_setting_with_an_option_is_one_option_of_run() -> None:
    by_name = {parameter.name: parameter for parameter in run.params}
    flags = [flag for parameter in run.params for flag in parameter.opts]
    assert len(by_name) == len(run.params)
    assert len(flags) == len(set(flags))
    for key in known_keys().values():
        if key.metadata["option"] is not None:
            assert by_name[key.metadata["option"]].help == key.explained("Default"), key.full_name


@pytest.mark.parametrize(
    ("option", "value", "key"),
    [
        ("--records-rotate-mb", "0", "records.rotate_mb"),
        ("--threads", "0", "model.threads"),
        ("--views", "2", "model.views"),
        ("--serve", "99999", "serve.address"),
        ("--mqtt", "http://b", "mqtt.url"),
    ],
)
def test_what_the_file_refuses_the_command_line_refuses_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, value: str, key: str
) -> None:
    section, name = key.split(".")
    number = not isinstance(known_keys()[key].default, str) and value.isdigit() and section != "serve"
    with pytest.raises(InputError, match=key):
        load_config(written(tmp_path, f"[{section}]\n{name} = {value if number else repr(value)}\n"))
    monkeypatch.setattr("fthnet_kit.edge.inference.scorer.QualityScorer.from_bundle", lambda *_: pytest.fail("loaded"))
    done = CliRunner().invoke(run, ["--source", "sim:", option, value])
    assert done.exit_code == 2 or isinstance(done.exception, InputError)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
WORDS = st.text(string.ascii_letters + string.digits + "-_ .ü", min_size=1, max_size=12).filter(str.strip)


def values_of(key: Key) -> st.SearchStrategy[Any]:
    """Values that a key may have."""
    m = key.metadata
    special = {
        "address": st.builds("{}:{}".format, st.sampled_from(["0.0.0.0", "localhost", "[::1]"]), st.integers(0, 65535)),
        "url": st.builds("mqtts://{}:{}".format, st.sampled_from(["b", "10.0.0.1", "[::1]"]), st.integers(1, 65535)),
        "topic": st.sampled_from(["fthnet/{device}", "clinic/eye 1", "a"]),
        "device": st.from_regex(r"[\w.-]{1,9}", fullmatch=True, alphabet=string.printable),
    }
    if choices := get_args(key.kind):
        return st.sampled_from(choices)
    if key.name in special:
        return special[key.name]
    if key.kind is bool:
        return st.booleans()
    if key.kind is int:
        return st.integers(int(m["least"] or 0), int(m["most"] or 100_000))
    if key.kind is float:
        least = m["above"] if m["least"] is None else m["least"]
        return st.floats(least, 1e6 if m["most"] is None else m["most"], exclude_min=m["least"] is None)
    return st.builds(lambda word: Path("/srv") / word, WORDS) if key.kind is Path else TEXT


@st.composite
def configs(draw: st.DrawFn) -> Config:
    sections = {}
    for name, section in Config().sections().items():
        keys = [key for key in known_keys().values() if key.section == name]
        optional = {key.name: st.none() if key.default is None else st.just(key.default) for key in keys}
        drawn = {key.name: draw(optional[key.name] | values_of(key)) for key in keys}
        sections[name] = dataclasses.replace(section, **drawn)
    config = Config(**sections)
    changes: dict[str, Any] = {}
    live, records, mqtt = config.live, config.records, config.mqtt
    changes["live"] = dataclasses.replace(
        live, abandon_s=live.stall_s + 1, longest_backoff_s=max(live.first_backoff_s, live.longest_backoff_s)
    )
    changes["records"] = dataclasses.replace(records, budget_mb=max(2 * records.rotate_mb, records.budget_mb))
    changes["mqtt"] = dataclasses.replace(
        mqtt,
        cert_file=mqtt.cert_file or mqtt.key_file,
        longest_backoff_s=max(mqtt.first_backoff_s, mqtt.longest_backoff_s),
    )
    return dataclasses.replace(config, **changes)


@settings(max_examples=20)
@given(configs())
def test_any_configuration_is_read_back_as_it_was_written(config: Config) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert load_config(written(Path(folder), render(config))) == config
        if config.camera.source is None or "@" not in config.camera.source:
            assert load_config(written(Path(folder), render(config, explained=False))) == config


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=3,
)


@settings(max_examples=60)
@given(st.sampled_from(sorted(known_keys())), JSON_LIKE)
def test_any_value_is_taken_or_refused_in_one_line_that_names_the_key(name: str, value: object) -> None:
    section, _, last = name.partition(".")
    text = f"[{section}]\n{last} = {toml(value)}\n"
    with tempfile.TemporaryDirectory() as folder:
        try:
            taken = getattr(getattr(load_config(written(Path(folder), text)), section), last)
        except InputError as error:
            assert "\n" not in str(error).replace(toml(value), "")
            assert name in str(error) or "TOML" in str(error)
        else:
            kind = known_keys()[name].kind
            assert isinstance(taken, kind) if isinstance(kind, type) else taken in get_args(kind)


def toml(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(c):08x}" for c in value if not 0xD800 <= ord(c) < 0xE000) + '"'
    return {True: "true", False: "false"}.get(value, repr(value)) if isinstance(value, bool) else repr(value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[camera]\nsorce = '0'", ":2: unknown key camera.sorce; did you mean camera.source?"),
        ("[camra]\nsource = '0'", ":1: unknown section [camra]; did you mean [camera]?"),
        ("\n[live]\n# patience\nstall = 1.0", ":4: unknown key live.stall; did you mean live.stall_s?"),
        ("[camera]\nbundle = 'x'", ":2: unknown key camera.bundle; did you mean model.bundle?"),
        ("source = '0'", ":1: unknown key source; did you mean camera.source?"),
        ("camera.sorce = '0'", ":1: unknown key camera.sorce; did you mean camera.source?"),
        ("camera = {sorce = '0'}", ":1: unknown key camera.sorce; did you mean camera.source?"),
        ("[guidance]\nxyzzy = 1", ":2: unknown key guidance.xyzzy; known are language, mirror"),
        ("[live]\nbackoff_s = 1", ":2: unknown key live.backoff_s; did you mean live.first_backoff_s?"),
        ("camera = 'x'", ':1: camera: expected a section [camera], found "x"'),
    ],
)
def test_unknown_keys_are_refused_with_the_nearest_known_one(tmp_path: Path, text: str, told: str) -> None:
    assert refused(tmp_path, text) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[camera]\nsource = 0", ":2: camera.source: expected text, found 0"),
        ("[camera]\nsource = ''", ':2: camera.source: expected text, found ""'),
        ("[model]\nprecision = 'fp61'", ':2: model.precision: expected one of auto, fp32, fp16, int8, found "fp61"'),
        ("[model]\nviews = 3", ":2: model.views: expected one of 1, 5, 20, found 3"),
        ("[model]\nviews = true", ":2: model.views: expected one of 1, 5, 20, found true"),
        ("[model]\nthreads = 0", ":2: model.threads: expected 1 or more, found 0"),
        ("[model]\nthreads = 2.0", ":2: model.threads: expected a whole number, found 2.0"),
        ("[model]\ncuda_graph = 1", ":2: model.cuda_graph: expected true or false, found 1"),
        ("[live]\nstall_s = 0", ":2: live.stall_s: expected more than 0, found 0"),
        ("[live]\nstall_s = nan", ":2: live.stall_s: expected a number, found nan"),
        ("[live]\nstall_s = true", ":2: live.stall_s: expected a number, found true"),
        ("[live]\nstall_s = 20.0", ":1: live.abandon_s: expected more than live.stall_s (20.0), found"),
        ("[records]\npath = 5", ":2: records.path: expected a path, found 5"),
        ("[records]\npath = '~nobody-here/x'", ":2: records.path: expected a path, found one of an unknown user"),
        ("[records]\nbudget_mb = 1", ":2: records.budget_mb: expected at least twice records.rotate_mb (64.0)"),
        ("[serve]\naddress = 'port'", ":2: serve.address: expected a port or IP-ADDRESS:PORT"),
        ("[serve]\naddress = '0.0.0.0:99999'", ":2: serve.address: expected a port or IP"),
        ("[serve]\naddress = 'camera.example:80'", ":2: serve.address: expected a port or IP"),
        ("[serve]\naddress = '[127.0.0.1]:80'", ":2: serve.address: expected a port or IP"),
        ("[guidance]\nlanguage = 'xx'", ":2: guidance.language: expected one of en, es, zh, fr, found"),
        ("[mqtt]\nurl = 'http://x'", ":2: mqtt.url: MQTT: expected mqtt://HOST or mqtts://HOST:PORT, found 'http://x'"),
        ("[mqtt]\ntopic = 'a/#'", ":2: mqtt.topic: MQTT topic: expected a name like"),
        ("[mqtt]\nresults_per_s = -1", ":2: mqtt.results_per_s: expected 0 or more, found -1"),
        ("[mqtt]\nkey_file = 'k'", ":2: mqtt.key_file: expected mqtt.cert_file beside it, found none"),
        ("[mqtt]\nurl = 'mqtt://x'\nca_file = 'c'", ":3: mqtt.ca_file: expected an mqtts:// URL beside it"),
        ("[camera", ": expected TOML, found something else: "),
    ],
)
def test_wrong_values_are_one_line_with_file_line_and_key(tmp_path: Path, text: str, told: str) -> None:
    assert refused(tmp_path, text).startswith(told)


def test_a_near_choice_is_suggested(tmp_path: Path) -> None:
    assert refused(tmp_path, "[model]\nbackend = 'tensortr'").endswith("did you mean tensorrt?")


def test_a_password_is_never_repeated(tmp_path: Path) -> None:
    for text in ("mqtt://me:hunter2@host", "mqtt://me:hunter2@host:port", "ftp://me:hunter2@host"):
        assert "hunter2" not in refused(tmp_path, f"[mqtt]\nurl = '{text}'")
    path = written(tmp_path, "[camera]\nsource = 'rtsp://me:hunter2@camera/1'")
    shown = CliRunner().invoke(config_group, ["show", str(path)]).output
    assert "hunter2" not in shown
    assert 'source = "rtsp://me:***@camera/1"  # file' in shown


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file.*fthnet config init"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(InputError, match="found a folder"):
        load_config(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="expected TOML"):
        load_config(tmp_path / "binary.toml")


def test_paths_start_at_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etc").mkdir()
    written(tmp_path / "etc", "[records]\npath = 'r.jsonl'\n[model]\nbundle = '/opt/b'\n[best_shot]\nfolder = '~/best'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/eve")
    config = load_config(Path("etc/fthnet.toml"))
    assert config.records.path == tmp_path / "etc" / "r.jsonl"
    assert config.model.bundle == Path("/opt/b")
    assert config.best_shot.folder == Path("/home/eve/best")
    assert config.keys_set == {"records.path", "model.bundle", "best_shot.folder"}


@click.command()
@config_option
@setting_options("camera", "model", "mqtt", source={"required": True}, require_signature=SIGNED)
def stand_in(**values: object) -> None:
    """As `run`, without the work."""
    click.echo(repr({**values, "stall_s": current_config().live.options().stall_s}))


def values(*arguments: str, code: int = 0, **environment: str) -> dict[str, Any]:
    done = CliRunner().invoke(stand_in, arguments, env=environment)
    assert done.exit_code == code, done.output
    return eval(done.output, {"PosixPath": Path}) if not code else {"output": done.output}


def test_the_command_line_goes_before_the_file_and_the_file_before_the_defaults(tmp_path: Path) -> None:
    path = str(
        written(
            tmp_path,
            "[camera]\nsource = '1'\n[model]\nviews = 5\nthreads = 2\ncuda_graph = true\nbundle = 'b'\n"
            "[live]\nstall_s = 1.5\n[mqtt]\nurl = 'mqtt://file'\n",
        )
    )
    file = values("--config", path)
    assert file == {
        "source": "1",
        "source_password_file": None,
        "bundle": tmp_path / "b",
        "views": 5,
        "precision": "auto",
        "backend": "auto",
        "threads": 2,
        "cuda_graph": True,
        "mqtt": "mqtt://file",
        "stall_s": 1.5,
    }
    assert values(FTHNET_CONFIG=path) == file
    line = ("--source", "2", "--views", "1", "--threads", "4", "--no-cuda-graph", "--mqtt", "mqtt://line")
    changed = {"source": "2", "views": 1, "threads": 4, "cuda_graph": False, "mqtt": "mqtt://line"}
    assert values(*line, "--config", path) == {**file, **changed}
    assert values("--config", path, *line) == {**file, **changed}
    assert values("--source", "0")["stall_s"] == LiveOptions.stall_s
    assert "Missing option '--source'" in values(code=2)["output"]


def test_init_check_and_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    invoke = CliRunner().invoke
    assert "fthnet run --config fthnet.toml" in invoke(config_group, ["init"]).output
    path = tmp_path / "fthnet.toml"
    before = path.read_bytes()
    again = invoke(config_group, ["init", str(path)])
    assert isinstance(again.exception, InputError)
    assert "which stays as it is" in str(again.exception)
    assert path.read_bytes() == before
    assert "valid" in invoke(config_group, ["check", str(path)]).output
    assert "stall_s = 1.0  # file" in invoke(config_group, ["show", str(path)]).output
    written(tmp_path, "[model]\nbundle = 'none'\n[mqtt]\nca_file = 'fthnet.toml'")
    assert missing_files(load_config(path)) == [f"model.bundle: {tmp_path / 'none'}"]
    assert "found none for model.bundle" in str(invoke(config_group, ["check", str(path)]).exception)
    assert "stall_s = 1.0  # default" in invoke(config_group, ["show", str(path)]).output
    assert "# source is not set" in invoke(config_group, ["show", str(path)]).output


def test_kinds_are_those_that_the_reader_knows() -> None:
    for key in known_keys().values():
        assert key.kind in (str, int, float, bool, Path) or get_args(key.kind), key.full_name
        assert (key.default is None) == (key.metadata["example"] is not None), key.full_name
    assert known_keys()["model.views"].kind == Literal[1, 5, 20]
