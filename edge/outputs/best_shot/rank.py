"""How good a frame is by measures that can be explained, to tell apart the frames of one eye.

A network's score says whether a picture can be used; between pictures that can, its differences are often smaller
than its noise, and some defects it does not see: `preprocess` cuts to the field, so that an eye beside the axis
looks centred to it. What a photographer wants of a frame is known and can be measured (`guidance.measure`): fine
detail, the light of this camera's good pictures, the whole field. Each of the three is a share of what a faultless
frame has, and their product is the frame's `rank`. It is for comparing frames of one eye, not for comparing eyes: how
much detail there is depends on the retina and the camera too.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from fthnet_kit.edge.guidance.measures import Measures

TOLERANCE_STOPS = 2.0  # this far from the aim, too dark or too bright, a frame counts 61 %


@dataclass(frozen=True)
class Appraisal:
    """A frame's merits, each as a share of what a faultless frame has.

    Attributes:
        detail: contrast of fine details (`Measures.fineness`); about 1 in focus, it may be a little more.
        exposure: 1 where the field is as bright as in this camera's usable pictures.
        field: the well lit area, of the largest circle in the frame (`Measures.well_lit`).
    """

    detail: float
    exposure: float
    field: float

    @property
    def rank(self) -> float:
        """Points, about 100 for a faultless frame; only differences within one eye have a meaning."""
        return 100 * self.detail * self.exposure * self.field

    def to_dict(self) -> dict[str, float]:
        """JSON-ready form."""
        return {"rank": round(self.rank, 3), **{name: round(share, 4) for name, share in asdict(self).items()}}


def appraise(measures: Measures, aim_stops: float | None = None) -> Appraisal:
    """The merits of a frame.

    Args:
        measures: of the frame.
        aim_stops: median luminance of a well exposed field, in stops below white; None where it is not known, and
            any exposure is as good as another.
    """
    off = 0.0 if aim_stops is None else measures.middle_stops - aim_stops
    return Appraisal(
        detail=measures.fineness,
        exposure=math.exp(-((off / TOLERANCE_STOPS) ** 2) / 2),
        field=measures.well_lit,
    )
