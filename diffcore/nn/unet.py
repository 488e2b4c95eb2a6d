"""A U-Net on a grid whose patches are folded into channels."""

import math
from functools import partial
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffcore.denoising.inputs import Tokens
from diffcore.nn.attention import TokenLayers, heads_of
from diffcore.nn.beside import BesideState
from diffcore.nn.blocks import ChannelNorm, DirectPath, accepted, pixels, unfold, with_variance, with_waves, zeroed
from diffcore.nn.tiles import in_tiles
from diffcore.states.spaces import Mask


class ResidualBlock(nn.Module):
    """x + conv(SiLU(norm(conv(SiLU(norm(x)))) (1 + s) + b)), with s and b linear in the conditioning.

    Ho et al. 2020, appendix B, with the scale and shift of Nichol & Dhariwal 2021, section 3.4. The last convolution is
    initialised to zero.
    """

    def __init__(self, inputs: int, outputs: int, conditioning: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.first_norm = ChannelNorm(inputs)
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(conditioning, 2 * outputs)
        self.second_norm = ChannelNorm(outputs)
        self.dropout = nn.Dropout(dropout)
        self.second = zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, conditioning: Tensor) -> Tensor:
        """`x` `[B, inputs, H, W]` to `[B, outputs, H, W]`."""
        h = self.first(functional.silu(self.first_norm(x)))
        scale, shift = self.modulation(conditioning)[:, :, None, None].chunk(2, dim=1)
        h = functional.silu(self.second_norm(h) * (1 + scale) + shift)
        return self.shortcut(x) + self.second(self.dropout(h))


