"""Sohl-Dickstein et al. 2015, Deep unsupervised learning using nonequilibrium thermodynamics.

They destroy data by a Markov chain of small Gaussian steps, learn to run it backwards, and bound the likelihood of what
comes out. Here the chain is walked and compared with its closed form; then the bound is taken term by term for Gaussian
data, of which every term is known, and closes on the entropy as the chain is cut finer.

    python examples/history/2015_deep_unsupervised_learning.py
"""

import math
from itertools import pairwise

import torch
from toy import Numbers, show

from diffcore.likelihood.bound import variational_bound
from diffcore.likelihood.flow import bits_per_dimension
from diffcore.process.gaussian import transition
from diffcore.process.schedules import ddpm
from diffcore.sampling.loop import levels_of
from diffcore.sampling.timesteps import uniform_in_time
from diffcore.states.level import Level
from diffcore.states.spaces import Euclidean
from diffcore.testing.oracles import gaussian

STD, ENTROPY = 0.5, 0.5 * math.log(2 * math.pi * math.e * 0.5**2)  # nats a dimension


def expected_terms(levels: list[Level[float]]) -> list[float]:
    """E of each term for N(0, STD^2), nats a dimension: E |x0_hat - x0|^2 = STD^2 / (1 + SNR STD^2)."""
    snrs = [math.exp(level.log_snr) for level in levels]
    errors = [STD**2 / (1 + snr * STD**2) for snr in snrs]
    steps = [(after - before) * error / 2 for (before, after), error in zip(pairwise(snrs), errors, strict=False)]
    last = levels[-1].sigma ** 2
    return [snrs[0] * STD**2 / 2, *steps, errors[-1] / (2 * last) + math.log(2 * math.pi * last) / 2]


def main(dimensions: int = 5000, points: int = 100_000) -> Numbers:
    found: Numbers = {}
    chain = levels_of(ddpm(), uniform_in_time(ddpm(), 1000))[:-1]
    generator = torch.Generator().manual_seed(0)
    x = 3 * chain[-1].alpha + chain[-1].sigma * torch.randn(points, generator=generator)  # of the datum x_0 = 3
    for clean, noisier in pairwise(chain[:499:-1]):  # 500 steps, each from the level before
        step = transition(clean, noisier)
        x = step.scale * x + step.std * torch.randn(points, generator=generator)
    found["mean of 500 steps of the chain from 3"] = x.mean().item(), 3 * chain[500].alpha
    found["std of 500 steps of the chain"] = x.std().item(), chain[500].sigma

    data = STD * torch.randn(4, dimensions, generator=generator)
    for steps in (10, 100, 1000):
        levels = levels_of(ddpm(), torch.linspace(chain[0].log_snr, chain[-1].log_snr, steps).double())[:-1]
        bound = variational_bound(gaussian(0.0, STD), data, Euclidean((dimensions,)), levels)
        terms = bound.terms.mean(1) / dimensions
        prior, *between, last = expected_terms(levels)
        found[f"{steps} levels: L_T, nats a dimension"] = terms[0].item(), prior
        found[f"{steps} levels: sum of L_t-1, nats a dimension"] = terms[1:-1].sum().item(), sum(between)
        found[f"{steps} levels: L_0, nats a dimension"] = terms[-1].item(), last
        bits = bits_per_dimension(-bound.total, torch.full((4,), float(dimensions))).mean().item()
        found[f"{steps} levels: bound and entropy, bits a dimension"] = bits, ENTROPY / math.log(2)
    return found


if __name__ == "__main__":
    show(main())
