"""The linear path from patches to the output of a network, against the best linear estimate and SciPy's cosines."""

import pytest
import torch
from scipy.fft import dctn, idctn
from torch import nn

from diffcore.nn.blocks import DirectPath, fold, unfold
from diffcore.nn.unet import UNet
from tests.support.draws import draw


def with_gains(path, gains):
    """`path` with gains that do not depend on the conditioning vector."""
    path.gains.bias = nn.Parameter(gains.flatten())
    return path


def test_each_frequency_of_a_patch_has_its_gain():
    x, gains = draw(2, 3, 8, 8), draw(3, 4, 4, seed=1)
    found = with_gains(DirectPath(3, 4, 5).double(), gains)(fold(x, 4), draw(2, 5, seed=2)).flatten(2)
    for number in range(4):
        rows, columns = 4 * (number // 2), 4 * (number % 2)
        patch = x[:, :, rows : rows + 4, columns : columns + 4]
        wanted = idctn(dctn(patch, axes=(2, 3), norm="ortho") * gains.numpy(), axes=(2, 3), norm="ortho")
        torch.testing.assert_close(
            found[..., number].reshape(2, 3, 4, 4), torch.as_tensor(wanted), rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize(("height", "width"), [(16, 16), (6, 10), (1, 3)])
def test_octaves_of_the_means_have_their_gains(height, width):
    """The means over nested blocks are projections, so the octaves are orthogonal: each is multiplied by its gain."""
    path = DirectPath(2, 4, 5).double()
    assert path.octaves == 4  # blocks of 8, 16, 32 and 64 entries
    gains = draw(2, 4)
    path.coarse_gains.bias = nn.Parameter(gains.flatten())
    x = draw(3, 2, 4 * height, 4 * width, seed=1)
    found = unfold(path(fold(x, 4).reshape(3, 32, height, width), draw(3, 5, seed=2)), 4)

    def means(grid, side):
        """Each entry becomes the mean of its block of `side` x `side`, or of what is there of it."""
        result = torch.empty_like(grid)
        for top in range(0, grid.shape[2], side):
            for left in range(0, grid.shape[3], side):
                block = (..., slice(top, top + side), slice(left, left + side))
                result[block] = grid[block].mean(dim=(2, 3), keepdim=True)
        return result

    wanted = torch.zeros_like(x)
    for octave in range(4):
        part = means(x, 8 * 2**octave)
        finer = part - means(x, 16 * 2**octave) if octave < 3 else part
        wanted += gains[:, octave, None, None] * finer
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_it_can_be_the_best_estimate_of_v_for_data_with_independent_frequencies():
    """If its frequencies have variances s^2, the least error of v is the mean of s^2 / (alpha^2 s^2 + sigma^2)."""
    n, alpha, sigma = 20_000, 0.8, 0.6
    variances = torch.tensor([[1.0, 0.1], [0.1, 0.01]], dtype=torch.float64)
    x0 = torch.as_tensor(idctn(draw(n, 2, 2).numpy() * variances.sqrt().numpy(), axes=(1, 2), norm="ortho"))
    eps = draw(n, 2, 2, seed=1)
    total = alpha**2 * variances + sigma**2
    path = with_gains(DirectPath(1, 2, 3).double(), alpha * sigma * (1 - variances) / total)
    found = path((alpha * x0 + sigma * eps).reshape(n, 4, 1, 1), draw(n, 3)).reshape(n, 2, 2)
    error = (found - (alpha * eps - sigma * x0)).square().mean().item()
    assert error == pytest.approx((variances / total).mean().item(), rel=0.02)


def test_a_network_without_patches_has_none_and_one_with_patches_begins_without_it():
    assert UNet(2, width=8, multipliers=(1,), patch=1).direct is None
    network = UNet(2, width=8, multipliers=(1,), patch=2, learned_variance=True).double()
    x, conditioning = draw(3, 2, 8, 8), draw(3, network.width, seed=1)
    before, fractions = network(x, conditioning)
    assert not before.any()
    with_gains(network.direct, torch.full((8,), 2.0, dtype=torch.float64))
    after, same = network(x, conditioning)
    torch.testing.assert_close(after, 2 * x)
    assert torch.equal(same, fractions)
