"""Averages of weights, and guidance by a worse self.

Karras et al. 2024, Analyzing and improving the training dynamics of diffusion models, averages weights by a power of
the step, so that the average's width stays the same share of the training. Karras et al. 2024, Guiding a diffusion
model with a bad version of itself, guides a network by a worse one, away from the mistakes that they share. Here the
width is measured, and a small network with averaged weights is guided by itself at a fifth of its training.

    python examples/history/2024_autoguidance.py
"""

import copy

import torch
from toy import MLP, PLANE, Batch, Numbers, fit, mean_log_p, noisy, ring, show

from diffcore.denoising.denoiser import Denoise, Denoiser
from diffcore.denoising.losses import weighted_loss
from diffcore.process.schedules import Exploding, LogNormal
from diffcore.sampling.guidance import autoguidance
from diffcore.sampling.loop import levels_of, sample
from diffcore.sampling.solvers import heun
from diffcore.sampling.timesteps import karras
from diffcore.training import averages as ema

D = 0.5  # sigma_data
DATA, LEVELS, TRAINED_AT = ring(scale=D), Exploding(0.002, 80.0), LogNormal()


def loss(model: Denoise, batch: Batch) -> torch.Tensor:
    """(1 / sigma^2 + 1 / D^2) |x0_hat - x0|^2, their weighting, a dimension."""
    weight = batch.level.log_snr.exp() + 1 / D**2
    return weight * weighted_loss(model(batch.x, batch.level), batch.x0, batch.noise, PLANE, "x0")


def main(steps: int = 1500, samples: int = 1000) -> Numbers:
    found: Numbers = {}
    network = Denoiser(MLP(), (), data_std=D)
    averaged, young = copy.deepcopy(network).requires_grad_(False), copy.deepcopy(network).requires_grad_(False)
    when = [torch.zeros((), dtype=torch.float64) for _ in range(2)]  # the averages of step / steps and of its square

    def average(step: int) -> None:
        decay, share = ema.power_decay(step, 0.1), torch.tensor(step / steps, dtype=torch.float64)
        ema.update([*averaged.parameters()], [*network.parameters()], decay)
        ema.update(when, [share, share**2], decay)
        if step == steps // 5:
            young.load_state_dict(averaged.state_dict())

    fit(network, DATA, TRAINED_AT, lambda batch: loss(network, batch), steps, average)
    found["relative width of the average of weights"] = (when[1] - when[0] ** 2).sqrt().item(), 0.1
    fresh = noisy(DATA, TRAINED_AT, 50_000, torch.Generator().manual_seed(1))
    for name, model in (("young", young), ("averaged", averaged)):
        losses = [loss(each, fresh).mean().item() for each in (model, DATA)]
        found[f"loss, {name} weights, and the least there is"] = losses[0], losses[1]
    for weight in (1.0, 1.5, 2.0):
        guided = autoguidance(averaged, young, weight)
        x = sample(guided, PLANE, heun(), levels_of(LEVELS, karras(LEVELS, 30)), indices=range(samples))
        found[f"w = {weight:g}: mean log p of samples"] = mean_log_p(DATA, x), mean_log_p(DATA)
    return found


if __name__ == "__main__":
    show(main())
