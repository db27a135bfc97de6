"""Whatever arrives as a picture is answered: a score, a reason, or an InputError; no crash, no hang.

17,000 pictures in all, drawn with seeds, so that every run tries the same: arrays of any shape, type and strides, and
the kit's photograph as JPEG, PNG and TIFF, cut short and with bits flipped. Damaged files are decoded in processes
of their own, which name the picture they were at should the decoder crash or hang.

    python -m tests.edge.test_fuzz KIND SEED COUNT     the pictures of one such process
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fthnet_kit.edge.capture.image_files import ImageFiles
from fthnet_kit.edge.capture.source import CorruptFrameError
from fthnet_kit.edge.errors import InputError
from fthnet_kit.edge.formats.read import read_image
from fthnet_kit.edge.frame import Frame
from fthnet_kit.edge.image import MAX_SIDE
from fthnet_kit.edge.loop.live_loop import LiveLoop
from tests.conftest import ROOT, fake_scorer

pytestmark = pytest.mark.long

ARRAYS, SHAPES, FRAMES = 6_000, 1_000, 1_000
ENCODED = {"jpg": 3_000, "png": 3_000, "tif": 3_000}
PHOTOGRAPH = read_image(ROOT / "edge" / "assets" / "retina.jpg")
BATCH_TIMEOUT_S = 120
SIDES = (0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 63, 64, 100, 127, 128, 129, 333, 384, 512, 640)
GOOD_TYPES = ("u1", "<u2", ">u2")
OTHER_TYPES = ("?", "i1", "<i2", ">i4", "<u4", "<u8", "<f2", ">f4", "<f8", "<c8", "O", "S3", "<U2", "M8[s]", "u1,u1")
REASONS = {"no_retina", "ambiguous_field", "engine_fault", "corrupt_frame"}


def answer(score: Callable[[], object]) -> str:
    """What became of a picture."""
    try:
        found = score()
    except InputError as error:
        assert "\n" not in str(error)
        assert "expected" in str(error)
        return "InputError"
    value, reason = found.value, found.reason  # type: ignore[attr-defined]
    assert (value is None) != (reason is None)
    assert value is None or 0 <= value <= 100
    assert reason is None or reason in REASONS
    return "score" if reason is None else reason


def any_array(rng: np.random.Generator) -> np.ndarray:
    """An array of any shape, type, order and strides; half of them pictures."""
    proper = rng.random() < 0.6
    name = str(rng.choice(GOOD_TYPES if proper or rng.random() < 0.5 else OTHER_TYPES))
    if proper or rng.random() < 0.5:
        shape = [int(rng.choice(SIDES)), int(rng.choice(SIDES)), *([int(rng.integers(0, 6))] * int(rng.random() < 0.9))]
        if proper:
            shape = [max(1, side) for side in shape[:2]] + ([int(rng.choice([1, 3, 4]))] if len(shape) == 3 else [])
        if rng.random() < 0.02:
            shape[int(rng.integers(0, 2))] = int(rng.choice([3000, MAX_SIDE // 4]))  # a strip
    else:
        shape = [int(side) for side in rng.integers(0, 9, int(rng.integers(0, 5)))]
    kind = np.dtype(name)
    content = rng.integers(0, 256, (*shape, kind.itemsize), np.uint8)
    if rng.random() < 0.3:
        content[...] = (20, 120, 200, 40)[int(rng.integers(0, 4))]
    if proper and len(shape) == 3 and shape[2] >= 3 and rng.random() < 0.6:
        content[:, :, :3] = cv2.resize(PHOTOGRAPH, (shape[1], shape[0]))[..., np.newaxis]
    if kind.hasobject:
        array = np.full(shape, None, object)
    elif content.size:
        array = np.ascontiguousarray(content).view(kind).reshape(shape)
    else:
        array = np.zeros(shape, kind)
    return restrided(rng, array)


def restrided(rng: np.random.Generator, array: np.ndarray) -> np.ndarray:
    """The same kind of array with another layout in memory."""
    choice = int(rng.integers(0, 10))
    if array.ndim and choice < 4:
        step = (slice(None, None, -1), slice(None, None, 2), slice(1, None), slice(None, None, -3))[choice]
        return array[(slice(None),) * int(rng.integers(0, array.ndim)) + (step,)]
    if choice == 4:
        return np.asfortranarray(array)
    if choice == 5:
        return array.T
    if choice == 6 and array.ndim:
        return np.broadcast_to(array[:1], array.shape)
    if choice == 7:
        array.setflags(write=False)
    if choice == 8 and array.dtype.names is None:
        return np.ma.masked_array(array, mask=False) if array.ndim != 2 else np.matrix(array)
    return array


@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_arrays_of_every_kind_are_answered() -> None:
    scorer = fake_scorer()
    outcomes: Counter[str] = Counter()
    for seed in range(ARRAYS):
        array = any_array(np.random.default_rng(seed))
        try:
            outcomes[answer(lambda array=array: scorer.score(array))] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}: {array.dtype} {array.shape} {array.strides}") from error
    assert sum(outcomes.values()) == ARRAYS
    assert min(outcomes[kind] for kind in ("score", "no_retina", "InputError")) > ARRAYS / 100


@settings(max_examples=SHAPES)
@given(
    shape=st.lists(st.integers(0, 700), min_size=0, max_size=4),
    kind=st.sampled_from([*GOOD_TYPES, *OTHER_TYPES]),
    axis=st.integers(0, 3),
    step=st.sampled_from([1, 2, -1, -2, 7]),
)
def test_shapes_and_types_are_answered(shape: list[int], kind: str, axis: int, step: int) -> None:
    while np.prod(shape, dtype=float) > 2e6:
        shape = [*shape[:-1], shape[-1] // 3]
    array = np.zeros(shape, kind)
    if axis < array.ndim:
        array = array[(slice(None),) * axis + (slice(None, None, step),)]
    answer(lambda: fake_scorer().score(array))


@pytest.mark.parametrize(
    "what", [None, [], [[1, 2], [3, 4]], "image.png", 3, b"\xff\xd8", np.uint8(4), Path("x")], ids=repr
)
def test_what_is_no_array_is_an_input_error(what: object) -> None:
    with pytest.raises(InputError, match="expected a"):
        fake_scorer().score(what)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(1, MAX_SIDE, 3), (MAX_SIDE, 2), (MAX_SIDE, 40, 4)], ids=str)
def test_strips_are_answered(shape: tuple[int, ...]) -> None:
    answer(lambda: fake_scorer().score(np.full(shape, 90, np.uint8)))


def test_pictures_too_large_are_refused_before_they_take_memory(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="12000 pixels"):
        fake_scorer().score(np.broadcast_to(np.uint8(9), (1, MAX_SIDE + 1, 3)))
    for name, offset in (("a.jpg", None), ("a.png", 16)):
        _, data = cv2.imencode(Path(name).suffix, np.zeros((50, 70, 3), np.uint8))
        content = bytearray(data.tobytes())
        at = content.index(b"\xff\xc0") + 5 if offset is None else offset
        content[at : at + 2] = b"\xff\xff"
        (tmp_path / name).write_bytes(content)
        for source in (bytes(content), tmp_path / name):
            with pytest.raises(InputError, match="12000 pixels"):
                read_image(source)


@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_the_loop_answers_every_array_as_a_frame() -> None:
    """Whatever a driver hands out ends as a record, and none of it ends the loop."""

    class Camera:
        live, fps, index = False, None, 0

        @property
        def ended(self) -> bool:
            return self.index >= FRAMES

        def open(self) -> None: ...

        def read(self) -> Frame | None:
            if self.ended:
                return None
            self.index += 1
            return Frame(any_array(np.random.default_rng(10**6 + self.index)), self.index, 0)

        def close(self) -> None: ...

    loop = LiveLoop(Camera, fake_scorer())
    results = list(loop.results())
    assert len(results) == FRAMES
    assert not loop.summary.faults
    assert {result.score.reason for result in results} == {None, "no_retina", "ambiguous_field", "corrupt_frame"}


# Encoded pictures


def whole(kind: str) -> list[bytes]:
    """The photograph, small, in some of the ways a kind of file can be written."""
    small = cv2.resize(PHOTOGRAPH, (160, 160), interpolation=cv2.INTER_AREA)
    gray, deep = small[:, :, 1], small.astype(np.uint16) * 257
    if kind == "jpg":
        options = (
            [cv2.IMWRITE_JPEG_QUALITY, 90],
            [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
            [cv2.IMWRITE_JPEG_RST_INTERVAL, 4],
        )
        pictures = [(small, list(option)) for option in options] + [(gray, [])]
    elif kind == "png":
        pictures = [(small, []), (deep, []), (gray, [cv2.IMWRITE_PNG_BILEVEL, 1]), (cv2.cvtColor(small, 0), [])]
    else:
        pictures = [(image, [cv2.IMWRITE_TIFF_COMPRESSION, way]) for image in (small, deep, gray) for way in (1, 5, 8)]
    return [cv2.imencode(f".{kind}", image, option)[1].tobytes() for image, option in pictures]


def damaged(rng: np.random.Generator, data: bytes) -> bytes:
    """Cut short, bits flipped, bytes overwritten, doubled or left out; in the header as often as behind it."""
    content = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        reach = min(len(content), 400) if rng.random() < 0.5 else len(content)
        if not reach:
            break
        at, length = int(rng.integers(0, reach)), int(rng.integers(1, 60))
        what = int(rng.integers(0, 5))
        if what == 0:
            del content[at:]
        elif what == 1:
            content[at] ^= 1 << int(rng.integers(0, 8))
        elif what == 2:
            content[at : at + length] = rng.bytes(length)
        elif what == 3:
            content[at:at] = content[at : at + length]
        else:
            del content[at : at + length]
    return bytes(content)


def with_checksums(png: bytes) -> bytes:
    """The chunks of a damaged PNG with valid checksums, so that the damage gets past them."""
    out, at = png[:8], 8
    while at + 12 <= len(png):
        end = at + 8 + min(int.from_bytes(png[at : at + 4], "big"), len(png) - at - 12)
        out += png[at:end] + zlib.crc32(png[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return out


def run_batch(kind: str, seed: int, count: int) -> Counter[str]:
    """Decode and score damaged files, as bytes and through the disk and the loop; print the number of each first."""
    scorer, outcomes, originals = fake_scorer(), Counter(), whole(kind)
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for number in range(seed, seed + count):
            print(number, flush=True)
            rng = np.random.default_rng([seed, number])
            data = damaged(rng, originals[int(rng.integers(0, len(originals)))])
            if kind == "png" and rng.random() < 0.8:
                data = with_checksums(data)
            path = Path(folder) / f"{number}.{kind}"
            path.write_bytes(data)
            if number % 2:
                paths.append(path)  # for the loop
                continue
            outcomes[answer(lambda path=path: scorer.score(read_image(path)))] += 1
            with contextlib.suppress(InputError):
                image = read_image(data)  # as a frame of a stream
                assert image.dtype == np.uint8 and image.ndim == 3 and max(image.shape) <= MAX_SIDE
            path.unlink()
        if paths:
            results = list(LiveLoop(lambda: ImageFiles(paths), scorer).results())
            assert len(results) == len(paths)
            for result in results:
                outcomes[answer(lambda result=result: result.score)] += 1
    return outcomes


@pytest.mark.parametrize("kind", ENCODED)
def test_damaged_files_are_answered(kind: str) -> None:
    count = ENCODED[kind]
    for half in range(2):
        command = [sys.executable, "-m", "tests.edge.test_fuzz", kind, str(half * count // 2), str(count // 2)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=BATCH_TIMEOUT_S)
        lines = done.stdout.splitlines()
        assert done.returncode == 0, f"at picture {lines[-1:]}: {done.stderr[-2000:]}"
        outcomes = json.loads(lines[-1])
        assert sum(outcomes.values()) == count // 2
        assert outcomes.get("score", 0) + outcomes.get("no_retina", 0) > 0  # some survive
        assert outcomes["InputError"] + outcomes["corrupt_frame"] > count / 20


def test_a_corrupt_file_is_named_by_the_source(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8 nothing")
    with pytest.raises(CorruptFrameError) as caught:
        ImageFiles([tmp_path / "a.jpg"]).read()
    assert caught.value.name.endswith("a.jpg")


if __name__ == "__main__":
    print(json.dumps(run_batch(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
