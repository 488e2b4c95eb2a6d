"""Song, Sohl-Dickstein, Kingma, Kumar, Ermon & Poole 2021, Score-based generative modeling through SDEs.

They see DDPM (variance-preserving, VP) and annealed Langevin dynamics (variance-exploding, VE) as stochastic
differential equations, add sub-VP, reverse them with the score, and give each an ODE with the same marginals, whence
exact likelihoods. Here each SDE is run to noise, each reverse process back to the data, and the likelihood compared.

    python examples/history/2021_score_sde.py
"""

import torch
from toy import PLANE, Numbers, draw, mean_log_p, ring, show

from diffcore.likelihood.flow import log_likelihood
from diffcore.process.schedules import Exploding, LinearBeta, SubVariancePreserving
from diffcore.process.sde import sde
from diffcore.sampling.loop import levels_of, sample
from diffcore.sampling.solvers import euler, heun, pc
from diffcore.sampling.timesteps import uniform_in_log_snr
from diffcore.states.level import CLEAN

DATA = ring()
SDES = {"VP": LinearBeta(), "VE": Exploding(0.01, 50.0), "sub-VP": SubVariancePreserving()}
REVERSE = {
    "Euler-Maruyama": (euler(1.0), 300),
    "predictor-corrector": (pc(1, 0.16), 150),
    "probability flow, Heun": (heun(), 40),
}


def main(samples: int = 250, points: int = 20_000) -> Numbers:
    found: Numbers = {}
    generator = torch.Generator().manual_seed(0)
    x0, _ = draw(DATA, points, generator)
    for name, schedule in SDES.items():
        # Forward: dx = f x dt + g dw by Euler and Maruyama, from t = 0 to 1.
        times = torch.linspace(0, 1, 1001).double()
        drift, diffusion = sde(schedule, (times[1:] + times[:-1]) / 2)
        start, end = (schedule.level(schedule.log_snr(times[at])) for at in (0, -1))
        x = start.alpha * x0 + start.sigma * torch.randn(x0.shape, generator=generator)
        for f, g in zip(drift.tolist(), diffusion.tolist(), strict=True):
            x = x + f * x / 1000 + g * 1000**-0.5 * torch.randn(x.shape, generator=generator)
        found[f"{name}: std of x at t = 1"] = x.std().item(), end.total.item()
        # Backward, from noise to data.
        for method, (step, n) in REVERSE.items():
            levels = levels_of(schedule, uniform_in_log_snr(schedule, n))
            drawn = sample(DATA, PLANE, step, levels, indices=range(samples))
            found[f"{name}, {method}: mean log p"] = mean_log_p(DATA, drawn), mean_log_p(DATA)
    # Likelihoods follow the flow in an angle that all three share: which SDE it belongs to makes no difference.
    few = x0[:50].double()
    along, exact = log_likelihood(DATA, few, PLANE, SDES["VP"], log_snrs=(-12.0, 14.0)), DATA.log_density(few, CLEAN)
    found["log p(x0) by the flow, first point"] = along[0].item(), exact[0].item()
    found["log p(x0) by the flow, greatest error of 50 points"] = (along - exact).abs().max().item(), 0.0
    return found


if __name__ == "__main__":
    show(main())