class GridAttention(nn.Module):
    """x + attention over all pixels of the grid, with heads of 32 channels, or more if 32 does not divide them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = heads_of(channels)
        self.norm = ChannelNorm(channels)
        self.inputs = nn.Conv2d(channels, 3 * channels, 1)
        self.output = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """`x` `[B, C, H, W]` to the same shape."""
        q, k, v = self.inputs(self.norm(x)).reshape(x.shape[0], 3, self.heads, -1, x.shape[2] * x.shape[3]).unbind(1)
        mixed = functional.scaled_dot_product_attention(*(part.transpose(2, 3) for part in (q, k, v)))
        return x + self.output(mixed.transpose(2, 3).reshape(x.shape))


TILE = 1024
"""Grids with a side of more than two tiles are computed in tiles of about this side, where no gradient is needed."""

COARSE = 2
"""Levels of a U-Net attend to tokens if a pixel stands for at least so many entries of the grid along each side."""


class UNet(nn.Module):
    """A U-Net: residual blocks down to a coarse grid and up again, with a skip connection at each level.

    First the patches of the grid are folded into channels, because convolutions on a grid of half the side cost a
    quarter. Each further level halves the grid. With `learned_variance` it returns a pair, the output and the variance
    fractions. With patches larger than 1, a `DirectPath` leads from the patches to the output.

    With `tokens` channels of tokens, the pixels of coarse levels attend to the tokens, on the way down and up again.
    The coarsest level is coarse in any case, the others if a pixel stands for at least `COARSE` x `COARSE` entries of
    the grid. `like_state` is the number of channels beside those of the state; they are folded in the same way, and a
    convolution adds them to the first layer. Both begin as zero, so the network is at first the one without them.
    With `octaves`, the first layer also receives the Fourier features of the state (`with_waves`).

    The network takes grids of any size. Without attention over the grid, an output depends on entries at most `margin`
    away, so large grids are computed in tiles (`diffcore.nn.tiles.in_tiles`), in bounded memory.
    """

    def __init__(
        self,
        channels: int,
        width: int = 64,
        multipliers: tuple[int, ...] = (1, 2),
        blocks: int = 1,
        patch: int = 4,
        attention: bool = False,
        dropout: float = 0.0,
        learned_variance: bool = False,
        octaves: int = 0,
        tokens: int = 0,
        like_state: int = 0,
    ) -> None:
        super().__init__()
        self.width = 2 * width
        self.accepts = accepted(tokens=tokens, like_state=like_state)
        self.learned_variance = learned_variance
        self.patch, self.octaves = patch, octaves
        sizes = [width * multiplier for multiplier in multipliers]

        def level(inputs: int, outputs: int) -> nn.ModuleList:
            first = ResidualBlock(inputs, outputs, self.width, dropout)
            rest = (ResidualBlock(outputs, outputs, self.width, dropout) for _ in range(blocks - 1))
            return nn.ModuleList([first, *rest])

        self.input = nn.Conv2d((1 + 2 * octaves) * channels * patch**2, sizes[0], 3, padding=1)
        self.down = nn.ModuleList(level(size, size) for size in sizes)
        self.coarser = nn.ModuleList(
            nn.Conv2d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in pairwise(sizes)
        )
        self.middle = level(sizes[-1], sizes[-1])
        self.attention = GridAttention(sizes[-1]) if attention else nn.Identity()
        self.finer = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in pairwise(sizes))
        self.up = nn.ModuleList(level(2 * size, size) for size in sizes[:-1])
        self.norm = ChannelNorm(sizes[0])
        outputs = 2 * channels if learned_variance else channels
        self.output = zeroed(nn.Conv2d(sizes[0], outputs * patch**2, 3, padding=1))
        self.direct = DirectPath(channels, patch, self.width) if patch > 1 else None
        first = partial(nn.Conv2d, out_channels=sizes[0], kernel_size=3, padding=1, bias=False)
        self.beside = BesideState(like_state * patch**2, first, partial(pixels, patch=patch))
        coarse = [number for number in range(len(sizes)) if patch * 2**number >= COARSE]
        self.first_coarse = min([*coarse, len(sizes) - 1])
        self.attend_down = TokenLayers(tokens, sizes[self.first_coarse :])
        self.attend_up = TokenLayers(tokens, sizes[self.first_coarse : -1])
        halvings = 0 if self.direct is None else self.direct.octaves
        self.coarsest = patch * 2 ** max(len(sizes) - 1, halvings)
        self.margin = _margin(patch, len(sizes), blocks, self.coarsest)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self,
        x: Tensor,
        conditioning: Tensor,
        mask: Mask = None,
        tokens: Tokens | None = None,
        like_state: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """`x` `[B, C, H, W]` and `conditioning` `[B, width]` to the shape of `x`. `mask` is ignored.

        `tokens` and `like_state` `[B, channels, H, W]` have the channels that the network was made with.
        """
        whole = torch.is_grad_enabled() or isinstance(self.attention, GridAttention) or max(x.shape[2:]) <= 2 * TILE
        if whole:
            output = self._at_once(x, conditioning, tokens, like_state)
        else:
            channels = x.shape[1]

            def part(grid: Tensor) -> Tensor:
                beside = None if like_state is None else grid[:, channels:]
                return self._at_once(grid[:, :channels], conditioning, tokens, beside)

            together = x if like_state is None else torch.cat([x, like_state], dim=1)
            tile = max(1, TILE // self.coarsest) * self.coarsest  # tiles begin where the coarsest pixels and blocks do
            output = in_tiles(part, together, 1, self.margin, tile)
        return with_variance(output) if self.learned_variance else output

    def _at_once(self, x: Tensor, conditioning: Tensor, tokens: Tokens | None, like_state: Tensor | None) -> Tensor:
        """The output for the whole of `x`, and the variance fractions behind it if there are any."""
        folded = pixels(x, self.patch)
        h = self.beside(self.input(with_waves(folded, self.octaves)), like_state)
        skips = []
        for number, blocks in enumerate(self.down):
            if number:
                skips.append(h)
                h = self.coarser[number - 1](h)
            h = through(blocks, h, conditioning)
            if number >= self.first_coarse:
                h = self.attend_down(number - self.first_coarse, h, tokens)
        h = self.attention(through(self.middle, h, conditioning))
        for number in reversed(range(len(self.up))):
            h = functional.interpolate(self.finer[number](h), scale_factor=2.0)
            h = through(self.up[number], torch.cat([h, skips.pop()], dim=1), conditioning)
            if number >= self.first_coarse:
                h = self.attend_up(number - self.first_coarse, h, tokens)
        output = self.output(functional.silu(self.norm(h)))
        if self.direct is not None:
            direct = self.direct(folded, conditioning)
            beyond = output.shape[1] - direct.shape[1]  # the variances
            output = output + functional.pad(direct, (0, 0, 0, 0, 0, beyond))
        return unfold(output, self.patch)


def _margin(patch: int, levels: int, blocks: int, coarsest: int) -> int:
    """How far away from an output the furthest entry of the grid is that changes it, or a little more.

    Each convolution of 3 x 3 reaches one pixel of its level further, and each change of the level less than one pixel
    of the coarser one. It is rounded up to a multiple of `coarsest`, the side of the coarsest pixel or block of the
    direct path, so that tiles begin where these do.
    """
    convolutions = sum(4 * blocks * patch * 2**level for level in range(levels))  # two in a block; down, and up again
    changes = 2 * sum(patch * 2**level for level in range(1, levels))
    return math.ceil((2 * patch + convolutions + changes) / coarsest + 1) * coarsest


def through(blocks: nn.Module, x: Tensor, conditioning: Tensor) -> Tensor:
    """Apply the blocks of a `ModuleList` to `x`, one after another."""
    for block in cast(nn.ModuleList, blocks):
        x = block(x, conditioning)
    return x
