"""Small pieces that networks share."""

from typing import TypeVar

import torch
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


def with_variance(output: Tensor) -> tuple[Tensor, Tensor]:
    """`[B, 2 C, ...]` as what is predicted and the fractions f = (raw + 1) / 2 of its variance, `[B, C, ...]` each.

    Nichol & Dhariwal 2021, eq. 15, as they scale it: zeros are half-way between the bounds.
    """
    predicted, raw = output.chunk(2, dim=1)
    return predicted, (raw + 1) / 2


class ChannelNorm(nn.Module):
    """Layer normalisation of the channels at each place of `[B, C, H, W]`, as ConvNeXt has it (Liu et al. 2022).

    In channels-last memory the channels of a place lie together, and no statistic is taken over the grid.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """The shape of `x`."""
        places = x.permute(0, 2, 3, 1)
        return functional.layer_norm(places, (x.shape[1],), self.weight, self.bias).permute(0, 3, 1, 2)
