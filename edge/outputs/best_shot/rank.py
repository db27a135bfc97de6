"""How good a frame is by measures that can be explained, to tell apart the frames of one eye.

A network's score says whether a picture can be used; between pictures that can, its differences are often smaller
than its noise, and some defects it does not see: `preprocess` cuts to the field, so that an eye beside the axis
looks centred to it. What a photographer wants of a frame is known and can be measured (`guidance.measure`): fine
detail, and the whole field well lit. Each is a share of what a faultless frame has, and their product is the frame's
`rank`. It is for comparing frames of one eye, not for comparing eyes: how much detail there is depends on the retina
and the camera too. How bright the field is has no part in it: with an exposure to aim at, be it learned, no better
frames were kept (docs/GUIDANCE.md), and a frame that is too dark or too bright to be used the score refuses.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from fthnet_kit.edge.guidance.measures import Measures


@dataclass(frozen=True)
class Appraisal:
    """A frame's merits, each as a share of what a faultless frame has.

    Attributes:
        detail: contrast of fine details (`Measures.fineness`); about 1 in focus, it may be a little more.
        field: the well lit area, of the largest circle in the frame (`Measures.well_lit`).
    """

    detail: float
    field: float

    @classmethod
    def of(cls, measures: Measures) -> Appraisal:
        """The merits of a frame with these measures."""
        return cls(detail=measures.fineness, field=measures.well_lit)

    @property
    def rank(self) -> float:
        """Points, about 100 for a faultless frame; only differences within one eye have a meaning."""
        return 100 * self.detail * self.field

    def to_dict(self) -> dict[str, float]:
        """JSON-ready form."""
        return {"rank": round(self.rank, 3), **{name: round(share, 4) for name, share in asdict(self).items()}}
