"""A convolutional encoder, the first half of a U-Net: from a grid to a vector."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffcore.nn.blocks import ChannelNorm, fold, zeroed
from diffcore.nn.unet import GridAttention, ResidualBlock, through
from diffcore.states.spaces import Mask


class Encoder(nn.Module):
    """Residual blocks down to a coarse grid, attention there, the mean over its pixels, and a linear layer.

    Each level halves the grid, rounding up. The last layer is initialised to zero, so that all outputs start equal.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        width: int = 32,
        multipliers: tuple[int, ...] = (1, 2),
        blocks: int = 1,
        patch: int = 1,
        attention: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.width = 2 * width
        self.patch = patch
        sizes = [width * multiplier for multiplier in multipliers]
        self.input = nn.Conv2d(channels * patch**2, sizes[0], 3, padding=1)
        self.levels = nn.ModuleList(
            nn.ModuleList(ResidualBlock(size, size, self.width, dropout) for _ in range(blocks)) for size in sizes
        )
        self.coarser = nn.ModuleList(
            nn.Conv2d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in pairwise(sizes)
        )
        self.attention = GridAttention(sizes[-1]) if attention else nn.Identity()
        self.norm = ChannelNorm(sizes[-1])
        self.output = zeroed(nn.Linear(sizes[-1], outputs))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor, conditioning: Tensor, mask: Mask = None) -> Tensor:
        """`x` `[B, C, H, W]` and `conditioning` `[B, width]` to `[B, outputs]`. `mask` is ignored."""
        h = self.input(fold(x, self.patch).contiguous(memory_format=torch.channels_last))
        for number, blocks in enumerate(self.levels):
            if number:
                h = self.coarser[number - 1](h)
            h = through(blocks, h, conditioning)
        return self.output(functional.silu(self.norm(self.attention(h))).mean((2, 3)))
