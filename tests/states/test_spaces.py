import pytest
import torch
from tensordict import TensorDict

from diffcore.states.spaces import Euclidean, Product, SymmetricPairs, ZeroCentred

MASK = torch.tensor([[True] * 5, [True, True, True, False, False]])


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def covariance(space, mask, shape, draws=60_000):
    """Empirical covariance of the flattened noise of one sample with `mask` `[N]` or None."""
    full = None if mask is None else mask.expand(draws, -1)
    flat = space.noise(normal(draws, *shape), full).flatten(1)
    return flat.T @ flat / draws


@pytest.mark.parametrize("row", [None, 0, 1])
@pytest.mark.parametrize(
    ("space", "shape"),
    [(Euclidean((5, 2)), (5, 2)), (ZeroCentred((5, 3)), (5, 3)), (SymmetricPairs((5, 5, 1)), (5, 5, 1))],
    ids=["euclidean", "zero-centred", "symmetric"],
)
def test_noise_is_standard_in_its_space(space, shape, row):
    """The covariance of noise is a projector (times 2 for mirrored pairs) whose trace is the number of freedoms."""
    mask = None if row is None else MASK[row]
    found = covariance(space, mask, shape)
    twice = 2 if isinstance(space, SymmetricPairs) else 1
    projector = found / twice
    torch.testing.assert_close(projector @ projector, projector, rtol=0, atol=0.06)
    freedoms = space.degrees_of_freedom(torch.zeros(1, *shape), None if mask is None else mask[None])
    assert projector.trace().item() == pytest.approx(freedoms.item(), rel=0.01)
    noise = space.noise(normal(20_000, *shape), None if mask is None else mask.expand(20_000, -1))
    norms = space.squared_norm(noise, None if mask is None else mask.expand(20_000, -1))
    assert norms.mean().item() == pytest.approx(freedoms.item(), rel=0.02)


def test_zero_centred_noise_has_exact_zero_mean_and_unit_scale():
    noise = ZeroCentred((5, 3)).noise(normal(2, 5, 3), MASK)
    assert noise.sum(1).abs().max() < 1e-12
    assert (noise[1, 3:] == 0).all()


def test_symmetric_noise_is_symmetric_without_diagonal():
    noise = SymmetricPairs((5, 5, 2)).noise(normal(2, 5, 5, 2), MASK)
    torch.testing.assert_close(noise, noise.transpose(1, 2))
    assert (noise.diagonal(dim1=1, dim2=2) == 0).all()
    assert (noise[1, 3:] == 0).all()
    off = SymmetricPairs((5, 5, 1)).noise(normal(20_000, 5, 5, 1))[:, 0, 1]
    assert off.var().item() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(
    "space", [Euclidean((5, 2)), ZeroCentred((5, 3)), SymmetricPairs((5, 5, 2))], ids=lambda s: type(s).__name__
)
def test_projection_is_idempotent_and_keeps_noise(space):
    x = normal(2, *space.shape)
    once = space.project(x, MASK)
    torch.testing.assert_close(space.project(once, MASK), once)
    noise = space.noise(x, MASK)
    torch.testing.assert_close(space.project(noise, MASK), noise)


@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
@pytest.mark.parametrize(
    "space", [Euclidean((5, 2)), ZeroCentred((5, 3)), SymmetricPairs((5, 5, 2))], ids=lambda s: type(s).__name__
)
def test_noise_times_factors_stays_in_the_space_and_their_total_is_its_expected_norm(space, mask):
    """total(f) is E <n, f n> over noise n; factors of factors are the same, and ones have the freedoms as their sum."""
    factors = space.factors(normal(2, *space.shape).abs(), mask)
    torch.testing.assert_close(space.factors(factors, mask), factors)
    normals = torch.randn(4000, 2, *space.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    noise = [space.noise(n, mask) for n in normals]
    torch.testing.assert_close(space.project(factors * noise[0], mask), factors * noise[0])
    norms = torch.stack([space.squared_norm(factors.sqrt() * n, mask) for n in noise])
    torch.testing.assert_close(norms.mean(0), space.total(factors, mask), rtol=0.05, atol=0)
    ones = torch.ones(2, *space.shape, dtype=torch.float64)
    torch.testing.assert_close(space.total(space.factors(ones, mask), mask), space.degrees_of_freedom(ones, mask))


def test_product_works_field_by_field():
    space = Product({"place": ZeroCentred((5, 3)), "pairs": SymmetricPairs((5, 5, 1))})
    state = TensorDict({"place": normal(2, 5, 3), "pairs": normal(2, 5, 5, 1)}, batch_size=[2])
    noise = space.noise(state, MASK)
    torch.testing.assert_close(noise["place"], ZeroCentred((5, 3)).noise(state["place"], MASK))
    assert space.degrees_of_freedom(state, MASK).tolist() == [4 * 3 + 10, 2 * 3 + 3]
    assert space.empty(4)["pairs"].shape == (4, 5, 5, 1)
    factors = space.factors(state, MASK)
    torch.testing.assert_close(factors["pairs"], SymmetricPairs((5, 5, 1)).factors(state["pairs"], MASK))
    parts = [part.total(factors[name], MASK) for name, part in space.parts.items()]
    torch.testing.assert_close(space.total(factors, MASK), sum(parts))
