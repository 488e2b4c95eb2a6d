"""Nichol & Dhariwal 2021, Improved denoising diffusion probabilistic models.

They let the noise rise along a cosine, which wastes fewer steps on pure noise, and learn the variance of each step,
between the two that DDPM chose from, by the hybrid objective: with it few steps suffice for good likelihoods. Here a
small network learns variances for Gaussian data in 20 steps, and its bound is compared with those of fixed variances.

    python examples/history/2021_improved_ddpm.py
"""

import math

import torch
from toy import MLP, PLANE, Batch, Numbers, draw, fit, mean_log_p, show

from diffcore.denoising.denoiser import Denoiser
from diffcore.denoising.losses import hybrid_loss
from diffcore.likelihood.bound import variational_bound
from diffcore.process.schedules import Cosine, iddpm_cosine
from diffcore.process.variances import log_ratio
from diffcore.sampling.loop import levels_of, sample
from diffcore.sampling.solvers import ddpm
from diffcore.sampling.timesteps import uniform_in_time
from diffcore.testing.oracles import mixture

STD, STEPS = 0.3, 20
DATA = mixture(torch.zeros(1, 2), STD, labels=torch.zeros(1))
SCHEDULE = Cosine(-8, 8)


class Pair(MLP):
    """A network with two outputs: v, and the variance as a fraction between its bounds."""

    def forward(self, x, conditioning, mask=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        output, fraction = super().forward(x, conditioning, mask).chunk(2, 1)
        return output, (fraction + 1) / 2


def true_fraction(noisy: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Where the variance of x_s given x_t lies between the bounds, for N(0, STD^2)."""
    spread = STD**2 / (1 + noisy.exp() * STD**2)
    return torch.log1p((clean.exp() - noisy.exp()) * spread) / log_ratio(noisy, clean)


def main(steps: int = 1500, points: int = 1500) -> Numbers:
    found: Numbers = {}
    chain = levels_of(iddpm_cosine(), uniform_in_time(iddpm_cosine(), 1000))
    for i in (1, 500, 990):
        f = [math.cos((at / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for at in (0, i)]
        found[f"cosine schedule, alpha_bar of step {i}"] = chain[1000 - i].alpha ** 2, f[1] / f[0]

    network = Denoiser(Pair(outputs=4), (), data_std=STD)

    def loss(batch: Batch) -> torch.Tensor:
        clean = SCHEDULE.log_snr((batch.t - 1 / STEPS).clamp(min=0))
        return hybrid_loss(network(batch.x, batch.level), batch.x0, batch.noise, PLANE, clean)

    fit(network, DATA, SCHEDULE, loss, steps)
    times = torch.tensor([0.9, 0.6, 0.3]).double()
    ends = SCHEDULE.log_snr(times), SCHEDULE.log_snr(times - 1 / STEPS)
    for t, noisy, exact in zip(times.tolist(), ends[0], true_fraction(*ends).tolist(), strict=True):
        level = SCHEDULE.level(noisy.expand(points))
        x = level.total[:, None].float() * torch.randn(points, 2, generator=torch.Generator().manual_seed(0))
        found[f"learned fraction at t = {t:.1f}"] = network(x, level).variance.mean().item(), exact

    levels = levels_of(SCHEDULE, uniform_in_time(SCHEDULE, STEPS))
    x0, _ = draw(DATA, points, torch.Generator().manual_seed(1))
    exact = -mean_log_p(DATA, x0)
    for name, denoise, variance in (("lower", DATA, 0.0), ("upper", DATA, 1.0), ("learned", network, 0.0)):
        bound = variational_bound(denoise, x0, PLANE, levels, variance=variance).total.mean().item()
        found[f"{name} variance: bound on -log p, and -log p, nats"] = bound, exact
        drawn = sample(denoise, PLANE, ddpm(variance), levels, indices=range(points))
        found[f"{name} variance: std of samples"] = drawn.std().item(), STD
    return found


if __name__ == "__main__":
    show(main())
