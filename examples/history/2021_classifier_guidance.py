"""Dhariwal & Nichol 2021, Diffusion models beat GANs on image synthesis.

They train a classifier on noisy data and add its gradient to the score: an unconditional model then draws the class that
it is asked for, and more typical samples of it where the gradient is scaled up. Here a small classifier of three
overlapping Gaussians is compared with Bayes' rule at several levels of noise, and guides their exact denoiser.

    python examples/history/2021_classifier_guidance.py
"""

import torch
from toy import MLP, PLANE, Numbers, draw, fit, mean_log_p, noisy, show

from diffcore.conditions import ClassCondition
from diffcore.grids import uniform_in_log_snr
from diffcore.guidance import energy
from diffcore.predictor import Predictor
from diffcore.sampling import levels_of, sample
from diffcore.schedules import Cosine
from diffcore.solvers import dpmpp_2m
from diffcore.testing.oracles import mixture

CENTRES, STD = torch.tensor([[-1.2, 0.0], [0.0, 1.2], [1.2, 0.0]]), 0.6
DATA = mixture(CENTRES, STD, labels=torch.arange(3))
WHICH, SCHEDULE = ClassCondition("label", ("left", "top", "right")), Cosine(-8, 8)


def main(steps: int = 1500, samples: int = 1500) -> Numbers:
    found: Numbers = {}
    classifier = Predictor(MLP(outputs=WHICH.outputs), (WHICH,))
    fit(classifier, DATA, SCHEDULE, lambda b: -classifier.log_likelihood(b.x, b.level, b.conditions), steps)
    fresh = noisy(DATA, SCHEDULE, 50_000, torch.Generator().manual_seed(1))
    # Bayes: log p(c | x_t) = log p(x_t | c) + log p(c) - log p(x_t).
    bayes = torch.log(torch.tensor(1 / 3)) - DATA.log_density(fresh.x, fresh.level)
    bayes = bayes + DATA.log_density(fresh.x, fresh.level, fresh.conditions)
    said = classifier.log_likelihood(fresh.x, fresh.level, fresh.conditions)
    for name, chosen in (("high", fresh.t > 0.6), ("middle", (fresh.t - 0.5).abs() < 0.1), ("low", fresh.t < 0.4)):
        found[f"-log p(c | x_t) at {name} noise, nats"] = -said[chosen].mean().item(), -bayes[chosen].mean().item()

    asked = {"label": torch.zeros(samples, dtype=torch.int64)}
    levels = levels_of(SCHEDULE, uniform_in_log_snr(SCHEDULE, 40))
    truth, _ = draw(mixture(CENTRES[:1], STD, labels=torch.zeros(1)), 100_000, torch.Generator().manual_seed(2))
    for weight in (0.0, 1.0, 4.0):
        guided = energy(DATA, PLANE, classifier.log_likelihood, weight)
        x = sample(guided, PLANE, dpmpp_2m(), levels, indices=range(samples), conditions={} if weight == 0 else asked)
        exact = torch.zeros(2) if weight == 0 else CENTRES[0]
        found[f"weight {weight:g}: mean of the first coordinate"] = x[:, 0].mean().item(), exact[0].item()
        if weight == 1:
            found["weight 1: std of the first coordinate"] = x[:, 0].std().item(), STD
            alone = mixture(CENTRES[:1], STD, labels=torch.zeros(1))
            found["weight 1: mean log p(x | c)"] = mean_log_p(alone, x), mean_log_p(alone, truth)
    return found


if __name__ == "__main__":
    show(main())
