"""The probability flow to noise and back, and what lies between two samples, against closed forms."""

import pytest
import torch
from tensordict import TensorDict

import diffcore as dc
from diffcore.errors import UserError
from diffcore.likelihood.interpolation import along_flow, between, ends_of, spherical
from diffcore.process.schedules import ByField, Cosine, variance_preserving
from diffcore.states.level import Level
from diffcore.states.spaces import Euclidean, Product, ZeroCentred
from diffcore.states.state import combine
from diffcore.testing.oracles import Correlated, gaussian, largest_difference, mixture
from tests.support.draws import draw

pytestmark = pytest.mark.usefixtures("float64")
SPACE = Euclidean((3,))


def correlated():
    axes = torch.linalg.qr(draw(3, 3, seed=1)).Q
    return Correlated(0.3 * draw(3, seed=2), axes @ torch.diag(torch.tensor([2.0, 0.7, 0.1]).double()) @ axes.T)


def circle(log_snr):
    return Level(*(value.item() for value in variance_preserving(torch.tensor(log_snr, dtype=torch.float64))))


def test_the_flow_to_noise_is_that_of_correlated_gaussians():
    data, x = correlated(), draw(4, 3, seed=3)
    clean, noisy = map(circle, ends_of(Cosine()))
    there = along_flow(data, x, SPACE, Cosine(), "noise")
    assert largest_difference(there, data.flow(x, clean, noisy)) < 1e-4
    assert largest_difference(along_flow(data, there, SPACE, Cosine(), "data"), x) < 1e-4


@pytest.mark.parametrize("schedule", [Cosine(), "by-field"])
def test_the_round_trip_of_mixtures_in_sets_of_several_fields(schedule):
    space = Product({"a": ZeroCentred((3, 2)), "b": Euclidean((3, 1))})
    mask = torch.tensor([[True, True, False], [True, True, True]])
    centres = space.project(TensorDict({"a": draw(4, 3, 2, seed=1), "b": draw(4, 3, 1, seed=2)}, [4]))
    data = mixture(centres, 0.1, space=space)
    if schedule == "by-field":
        schedule = ByField(Cosine(), {"a": -1.0, "b": 0.0})
    noise = space.noise(TensorDict({"a": draw(2, 3, 2, seed=3), "b": draw(2, 3, 1, seed=4)}, [2]), mask)
    x = combine((1.0, space.project(centres[:2], mask)), (0.1, noise))
    there = along_flow(data, x, space, schedule, "noise", mask=mask)
    assert largest_difference(there, x) > 0.1
    assert largest_difference(along_flow(data, there, space, schedule, "data", mask=mask), x) < 1e-4


def test_spherical_interpolation_of_orthogonal_and_of_equal_states():
    first, second = torch.tensor([[2.0, 0.0]] * 3), torch.tensor([[0.0, 2.0]] * 3)
    weight = torch.tensor([0.0, 0.5, 1.0])
    expected = torch.tensor([[2.0, 0.0], [2**0.5, 2**0.5], [0.0, 2.0]])
    torch.testing.assert_close(spherical(first, second, weight), expected)
    torch.testing.assert_close(spherical(first, first, weight), first)


def test_what_lies_between_in_gaussian_data_is_known():
    """The flow of N(0, C) is linear. So is that of isotropic data, and slerp of data is the slerp of its noise."""
    first, second = torch.tensor([[3.0, 0.0, 0.0]]), torch.tensor([[0.0, 3.0, 0.0]])
    found = dc.sample(gaussian(0.0, 1.5), 5, space=SPACE, constraint=between(first, second, 5, SPACE), batch_size=2)
    assert torch.equal(found[:1], first)
    assert torch.equal(found[4:], second)
    expected = spherical(first.expand(5, -1), second.expand(5, -1), torch.linspace(0, 1, 5))
    # The noise at the clean end of the schedule is part of the noise, so the angle differs by about its square.
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0)


def test_without_the_exact_ends_the_round_trip_gives_them_to_1e_4():
    data, (first, second) = correlated(), draw(2, 1, 3, seed=5)
    found = dc.sample(data, 3, space=SPACE, constraint=between(first, second, 3, SPACE, keep_noise=True))
    clean = circle(ends_of(Cosine())[0])
    noise = clean.sigma / clean.alpha
    assert (found[0] - first[0]).abs().max() < 5 * noise + 1e-4
    whole = dc.sample(data, 3, space=SPACE, seed=1, constraint=between(first, second, 3, SPACE, keep_noise=True))
    # The difference from the end is the noise that was put on it, which another seed changes.
    assert (whole[0] - found[0]).abs().max() > 0.1 * noise


def test_both_ends_are_needed_and_must_fit():
    with pytest.raises(UserError, match="`n` 1: samples between two need both ends"):
        between(torch.zeros(1, 3), torch.zeros(1, 3), 1, SPACE)
    with pytest.raises(UserError, match=r"has the shape \(2,\); it should be \(3,\)"):
        between(torch.zeros(1, 3), torch.zeros(1, 2), 2, SPACE)
