"""Says in the words of the sentences what clouds are, from their measures. Nothing here is trained."""

import torch
from torch import Tensor

from diffcore.plugins.wordings import UNSAID
from diffcore_pointcloud.described.measure import Measures, measure
from diffcore_pointcloud.described.sentences import LEGS, WORDINGS, limits, reference

_CORNERS = 0.06
"""A top is rectangular if so many of its points lie outside of the ellipse in its rectangle."""
_ABOVE = 0.01
"""A seat has arms if so many of the points lie above its front half."""


def judge(positions: Tensor, kinds: Tensor) -> dict[str, Tensor]:
    """The values of clouds `[N, P, 3]`, int64 `[N]` by attribute of `diffcore_pointcloud.described.sentences.WORDINGS`.

    `kinds` `[N]` are the numbers of the kinds of the clouds, which are taken as they are. What a kind does not have has
    the value `UNSAID`, and so has everything but the kind of clouds that are not finite. Height and thickness are
    compared with the medians of generated shapes of the same kind.
    """
    values = {name: torch.full((len(positions),), UNSAID) for name in WORDINGS}
    values["kind"] = kinds.clone()
    names = [*WORDINGS["kind"]]
    finite = positions.isfinite().flatten(1).all(1)
    for row in finite.nonzero()[:, 0].tolist():
        kind = names[int(kinds[row])]
        if "legs" in reference(kind):
            for name, value in _judged(kind, measure(positions[row].double().numpy())).items():
                values[name][row] = value
    return values


def _judged(kind: str, found: Measures) -> dict[str, int]:
    """The values of a piece of furniture."""
    values = {"height": int(found.height > limits(kind, "height")[1])}
    if found.legs in LEGS:
        values["legs"] = LEGS.index(found.legs)
        middle = limits(kind, "thickness", found.legs)[1]
        if middle.isfinite():
            values["thickness"] = int(found.thickness > middle)
    if "round" in reference(kind):
        values["top"] = int(found.corners < _CORNERS)
    if "arms" in reference(kind):
        values["arms"] = int(found.above > _ABOVE)
    return values
