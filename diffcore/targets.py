"""How well samples meet scalar targets, and what guiding them there costs."""

from dataclasses import replace

import torch
from torch import Tensor

from diffcore.assembly import Model, Recipe, known_conditions
from diffcore.conditions import Conditions, ScalarCondition, nulls
from diffcore.data import Data
from diffcore.generation import generate, unguided
from diffcore.noise import generator_for
from diffcore.output import Figure, Judge
from diffcore.progress import counter

GUIDANCE = 2.0
"""The weight that is tried beside 1 where the recipe has none of its own."""
_SHARE = 8
"""Targets are tried on one sample for so many of the evaluation's."""


def target_figures(model: Model, recipe: Recipe, judge: Judge, data: Data, n: int, seed: int) -> list[Figure]:
    """For each scalar condition: the mean absolute error (MAE) of what was asked for against what was obtained.

    Targets are values of the data, one condition at a time, others not given. Each way to draw stands beside two bounds
    of the same targets: `shuffled`, where samples have nothing to do with their targets, and `size_only`, the guess
    that is made of an example of which only the size is known. `..._measured` is the share of samples that have a value
    at all: what guidance costs.
    """
    measured = getattr(judge, "measure", None)
    scalars = [c for c in known_conditions(model, recipe) if isinstance(c, ScalarCondition)]
    if measured is None or not scalars:
        return []
    count = max(2, n // _SHARE)
    figures: list[Figure] = []
    ways = _ways(model, recipe)
    with counter("sampling for targets", count * len(ways) * len(scalars)) as after_batch:
        for condition in scalars:
            targets, sizes = _targets(model, data, condition, count, seed)
            if not len(targets):
                continue
            asked = {**nulls(known_conditions(model, recipe), len(targets)), condition.name: targets}
            figures += _bounds(model, condition, targets, sizes)
            for words, name, way in ways:
                drawn = generate(model, way, _known_to(model, way, asked), len(targets), seed, after_batch)
                values = measured(model.codec.decode(drawn.state, drawn.mask)).get(condition.name)
                if values is not None:
                    figures += _errors(condition, targets, values, words, name)
    return figures


def _ways(model: Model, recipe: Recipe) -> list[tuple[str, str, Recipe]]:
    """The ways to draw that are compared: what they are, in words and as a part of names, and their recipes."""
    plain = unguided(recipe)
    ways = [("conditions, guidance 1", "conditional", plain)] if model.codec.conditions else []
    if recipe.guidance == 1 and recipe.predictor is None:
        recipe = replace(recipe, guidance=GUIDANCE)
    words = [f"guidance {recipe.guidance:g}"] if recipe.guidance != 1 else []
    words += [f"a predictor's gradient, weight {recipe.predictor_weight:g}"] if recipe.predictor is not None else []
    return [*ways, (", ".join(words), "guided", recipe)]


def _known_to(model: Model, recipe: Recipe, asked: Conditions) -> Conditions:
    names = {condition.name for condition in known_conditions(model, recipe)}
    return {name: value for name, value in asked.items() if name in names}


def _targets(
    model: Model, data: Data, condition: ScalarCondition, count: int, seed: int
) -> tuple[Tensor, Tensor | None]:
    """Values of at most `count` examples that have one, held-out ones where there are any, and the examples' sizes."""
    examples = data.examples if data.held_out is None else data.held_out
    order = torch.randperm(len(examples), generator=generator_for(seed, "targets", condition.name))
    encoded = model.codec.encode(examples[order[: 2 * count]])
    if condition.name not in encoded.conditions:  # only a predictor knows it: its targets are the quantiles it was told
        u = (torch.arange(count) + 0.5) / count
        values = torch.tensor(condition.quantiles)
        return values[(u * (len(values) - 1)).round().long()], None
    values = encoded.conditions[condition.name]
    rows = condition.given(values).nonzero()[:count, 0]
    return values[rows], None if encoded.mask is None else encoded.mask.sum(1)[rows]


def _bounds(model: Model, condition: ScalarCondition, targets: Tensor, sizes: Tensor | None) -> list[Figure]:
    """What error says that a sample has nothing to do with its target, or no more than its size."""
    wanted = targets.double()
    shuffled = (wanted[:, None] - wanted).abs().sum() / (len(wanted) * max(len(wanted) - 1, 1))
    figures = [Figure(f"{condition.name}_mae_shuffled", shuffled.item(), "bound: the targets against each other's")]
    table = None if model.codec.sizes is None else model.codec.sizes.about.get(condition.name)
    if sizes is not None and table is not None and model.codec.sizes is not None:
        means = dict(zip(model.codec.sizes.counts, (mean for mean, _ in table), strict=True))
        guess = torch.tensor([means.get(size, condition.mean) for size in sizes.tolist()], dtype=torch.float64)
        error = (wanted - guess).abs().mean().item()
        meaning = "bound: the targets against the mean of training examples of the same size"
        figures.append(Figure(f"{condition.name}_mae_size_only", error, meaning))
    return figures


def _errors(condition: ScalarCondition, targets: Tensor, values: Tensor, words: str, name: str) -> list[Figure]:
    known = ~values.isnan()
    unit = f" ({condition.unit})" if condition.unit else ""
    share = known.double().mean().item()
    figures = [
        Figure(f"{condition.name}_measured_{name}", share, f"share of samples that have a value; {words}"),
    ]
    if known.any():
        error = (values.double() - targets.double())[known].abs().mean().item()
        meaning = f"mean |asked - obtained|{unit} of {int(known.sum())} samples; {words}"
        figures = [Figure(f"{condition.name}_mae_{name}", error, meaning), *figures]
    return figures
