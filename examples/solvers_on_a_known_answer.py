"""How near do solvers come to the exact flow, for the same number of evaluations?

The data are a mixture of three Gaussians, so the ideal denoiser is known in closed form and no training is needed.
Prints the median error of each solver and grid against 2,000 steps from the same noise.

    python examples/solvers_on_a_known_answer.py
"""

import torch

from diffcore.process.schedules import Cosine
from diffcore.sampling.loop import levels_of, sample
from diffcore.sampling.solvers import Step, adams, ddim, dpmpp_2m
from diffcore.sampling.timesteps import GRIDS, grid
from diffcore.states.spaces import Euclidean
from diffcore.testing.oracles import mixture

torch.set_default_dtype(torch.float64)
SPACE = Euclidean((2,))
SCHEDULE = Cosine()
DENOISER = mixture(torch.tensor([[-1.0, 0.0], [0.8, 0.6], [0.8, -0.6]]), std=0.2)


def draw(step: Step, name: str, n: int) -> torch.Tensor:
    """200 samples of seed 0."""
    levels = levels_of(SCHEDULE, grid(name, SCHEDULE, n))
    return sample(DENOISER, SPACE, step, levels, indices=range(200), seed=0)


truth = draw(adams(), "log-snr", 2000)
print(f"{'':20}" + "".join(f"{n:>10}" for n in (5, 10, 20, 50)))
for solver_name, solver in (("ddim", ddim()), ("dpmpp-2m", dpmpp_2m()), ("adams", adams())):
    for grid_name in GRIDS:
        errors = [(draw(solver, grid_name, n) - truth).norm(dim=1).median().item() for n in (5, 10, 20, 50)]
        print(f"{solver_name:10}{grid_name:10}" + "".join(f"{error:10.5f}" for error in errors))
