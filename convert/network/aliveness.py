"""Is the hypernetwork used? A trained FTHNet can say everything through one bias and nothing through the rest.

Three findings on photographs: how many hidden units of the target network are saturated (such a sigmoid passes on
no difference), and how far scores move when a photograph gets the taps, or the generated weights, of another.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np

from fthnet_kit.calibration.agreement import Scores, srcc
from fthnet_kit.convert.network.fthnet import FTHNet, apply_target
from fthnet_kit.edge.errors import MissingExtraError

try:
    import torch
    from torch import Tensor
except ImportError as error:
    raise MissingExtraError("torch", "train", purpose="looking into a network") from error

SATURATED = 0.01  # a sigmoid below this, or as close to 1
SWAPPED_POINTS = 3.0  # mean change of scores by another photograph's taps below which the head counts as dead


@dataclass(frozen=True)
class Aliveness:
    """How much of the hypernetwork and target network the scores depend on.

    Attributes:
        images: photographs looked at.
        saturated: share of hidden target-network units that are saturated, over layers and photographs.
        taps_points: mean change of a score, in points, when it is made with another photograph's taps.
        taps_srcc: rank correlation with the labels that is left then.
        weights_points, weights_srcc: the same with another photograph's generated weights.
    """

    images: int
    saturated: float
    taps_points: float
    taps_srcc: float
    weights_points: float
    weights_srcc: float

    @property
    def alive(self) -> bool:
        """Whether taps move the score at all."""
        return self.taps_points >= SWAPPED_POINTS

    def to_dict(self) -> dict[str, float]:
        """As the card and the training report hold it; a correlation that has no value is left out."""
        return {key: round(value, 4) for key, value in asdict(self).items() if not np.isnan(value)}

    def __str__(self) -> str:
        return (
            f"Hypernetwork: {100 * self.saturated:.1f} % of hidden units saturated; another photograph's taps change "
            f"a score by {self.taps_points:.1f} points (SRCC {self.taps_srcc:.3f} is left), its generated weights by "
            f"{self.weights_points:.1f} (SRCC {self.weights_srcc:.3f})"
            + ("" if self.alive else ": the taps are not used, the hypernetwork is dead")
        )


@torch.no_grad()
def measure_aliveness(network: FTHNet, batches: Iterable[Tensor], labelled: Scores) -> Aliveness:
    """Look into a network on photographs.

    Args:
        network: in evaluation.
        batches: normalised RGB float32 (n, 3, 384, 384), in the labels' order; generated weights of all are
            held at once, 0.4 MB a photograph, so give a few hundred at most.
        labelled: score of each, at least 2.
    """
    parts = [network.forward_parts(batch) for batch in batches]
    vector = torch.cat([part.vector for part in parts])
    generated = [
        (
            torch.cat([part.generated[layer][0] for part in parts]),
            torch.cat([part.generated[layer][1] for part in parts]),
        )
        for layer in range(len(parts[0].generated))
    ]
    units = torch.sigmoid(torch.cat([torch.cat(part.hidden, dim=1) for part in parts]).float())
    own = _scores(vector, generated)
    other = torch.from_numpy(np.random.default_rng(0).permutation(len(vector)))
    other = other.roll(1)[other.argsort()].to(vector.device)  # a cycle through all: nobody keeps its own
    taps = _scores(vector[other], generated)
    weights = _scores(vector, [(weight[other], bias[other]) for weight, bias in generated])
    return Aliveness(
        images=len(own),
        saturated=float(((units < SATURATED) | (units > 1 - SATURATED)).float().mean()),
        taps_points=float(np.abs(taps - own).mean()),
        taps_srcc=srcc(taps, labelled),
        weights_points=float(np.abs(weights - own).mean()),
        weights_srcc=srcc(weights, labelled),
    )


def _scores(vector: Tensor, generated: list[tuple[Tensor, Tensor]]) -> Scores:
    """0-100 of a target network (N,)."""
    raw, _ = apply_target(vector, generated)
    scores: Scores = 100 * raw.clamp(0, 1).cpu().numpy()
    return scores
