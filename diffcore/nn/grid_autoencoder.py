"""A convolutional autoencoder of grids."""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffcore.nn.blocks import ChannelNorm, fold, unfold, zeroed
from diffcore.nn.tiles import in_tiles
from diffcore.states.noise import Draws
from diffcore.states.spaces import Euclidean, Mask

TILE = 32
"""The side of the tiles in which large grids are decoded, in cells of the latent."""


class PlainBlock(nn.Module):
    """x + conv(SiLU(norm(conv(SiLU(norm(x)))))), where norm is over the channels of each pixel.

    No statistic is taken over the grid, so an output depends on the 5 x 5 pixels around it. The last convolution is
    initialised to zero.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first_norm = ChannelNorm(channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second_norm = ChannelNorm(channels)
        self.second = zeroed(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """`x` `[B, C, H, W]` to the same shape."""
        h = self.first(functional.silu(self.first_norm(x)))
        return x + self.second(functional.silu(self.second_norm(h)))


class GridAutoencoder(nn.Module):
    """Grids `[B, channels, H, W]` to latents `[B, latent, ceil(H / factor), ceil(W / factor)]` and back.

    Patches of `patch` x `patch` are folded into channels; each further level halves the grid, with `blocks` residual
    blocks (`PlainBlock`) at each level, of `width`, 2 `width` and then 4 `width` channels. The decoder mirrors the
    encoder. Neither takes statistics over the grid or attends, so what is decoded at a place depends on latents at most
    `margin` cells away, and large grids are decoded in tiles (`diffcore.nn.tiles.in_tiles`) when no gradient is needed.

    Where `factor` does not divide the sides, the grid is continued by its last row and column, and the decoded part
    beyond is cut off.

    * `size`: (H, W).
    * `factor`: a power of 2 times `patch`.
    * `transforms`: what `transform` may do, some of `TRANSFORMS`.

    Raises `ValueError` for another factor.
    """

    channel_axis = 1

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        factor: int = 4,
        latent: int = 4,
        width: int = 32,
        blocks: int = 1,
        patch: int = 2,
        transforms: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        halvings = int(math.log2(factor // patch)) if factor >= patch else -1
        if halvings < 0 or patch * 2**halvings != factor:
            raise ValueError(f"factor {factor} is not a power of 2 times patch {patch}")
        self.size, self.factor, self.patch, self.transforms = size, factor, patch, transforms
        self.space = Euclidean((latent, -(-size[0] // factor), -(-size[1] // factor)))
        sizes = [width * min(2**level, 4) for level in range(halvings + 1)]
        # In cells of the latent: blocks and two more convolutions at each level, of which the cells shrink.
        self.margin = 1 + math.ceil(sum((2 * blocks + 2) / 2**level for level in range(halvings + 1)))

        def level(count: int) -> nn.ModuleList:
            return nn.ModuleList(PlainBlock(count) for _ in range(blocks))

        self.input = nn.Conv2d(channels * patch**2, sizes[0], 3, padding=1)
        self.down = nn.ModuleList(level(count) for count in sizes)
        self.coarser = nn.ModuleList(
            nn.Conv2d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in pairwise(sizes)
        )
        self.to_latent = nn.Conv2d(sizes[-1], latent, 3, padding=1)
        self.from_latent = nn.Conv2d(latent, sizes[-1], 3, padding=1)
        self.up = nn.ModuleList(level(count) for count in sizes)
        self.finer = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in pairwise(sizes))
        self.norm = ChannelNorm(sizes[0])
        self.output = nn.Conv2d(sizes[0], channels * patch**2, 3, padding=1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def encode(self, state: Tensor, mask: Mask = None) -> Tensor:
        """`state` `[B, channels, H, W]` to latents. `mask` is ignored."""
        padding = [-side % self.factor for side in state.shape[2:]]
        if any(padding):
            state = functional.pad(state, (0, padding[1], 0, padding[0]), mode="replicate")
        h = self.input(fold(state, self.patch).contiguous(memory_format=torch.channels_last))
        for number, blocks in enumerate(self.down):
            if number:
                h = self.coarser[number - 1](h)
            h = _through(blocks, h)
        return self.to_latent(h).contiguous()

    def decode(self, latent: Tensor, mask: Mask = None) -> Tensor:
        """Latents `[B, latent, h, w]` to grids of at most the size (H, W)."""
        if torch.is_grad_enabled() or max(latent.shape[2:]) <= 2 * TILE:
            whole = self.decode_cells(latent)
        else:
            rows = [in_tiles(self.decode_cells, row, self.factor, self.margin, TILE) for row in latent.split(1)]
            whole = torch.cat(rows)
        return whole[:, :, : self.size[0], : self.size[1]].contiguous()

    def decode_cells(self, latent: Tensor) -> Tensor:
        """Latents `[B, latent, h, w]` to grids `[B, channels, factor h, factor w]`, all at once."""
        h = self.from_latent(latent.contiguous(memory_format=torch.channels_last))
        for number in reversed(range(len(self.up))):
            h = _through(self.up[number], h)
            if number:
                h = functional.interpolate(self.finer[number - 1](h), scale_factor=2.0)
        return unfold(self.output(functional.silu(self.norm(h))), self.patch)

    def cells(self, marked: Tensor) -> Tensor:
        """The cells of the latent in which any entry of a grid is marked, bool `[B, latent, h, w]`."""
        some = marked.any(1, keepdim=True).float()
        pooled = functional.max_pool2d(some, self.factor, ceil_mode=True) > 0
        return pooled.expand(-1, self.space.shape[0], -1, -1)

    def transform(self, state: Tensor, latent: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """One of the `transforms` that the sides allow, the same for all examples."""
        able = [name for name in self.transforms if _fits(name, state, latent, self.factor)]
        if not able:
            return state, latent
        change = TRANSFORMS[able[int(draws.integers("transform", len(able))[0])]]
        return change(state), change(latent)


def _through(blocks: nn.Module, x: Tensor) -> Tensor:
    for block in blocks:  # type: ignore[attr-defined]
        x = block(x)
    return x


def _fits(name: str, state: Tensor, latent: Tensor, factor: int) -> bool:
    height, width = latent.shape[2:]
    if (height * factor, width * factor) != tuple(state.shape[2:]):
        return False  # the grid was continued at its far ends
    if name == "turn":
        return height == width
    return name != "coarsen" or (height % 2 == 0 and width % 2 == 0)


TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "flip": lambda grid: grid.flip(3),
    "turn": lambda grid: grid.rot90(1, (2, 3)),
    "coarsen": lambda grid: functional.avg_pool2d(grid, 2),
}
"""Transforms of grids: the last axis in reverse, a quarter turn, and the means of blocks of 2 x 2."""
