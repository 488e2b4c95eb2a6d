"""Karras, Aittala, Aila & Laine 2022, Elucidating the design space of diffusion-based generative models.

They take the method apart and choose each part anew: how the network's input and output are scaled, where the levels
lie, Heun's method, and some noise put back on the way. Here each part is compared with their formula, and the solvers,
for the exact denoiser of six Gaussians, with the flow that they follow.

    python examples/history/2022_edm.py
"""

import torch
from torch import Tensor, nn
from toy import PLANE, Numbers, mean_log_p, ring, show

from diffcore.denoising.denoiser import Denoiser
from diffcore.process.schedules import Exploding, LogNormal
from diffcore.sampling.loop import levels_of, sample
from diffcore.sampling.solvers import adams, edm, euler, heun
from diffcore.sampling.timesteps import karras, uniform_in_log_snr
from diffcore.states.level import Level

D = 0.5  # sigma_data
DATA, LEVELS = ring(scale=D), Exploding(0.002, 80.0)


class Constant(nn.Module):
    """A backbone that says one number, whatever it sees, and remembers what it saw."""

    width, says = 8, 0.0

    def forward(self, x: Tensor, conditioning: Tensor, mask: Tensor | None = None) -> Tensor:
        self.seen = x
        return torch.full_like(x, self.says)


def main(samples: int = 500) -> Numbers:
    found: Numbers = {}
    # Table 1: D(x) = c_skip x + c_out F(c_in x). What a network says here, v, is -F.
    sigma, backbone = 1.7, Constant()
    denoiser, x, total = Denoiser(backbone, (), data_std=D), torch.ones(1, 2), (sigma**2 + D**2) ** 0.5
    skipped = denoiser(x, Level(1.0, sigma)).x0[0, 0].item()
    backbone.says = -1.0
    found["c_skip at sigma = 1.7"] = skipped, D**2 / total**2
    found["c_out at sigma = 1.7"] = denoiser(x, Level(1.0, sigma)).x0[0, 0].item() - skipped, sigma * D / total
    found["c_in at sigma = 1.7"] = backbone.seen[0, 0].item(), 1 / total

    tenth = (80 ** (1 / 7) + 9 / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    found["sigma number 10 of 18"] = levels_of(LEVELS, karras(LEVELS, 18))[9].sigma, tenth
    trained_at = LogNormal(sigma_min=1e-9, sigma_max=1e9)
    t = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    log_sigma = -trained_at.log_snr(t) / 2
    found["training levels: mean of ln sigma"] = log_sigma.mean().item(), -1.2
    found["training levels: std of ln sigma"] = log_sigma.std().item(), 1.2

    flow = sample(DATA, PLANE, adams(), levels_of(LEVELS, uniform_in_log_snr(LEVELS, 300)), indices=range(samples))
    for name, step, n in (("Euler", euler(), 79), ("Heun", heun(), 40)):
        drawn = sample(DATA, PLANE, step, levels_of(LEVELS, karras(LEVELS, n)), indices=range(samples))
        found[f"{name}, 79 evaluations: median error"] = (drawn - flow).norm(dim=1).median().item(), 0.0
    churned = sample(
        DATA, PLANE, edm(0.1, inflation=1.0), levels_of(LEVELS, karras(LEVELS, 80)), indices=range(samples)
    )
    found["80 steps with churn: mean log p of samples"] = mean_log_p(DATA, churned), mean_log_p(DATA)
    found["80 steps with churn: std of samples"] = churned.std().item(), D
    return found


if __name__ == "__main__":
    show(main())
