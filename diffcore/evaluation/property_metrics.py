"""How well samples meet scalar targets, and what guiding them there costs."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from diffcore.denoising.conditions import ScalarCondition, nulls
from diffcore.plugins.data import Data, Encoded
from diffcore.plugins.output import Evaluator, Metric
from diffcore.runs.generation import generate_together, unguided
from diffcore.runs.model import Model
from diffcore.runs.sampling_config import SamplingConfig, known_conditions
from diffcore.states.noise import generator_for
from diffcore.system.distributed import by_leader, from_leader
from diffcore.system.progress import counter

GUIDANCE = 2.0
"""The weight that is tried beside 1 where the config has none of its own."""
_SHARE = 8
"""Targets are tried on one sample for so many of the evaluation's."""


def property_metrics(
    model: Model, config: SamplingConfig, evaluator: Evaluator | None, data: Data, n: int, seed: int
) -> list[Metric]:
    """For each scalar condition: the mean absolute error (MAE) of what was asked for against what was obtained.

    Targets are values of the data, one condition at a time, others not given. Each way to draw stands beside two bounds
    of the same targets: `shuffled`, where samples have nothing to do with their targets, and `size_only`, the guess
    that is made of an example of which only the size is known. `..._measured` is the share of samples that have a value
    at all: what guidance costs. Where several processes draw, the leader alone has an evaluator, and the metrics.
    """
    measure = getattr(evaluator, "measure", None)
    if not from_leader(lambda: measure is not None):
        return []

    def measured(drawn: Encoded | None) -> dict[str, Tensor]:
        return {} if measure is None or drawn is None else measure(model.codec.decode(drawn.state, drawn.mask))

    known = known_conditions(model, config)
    tried = [(c, _ways(model, config, c)) for c in known if isinstance(c, ScalarCondition)]
    if not tried:
        return []
    count = max(2, n // _SHARE)
    metrics: list[Metric] = []
    with counter("sampling for targets", count * sum(len(ways) for _, ways in tried)) as after_batch:
        for condition, ways in tried:
            targets, sizes = _targets(model, data, condition, count, seed)
            if not len(targets):
                continue
            asked = {**nulls(known, len(targets)), condition.name: targets}
            metrics += _bounds(model, condition, targets, sizes)
            for words, name, way in ways:
                drawn = generate_together(model, way, asked, len(targets), seed, after_batch)
                values = (by_leader(partial(measured, drawn)) or {}).get(condition.name)
                if values is not None:
                    metrics += _errors(condition, targets, values, words, name)
    return metrics


def _ways(model: Model, config: SamplingConfig, condition: ScalarCondition) -> list[tuple[str, str, SamplingConfig]]:
    """The ways to draw that are compared: what they are, in words and as a part of names, and their recipes.

    The model alone, where it knows the condition, and with the guidance of the config that can tell of it.
    """
    own = condition in model.codec.conditions
    classifier = (
        config.classifier if config.classifier is not None and condition in config.classifier.conditions else None
    )
    guidance = config.guidance if own else 1.0
    if guidance == 1 and classifier is None:
        guidance = GUIDANCE
    words = [f"guidance {guidance:g}"] if guidance != 1 else []
    words += [f"a classifier's gradient, weight {config.classifier_weight:g}"] if classifier is not None else []
    guided = (", ".join(words), "guided", replace(config, guidance=guidance, classifier=classifier))
    return [("conditions, guidance 1", "conditional", unguided(config)), guided] if own else [guided]


def _targets(
    model: Model, data: Data, condition: ScalarCondition, count: int, seed: int
) -> tuple[Tensor, Tensor | None]:
    """Values of at most `count` examples that have one, held-out ones where there are any, and the examples' sizes."""
    examples = data.examples if data.held_out is None else data.held_out
    order = torch.randperm(len(examples), generator=generator_for(seed, "targets", condition.name))
    encoded = model.codec.encode(examples[order[: 2 * count]])
    if (
        condition.name not in encoded.conditions
    ):  # only a classifier knows it: its targets are the quantiles it was told
        u = (torch.arange(count) + 0.5) / count
        values = torch.tensor(condition.quantiles)
        return values[(u * (len(values) - 1)).round().long()], None
    values = encoded.conditions[condition.name]
    rows = condition.given(values).nonzero()[:count, 0]
    return values[rows], None if encoded.mask is None else encoded.mask.sum(1)[rows]


def _bounds(model: Model, condition: ScalarCondition, targets: Tensor, sizes: Tensor | None) -> list[Metric]:
    """What error says that a sample has nothing to do with its target, or no more than its size."""
    wanted, n, known = targets.double(), len(targets), model.codec.sizes
    metrics = []
    if (
        n > 1
    ):  # the mean of |c_i - c_j| over i != j: in order, c_i is the larger of i pairs and the smaller of n - 1 - i
        shuffled = ((2 * torch.arange(n) + 1 - n) * wanted.sort().values).sum().item() * 2 / (n * (n - 1))
        metrics = [Metric(f"{condition.name}_mae_shuffled", shuffled, "bound: the targets against each other's")]
    if sizes is not None and known is not None and condition.name in known.about:
        means = dict(zip(known.counts, (mean for mean, _ in known.about[condition.name]), strict=True))
        guess = torch.tensor([means.get(size, condition.mean) for size in sizes.tolist()], dtype=torch.float64)
        error = (wanted - guess).abs().mean().item()
        meaning = "bound: the targets against the mean of training examples of the same size"
        metrics.append(Metric(f"{condition.name}_mae_size_only", error, meaning))
    return metrics


def _errors(condition: ScalarCondition, targets: Tensor, values: Tensor, words: str, name: str) -> list[Metric]:
    known = ~values.isnan()
    unit = f" ({condition.unit})" if condition.unit else ""
    share = known.double().mean().item()
    metrics = [
        Metric(f"{condition.name}_measured_{name}", share, f"share of samples that have a value; {words}"),
    ]
    if known.any():
        error = (values.double() - targets.double())[known].abs().mean().item()
        meaning = f"mean |asked - obtained|{unit} of {int(known.sum())} samples; {words}"
        metrics = [Metric(f"{condition.name}_mae_{name}", error, meaning), *metrics]
    return metrics
