"""Ho & Salimans 2022, Classifier-free diffusion guidance.

One network learns the conditional and the unconditional model, as conditions are dropped at times in training, and
eps_u + w (eps_c - eps_u) does what a classifier's gradient does. Here a small network learns two classes of Gaussians;
both its models and its guided prediction are compared with the exact ones, and samples show what w does.

    python examples/history/2022_classifier_free_guidance.py
"""

import torch
from toy import LABEL, MLP, PLANE, Batch, Numbers, fit, mean_log_p, noisy, ring, show

from diffcore.denoising.conditions import drop, nulls
from diffcore.denoising.denoiser import Denoiser
from diffcore.denoising.losses import weighted_loss
from diffcore.process.schedules import Cosine
from diffcore.sampling.guidance import classifier_free
from diffcore.sampling.loop import levels_of, sample
from diffcore.sampling.solvers import dpmpp_2m
from diffcore.sampling.timesteps import uniform_in_log_snr

DATA, SCHEDULE = ring(), Cosine(-8, 8)


def main(steps: int = 1500, samples: int = 1500) -> Numbers:
    found: Numbers = {}
    network = Denoiser(MLP(), (LABEL,))
    generator = torch.Generator().manual_seed(3)

    def loss(batch: Batch) -> torch.Tensor:
        conditions = drop((LABEL,), batch.conditions, 0.2, torch.rand(len(batch.x), 1, generator=generator))
        return weighted_loss(network(batch.x, batch.level, conditions), batch.x0, batch.noise, PLANE)

    fit(network, DATA, SCHEDULE, loss, steps)
    fresh = noisy(DATA, SCHEDULE, 50_000, torch.Generator().manual_seed(1))
    for name, conditions in (("conditional", fresh.conditions), ("unconditional", nulls((LABEL,), 50_000))):
        losses = [
            weighted_loss(model(fresh.x, fresh.level, conditions), fresh.x0, fresh.noise, PLANE).mean().item()
            for model in (network, DATA)
        ]
        found[f"L_simple, {name}, and the least there is"] = losses[0], losses[1]

    # The guided prediction against the same combination of exact ones, where classes differ.
    guided = classifier_free(network, (LABEL,), 2.0)(fresh.x, fresh.level, fresh.conditions).eps
    eps_u, eps_c = DATA(fresh.x, fresh.level).eps, DATA(fresh.x, fresh.level, fresh.conditions).eps
    by_hand = eps_u + 2 * (eps_c - eps_u)
    found["w = 2: mean square of eps"] = guided.square().mean().item(), by_hand.square().mean().item()
    found["w = 2: mean square error of eps"] = (guided - by_hand).square().mean().item(), 0.0

    levels = levels_of(SCHEDULE, uniform_in_log_snr(SCHEDULE, 40))
    asked = {"label": torch.zeros(samples, dtype=torch.int64)}
    for weight in (0.0, 1.0, 2.0):
        x = sample(
            classifier_free(network, (LABEL,), weight), PLANE, dpmpp_2m(), levels,
            indices=range(samples), conditions=asked,
        )  # fmt: skip
        exact = sample(
            classifier_free(DATA, (LABEL,), weight), PLANE, dpmpp_2m(), levels,
            indices=range(samples), conditions=asked,
        )  # fmt: skip
        nearest = torch.cdist(x, DATA.centres).argmin(1) % 2
        found[f"w = {weight:g}: share of the class asked for"] = (
            (nearest == 0).double().mean().item(),
            1 - 0.5 * (weight == 0),
        )
        found[f"w = {weight:g}: mean log p(x)"] = mean_log_p(DATA, x), mean_log_p(DATA, exact)
    return found


if __name__ == "__main__":
    show(main())
