"""Samples from a trained model: solver, grid and guidance put together."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from diffcore.assembly import Model, Recipe
from diffcore.conditions import Conditions
from diffcore.editing import Guide
from diffcore.grids import grid
from diffcore.guidance import classifier_free
from diffcore.sampling import Moment, in_batches, levels_of, sample
from diffcore.state import State, concatenate


def generate(
    model: Model,
    recipe: Recipe,
    conditions: Conditions,
    n: int,
    seed: int = 0,
    after_batch: Callable[[int], None] = lambda count: None,
    watch: Callable[[Moment], None] | None = None,
    guide: Guide | None = None,
) -> State:
    """Draw `n` states; `conditions` holds a value for each. Sample i depends on `seed` and i alone.

    `guide` decorates the denoiser and the step of each batch, as `diffcore.editing` does.
    """
    denoise = classifier_free(model.denoiser, model.codec.conditions, recipe.guidance)
    levels = levels_of(model.schedule, grid(recipe.grid, model.schedule, recipe.steps))
    drawn = []
    model.denoiser.eval()
    for indices in in_batches(range(n), recipe.batch_size):
        steered, step = (denoise, recipe.step) if guide is None else guide(denoise, recipe.step, indices)
        states = sample(
            steered,
            model.codec.space,
            step,
            levels,
            indices=indices,
            seed=seed,
            conditions={name: value[list(indices)].to(model.device) for name, value in conditions.items()},
            device=model.device,
            watch=watch,
        )
        drawn.append(states.cpu())
        after_batch(len(indices))
    return concatenate(drawn)


@dataclass
class Trace:
    """Collects the states on the way from noise to data, scaled to unit variance."""

    states: list[State] = field(default_factory=list)

    def __call__(self, moment: Moment) -> None:
        self.states.append(1 / moment.prediction.level.total * moment.x)


def strip(model: Model, recipe: Recipe, conditions: Conditions, n: int, moments: int, seed: int = 0) -> State:
    """`moments` states of each of `n` trajectories from noise to data, and the result: `[n * (moments + 1)]`.

    States are scaled to unit variance. Sample by sample, so a page with `moments + 1` columns shows a
    trajectory a row.
    """
    trace = Trace()
    final = generate(model, replace(recipe, batch_size=n), conditions, n, seed, watch=trace)
    count = len(trace.states)
    shown = [trace.states[round(i * (count - 1) / max(moments - 1, 1))].cpu() for i in range(moments)]
    rows = [torch.stack([state[i] for state in [*shown, final]]) for i in range(n)]
    return concatenate(rows)  # type: ignore[arg-type]
