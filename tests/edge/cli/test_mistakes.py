"""What a user reads after a likely mistake: one line that says what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (("scroe", "a.jpg"), 2, "Did you mean 'score'?"),
        (("bench", "latncy"), 2, "Did you mean 'latency'?"),
        (("zzz",), 2, "No such command 'zzz'."),
        (("run", "--source", "sim"), 3, "the simulated camera is sim:"),
        (("run", "--source", "USB"), 3, "a USB camera is its number"),
        (("run", "--source", "rtsp"), 3, "rtsp://HOST/PATH"),
    ],
)
def test_the_nearest_right_word_is_told(fthnet, arguments: tuple[str, ...], code: int, line: str) -> None:
    done = fthnet(*arguments)
    assert done.returncode == code
    assert line in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("fundus.jpg", (ROOT / "edge/assets/retina.jpg").read_bytes(), "found a picture; `fthnet score` scores one"),
        ("fundus.pth", b"\x89PNG\r\n\x1a\n" + bytes(50), "found a picture"),
        ("model.onnx", b"\x08\x08", "found an ONNX graph"),
        ("empty.pth", b"", "found an empty file"),
    ],
)
def test_export_says_what_it_was_given(fthnet, tmp_path: Path, name: str, content: bytes, line: str) -> None:
    pytest.importorskip("torch")
    (tmp_path / name).write_bytes(content)
    done = fthnet("export", tmp_path / name, "-o", tmp_path / "bundle")
    assert done.returncode == 4
    assert line in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "bundle").exists()


def test_a_camera_that_is_not_there_is_one_line(fthnet) -> None:
    """OpenCV's and FFmpeg's own lines say nothing to an operator; --log-level debug shows them."""
    done = fthnet("run", "--source", "rtsp://127.0.0.1:1/x")
    assert done.returncode == 5
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 1, done.stderr
    assert "rtsp://127.0.0.1:1/x" in lines[0]
    told = fthnet("--log-level", "debug", "run", "--source", "rtsp://127.0.0.1:1/x")
    assert len(told.stderr.splitlines()) > 1


def test_version_names_what_runs(fthnet) -> None:
    done = fthnet("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("fthnet, version ")
    for library in ("Python ", "numpy ", "onnxruntime "):
        assert library in done.stdout
