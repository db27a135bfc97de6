"""Writes `contract/`: frames, and what the shipped model makes of each, for other implementations to compare with.

`python tests/golden/make_contract_golden.py` after a new shipped model or a deliberate change of preprocessing;
with `--frames` it draws the frames anew, too.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fthnet_kit.edge import QualityScorer
from fthnet_kit.edge.errors import AmbiguousFieldError
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.inference.retina_gate import why_not_retina
from fthnet_kit.edge.model.preprocess import field_box, prepare

HERE = Path(__file__).parent
FOLDER = HERE / "contract"
Vector = dict[str, Any]


def frames() -> dict[str, Image]:
    """The photograph in every case that the contract distinguishes; few gray levels, so that the files are small."""
    photograph = cv2.imread(str(HERE.parents[1] / "edge" / "assets" / "retina.jpg"))

    def sized(side: int) -> Image:
        return cv2.resize(photograph, (side, side), interpolation=cv2.INTER_AREA) // 8 * 8

    def placed(picture: Image, top: int, bottom: int, left: int, right: int, value: int = 0) -> Image:
        return cv2.copyMakeBorder(picture, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(value,) * 3)

    plain = placed(sized(420), 10, 20, 90, 51)
    small = sized(300)
    large = placed(sized(1100), 41, 40, 200, 147)
    banner = placed(sized(500), 70, 0, 60, 60)
    banner[:70] = (96, 64, 32)
    page = placed(sized(500), 0, 0, 0, 0)
    page[:, :60] = 232
    rng = np.random.default_rng(3)
    return {
        "plain": plain,
        "small": small,
        "large": large,
        "halved": cv2.resize(placed(sized(1060), 24, 23, 60, 61), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST),
        "cut_above": plain[120:],
        "cut_beside": np.ascontiguousarray(plain[:, 200:]),
        "banner": banner,
        "page": page,
        "two_eyes": np.hstack([small, small]),
        "blurred": cv2.GaussianBlur(plain, (0, 0), 6),
        "dim": plain // 4,
        "bright": cv2.convertScaleAbs(plain, alpha=1.8),
        "black": np.zeros((240, 320, 3), np.uint8),
        "disc": cv2.circle(np.zeros((480, 480, 3), np.uint8), (240, 240), 60, (40, 80, 200), -1),
        "gray": cv2.cvtColor(cv2.cvtColor(plain, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR),
        "steps": cv2.resize(
            (rng.integers(2, 16, (40, 40, 1)) * (6, 10, 16)).astype(np.uint8),
            (400, 400),
            interpolation=cv2.INTER_NEAREST,
        ),
        "pixel": np.full((1, 1, 3), 200, np.uint8),
    }


def vector(name: str, image: Image, scorer: QualityScorer) -> tuple[Vector, Image | None]:
    """What the kit makes of one frame, and the network's input as RGB (384, 384, 3)."""
    found: Vector = {"frame": f"{name}.png", "size": [image.shape[1], image.shape[0]]}
    score = scorer.score(image)
    answer = {key: score.to_dict()[key] for key in ("score", "verdict", "reason")}
    try:
        box = field_box(image, scorer.card.preprocessing)
    except AmbiguousFieldError:
        return {**found, "box": None, "gate": None, "input": None, **answer}, None
    (view,) = prepare(image, scorer.card.preprocessing, 1)
    digest = hashlib.sha256(view.tobytes()).hexdigest()
    gate = why_not_retina(view)
    box_list = [box.x, box.y, box.width, box.height]
    return {
        **found,
        "box": box_list,
        "gate": gate,
        "input": f"{name}.input.png",
        "input_sha256": digest,
        **answer,
    }, view


def golden(folder: Path) -> tuple[list[Vector], dict[str, Image]]:
    """Vectors of all frames in a folder, and their inputs by file name."""
    vectors, inputs = [], {}
    with QualityScorer.from_bundle(views=1) as scorer:
        for path in sorted(path for path in folder.glob("*.png") if not path.name.endswith(".input.png")):
            image = cv2.imread(str(path))
            assert image is not None, path
            found, view = vector(path.stem, image, scorer)
            vectors.append(found)
            if view is not None:
                inputs[found["input"]] = view
    return vectors, inputs


def write(folder: Path) -> None:
    """Vectors and inputs beside the frames."""
    vectors, inputs = golden(folder)
    for name, view in inputs.items():
        cv2.imwrite(str(folder / name), cv2.cvtColor(view, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    lines = ",\n".join(json.dumps(each) for each in vectors)
    (folder / "vectors.json").write_text(f'{{"vectors": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    if "--frames" in sys.argv[1:]:
        FOLDER.mkdir(exist_ok=True)
        for frame_name, frame in frames().items():
            cv2.imwrite(str(FOLDER / f"{frame_name}.png"), frame, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    write(FOLDER)
