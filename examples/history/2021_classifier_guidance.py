"""Dhariwal & Nichol 2021, Diffusion models beat GANs on image synthesis.

They train a classifier on noisy data and add its gradient to the score: an unconditional model then draws the class
that it is asked for, and more typical samples of it where the gradient is scaled up. Here a small classifier of three
overlapping Gaussians is compared with Bayes' rule at several levels of noise, and guides their exact denoiser.

    python examples/history/2021_classifier_guidance.py
"""

import math

import torch
from torch import Tensor
from toy import MLP, PLANE, Numbers, fit, mean_log_p, noisy, show

from diffcore.denoising.conditions import ClassCondition, Conditions
from diffcore.denoising.noisy_classifier import NoisyClassifier
from diffcore.process.schedules import Cosine
from diffcore.sampling.guidance import energy
from diffcore.sampling.loop import levels_of, sample
from diffcore.sampling.solvers import dpmpp_2m
from diffcore.sampling.timesteps import uniform_in_log_snr
from diffcore.states.level import Level
from diffcore.testing.oracles import mixture

CENTRES, STD = torch.tensor([[-1.2, 0.0], [0.0, 1.2], [1.2, 0.0]]), 0.6
LABELLED, UNCONDITIONAL = mixture(CENTRES, STD, labels=torch.arange(3)), mixture(CENTRES, STD)
ONLY_LEFT = mixture(CENTRES[:1], STD, labels=torch.zeros(1))
WHICH, SCHEDULE = ClassCondition("label", ("left", "top", "right")), Cosine(-8, 8)


def bayes(x: Tensor, level: Level, conditions: Conditions | None, mask: Tensor | None = None) -> Tensor:
    """log p(c | x_t) = log p(x_t | c) + log p(c) - log p(x_t), `[B]`."""
    return LABELLED.log_density(x, level, conditions) - math.log(3) - LABELLED.log_density(x, level)


def main(steps: int = 1500, samples: int = 1500) -> Numbers:
    found: Numbers = {}
    classifier = NoisyClassifier(MLP(outputs=WHICH.head.outputs), (WHICH,))
    fit(classifier, LABELLED, SCHEDULE, lambda b: -classifier.log_likelihood(b.x, b.level, b.conditions), steps)
    fresh = noisy(LABELLED, SCHEDULE, 50_000, torch.Generator().manual_seed(1))
    said, exact = (of(fresh.x, fresh.level, fresh.conditions) for of in (classifier.log_likelihood, bayes))
    for name, chosen in (("high", fresh.t > 0.6), ("middle", (fresh.t - 0.5).abs() < 0.1), ("low", fresh.t < 0.4)):
        found[f"-log p(c | x_t) at {name} noise, nats"] = -said[chosen].mean().item(), -exact[chosen].mean().item()

    asked = {"label": torch.zeros(samples, dtype=torch.int64)}
    levels = levels_of(SCHEDULE, uniform_in_log_snr(SCHEDULE, 40))
    for weight in (0.0, 1.0, 4.0):
        x, by_bayes = (
            sample(
                energy(UNCONDITIONAL, PLANE, log_weight, weight), PLANE, dpmpp_2m(), levels,
                indices=range(samples), conditions=asked,
            )
            for log_weight in (classifier.log_likelihood, bayes)
        )  # fmt: skip
        found[f"weight {weight:g}: mean of the first coordinate"] = x[:, 0].mean().item(), by_bayes[:, 0].mean().item()
        if weight == 1:  # samples of p(x | c)
            found["weight 1: the same, and that of the class"] = x[:, 0].mean().item(), CENTRES[0, 0].item()
            found["weight 1: std of the first coordinate"] = x[:, 0].std().item(), STD
            found["weight 1: mean log p(x | c)"] = mean_log_p(ONLY_LEFT, x), mean_log_p(ONLY_LEFT)
    return found


if __name__ == "__main__":
    show(main())
