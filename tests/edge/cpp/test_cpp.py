"""C++ and Python give one answer: box, input, gate and score; two compilers build it without a warning."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest

from fthnet_kit.edge import QualityScorer
from fthnet_kit.edge.errors import AmbiguousFieldError
from fthnet_kit.edge.image import Image, to_bgr8
from fthnet_kit.edge.inference.retina_gate import why_not_retina
from fthnet_kit.edge.model import delta
from fthnet_kit.edge.model.bundle import shipped_bundle
from fthnet_kit.edge.model.preprocess import Preprocessing, field_box, prepare
from tests.made_once import made_once

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "edge" / "cpp"
GOLDEN = ROOT / "tests" / "golden" / "contract"
HEADER = "onnxruntime_cxx_api.h"
HEADERS = (
    os.environ.get("FTHNET_ORT_HEADERS", ""),
    str(ROOT / "build" / "onnxruntime-headers" / "usr" / "include" / "onnxruntime"),
    "/usr/include/onnxruntime",
)
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")
SIGNATURES = ("-DFTHNET_SIGNATURES",) if Path("/usr/include/openssl/evp.h").is_file() else ()
OPENCV = ("-lopencv_core", "-lopencv_imgproc", "-lopencv_imgcodecs", "-lopencv_videoio")

pytestmark = pytest.mark.slow
GCC = pytest.param("g++", marks=pytest.mark.long)  # its sanitizers make it slow
SANITIZED = pytest.mark.parametrize("programs", [GCC], indirect=True)  # what is no matter of the compiler


@pytest.fixture(scope="module")
def headers() -> Path:
    for folder in HEADERS:
        if folder and (Path(folder) / HEADER).is_file():
            return Path(folder)
    pytest.skip(f"no {HEADER}: FTHNET_ORT_HEADERS names no folder with ONNX Runtime's headers")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library of Python's ONNX Runtime, under the names that a linker and a loader look for."""
    if not Path("/usr/include/opencv4/opencv2/core.hpp").is_file():
        pytest.skip("no OpenCV headers: apt install libopencv-dev")
    spec = find_spec("onnxruntime")
    assert spec is not None and spec.origin is not None
    (real,) = (Path(spec.origin).parent / "capi").glob("libonnxruntime.so.*")
    with made_once(tmp_path_factory, "cpp-lib") as (folder, is_made):
        for name in () if is_made else ("libonnxruntime.so", "libonnxruntime.so.1"):
            (folder / name).symlink_to(real)
    return folder


