"""`sim:`, a handheld fundus camera played over the CC0 photograph that the kit carries, or over another one.

An operator holds the camera before an eye for some seconds: the focus sweeps in and out, the hand
drifts and shakes, the flash level wanders, the patient blinks, a lid hangs into the light. Every frame
carries the truth of what was done to it, so that anyone can plot the score against it. The same seed
gives the same session, frame for frame.

With ``defect`` the hands are calm and one thing goes wrong, again and again, so that one can tell whether
that thing is noticed: see `Mishap`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from fthnet_kit.edge.capture.degradations import Rng, degrade
from fthnet_kit.edge.errors import AmbiguousFieldError, InputError
from fthnet_kit.edge.formats.read import read_image
from fthnet_kit.edge.frame import Frame
from fthnet_kit.edge.image import Image
from fthnet_kit.edge.model.field import find_field
from fthnet_kit.edge.model.preprocess import cut

BLINK_S = 0.35
NOISE_SEVERITY = 0.06
FIELD_SHARE = 0.94  # diameter of the aperture, share of the frame's shorter side
BEYOND_APERTURE = 1.06  # diameter of the photograph's field, share of the aperture's
EYE_IN_VIEW = 0.6  # total occlusion above this: lid closed or camera beside the pupil
Truth = Mapping[str, float | bool]
Matrix = npt.NDArray[np.float64]

DEFECTS = (
    "none",
    "too_dark",
    "too_bright",
    "uneven",
    "out_of_focus",
    "move_left",
    "move_right",
    "move_up",
    "move_down",
    "hold_still",
    "blink",
    "lens_dirty",
    "no_eye",
)
MISHAP_PERIOD_S = 5.0  # the first part of each period is without the defect
CALM_S = 2.0
SHUT_S = 1.2  # how long the lid stays closed where the defect is "blink"
MISHAP_FADE_S = 0.2  # from nothing to the whole defect


@dataclass(frozen=True)
class Session:
    """What is played: ``sim:?seconds=20&fps=15&seed=3``, ``sim:?photograph=FILE``.

    Attributes:
        seconds: length; 0 means without end.
        fps: frames a second.
        seed: of everything random.
        width, height: of a frame in pixels.
        realtime: deliver frames when they are due, as a camera does; otherwise as fast as they are read,
            as a file does.
        defect: empty for a natural session; one of `DEFECTS` for calm hands and that one defect.
        photograph: of the eye that is looked at; None: the one that the kit carries.
    """

    seconds: float = 30.0
    fps: float = 15.0
    seed: int = 0
    width: int = 1280
    height: int = 960
    realtime: bool = True
    defect: str = ""
    photograph: Path | None = None

    def __post_init__(self) -> None:
        if self.fps <= 0 or self.seconds < 0 or self.seed < 0:
            raise InputError(f"sim: expected fps > 0, seconds >= 0 and seed >= 0, found {self}")
        if min(self.width, self.height) < 64 or max(self.width, self.height) > 8000:
            raise InputError(f"sim: expected a frame of 64 to 8000 pixels, found {self.width}x{self.height}")
        if self.defect and self.defect not in DEFECTS:
            raise InputError(f"sim: defect: expected one of {', '.join(DEFECTS)}, found {self.defect!r}")

    @property
    def frames(self) -> int | None:
        """Number of frames, None without end."""
        return round(self.seconds * self.fps) if self.seconds else None


class _Wander:
    """A smooth random function of time: a few sines with seeded periods and phases, within [-1, 1]."""

    def __init__(self, rng: Rng, slowest_s: float, fastest_s: float) -> None:
        self.periods = np.exp(rng.uniform(np.log(fastest_s), np.log(slowest_s), size=4))
        self.phases = rng.uniform(0, 2 * np.pi, size=4)

    def __call__(self, t: float) -> float:
        return float(np.mean(np.sin(2 * np.pi * t / self.periods + self.phases)))


def truth_of(
    defocus: float, exposure: float, motion: float, occlusion: float, off_centre: float, others: float = 0.0
) -> dict[str, float | bool]:
    """The truth of a frame: each fault, and the severity of all with `others`, 0 to 1."""
    keeps = (1 - defocus) * (1 - abs(exposure)) * (1 - motion) * (1 - occlusion) * (1 - 0.3 * off_centre)
    return {
        "defocus": round(defocus, 4),
        "exposure": round(exposure, 4),
        "motion": round(motion, 4),
        "occlusion": round(occlusion, 4),
        "off_centre": round(off_centre, 4),
        "severity": round(1 - keeps * (1 - others), 4),
        "eye_in_view": occlusion <= EYE_IN_VIEW,
    }


class Handling:
    """The operator and the patient: truth at time t, from a seed alone."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 1])
        self.sweep_s = rng.uniform(5.5, 7.5)  # from out of focus through focus and back
        self.sweep_phase = rng.uniform(0, 1)
        self.focus_wander = _Wander(rng, 4, 1.5)
        self.exposure_wander = _Wander(rng, 15, 5)
        self.place_wander = (_Wander(rng, 8, 2.5), _Wander(rng, 8, 2.5))
        self.tremor = (_Wander(rng, 0.6, 0.25), _Wander(rng, 0.6, 0.25))
        self.lid_wander = _Wander(rng, 14, 5)
        self.first_blink_s = rng.uniform(1.5, 4.0)
        self.blink_every_s = rng.uniform(3.5, 5.0)

    def place(self, t: float) -> tuple[float, float]:
        """Offset of the field's centre, as a share of the field's diameter."""
        x = 0.14 * self.place_wander[0](t) + 0.008 * self.tremor[0](t)
        y = 0.12 * self.place_wander[1](t) + 0.008 * self.tremor[1](t)
        return x, y

    def truth(self, t: float) -> dict[str, float | bool]:
        """True defocus, exposure, motion, occlusion, off-centre and overall severity at time `t` in seconds."""
        sweep = abs(2 * ((t / self.sweep_s + self.sweep_phase) % 1) - 1)  # 1 out of focus, 0 in focus
        defocus = float(np.clip(1.15 * sweep - 0.08 + 0.08 * self.focus_wander(t), 0, 1))
        exposure = float(np.clip(0.7 * self.exposure_wander(t), -1, 1))
        (x0, y0), (x1, y1) = self.place(t), self.place(t + 0.05)
        motion = float(np.clip(np.hypot(x1 - x0, y1 - y0) / 0.05 * 1.2, 0, 1))
        off_centre = float(np.clip(np.hypot(*self.place(t)) / 0.25, 0, 1))
        lid = float(np.clip(0.5 * self.lid_wander(t) - 0.12, 0, 0.5))
        since_blink = (t - self.first_blink_s) % self.blink_every_s
        closed = np.sin(np.pi * since_blink / BLINK_S) if t >= self.first_blink_s and since_blink < BLINK_S else 0.0
        occlusion = float(max(lid, closed))
        return truth_of(defocus, exposure, motion, occlusion, off_centre)


