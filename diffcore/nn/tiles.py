"""Decoding a large grid in tiles, with the same result as decoding it at once."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor


def in_tiles(decode: Callable[[Tensor], Tensor], latent: Tensor, factor: int, margin: int, tile: int) -> Tensor:
    """decode(latent) for `latent` `[B, C, h, w]`, computed from tiles of `tile` x `tile` cells: `[B, D, h f, w f]`.

    * `decode`: a function whose output in a cell of `factor` x `factor` entries depends on latents at most `margin`
      cells away along each axis, and on the border of the grid in the same way: a convolutional decoder without
      statistics over the grid and without attention.

    Each tile is decoded with `margin` cells around it, where they exist, which are cut off again. So the result is that
    of the whole up to rounding, and the memory in addition to the result is that of one tile.
    """
    height, width = latent.shape[2:]
    result: Tensor | None = None
    for top, bottom, above in _spans(height, tile, margin):
        for left, right, before in _spans(width, tile, margin):
            down, across = slice(top - above, bottom + margin), slice(left - before, right + margin)
            decoded = decode(latent[:, :, down, across])
            rows = slice(above * factor, (above + bottom - top) * factor)
            columns = slice(before * factor, (before + right - left) * factor)
            if result is None:
                result = decoded.new_empty(latent.shape[0], decoded.shape[1], height * factor, width * factor)
            result[:, :, top * factor : bottom * factor, left * factor : right * factor] = decoded[:, :, rows, columns]
    assert result is not None
    return result


def _spans(length: int, tile: int, margin: int) -> Iterator[tuple[int, int, int]]:
    """The first cell of each tile along an axis, the cell after its last one, and how many cells are before it."""
    return ((start, min(start + tile, length), min(margin, start)) for start in range(0, max(length, 1), tile))


def reach(decode: Callable[[Tensor], Tensor], latent: Tensor, factor: int) -> int:
    """How many cells away from an output the furthest latent is that changes it, along either axis.

    Measured by the derivative of the middle cell of the output; `latent` `[1, C, h, w]` should be larger than that.
    """
    latent = latent.detach().requires_grad_()
    row, column = latent.shape[2] // 2, latent.shape[3] // 2
    cell = decode(latent)[:, :, row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
    (gradient,) = torch.autograd.grad(cell.square().sum(), latent)
    rows, columns = (gradient[0].abs().sum(0) > 0).nonzero().unbind(1)
    return int(max((rows - row).abs().max(), (columns - column).abs().max()))