def run(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=900, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module", params=[GCC, "clang++"])
def programs(request: pytest.FixtureRequest, headers: Path, library: Path, tmp_path_factory: Any) -> Path:
    """`write_vectors` and `score_files`, by clang with optimisation or by g++ with its sanitizers."""
    compiler = shutil.which(request.param) or shutil.which(f"{request.param}-14")
    if compiler is None:
        pytest.skip(f"no {request.param}")
    with made_once(tmp_path_factory, f"cpp-{request.param.strip('+')}") as (folder, is_made):
        if not is_made:
            build(compiler, headers, library, folder, sanitized=request.param == "g++")
    return folder


def build(compiler: str, headers: Path, library: Path, folder: Path, *, sanitized: bool) -> None:
    how = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all") if sanitized else ("-O2",)
    common = (
        compiler,
        "-std=c++17",
        *WARNINGS,
        *how,
        *SIGNATURES,
        f"-I{SOURCE}",
        "-isystem",
        "/usr/include/opencv4",
        "-isystem",
    )
    run(*common, headers, "-c", SOURCE / "fthnet.cpp", "-o", folder / "fthnet.o")
    links = (f"-L{library}", f"-Wl,-rpath,{library}", "-lonnxruntime", *OPENCV, *["-lcrypto" for _ in SIGNATURES])
    programs = (Path(__file__).parent / "write_vectors.cpp", SOURCE / "samples" / "score_files.cpp")
    for program in programs:
        run(*common, headers, folder / "fthnet.o", program, "-o", folder / program.stem, *links)
    run(*common, headers, "-fsyntax-only", SOURCE / "samples" / "score_camera.cpp")


def vectors(programs: Path, output: Path, pictures: list[Path], views: int = 1) -> list[dict[str, Any]]:
    done = run(programs / "write_vectors", shipped_bundle(), output, views, *pictures)
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_same_input(found: Path, expected: Image) -> None:
    """Equal, or one level in a pixel of a thousand: OpenCV 4 and 5 round some resizes another way."""
    difference = np.abs(np.fromfile(found, np.uint8).reshape(expected.shape).astype(int) - expected)
    assert difference.max() <= 1
    assert np.mean(difference.max(axis=-1) > 0) <= 0.001


def test_golden_vectors(programs: Path, tmp_path: Path) -> None:
    golden = json.loads((GOLDEN / "vectors.json").read_text())["vectors"]
    found = vectors(programs, tmp_path, [GOLDEN / each["frame"] for each in golden])
    for ours, expected in zip(found, golden, strict=True):
        for name in ("frame", "box", "gate", "reason", "verdict"):
            assert ours[name] == expected[name], expected["frame"]
        assert ours["score"] == pytest.approx(expected["score"], abs=0.01)
        if expected["input"]:
            stored = cv2.cvtColor(cv2.imread(str(GOLDEN / expected["input"])), cv2.COLOR_BGR2RGB)
            assert_same_input(tmp_path / expected["frame"].replace(".png", ".rgb"), stored)


def drawn(photograph: Image, seed: int) -> Image:
    """A random frame: the photograph anywhere, of any size, with banners, pages, a second eye, noise or a tint."""
    rng = np.random.default_rng(seed)
    side = int(rng.integers(40, 900))
    eye = cv2.resize(photograph, (side, side), interpolation=cv2.INTER_AREA)
    top, bottom, left, right = (int(edge) for edge in rng.integers(0, 200, 4))
    frame = cv2.copyMakeBorder(eye, top, bottom, left, right, cv2.BORDER_CONSTANT)
    kind = seed % 6
    if kind == 0:
        frame[: max(1, len(frame) // 6)] = rng.integers(20, 255, 3)
    elif kind == 1:
        frame[:, -max(1, frame.shape[1] // 5) :] = rng.integers(20, 255, 3)
    elif kind == 2:
        frame = np.hstack([frame, frame[:, ::-1]])
    elif kind == 3:
        frame = cv2.add(frame, rng.integers(0, 60, frame.shape, np.uint8))
    elif kind == 4:
        frame = frame[:, : max(1, frame.shape[1] * 2 // 3)]
    else:
        frame = cv2.convertScaleAbs(frame, alpha=float(rng.uniform(0.05, 3)))
    return np.ascontiguousarray(frame)


def test_random_frames_get_the_same_box_input_and_gate(programs: Path, tmp_path: Path, photograph: Image) -> None:
    frames = [drawn(photograph, seed) for seed in range(36)]
    paths = [tmp_path / f"{number}.png" for number in range(len(frames))]
    for path, frame in zip(paths, frames, strict=True):
        cv2.imwrite(str(path), frame)
    reasons = set()
    for path, frame, ours in zip(paths, frames, vectors(programs, tmp_path, paths), strict=True):
        try:
            box = field_box(frame, Preprocessing())
        except AmbiguousFieldError:
            assert ours["box"] is None
            assert ours["reason"] == "ambiguous_field"
        else:
            assert ours["box"] == [box.x, box.y, box.width, box.height]
            (view,) = prepare(frame, Preprocessing(), 1)
            assert_same_input(path.with_suffix(".rgb"), view)
            assert ours["gate"] == why_not_retina(view)
        reasons.add(ours["reason"])
    assert reasons == {None, "no_retina", "ambiguous_field"}


@SANITIZED
@pytest.mark.parametrize("views", [5, 20])
def test_other_kinds_of_pictures_and_more_views(
    programs: Path, tmp_path: Path, photograph: Image, views: Literal[5, 20]
) -> None:
    small = cv2.resize(photograph, (420, 420), interpolation=cv2.INTER_AREA)
    noisy = np.random.default_rng(0).integers(0, 65536, small.shape, np.uint16) // 64 + small.astype(np.uint16) * 200
    kinds = {
        "gray": cv2.cvtColor(small, cv2.COLOR_BGR2GRAY),
        "alpha": cv2.cvtColor(small, cv2.COLOR_BGR2BGRA),
        "deep": noisy,
        "deep_gray": noisy[:, :, 1],
    }
    for name, picture in kinds.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), picture)
    paths = [tmp_path / f"{name}.png" for name in kinds]
    found = vectors(programs, tmp_path, paths, views=views)
    with QualityScorer.from_bundle(views=views) as scorer:
        for ours, (name, picture) in zip(found, kinds.items(), strict=True):
            assert_same_input(tmp_path / f"{name}.rgb", prepare(to_bgr8(picture), Preprocessing(), views))
            score = scorer.score(picture)
            assert ours["reason"] == score.reason
            assert ours["score"] == (None if score.value is None else pytest.approx(score.value, abs=0.01))


def bundle_with(folder: Path, **changes: Any) -> Path:
    """The shipped bundle, with other words in its card."""
    copy = folder / "changed"
    shutil.copytree(shipped_bundle(), copy)
    card = json.loads((copy / "model_card.json").read_text())
    (copy / "model_card.json").write_text(json.dumps({**card, **changes}, ensure_ascii=False))
    return copy


@SANITIZED
def test_the_resize_of_the_authors(programs: Path, tmp_path: Path) -> None:
    how = Preprocessing(field_crop="none", resize="pil")
    bundle = bundle_with(tmp_path, preprocessing=how.to_dict())
    names = ("plain", "large", "halved", "small", "pixel")
    done = run(programs / "write_vectors", bundle, tmp_path, 1, *(GOLDEN / f"{name}.png" for name in names))
    with QualityScorer.from_bundle(bundle) as scorer:
        for line, name in zip(done.stdout.splitlines(), names, strict=True):
            frame = cv2.imread(str(GOLDEN / f"{name}.png"))
            assert_same_input(tmp_path / f"{name}.rgb", prepare(frame, how, 1))
            value = scorer.score(frame).value
            assert json.loads(line)["score"] == (None if value is None else pytest.approx(value, abs=0.01))


@SANITIZED
def test_an_implausible_value_is_a_fault(programs: Path, tmp_path: Path) -> None:
    bundle = bundle_with(tmp_path, raw_range={"low": -100.0, "high": 20.0})
    found = run(programs / "write_vectors", bundle, tmp_path, 1, GOLDEN / "plain.png", GOLDEN / "disc.png").stdout
    assert [json.loads(line)["reason"] for line in found.splitlines()] == ["engine_fault", None]


@SANITIZED
def test_a_bundle_of_the_wheel_is_whole(programs: Path, tmp_path: Path) -> None:
    """Models that repeat another one lie there as deltas."""
    packed = tmp_path / "packed"
    shutil.copytree(shipped_bundle(), packed)
    delta.pack(packed)
    found = run(programs / "score_files", packed, GOLDEN / "plain.png").stdout
    assert json.loads(found)["score"] is not None
    path = packed / "fthnet.fp16.onnx.delta"
    content = path.read_bytes()
    for harmed, message in (
        (content[:-1], "expected a delta"),
        (content[:-1] + bytes([content[-1] ^ 1]), "expected "),  # a number of a piece, or a byte of the model
        (b"noise", "expected a delta"),
    ):
        path.write_bytes(harmed)
        done = subprocess.run(
            [programs / "score_files", packed, GOLDEN / "plain.png"], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 4
        assert "fthnet.fp16.onnx" in done.stderr
        assert message in done.stderr


@SANITIZED
def test_errors_are_named_with_their_kind(programs: Path, tmp_path: Path) -> None:
    def failing(*arguments: object) -> tuple[int, str]:
        done = subprocess.run([*map(str, arguments)], capture_output=True, text=True, timeout=120)
        return done.returncode, done.stderr

    program, frame = programs / "score_files", GOLDEN / "plain.png"
    assert failing(program, tmp_path / "none", frame)[0] == 4
    altered = tmp_path / "altered"
    shutil.copytree(shipped_bundle(), altered)
    card = altered / "model_card.json"
    model = altered / "fthnet.fp32.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    code, said = failing(program, altered, frame)
    assert code == 4
    assert "fthnet.fp32.onnx: expected SHA-256" in said
    card.write_text(card.read_text()[:200])
    code, said = failing(program, altered, frame)
    assert code == 4
    assert "expected a model card" in said
    (tmp_path / "empty.png").write_bytes(b"")
    code, said = failing(programs / "write_vectors", shipped_bundle(), tmp_path, 1, tmp_path / "empty.png")
    assert code == 10
    assert "cv::imread" in said
    assert failing(programs / "write_vectors", shipped_bundle(), tmp_path, 3, frame)[0] == 10
    (tmp_path / "seeded").mkdir()
    seeded = bundle_with(tmp_path / "seeded", preprocessing={**Preprocessing().to_dict(), "seed": 1})
    code, said = failing(programs / "write_vectors", seeded, tmp_path, 20, frame)
    assert code == 11
    assert "preprocessing.seed: expected 0" in said


@SANITIZED
def test_a_signature_is_checked(programs: Path, tmp_path: Path) -> None:
    if not SIGNATURES:
        pytest.skip("no OpenSSL headers: apt install libssl-dev")
    pytest.importorskip("cryptography")
    bundle, key, other = tmp_path / "demo", tmp_path / "key", tmp_path / "other"
    shutil.copytree(shipped_bundle(), bundle)
    fthnet = (sys.executable, "-m", "fthnet_kit.edge.cli", "bundle")
    for name in (key, other):
        run(*fthnet, "keygen", name)

    def asked(public: Path, release: int = 1) -> tuple[int, str]:
        command = [programs / "write_vectors", bundle, tmp_path, 1, f"--signed-by={public}", f"--release={release}"]
        done = subprocess.run(
            [*map(str, command), str(GOLDEN / "plain.png")], capture_output=True, text=True, timeout=300
        )
        return done.returncode, done.stderr

    public = key.with_name("key.pub")
    assert asked(public) == (
        11,
        f"{bundle}: expected a signed bundle, found it unsigned; `fthnet bundle sign` signs one\n",
    )
    run(*fthnet, "sign", bundle, "--key", key, "--release", 2)
    assert asked(public, 2) == (0, "")
    assert "expected release 3 or newer, found release 2" in asked(public, 3)[1]
    assert "an unknown key" in asked(other.with_name("other.pub"))[1]
    assert asked(GOLDEN / "vectors.json")[0] == 10
    card = bundle / "model_card.json"
    whole = card.read_text()
    card.write_text(whole.replace('"good": ', '"good": 0'))
    assert asked(public)[1] == f"{card}: expected the file that was signed, found another\n"
    card.write_text(whole)
    manifest = bundle / "signed_manifest.json"
    manifest.write_text(manifest.read_text().replace('"release":2', '"release":9'))
    assert "a manifest that was altered" in asked(public)[1]
    delta.pack(bundle)
    run(*fthnet, "sign", bundle, "--key", key, "--release", 3)
    assert asked(public, 3) == (0, "")


@pytest.mark.long
def test_a_copy_of_the_folder_builds_with_cmake_and_scores(headers: Path, library: Path, tmp_path: Path) -> None:
    if shutil.which("cmake") is None or shutil.which("g++") is None:
        pytest.skip("no cmake or no g++")
    copy = tmp_path / "cpp"
    shutil.copytree(SOURCE, copy)
    where = (f"-DONNXRUNTIME_INCLUDE_DIR={headers}", f"-DONNXRUNTIME_LIBRARY={library / 'libonnxruntime.so'}")
    run("cmake", "-S", copy, "-B", copy / "build", *where)
    run("cmake", "--build", copy / "build")
    done = run(copy / "build" / "score_files", shipped_bundle(), GOLDEN / "plain.png")
    line = json.loads(done.stdout)
    command = [sys.executable, "-m", "fthnet_kit.edge.cli", "score", "--json", GOLDEN / "plain.png"]
    python = json.loads(run(*command).stdout)
    assert line["score"] == pytest.approx(python["score"], abs=0.01)
    assert {key for key in python if key not in ("algorithm",)} == set(line)
