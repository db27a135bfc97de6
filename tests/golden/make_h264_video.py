"""A short H.264 video of a drifting retina, which OpenCV's FFmpeg reads and cannot write.

    pip install av && python tests/golden/make_h264_video.py tests/golden/drift.mp4

Three key pictures, pictures that rest on later ones between them. The photograph is the kit's own (CC0).
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

PHOTOGRAPH = Path(__file__).parents[2] / "edge" / "assets" / "retina.jpg"
PICTURES, SIZE = 60, (320, 240)


def main(path: Path) -> None:
    """Write the video."""
    import av

    photograph = cv2.resize(cv2.imread(str(PHOTOGRAPH)), SIZE, interpolation=cv2.INTER_AREA)
    with av.open(str(path), "w") as video:
        stream = video.add_stream("libx264", rate=30, options={"g": "20", "crf": "30", "bf": "2"})
        (stream.width, stream.height), stream.pix_fmt = SIZE, "yuv420p"
        for index in range(PICTURES):
            picture = np.roll(photograph, (index, 3 * index), axis=(0, 1))
            video.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        video.mux(stream.encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
