"""What a scene is: one or two objects, each with a colour, a shape and a size, and the relation of the two.

A batch of scenes is a frozen record of int64 tensors. `UNKNOWN` stands for what a sentence does not say, and for what
cannot be read off a picture.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

SIDE = 32
"""Height and width of a picture in pixels."""

BACKGROUND = (255, 255, 255)
"""Red, green and blue behind the objects."""

COLOURS = {
    "red": (220, 30, 40),
    "orange": (250, 140, 20),
    "yellow": (250, 225, 40),
    "green": (40, 160, 60),
    "cyan": (60, 205, 225),
    "blue": (40, 70, 215),
    "purple": (150, 50, 180),
    "black": (30, 30, 30),
}
"""Red, green and blue of each colour, 0 to 255."""

SHAPES = ("circle", "square", "triangle", "diamond", "cross")
SIZES = ("small", "big")
RELATIONS = ("left", "right", "above", "below")
"""Where the first object is, seen from the second."""

OPPOSITE = (1, 0, 3, 2)
"""The relation of the second object to the first, for each relation of the first to the second."""

UNKNOWN = -1


@dataclass(frozen=True)
class Scenes:
    """A batch of scenes.

    * `count`: the number of objects, int64 `[N]`.
    * `colour`, `shape`, `size`: indices into `COLOURS`, `SHAPES` and `SIZES`, int64 `[N, 2]`; the second column is
      `UNKNOWN` where there is one object.
    * `relation`: index into `RELATIONS`, int64 `[N]`; `UNKNOWN` where there is one object.
    """

    count: Tensor
    colour: Tensor
    shape: Tensor
    size: Tensor
    relation: Tensor

    def __len__(self) -> int:
        return len(self.count)

    def __getitem__(self, rows: "Tensor | slice") -> "Scenes":
        return Scenes(self.count[rows], self.colour[rows], self.shape[rows], self.size[rows], self.relation[rows])

    def swapped(self) -> "Scenes":
        """The same scenes with the second object named first."""
        two = self.count >= 2
        opposite = torch.tensor([*OPPOSITE, UNKNOWN])[self.relation]

        def flipped(attribute: Tensor) -> Tensor:
            return torch.where(two[:, None], attribute.flip(1), attribute)

        relation = torch.where(two, opposite, self.relation)
        return Scenes(self.count, flipped(self.colour), flipped(self.shape), flipped(self.size), relation)


def joined(parts: "list[Scenes]") -> Scenes:
    """The scenes of all parts, one part after another."""
    return Scenes(*(torch.cat([getattr(part, name) for part in parts]) for name in Scenes.__dataclass_fields__))
