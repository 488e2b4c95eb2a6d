"""Random numbers as a function of (seed, stream, sample, shape)."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from diffcore.errors import UserError
from diffcore.states.noise import Draws, generator_for, seed_of, uniform
from diffcore.states.state import named

FAR = 2**63 - 1
"""The last sample."""


def images(batch):
    return torch.zeros(batch, 3, 5, 7)


def molecules(batch):
    return named(
        {"places": torch.zeros(batch, 9, 3), "kinds": torch.zeros(batch, 9, 5), "pairs": torch.zeros(batch, 1)}
    )


def test_seeds_depend_on_all_parts():
    seeds = {seed_of(*parts) for parts in [(0,), (1,), (0, "a"), (0, "b"), (0, 1), ("0", 1), (0, "a", 1)]}
    assert len(seeds) == 7
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert generator_for(0, "a").initial_seed() == seed_of(0, "a")


@pytest.mark.parametrize("make", [images, molecules])
def test_a_sample_has_the_same_numbers_in_every_batch(make):
    """Also where the batch is computed in several pieces, and for samples of more than 32 bits."""
    indices = [*range(40), 2**32 + 3, FAR, 17]
    together = Draws.of(3, indices).normal("prior", make(len(indices)))
    for row in (0, 17, 39, 40, 41):
        alone = Draws.of(3, indices[row : row + 1]).normal("prior", make(1))
        assert (alone == together[row : row + 1]).all()
    assert (together[17] == together[42]).all()
    pair = Draws.of(3, range(16, 18)).normal("prior", make(2))
    assert (pair == together[16:18]).all()


def test_large_batches_and_large_samples_are_computed_in_pieces(monkeypatch):
    like = molecules(20)
    whole = Draws.of(0, range(20)).normal("a", like)
    for at_once in (1000, 40, 7):
        monkeypatch.setattr("diffcore.states.noise._AT_ONCE", {"cpu": at_once})
        assert (Draws.of(0, range(20)).normal("a", like) == whole).all()


@pytest.mark.parametrize("draw", ["uniform", "integers", "normal"])
def test_the_first_numbers_do_not_depend_on_the_shape(draw):
    draws = Draws.of(0, range(3))
    if draw == "normal":
        short, long = (draws.normal("a", torch.zeros(3, n)) for n in (5, 42))
    else:
        short, long = (getattr(draws, draw)("a", *([100] if draw == "integers" else []), n) for n in (5, 42))
    assert torch.equal(short, long[:, :5])


def test_a_field_has_a_stream_of_its_own_by_its_name():
    both = Draws.of(0, range(8)).normal("a", named({"x": torch.zeros(8, 6), "y": torch.zeros(8, 6)}))
    other = Draws.of(0, range(8)).normal("a", named({"y": torch.zeros(8, 6), "z": torch.zeros(8, 6)}))
    assert torch.equal(both["y"], other["y"])
    assert not (both["x"] == both["y"]).any()
    assert not (other["z"] == both["x"]).any()


def test_shapes_types_and_devices():
    draws = Draws.of(0, range(2))
    for dtype in (torch.float64, torch.bfloat16):
        drawn = draws.normal("a", torch.zeros(2, 3, dtype=dtype))
        assert drawn.dtype == dtype
        assert torch.equal(drawn, draws.normal("a", torch.zeros(2, 3)).to(dtype))
    assert draws.uniform("a").shape == (2,)
    assert draws.uniform("a", 3, 2).shape == (2, 3, 2)
    assert draws.uniform("a", dtype=torch.float64).dtype == torch.float64
    assert draws.integers("a", 5, 3).dtype == torch.int64
    assert Draws.of(0, []).normal("a", torch.zeros(0, 3)).shape == (0, 3)
    assert Draws.of(0, []).uniform("a", 2).shape == (0, 2)
    assert draws.normal("a", torch.zeros(2, 0)).shape == (2, 0)


def test_normal_numbers_are_normal():
    drawn = Draws.of(5, range(1000)).normal("a", torch.zeros(1000, 250)).double()
    assert stats.kstest(drawn.flatten().numpy(), "norm").pvalue > 1e-3
    # The two numbers of a pair, and both pairs of a counter, have one distribution.
    for position in range(4):
        assert stats.kstest(drawn[:, position::4].flatten().numpy(), "norm").pvalue > 1e-3
    # Radius and angle of a pair are independent: so are its squares.
    first, second = drawn[:, ::2].square().flatten(), drawn[:, 1::2].square().flatten()
    assert abs(stats.pearsonr(first.numpy(), second.numpy()).statistic) < 4 / math.sqrt(len(first))
    # The tails: P(|x| > 4) = 6.3e-5.
    expected = 250_000 * 2 * stats.norm.sf(4)
    assert abs((drawn.abs() > 4).sum().item() - expected) < 4 * math.sqrt(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_numbers_are_uniform(dtype):
    drawn = Draws.of(5, range(1000)).uniform("a", 200, dtype=dtype).double()
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert stats.kstest(drawn.flatten().numpy(), "uniform").pvalue > 1e-3
    bits = 24 if dtype == torch.float32 else 53
    whole = (drawn * 2.0**bits).long()
    assert torch.equal(whole.double() / 2.0**bits, drawn)
    # Every bit is 1 in half of the numbers.
    for bit in range(bits):
        ones = (whole >> bit & 1).double().mean().item()
        assert abs(ones - 0.5) < 4.5 * 0.5 / math.sqrt(whole.numel()), bit


@pytest.mark.parametrize("high", [1, 2, 10, 4096, 2**31 - 1])
def test_integers_are_uniform(high):
    drawn = Draws.of(5, range(500)).integers("a", high, 100).flatten()
    assert drawn.min() >= 0
    assert drawn.max() < high
    if high <= 10:
        counts = drawn.bincount(minlength=high).numpy()
        assert stats.chisquare(counts).pvalue > 1e-3 if high > 1 else counts[0] == 50_000
    else:
        assert stats.kstest((drawn.double() / high).numpy(), "uniform").pvalue > 1e-3


# Each source gives 64 sequences of 2,000 numbers that differ in one part of the function alone.
N, LENGTH = 64, 2000
LIKE = torch.zeros(1, LENGTH)
SOURCES = {
    "samples": lambda i: Draws.of(0, [i]).normal("a", LIKE),
    "far samples": lambda i: Draws.of(0, [i << 32]).normal("a", LIKE),
    "streams": lambda i: Draws.of(0, [0]).normal(("fresh", i), LIKE),
    "seeds": lambda i: Draws.of(i, [0]).normal("a", LIKE),
    "fields": lambda i: Draws.of(0, [0]).normal("a", named({f"f{i}": LIKE}))[f"f{i}"],
    "positions": lambda i: Draws.of(0, [0]).normal("a", torch.zeros(1, N * LENGTH)).view(LENGTH, N)[None, :, i],
}


@pytest.mark.parametrize("source", SOURCES)
def test_sequences_are_independent(source):
    """The correlations of all pairs, of the numbers and of their squares, at equal places and one place apart.

    Under independence, sqrt(n) r is standard normal: its squares add up to chi-squared, one degree for each pair.
    """
    x = torch.cat([SOURCES[source](i) for i in range(N)]).double()
    pairs = torch.triu_indices(N, N, 1).unbind()
    for values in (x, x.square(), x.sign()):
        z = (values - values.mean(1, keepdim=True)) / values.std(1, keepdim=True, correction=0)
        for shift in (0, 1):
            r = (z @ z.roll(shift, 1).T / math.sqrt(LENGTH))[pairs]
            assert r.abs().max() < 5.3
            total, freedoms = r.square().sum().item(), len(r)
            assert 1e-4 < stats.chi2.sf(total, freedoms) < 1 - 1e-4, (total, freedoms)


def test_bits_of_neighbouring_counters_differ_by_half():
    """The avalanche: another sample, stream or seed changes each bit half of the time."""
    base = Draws.of(0, range(0, 8000, 2)).integers("a", 2**31 - 1, 4)
    others = {
        "sample": Draws.of(0, range(1, 8001, 2)).integers("a", 2**31 - 1, 4),
        "stream": Draws.of(0, range(0, 8000, 2)).integers("b", 2**31 - 1, 4),
        "seed": Draws.of(1, range(0, 8000, 2)).integers("a", 2**31 - 1, 4),
    }
    for name, other in others.items():
        changed = base ^ other
        for bit in range(30):
            share = (changed >> bit & 1).double().mean().item()
            assert abs(share - 0.5) < 4.5 * 0.5 / math.sqrt(changed.numel()), (name, bit)


def test_a_compiled_function_draws_the_same_numbers_in_one_graph():
    """For a seed and a stream that it has not been compiled with too."""

    def drawn(seed, step, samples):
        return uniform(seed, ("fresh", step), samples, (2,))

    compiled = torch.compile(drawn, backend="eager", fullgraph=True, dynamic=True)
    for seed, step in ((3, 2), (2**62 + 1, 5)):
        assert torch.equal(compiled(seed, step, torch.arange(4)), drawn(seed, step, torch.arange(4)))


def test_kinds_of_numbers_are_independent():
    draws = Draws.of(0, range(20_000))
    columns = torch.stack(
        [
            draws.uniform("a"),
            draws.uniform("a", dtype=torch.float64),
            draws.integers("a", 1000) / 1000,
            draws.normal("a", torch.zeros(20_000)),
        ]
    )
    off = torch.corrcoef(columns.double()) - torch.eye(4)
    # The two types of uniform numbers share their bits; all others are independent.
    assert off[[0, 0, 1, 1, 2], [2, 3, 2, 3, 3]].abs().max() < 4 / math.sqrt(20_000)


def test_the_type_of_a_whole_number_does_not_change_the_seed():
    assert {seed_of(kind(3), "a") for kind in (int, np.int64, np.uint8, torch.tensor)} == {seed_of(3, "a")}
    assert seed_of(True) == seed_of(1)
    with pytest.raises(UserError, match=r"`seed` 1\.5: a seed is a whole number"):
        Draws.of(1.5, range(2)).normal("a", images(2))


@pytest.mark.parametrize("high", [0, -1, 2**31])
def test_integers_refuse_a_bound_for_which_they_would_be_wrong(high):
    with pytest.raises(ValueError, match="`high`"):
        Draws.of(0, range(2)).integers("a", high)
