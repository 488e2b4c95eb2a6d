"""A U-Net on a large grid, in tiles."""

import math

import pytest
import torch

from diffcore.nn import unet
from diffcore.nn.tiles import reach
from diffcore.nn.unet import UNet


@pytest.mark.parametrize(("levels", "patch", "blocks"), [(3, 4, 1), (2, 2, 2), (1, 4, 1), (4, 2, 1), (2, 3, 1)])
def test_a_large_grid_is_computed_in_tiles_with_the_same_result(monkeypatch, levels, patch, blocks):
    torch.manual_seed(0)
    network = UNet(
        2, width=8, multipliers=(1,) * levels, patch=patch, blocks=blocks, like_state=1, learned_variance=True
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    coarsest = network.coarsest
    assert coarsest == patch * 2 ** max(levels - 1, int(math.log2(64 / patch)))
    pixel = patch * 2 ** (levels - 1)
    height, width = (side // pixel * pixel for side in (16, 1000))
    x, beside = torch.randn(2, 2, height, width), torch.randn(2, 1, height, width)
    conditioning = torch.randn(2, network.width)

    def output(grid):
        return network(grid, conditioning[:1], like_state=beside[:1, :, :, : grid.shape[3]])[0]

    furthest = reach(output, x[:1, :, :, :768], 1)
    assert furthest <= network.margin <= furthest + 5 * coarsest
    assert network.margin % coarsest == 0
    widths, whole = [], network._at_once
    monkeypatch.setattr(network, "_at_once", lambda x, *rest: widths.append(x.shape[3]) or whole(x, *rest))
    monkeypatch.setattr(unet, "TILE", 256)
    with torch.no_grad():
        tiled = network(x, conditioning, like_state=beside)
    assert max(widths) <= 256 + 2 * network.margin < width
    count = len(widths)
    assert count == math.ceil(width / (256 // coarsest * coarsest))
    wholly = network(x, conditioning, like_state=beside)  # gradients are needed
    assert widths[count:] == [width]
    for one, other in zip(tiled, wholly, strict=True):
        torch.testing.assert_close(one, other.detach(), atol=1e-4, rtol=1e-4)
