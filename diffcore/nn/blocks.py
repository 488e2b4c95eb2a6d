"""Small pieces that networks share."""

from typing import TypeVar

from torch import Tensor, nn
from torch.nn import functional

Module = TypeVar("Module", nn.Linear, nn.Conv2d)


def zeroed(module: Module) -> Module:
    """The module with all weights zero, so that what follows it starts as the identity."""
    nn.init.zeros_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module


def fold(x: Tensor, patch: int) -> Tensor:
    """`[B, C, H, W]` to `[B, C patch^2, H / patch, W / patch]`: each patch becomes the channels of one place."""
    return functional.pixel_unshuffle(x, patch) if patch > 1 else x


def unfold(x: Tensor, patch: int) -> Tensor:
    """The inverse of `fold`."""
    return functional.pixel_shuffle(x, patch) if patch > 1 else x
