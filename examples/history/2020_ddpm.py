"""Ho, Jain & Abbeel 2020, Denoising diffusion probabilistic models.

They made diffusion work: betas that rise evenly over T = 1000 steps, a network that predicts the noise, and the simple
objective |eps_hat - eps|^2, which leaves out the weights of the bound. Here their chain is reproduced, a small network
learns six Gaussians by that objective, and ancestral sampling walks back all 1000 steps with either variance.

    python examples/history/2020_ddpm.py
"""

import numpy
import torch
from toy import MLP, PLANE, Batch, Numbers, fit, mean_log_p, noisy, ring, show

from diffcore.denoising.denoiser import Denoiser
from diffcore.denoising.losses import weighted_loss
from diffcore.process.gaussian import transition
from diffcore.process.schedules import ddpm as linear_betas
from diffcore.sampling.loop import levels_of, sample
from diffcore.sampling.solvers import ddpm
from diffcore.sampling.timesteps import uniform_in_time
from diffcore.states.spaces import Euclidean
from diffcore.testing.oracles import Mixture, gaussian

DATA, CHAIN = ring(), linear_betas()


def simple(denoise: Denoiser | Mixture, batch: Batch) -> torch.Tensor:
    """|eps_hat - eps|^2 a dimension, `[B]`."""
    return weighted_loss(denoise(batch.x, batch.level), batch.x0, batch.noise, PLANE, "eps")


def main(steps: int = 1500, samples: int = 150) -> Numbers:
    found: Numbers = {}
    levels = levels_of(CHAIN, uniform_in_time(CHAIN, 1000))
    betas = numpy.linspace(1e-4, 0.02, 1000)
    products = numpy.cumprod(1 - betas)
    for i in (1, 500, 1000):  # the chain counts from the clean end, and `levels` from the noisy one
        found[f"alpha_bar of step {i}"] = levels[1000 - i].alpha ** 2, products[i - 1]
    found["beta of step 500"] = transition(levels[501], levels[500]).std ** 2, betas[499]

    # Section 3.2: for unit Gaussian data the variance beta is right, whatever the number of steps; the other is not.
    few = levels[::50]
    for variance, name in ((0.0, "posterior"), (1.0, "beta")):
        std = sample(gaussian(0.0, 1.0), Euclidean((100_000,)), ddpm(variance), few, indices=[0]).std().item()
        found[f"variance {name}, 20 steps: std of unit Gaussian data"] = std, few[-2].alpha
    network = Denoiser(MLP(), (), "eps")
    fit(network, DATA, CHAIN, lambda batch: simple(network, batch), steps)
    fresh = noisy(DATA, CHAIN, 50_000, torch.Generator().manual_seed(1))
    least = simple(DATA, fresh).mean().item()
    found["L_simple of the network, and the least there is"] = simple(network, fresh).mean().item(), least

    for variance, name in ((0.0, "posterior"), (1.0, "beta")):
        x = sample(network, PLANE, ddpm(variance), levels, indices=range(samples))
        found[f"variance {name}: mean log p of samples"] = mean_log_p(DATA, x), mean_log_p(DATA)
        nearest = torch.cdist(x, DATA.centres).amin(1)
        found[f"variance {name}: spread of samples about the centres"] = (
            (nearest.square().mean() / 2).sqrt().item(),
            DATA.std,
        )
    return found


if __name__ == "__main__":
    show(main())
