"""What came since: schedules, a weighting, straight lines, gentler guidance; each beside its formula.

Chen 2023 (sigmoid schedule), Hang & Gu 2024 (Laplace), Lin et al. 2024 (zero terminal SNR, rescaled guidance), Hang et
al. 2023 (min-SNR weighting), Liu et al. 2023 and Lipman et al. 2023 (rectified flow), Kynkäänniemi et al. 2024
(guidance in an interval).

    python examples/history/since_then.py
"""

import math
from itertools import pairwise

import torch
from torch import Tensor
from toy import LABEL, PLANE, Numbers, ring, show

from diffcore.denoising.denoiser import Prediction
from diffcore.denoising.losses import weighted_loss
from diffcore.process.schedules import Cosine, Laplace, Rectified, Sigmoid, ZeroTerminal, ddpm
from diffcore.sampling.guidance import classifier_free, interval, log_snr_interval, rescale
from diffcore.sampling.loop import levels_of, prior, sample
from diffcore.sampling.solvers import adams, ddim
from diffcore.sampling.timesteps import tapered, uniform_in_time
from diffcore.states.level import Level
from diffcore.states.noise import Draws

DATA, SCHEDULE = ring(), Cosine()


def at(t: float) -> Tensor:
    """A time."""
    return torch.tensor(t, dtype=torch.float64)


def main(samples: int = 200) -> Numbers:
    found: Numbers = {}
    ends = [1 / (1 + math.exp(-z)) for z in (-3, 3, -3 + 6 * (1e-4 + 0.25 * (1 - 2e-4)))]
    expected = (ends[1] - ends[2]) / (ends[1] - ends[0])
    found["sigmoid schedule: alpha^2 at t = 1/4"] = Sigmoid().log_snr(at(0.25)).sigmoid().item(), expected
    found["Laplace schedule: lambda at t = 1/4"] = Laplace(0.5, 0.8).log_snr(at(0.25)).item(), 0.5 + 0.8 * math.log(2)
    alphas = [ddpm().log_snr(at(t)).sigmoid().sqrt().item() for t in (0, 0.5, 1)]
    moved = [ZeroTerminal(ddpm()).log_snr(at(t)).sigmoid().sqrt().item() for t in (0, 0.5, 1)]
    found["linear betas: alpha at the noisy end, and what noise has"] = alphas[2], 0.0
    found["the same with zero terminal SNR"] = moved[2], 0.0
    factor = alphas[0] / (alphas[0] - alphas[2])
    found["zero terminal SNR: alpha at t = 1/2"] = moved[1], factor * (alphas[1] - alphas[2])
    for name, snr in (("9", 9.0), ("1", 1.0)):
        level, x0 = Level((snr / (1 + snr)) ** 0.5, (1 / (1 + snr)) ** 0.5), torch.ones(1, 2)
        wrong = Prediction(level.alpha * x0, level, 0.5 * x0)
        loss = weighted_loss(wrong, x0, torch.zeros(1, 2), PLANE, "min-snr")
        found[f"min-SNR weighting: loss of an error of 1/2 at SNR {name}"] = loss.item(), min(snr, 5) / 4

    # Rectified flow: dx/dt = eps - x0, for which DDIM is Euler's method.
    lines = levels_of(Rectified(), uniform_in_time(Rectified(), 20))
    x = prior(PLANE, Draws.of(0, range(samples)), lines[0])
    for now, then in pairwise(lines):
        to, share = DATA(x, now), (then.alpha - now.alpha, then.sigma - now.sigma)
        x = x + share[0] * to.x0 + share[1] * to.eps
    drawn = sample(DATA, PLANE, ddim(), lines, indices=range(samples))
    found["rectified flow: mean square of samples by Euler, DDIM"] = (
        x.square().mean().item(),
        drawn.square().mean().item(),
    )

    # Guidance between two sigmas alone, and with the spread of the conditional model.
    strong, low_high, told = classifier_free(DATA, (LABEL,), 4.0), log_snr_interval(0.3, 2.0), []
    limited = interval(strong, DATA, *low_high)
    asked, levels = {"label": torch.zeros(samples, dtype=torch.int64)}, levels_of(SCHEDULE, tapered(SCHEDULE, 30))
    state = sample(DATA, PLANE, adams(), levels[:10], indices=range(samples), conditions=asked, keep_noise=True)
    for sigma in (0.1, 1.0, 4.0):
        level = Level(1 / math.hypot(1, sigma), sigma / math.hypot(1, sigma))
        difference = limited(state, level, asked).x0 - DATA(state, level, asked).x0
        told.append(bool((difference != 0).any()))
    found["levels that an interval guides, of sigma 0.1, 1, 4"] = sum(told), 1
    spread = [
        each(state, levels[9], asked).output.std(1, correction=0).mean().item()
        for each in (rescale(strong, DATA, PLANE, 1.0), DATA)
    ]
    found["rescaled guidance: spread of what is predicted"] = spread[0], spread[1]
    return found


if __name__ == "__main__":
    show(main())
