"""The convolutional autoencoder of grids: tiles, sizes and transforms."""

import pytest
import torch

from diffcore.nn.grid_autoencoder import TILE, TRANSFORMS, GridAutoencoder
from diffcore.nn.tiles import in_tiles, reach
from diffcore.states.noise import Draws, generator_for
from diffcore.testing.plugin import randomised


def network(factor=4, **options):
    torch.manual_seed(0)
    size = options.pop("size", (16, 24))
    return randomised(GridAutoencoder(3, size, factor, **{"latent": 2, "width": 8, **options}))


@pytest.mark.parametrize(("factor", "patch", "blocks"), [(1, 1, 1), (2, 2, 2), (4, 2, 1), (8, 2, 2), (8, 8, 1)])
def test_what_is_decoded_depends_on_latents_within_the_margin(factor, patch, blocks):
    net = network(factor, patch=patch, blocks=blocks)
    side = 2 * net.margin + 5
    latent = torch.randn(1, 2, side, side, generator=generator_for(0))
    assert 0 < reach(net.decode_cells, latent, factor) <= net.margin


@pytest.mark.parametrize(("factor", "patch"), [(4, 2), (8, 2)])
def test_tiles_are_the_whole(factor, patch):
    net = network(factor, patch=patch)
    latent = torch.randn(2, 2, 21, 34, generator=generator_for(0))
    with torch.no_grad():
        whole = net.decode_cells(latent)
        tiled = in_tiles(net.decode_cells, latent, factor, net.margin, 8)
        short = in_tiles(net.decode_cells, latent, factor, 1, 8)
    assert (tiled - whole).abs().max() < 1e-5 * whole.abs().max()
    assert (short - whole).abs().max() > 1e-3  # seams, without the margin


def test_large_grids_are_decoded_in_tiles_of_bounded_size(monkeypatch):
    net = network(size=(4 * 150, 4 * 90))
    seen = []
    decode = GridAutoencoder.decode_cells
    monkeypatch.setattr(GridAutoencoder, "decode_cells", lambda self, z: seen.append(z.shape) or decode(self, z))
    latent = torch.randn(2, *net.space.shape, generator=generator_for(0))
    with torch.no_grad():
        found = net.decode(latent)
    assert found.shape == (2, 3, 600, 360)
    assert max(shape[0] * shape[2] * shape[3] for shape in seen) <= (TILE + 2 * net.margin) ** 2
    with torch.no_grad():
        torch.testing.assert_close(found, decode(net, latent), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(16, 24), (13, 10), (3, 5)])
def test_sides_that_the_factor_does_not_divide_are_continued_and_cut(size):
    net = network(size=size)
    x = torch.randn(2, 3, *size, generator=generator_for(0))
    z = net.encode(x)
    assert z.shape[1:] == net.space.shape == (2, -(-size[0] // 4), -(-size[1] // 4))
    assert net.decode(z).shape == x.shape
    rows, columns = (torch.arange(4 * cells).clamp(max=side - 1) for cells, side in zip(z.shape[2:], size, strict=True))
    assert torch.equal(
        net.encode(x), network(size=(4 * z.shape[2], 4 * z.shape[3])).encode(x[:, :, rows][..., columns])
    )


def test_a_factor_that_is_no_power_of_2_is_refused():
    for factor, patch in ((6, 2), (2, 4), (3, 2)):
        with pytest.raises(ValueError, match=f"factor {factor} is not a power of 2 times patch {patch}"):
            network(factor, patch=patch)


def test_transforms_move_cells_as_they_move_entries():
    """A latent of block means, of which transforms are those of the grid."""
    x = torch.randn(3, 1, 16, 16, generator=generator_for(0))
    means = torch.nn.functional.avg_pool2d(x, 4)
    for change in TRANSFORMS.values():
        torch.testing.assert_close(torch.nn.functional.avg_pool2d(change(x), 4), change(means))
    net = GridAutoencoder(1, (16, 16), 4, 1, width=8, transforms=("flip", "turn", "coarsen"))
    found = [net.transform(x, means, Draws.of(seed, range(3))) for seed in range(20)]
    assert {tuple(state.shape[2:]) for state, _ in found} == {(16, 16), (8, 8)}
    for state, latent in found:
        torch.testing.assert_close(torch.nn.functional.avg_pool2d(state, 4), latent)
    oblong = GridAutoencoder(1, (12, 20), 4, 1, width=8, transforms=("turn", "coarsen"))
    state = torch.randn(1, 1, 12, 20)
    assert oblong.transform(state, oblong.encode(state), Draws.of(0, range(1)))[0] is state


def test_marked_cells_are_those_with_any_marked_entry():
    net = network(size=(10, 8))
    marked = torch.zeros(1, 3, 10, 8, dtype=torch.bool)
    marked[0, 1, 9, 3] = marked[0, 2, 0, 4] = True
    found = net.cells(marked)
    assert found.shape == (1, 2, 3, 2)
    assert found[0, 0].nonzero().tolist() == [[0, 1], [2, 0]]
