"""Does one small network, trained with levels by field, draw p(a, b), p(a | b) and p(b | a)?

The data are a mixture of two correlated Gaussians of a field `a` [1] and a field `b` [2], of which everything is known
in closed form. For each of the three, the script prints the error of the means in standard deviations, the largest
relative error of the standard deviations, and the error of the weight of the first mode.

    python tests/benchmarks/joint_fields.py --steps 3000 --json joint.json
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from torch import nn

import diffcore as dc
from diffcore.states.state import fields, named

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.support.joint import JOINT, SPACE, flat


class Net(nn.Module):
    """An MLP of both fields."""

    width = 128

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(3 + self.width, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, 3)
        )

    def forward(self, x, conditioning, mask=None):
        output = self.net(torch.cat([x["a"], x["b"], conditioning], 1))
        return named({"a": output[:, :1], "b": output[:, 1:]})


def examples(count: int, generator: torch.Generator):
    """Draws of the mixture."""
    component = torch.multinomial(JOINT.weights, count, True, generator=generator)
    roots = torch.linalg.cholesky(JOINT.covariances)[component]
    noise = torch.randn(count, 3, 1, dtype=torch.float64, generator=generator)
    values = (flat(JOINT.means)[component] + (roots @ noise)[..., 0]).float()
    return named({"a": values[:, :1], "b": values[:, 1:]})


def trained(steps: int, batch: int = 512) -> dc.Denoiser:
    """The network after `steps` steps, with averaged weights."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    denoiser = dc.Denoiser(Net(), level_fields=("a", "b"))
    average = torch.optim.swa_utils.AveragedModel(
        denoiser, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998)
    )
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x = examples(batch, generator)
        loss = dc.denoising_loss(denoiser, x, space=SPACE, independent=0.7, given=0.3, generator=generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        average.update_parameters(denoiser)
    return average.module.eval()


def errors(samples: torch.Tensor, exact) -> dict[str, float]:
    """The errors of samples `[n, D]` of the mixture `exact`."""
    mean, covariance = exact.moments()
    std = covariance.diagonal().sqrt()
    means = torch.cat([value.flatten(1) for value in fields(exact.means).values()], 1)
    generator = torch.Generator().manual_seed(5)
    component = torch.multinomial(exact.weights, 100_000, True, generator=generator)
    noise = torch.randn(100_000, len(mean), 1, dtype=torch.float64, generator=generator)
    reference = means[component] + (torch.linalg.cholesky(exact.covariances)[component] @ noise)[..., 0]

    def first(points: torch.Tensor) -> float:
        near = (points - means[0]).square().sum(1) < (points - means[1]).square().sum(1)
        return near.double().mean().item()

    return {
        "mean": ((samples.mean(0) - mean).abs() / std).max().item(),
        "std": (samples.std(0) / std - 1).abs().max().item(),
        "weight": abs(first(samples) - first(reference)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    began = time.perf_counter()
    denoiser = trained(options.steps)
    print(f"trained in {time.perf_counter() - began:.0f} s")
    found = {}
    for name, given in {
        "p(a, b)": {},
        "p(a | b = (1.0, -0.3))": {"b": torch.tensor([[1.0, -0.3]])},
        "p(a | b = (-0.6, 0.3))": {"b": torch.tensor([[-0.6, 0.3]])},
        "p(b | a = 0.9)": {"a": torch.tensor([[0.9]])},
        "p(b | a = -1.3)": {"a": torch.tensor([[-1.3]])},
        "p(b | a = 0.2), between the modes": {"a": torch.tensor([[0.2]])},
    }.items():
        constraint = dc.given_fields(given, SPACE) if given else None
        drawn = dc.sample(denoiser, options.samples, space=SPACE, steps=40, constraint=constraint, seed=1)
        exact = JOINT
        for field, value in given.items():
            exact = JOINT.given(field, value[0])
            assert (drawn[field] == value).all()
        samples = torch.cat([f.double() for n, f in fields(drawn).items() if n not in given], 1)
        found[name] = errors(samples, exact)
        print(f"{name:34}", "  ".join(f"{key} {value:.3f}" for key, value in found[name].items()), flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
