"""Song & Ermon 2019, Generative modeling by estimating gradients of the data distribution.

They learn the score, the gradient of log p, of data with noise of many levels, and follow it by Langevin dynamics from
the noisiest level to the cleanest. Here the score is compared with the gradient it stands for, and Langevin dynamics
at one low level, which starts in the wrong places and stays there, with the annealed one.

    python examples/history/2019_score_matching_langevin.py
"""

import itertools
from itertools import pairwise

import torch
from toy import PLANE, Numbers, show

from diffcore.process.schedules import Exploding
from diffcore.sampling.loop import levels_of, sample
from diffcore.sampling.solvers import Move, langevin
from diffcore.sampling.timesteps import uniform_in_log_snr
from diffcore.states.noise import Draws
from diffcore.testing.oracles import mixture

CENTRES, STD = torch.tensor([[-2.0, 0.0], [2.0, 0.0]]), 0.3
DATA = mixture(CENTRES, STD, weights=torch.tensor([0.2, 0.8]))
LADDER = Exploding(sigma_min=0.05, sigma_max=10.0)


def main(samples: int = 600) -> Numbers:
    found: Numbers = {}
    levels = levels_of(LADDER, uniform_in_log_snr(LADDER, 30))
    ratios = [before.sigma / after.sigma for before, after in pairwise(levels[:-1])]
    found["ratio of neighbouring sigmas, least and greatest"] = min(ratios), max(ratios)

    x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0)).mul(3).requires_grad_()
    (gradient,) = torch.autograd.grad(DATA.log_density(x, levels[12]).sum(), x)
    prediction = DATA(x.detach(), levels[12])
    found["|score|^2 and |grad log p|^2"] = prediction.score.square().mean().item(), gradient.square().mean().item()
    of_eps = prediction.eps / -levels[12].sigma
    found["score and -eps / sigma, greatest difference"] = (prediction.score - of_eps).abs().max().item(), 0.0

    def told(x: torch.Tensor, name: str) -> None:
        right = x[:, 0] > 0
        found[f"{name}: share of the heavier mode"] = right.double().mean().item(), 0.8
        found[f"{name}: spread within it"] = (x[right] - CENTRES[1]).square().mean().sqrt().item(), STD

    # One level: uniform starting points, as many steps as the ladder has in all.
    lowest, draws, number = levels[-2], Draws.of(1, range(samples)), itertools.count()
    x = 8 * torch.rand(samples, 2, generator=torch.Generator().manual_seed(1)) - 4
    stay = Move(lowest, levels[-1], lambda: draws.normal(("fresh", next(number)), x))
    told(langevin(corrections=600, size=0.1)(DATA, x, stay), "one level")
    told(sample(DATA, PLANE, langevin(20, 0.1), levels, indices=range(samples)), "annealed")
    return found


if __name__ == "__main__":
    show(main())
