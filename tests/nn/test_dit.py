import pytest
import torch

from diffcore.nn.dit import DiT, grid_positions


@pytest.mark.parametrize(("height", "width", "channels"), [(8, 8, 96), (3, 5, 18)])
def test_the_product_of_two_positions_depends_only_on_how_far_apart_they_are(height, width, channels):
    embedded = grid_positions(height, width, channels).double()
    row, column = (torch.arange(height * width) // width, torch.arange(height * width) % width)
    frequency = 100.0 ** (-torch.arange(channels // 4, dtype=torch.float64) / (channels // 4))
    down, across = ((each[:, None] - each)[..., None] * frequency for each in (row, column))
    assert torch.allclose(embedded @ embedded.T, (down.cos() + across.cos()).sum(-1), atol=1e-5)


def test_a_transformer_begins_with_the_positions_of_its_patches():
    network = DiT(3, (16, 8), patch=4, width=12, depth=1, heads=2)
    assert torch.equal(network.positions, grid_positions(4, 2, 12))
