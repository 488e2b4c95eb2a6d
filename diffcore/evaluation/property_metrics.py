"""How accurately samples reach scalar targets, with and without guidance."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from diffcore.denoising.conditions import ScalarCondition, nulls
from diffcore.plugins.data import Data, Encoded
from diffcore.plugins.guidance import Guidance, with_effect
from diffcore.plugins.output import Evaluator, Metric
from diffcore.runs.coding import decode, encode
from diffcore.runs.generation import generate_together, unguided
from diffcore.runs.kept_draws import draws_of
from diffcore.runs.model import Model
from diffcore.runs.sampling_config import SamplingConfig, known_conditions
from diffcore.sampling.guidance import classifier_free
from diffcore.states.noise import generator_for
from diffcore.system.distributed import by_leader, from_leader
from diffcore.system.progress import counter

GUIDANCE = 2.0
"""The weight of classifier-free guidance that is tried if no guidance of the config uses a condition."""
_SAMPLES_PER_TARGET = 8
"""One target is evaluated for this number of samples of the evaluation."""


def property_metrics(
    model: Model,
    config: SamplingConfig,
    evaluator: Evaluator | None,
    data: Data,
    n: int,
    seed: int,
    folder: Path | None = None,
) -> list[Metric]:
    """The mean absolute error (MAE) between requested and obtained values of each scalar condition.

    The targets are values of the data, for one condition at a time; the other conditions are not given. The errors are
    returned together with two bounds for the same targets: `shuffled`, the error of samples that are independent of
    their targets, and `size_only`, the error of the best guess from the size of an example. `..._measured` is the
    fraction of samples that have a value at all, which guidance can reduce. With several processes, only the leader has
    an evaluator and gets metrics. What is drawn is kept in the folder, if one is given.
    """
    measure = getattr(evaluator, "measure", None)
    if not from_leader(lambda: measure is not None):
        return []

    def measured(drawn: Encoded | None) -> dict[str, Tensor]:
        return {} if measure is None or drawn is None else measure(decode(model, drawn.state, drawn.mask))

    known = known_conditions(model, config)
    tried = [(c, _ways(model, config, c)) for c in known if isinstance(c, ScalarCondition)]
    if not tried:
        return []
    count = max(2, n // _SAMPLES_PER_TARGET)
    metrics: list[Metric] = []
    with counter("sampling for targets", count * sum(len(ways) for _, ways in tried)) as after_batch:
        for condition, ways in tried:
            targets, sizes = targets_of(model, data, condition, count, seed)
            if not len(targets):
                continue
            conditions = {**nulls(known, len(targets)), condition.name: targets}
            metrics += bounds(model, condition, targets, sizes)
            for words, name, way in ways:
                kept = draws_of(folder, model, way, conditions, seed)
                drawn = generate_together(model, way, conditions, len(targets), seed, after_batch, kept=kept)
                values = (by_leader(partial(measured, drawn)) or {}).get(condition.name)
                if values is not None:
                    metrics += _errors(condition, targets, values, words, name)
    return metrics


def _ways(model: Model, config: SamplingConfig, condition: ScalarCondition) -> list[tuple[str, str, SamplingConfig]]:
    """The sampling configs that are compared, each with a description and a suffix for the names of the metrics.

    They are the model without guidance, if it has the condition, and with the guidance of `config` that uses it.
    """
    plain = unguided(config)
    used = [guide for guide in config.guides if guide.towards is None or condition in guide.towards]
    guided = replace(config, guides=with_effect(used))
    if guided == plain:  # nothing in the config guides to it
        guided = replace(config, guides=with_effect([_default_guidance(model), *used]))
    words = " and ".join(guide.words for guide in guided.guides if guide.towards is not None)
    ways = [(words, "guided", guided)]
    if condition in model.codec.conditions:
        ways.insert(0, ("conditions, without guidance", "conditional", plain))
    return ways


def _default_guidance(model: Model) -> Guidance:
    own = model.codec.conditions
    return Guidance(
        lambda denoise, plain: classifier_free(denoise, own, GUIDANCE),
        own,
        name="classifier-free",
        options={"weight": GUIDANCE},
    )


def targets_of(
    model: Model, data: Data, condition: ScalarCondition, count: int, seed: int
) -> tuple[Tensor, Tensor | None]:
    """The values of at most `count` examples that have one, and their sizes; of held-out examples if there are any."""
    examples = data.examples if data.held_out is None else data.held_out
    order = torch.randperm(len(examples), generator=generator_for(seed, "targets", condition.name))
    found = encode(model, examples[order[: 2 * count]])
    if condition.name not in found.conditions:  # of a classifier only: targets are the quantiles of its data
        u = (torch.arange(count) + 0.5) / count
        values = torch.tensor(condition.quantiles)
        return values[(u * (len(values) - 1)).round().long()], None
    values = found.conditions[condition.name]
    rows = condition.given(values).nonzero()[:count, 0]
    return values[rows], None if found.mask is None else found.mask.sum(1)[rows]


def bounds(model: Model, condition: ScalarCondition, targets: Tensor, sizes: Tensor | None) -> list[Metric]:
    """The errors of samples that are independent of their targets, and of samples that match only in size."""
    wanted, n, known = targets.double(), len(targets), model.codec.sizes
    metrics = []
    if n > 1:
        # The mean of |c_i - c_j| over i != j: sorted, c_i is the larger of i pairs and the smaller of n - 1 - i.
        shuffled = ((2 * torch.arange(n) + 1 - n) * wanted.sort().values).sum().item() * 2 / (n * (n - 1))
        metrics = [
            Metric(
                f"{condition.name}_mae_shuffled", shuffled, "bound: the targets against the targets of other samples"
            )
        ]
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
    fraction = known.double().mean().item()
    metrics = [
        Metric(f"{condition.name}_measured_{name}", fraction, f"fraction of samples that have a value; {words}"),
    ]
    if known.any():
        error = (values.double() - targets.double())[known].abs().mean().item()
        meaning = f"mean |requested - obtained|{unit} of {int(known.sum())} samples; {words}"
        metrics = [Metric(f"{condition.name}_mae_{name}", error, meaning), *metrics]
    return metrics
