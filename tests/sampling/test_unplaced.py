"""Parts of unknown place and size: the projection, and the distribution of the size for Gaussian data."""

import math

import pytest
import torch

from diffcore.denoising.denoiser import from_x0
from diffcore.errors import UserError
from diffcore.process.schedules import Cosine
from diffcore.sampling.inverse.editing import inpainting
from diffcore.sampling.inverse.operators import keep
from diffcore.sampling.inverse.unplaced import Unplaced, up_to
from diffcore.sampling.loop import levels_of, sample
from diffcore.sampling.solvers.ancestral import ddpm
from diffcore.sampling.timesteps import grid
from diffcore.states.spaces import Euclidean

POINTS, KNOWN = 9, 6
SPACE = Euclidean((POINTS, 3))


def part(points):
    """The first KNOWN points at these places, about their mean, and shifts along the three axes."""
    centred = points - points.mean(0)
    size, shifts = torch.zeros(1, POINTS, 3), torch.zeros(3, POINTS, 3)
    size[0, :KNOWN] = centred
    shifts[:, :KNOWN] = torch.eye(3)[:, None]
    return Unplaced(size, shifts)


def known():
    flags = torch.zeros(1, POINTS, 3, dtype=torch.bool)
    flags[:, :KNOWN] = True
    return flags


@pytest.fixture(scope="module")
def unplaced():
    return part(torch.randn(KNOWN, 3, generator=torch.Generator().manual_seed(0)))


def test_what_is_kept_is_zero_for_the_part_anywhere_and_of_any_size(unplaced):
    operator = up_to(keep(known(), SPACE), unplaced)
    moved = 1.7 * unplaced.size + torch.tensor([0.3, -2.0, 5.0])
    assert operator(moved).abs().max() < 1e-5
    other = torch.randn(4, POINTS, 3, generator=torch.Generator().manual_seed(1))
    kept = operator(other)
    torch.testing.assert_close(operator(kept), kept, rtol=1e-5, atol=1e-5)
    assert (kept[:, KNOWN:] == 0).all()
    assert (kept * moved).sum((1, 2)).abs().max() < 1e-4
    spanned = (other - kept)[:, :KNOWN]
    basis = torch.cat([unplaced.size, unplaced.shifts])[:, :KNOWN].flatten(1).T
    solved = torch.linalg.lstsq(basis, spanned.flatten(1).T).solution
    torch.testing.assert_close(basis @ solved, spanned.flatten(1).T, rtol=1e-4, atol=1e-4)


def test_the_size_of_a_part_of_normal_points_has_the_distribution_of_its_formula(unplaced):
    """p(s) ~ s^m exp(-s^2 |p|^2 / 2): |p| s has a chi distribution with m + 1 degrees of freedom."""

    def denoise(x, level, conditions=None, mask=None):
        return from_x0(level.alpha / (level.alpha**2 + level.sigma**2) * x, x, level)

    schedule = Cosine(-8, 8)
    constraint = inpainting(unplaced.size, known(), SPACE, unplaced=unplaced)
    count = 400
    steered, step = constraint(denoise, ddpm(), range(count))
    drawn = sample(steered, SPACE, step, levels_of(schedule, grid("log-snr", schedule, 60)), indices=range(count))
    norm = unplaced.size.norm().item()
    sizes = (drawn * unplaced.size).sum((1, 2)) / norm**2
    points = drawn[:, :KNOWN] - drawn[:, :KNOWN].mean(1, keepdim=True)
    torch.testing.assert_close(points, sizes[:, None, None] * unplaced.size[:, :KNOWN], rtol=1e-4, atol=1e-4)
    m = 3 * KNOWN - 3 - 1
    assert unplaced.powers == m
    mean = math.sqrt(2) * math.exp(math.lgamma((m + 2) / 2) - math.lgamma((m + 1) / 2))
    assert (sizes * norm).mean().item() == pytest.approx(mean, rel=0.03)
    assert (sizes * norm).std().item() == pytest.approx(math.sqrt(m + 1 - mean**2), rel=0.15)
    assert drawn[:, KNOWN:].std().item() == pytest.approx(1, abs=0.05)


def test_parts_without_a_size_and_methods_that_need_a_place_are_refused(unplaced):
    with pytest.raises(UserError, match="the known part is too small to have a place and a size"):
        up_to(keep(known(), SPACE), part(torch.zeros(KNOWN, 3)))
    with pytest.raises(UserError, match="`method` repaint needs a part of known place and size; use mmps or dps"):
        inpainting(unplaced.size, known(), SPACE, "repaint", unplaced=unplaced)
