"""Spaces of states of which some entries are known."""

import pytest
import torch

from diffcore.states.noise import Draws
from diffcore.states.partly import inserted, partly, placed
from diffcore.states.spaces import Euclidean, Product, SymmetricPairs, ZeroCentred
from diffcore.states.state import fields, named

SPACE = Product({"places": ZeroCentred((4, 2)), "kinds": Euclidean((4, 3)), "pairs": SymmetricPairs((4, 4, 1))})
MASK = torch.tensor([[True, True, True, False]] * 3)


def known_elements(*rows):
    """The elements of each row that are known, with the pairs of two of them."""
    elements = torch.tensor(rows) > 0
    pairs = elements[:, :, None] & elements[:, None]
    return named(
        {
            "places": elements[..., None].expand(-1, 4, 2),
            "kinds": elements[..., None].expand(-1, 4, 3),
            "pairs": pairs[..., None],
        }
    )


KNOWN = known_elements([1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0])


def test_noise_is_white_in_what_is_unknown_and_zero_in_what_is_known():
    """Of a known element, the places of others have no centre; without one, the space is that of the states."""
    space, like = partly(SPACE, KNOWN), SPACE.empty(3)
    draws = [space.noise(Draws.of(seed, range(3)).normal("n", like), MASK) for seed in range(3000)]
    noise = {name: torch.stack([fields(each)[name] for each in draws]) for name in fields(like)}
    for name, flag in fields(KNOWN).items():
        assert (noise[name][:, flag] == 0).all()
    unknown = noise["places"][:, 0, 1:3].flatten(1)  # two free elements
    torch.testing.assert_close(unknown.T.cov(), torch.eye(4), atol=0.1, rtol=0)
    whole = noise["places"][:, 2]
    assert whole.sum(1).abs().max() < 1e-5
    assert whole[:, :3].var().item() == pytest.approx(2 / 3, abs=0.05)
    freedoms = space.degrees_of_freedom(like, MASK)
    assert freedoms.tolist() == [2 * 2 + 2 * 3 + 3, 2 + 3 + 2, 2 * 2 + 3 * 3 + 3]
    norms = torch.stack([space.squared_norm(each, MASK) for each in draws]).mean(0)
    torch.testing.assert_close(norms, freedoms, rtol=0.05, atol=0)


def test_states_are_placed_relative_to_what_is_known():
    states = SPACE.noise(Draws.of(0, range(3)).normal("x", SPACE.empty(3)), MASK)
    space = partly(SPACE, KNOWN)
    moved = placed(states, space, MASK)
    assert moved["places"][0, 0].abs().max() < 1e-6
    assert moved["places"][1, :2].mean(0).abs().max() < 1e-6
    torch.testing.assert_close(moved["places"][2], states["places"][2])
    for name, field in fields(SPACE.project(moved, MASK)).items():
        torch.testing.assert_close(field, fields(states)[name], atol=1e-6, rtol=0)


def test_known_values_are_inserted_bit_for_bit():
    states, values = (SPACE.noise(Draws.of(s, range(3)).normal("x", SPACE.empty(3)), MASK) for s in (1, 2))
    found = inserted(states, values, KNOWN)
    for name, flag in fields(KNOWN).items():
        assert torch.equal(fields(found)[name][flag], fields(values)[name][flag])
        assert torch.equal(fields(found)[name][~flag], fields(states)[name][~flag])