class Mishap(Handling):
    """Calm hands and one defect: `CALM_S` without it, then with it until `MISHAP_PERIOD_S`, and again.

    How strong it is, and from where it comes, is drawn anew each time. Dust is there all the time; an eye that
    leaves does not come back. The truth carries, beside the usual numbers, ``defect`` (whether the defect is
    there, whole) and ``strength`` (0 to 1).
    """

    def __init__(self, seed: int, defect: str) -> None:
        super().__init__(seed)
        self.defect = defect
        self.seed = seed

    def draw(self, t: float) -> Rng:
        """The random numbers of the mishap at time `t`: the same for all its frames."""
        return np.random.default_rng([self.seed, 3, int(t // MISHAP_PERIOD_S)])

    def fade(self, t: float) -> float:
        """How much of the mishap is there, 0 to 1."""
        if self.defect in ("none", "lens_dirty"):
            return float(self.defect == "lens_dirty")
        since = (t if self.defect == "no_eye" else t % MISHAP_PERIOD_S) - CALM_S
        if self.defect == "no_eye":
            return float(np.clip(since / MISHAP_FADE_S, 0, 1))
        until = (SHUT_S if self.defect == "blink" else MISHAP_PERIOD_S - CALM_S) - since
        return float(np.clip(min(since, until) / MISHAP_FADE_S, 0, 1))

    def strength(self, t: float) -> float:
        """The severity of the mishap at time `t`: moderate to severe, 0.5 to 0.9, when it is whole."""
        return self.fade(t) * float(self.draw(t).uniform(0.5, 0.9))

    def place(self, t: float) -> tuple[float, float]:
        """Offset of the field's centre, as a share of the field's diameter."""
        roam = 0.8 if self.defect == "lens_dirty" else 0.12
        x, y = (roam * value for value in super().place(t))
        if self.defect == "hold_still":
            x += self.fade(t) * 0.05 * self.strength(t) * np.sin(2 * np.pi * t / 0.45)
            y += self.fade(t) * 0.05 * self.strength(t) * np.sin(2 * np.pi * t / 0.61)
        steps = {"move_left": (-1, 0), "move_right": (1, 0), "move_up": (0, -1), "move_down": (0, 1)}
        if self.defect in steps:
            across, down = steps[self.defect]
            far, aslant = 0.28 * self.strength(t), self.fade(t) * float(self.draw(t).uniform(-0.06, 0.06))
            x += far * across + aslant * abs(down)
            y += far * down + aslant * abs(across)
        return x, y

    def truth(self, t: float) -> dict[str, float | bool]:
        """As for a natural session, with the defect's own truth."""
        strength = self.strength(t)
        here = {name: strength if self.defect == name else 0.0 for name in DEFECTS}
        (x0, y0), (x1, y1) = self.place(t), self.place(t + 0.05)
        defocus = here["out_of_focus"]
        exposure = here["too_bright"] - here["too_dark"]
        motion = float(np.clip(np.hypot(x1 - x0, y1 - y0) / 0.05 * 1.2, 0, 1))
        off_centre = float(np.clip(np.hypot(x0, y0) / 0.25, 0, 1))
        occlusion = self.fade(t) if self.defect in ("blink", "no_eye") else 0.0
        others = here["uneven"] + 0.3 * here["lens_dirty"]
        return {
            **truth_of(defocus, exposure, motion, occlusion, off_centre, others),
            "strength": round(strength, 4),
            "defect": self.fade(t) == 1,
        }


def photograph_of(session: Session) -> Image:
    """The eye that a session looks at, BGR uint8, a square around the field.

    Raises:
        InputError: it cannot be read, or shows two fields.
    """
    if session.photograph is None:
        return read_image(Path(str(files("fthnet_kit.edge") / "assets" / "retina.jpg")))
    try:
        return square_field(read_image(session.photograph))
    except AmbiguousFieldError as error:
        raise InputError(f"{session.photograph}: {error}") from error


def square_field(image: Image) -> Image:
    """The square around the retinal field of a photograph, black where it reaches beyond the picture.

    Args:
        image: BGR uint8 (H, W, 3).

    Raises:
        AmbiguousFieldError: two fields, or none.
    """
    return cut(image, find_field(image))


class SimulatedCamera:
    """A source of frames (`cameras.Source`) that plays a `Session`.

    Args:
        session: what is played.
        photograph: the eye that is looked at, BGR uint8, a square around the field (`square_field`); default: the
            session's.

    Raises:
        InputError: the session's photograph cannot be read, or shows two fields.
    """

    def __init__(self, session: Session, photograph: Image | None = None) -> None:
        self.session = session
        self.live = session.realtime
        self.fps: float | None = session.fps
        self._handling = Mishap(session.seed, session.defect) if session.defect else Handling(session.seed)
        self._photograph = photograph_of(session) if photograph is None else photograph
        self._index = 0
        self._started_ns: int | None = None

    @property
    def ended(self) -> bool:
        """Whether the session is over."""
        return self.session.frames is not None and self._index >= self.session.frames

    def open(self) -> None:
        """Start, or go on after `close`."""
        if self._started_ns is None:
            self._started_ns = time.monotonic_ns()

    def read(self) -> Frame | None:
        """The next frame, when it is due; None at the end of the session."""
        if self.ended:
            return None
        if self.session.realtime:
            if self._started_ns is None:
                return None
            due_ns = self._started_ns + int(1e9 * self._index / self.session.fps)
            time.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
        image, truth = self.render(self._index)  # the simulated exposure; the frame exists from here on
        frame = Frame(image, self._index, time.monotonic_ns(), truth=truth)
        self._index += 1
        return frame

    def render(self, index: int) -> tuple[Image, Truth]:
        """Frame `index`, BGR uint8 (height, width, 3), and the truth about it."""
        t = index / self.session.fps
        truth = self._handling.truth(t)
        rng = np.random.default_rng([self.session.seed, 2, index])
        field = FIELD_SHARE * min(self.session.width, self.session.height)
        image = self._looked_at(index, field)
        image = degrade(image, "defocus", float(truth["defocus"]), rng, field)
        image = degrade(image, "motion_blur", 0.6 * float(truth["motion"]), rng, field)
        exposure = float(truth["exposure"])
        image = degrade(image, "under_exposure" if exposure < 0 else "over_exposure", abs(exposure), rng, field)
        if truth["occlusion"]:
            image = self._lid(image, float(truth["occlusion"]))
        if isinstance(self._handling, Mishap):
            image = self._mishap(image, self._handling, t, field)
        return degrade(image, "sensor_noise", NOISE_SEVERITY, rng, field), truth

    def view(self, index: int) -> Matrix:
        """From a pixel of the photograph to the pixel of frame `index` that shows it: shifted and turned, (2, 3)."""
        t = index / self.session.fps
        x, y = self._handling.place(t)
        side = self._photograph.shape[0]
        field = FIELD_SHARE * min(self.session.width, self.session.height)
        turn = 6 * self._handling.tremor[0](t / 9)
        matrix = cv2.getRotationMatrix2D((side / 2, side / 2), turn, BEYOND_APERTURE * field / side)
        centre = np.array([self.session.width / 2 + x * field, self.session.height / 2 + y * field])
        matrix[:, 2] += centre - side / 2
        return matrix

    def _looked_at(self, index: int, field: float) -> Image:
        """The photograph as the hand holds the camera, seen through a fixed aperture."""
        size = (self.session.width, self.session.height)
        shrinks = BEYOND_APERTURE * field < self._photograph.shape[0]
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        image = cv2.warpAffine(self._photograph, self.view(index), size, flags=interpolation)
        aperture = np.zeros((self.session.height, self.session.width), np.uint8)
        cv2.circle(aperture, (self.session.width // 2, self.session.height // 2), round(field / 2), 255, -1)
        return cv2.bitwise_and(image, image, mask=aperture)

    def _lid(self, image: Image, occlusion: float) -> Image:
        """The upper lid comes down over a share of the field, with a soft edge."""
        height = image.shape[0]
        edge = 0.08 * height
        y = np.arange(height, dtype=np.float32)
        light = np.clip((y - occlusion * 1.05 * height + edge) / edge, 0.03, 1) if occlusion else np.ones(height)
        return cv2.multiply(
            image, np.repeat(light, 3 * image.shape[1]).reshape(image.shape).astype(np.float32), dtype=cv2.CV_8U
        )

    def _mishap(self, image: Image, mishap: Mishap, t: float, field: float) -> Image:
        """What a natural session does not have: light from one side, dust on the lens."""
        if mishap.defect == "uneven":
            return degrade(image, "uneven_illumination", mishap.strength(t), mishap.draw(t), field)
        if mishap.defect == "lens_dirty":
            return self._dust(image, field)
        return image

    def _dust(self, image: Image, field: float) -> Image:
        """Three to six grains on the front lens, far out of focus: soft dark spots that stay where they are."""
        rng = np.random.default_rng([self.session.seed, 4])
        height, width = image.shape[:2]
        shade = np.zeros((height, width), np.float32)
        for _ in range(int(rng.integers(3, 7))):
            distance, angle = 0.38 * field * rng.uniform(0, 1) ** 0.5, rng.uniform(0, 2 * np.pi)
            where = (round(width / 2 + distance * np.cos(angle)), round(height / 2 + distance * np.sin(angle)))
            size = round(field * rng.uniform(0.012, 0.028))
            cv2.circle(shade, where, size, float(rng.uniform(0.3, 0.6)), -1)
        shade = cv2.GaussianBlur(shade, (0, 0), 0.006 * field)
        return cv2.multiply(image, cv2.merge([1 - shade] * 3), dtype=cv2.CV_8U)

    def close(self) -> None:
        """Nothing to release."""
