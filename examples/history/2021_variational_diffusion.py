"""Kingma et al. 2021, Variational diffusion models.

They write everything in terms of the log-SNR lambda. With infinitely many steps, the bound on -log p(x0) is half the
integral of e^lambda |x0_hat - x0|^2 over lambda, beside two terms at the ends. So it depends on the ends of a schedule
and on nothing between them, and the squared error of eps at a uniform lambda is an estimate of it. Here schedules with
the same ends have the same bound, which is the true -log p(x0) where the denoiser is exact and above it elsewhere; the
estimates of a schedule that spends its time elsewhere vary more.

    python examples/history/2021_variational_diffusion.py
"""

import math

import torch
from torch import Tensor
from toy import PLANE, Numbers, mean_log_p, noisy, ring, show

from diffcore.denoising.denoiser import Denoise
from diffcore.denoising.losses import weighted_loss
from diffcore.process.schedules import Cosine, Schedule, Uniform

LOW, HIGH = -8.0, 10.0
DATA, WRONG = ring(), ring(0.9)
SCHEDULES = {"uniform": Uniform(LOW, HIGH), "cosine": Cosine(LOW, HIGH)}


def integrands(denoise: Denoise, schedule: Schedule, samples: int) -> Tensor:
    """(-dlambda/dt) e^lambda |x0_hat - x0|^2 / 2 at even times t, `[samples]`: their mean is half the integral."""
    batch = noisy(DATA, schedule, samples, torch.Generator().manual_seed(0))
    t = batch.t.clone().requires_grad_()
    (slope,) = torch.autograd.grad(schedule.log_snr(t).sum(), t)
    per_coordinate = weighted_loss(denoise(batch.x, batch.level), batch.x0, batch.noise, PLANE, "eps")
    return -slope * per_coordinate  # of two coordinates, half their sum


def ends(denoise: Denoise, samples: int) -> float:
    """The other terms: SNR_T |x0|^2 / 2 at the noisy end, and -log N(x0; x0_hat, 1 / SNR) at the clean one."""
    batch = noisy(DATA, Uniform(HIGH - 1e-9, HIGH), samples, torch.Generator().manual_seed(1))
    error = (denoise(batch.x, batch.level).x0 - batch.x0).square().sum(1).mean().item()
    clean = error * math.exp(HIGH) / 2 + math.log(2 * math.pi * math.exp(-HIGH))
    return math.exp(LOW) * batch.x0.square().sum(1).mean().item() / 2 + clean


def main(samples: int = 1_500_000) -> Numbers:
    found: Numbers = {}
    exact, spreads = -mean_log_p(DATA), {}
    for name, schedule in SCHEDULES.items():
        each = integrands(DATA, schedule, samples)
        spreads[name] = each.std().item()
        found[f"exact denoiser: bound, {name} schedule, nats"] = each.mean().item() + ends(DATA, samples), exact
    found["standard deviation: cosine, and uniform"] = spreads["cosine"], spreads["uniform"]
    wrong = {name: integrands(WRONG, each, samples).mean().item() for name, each in SCHEDULES.items()}
    other = ends(WRONG, samples)
    found["wrong denoiser: bound, uniform, and -log p"] = wrong["uniform"] + other, exact
    found["wrong denoiser: bound, cosine, and uniform"] = wrong["cosine"] + other, wrong["uniform"] + other
    return found


if __name__ == "__main__":
    show(main())
