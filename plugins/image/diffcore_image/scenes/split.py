"""Which scenes are never in training.

Two kinds of combinations are held out: 5 of the 40 pairs of a colour and a shape, which is 12 %, and 6 of the 50
arrangements of two shapes, side by side or one above the other. A scene that contains one of them is held out. Every
colour, every shape and every shape in every place still occurs in training, in other combinations.

The combinations follow from `SEED` alone. No option changes them, so figures of different runs can be compared.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from diffcore.states.noise import generator_for
from diffcore_image.scenes.scene import COLOURS, OPPOSITE, RELATIONS, SHAPES, Scenes

SEED = 17
PAIRS = 5
"""Pairs of a colour and a shape that are held out."""
ARRANGEMENTS = 3
"""Arrangements of two shapes that are held out, for each of the two directions."""


@dataclass(frozen=True)
class HeldOut:
    """The combinations that are never in training.

    * `pairs`: bool `[8, 5]`, by colour and shape.
    * `arrangements`: bool `[4, 5, 5]`, by relation, shape of the first and shape of the second object. Both ways of
      naming an arrangement are marked: what is left of a circle has the circle on its right.
    """

    pairs: Tensor
    arrangements: Tensor

    def contains(self, scenes: Scenes) -> Tensor:
        """Which scenes contain a combination that is held out, bool `[N]`; what is unknown is in no combination."""
        return self.has_pair(scenes) | self.has_arrangement(scenes)

    def has_pair(self, scenes: Scenes) -> Tensor:
        """Which scenes contain a pair of a colour and a shape that is held out, bool `[N]`."""
        known = (scenes.colour >= 0) & (scenes.shape >= 0)
        return (self.pairs[scenes.colour, scenes.shape] & known).any(1)

    def has_arrangement(self, scenes: Scenes) -> Tensor:
        """Which scenes contain an arrangement of two shapes that is held out, bool `[N]`."""
        first, second = scenes.shape.unbind(1)
        known = (scenes.relation >= 0) & (first >= 0) & (second >= 0)
        return self.arrangements[scenes.relation, first, second] & known


@cache
def held_out(seed: int = SEED) -> HeldOut:
    """The combinations that are held out.

    No colour and no shape occurs twice among the pairs. Among the arrangements of a direction, no shape occurs twice
    in the same place, and no shape stands beside its like.
    """
    generator = generator_for(seed, "held out")
    pairs = torch.zeros(len(COLOURS), len(SHAPES), dtype=torch.bool)
    pairs[
        torch.randperm(len(COLOURS), generator=generator)[:PAIRS], torch.randperm(len(SHAPES), generator=generator)
    ] = True
    arrangements = torch.zeros(len(RELATIONS), len(SHAPES), len(SHAPES), dtype=torch.bool)
    for relation in (RELATIONS.index("left"), RELATIONS.index("above")):
        order = torch.randperm(len(SHAPES), generator=generator)
        first, second = order[:ARRANGEMENTS], order.roll(-1)[:ARRANGEMENTS]
        arrangements[relation, first, second] = True
        arrangements[OPPOSITE[relation], second, first] = True
    return HeldOut(pairs, arrangements)
