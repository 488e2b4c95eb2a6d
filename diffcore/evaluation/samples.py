"""The metrics and the pictures of samples, for tasks whose network draws samples."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from tensordict import TensorDict

from diffcore.denoising.conditions import ClassCondition, Conditions, captions_of
from diffcore.denoising.text import TextCondition
from diffcore.errors import RAISED_BY_PLUGINS, UserError, told
from diffcore.evaluation.joint import side_metrics, side_pictures
from diffcore.evaluation.neighbours import nearest_picture
from diffcore.evaluation.property_metrics import property_metrics
from diffcore.evaluation.request import EvaluationRequest, MetricFunction, NothingToEvaluateError
from diffcore.plugins.building import of_samples, part_of, require_metrics
from diffcore.plugins.data import Data
from diffcore.plugins.output import Metric, Picture
from diffcore.runs.coding import decode, encode
from diffcore.runs.generation import (
    example_conditions,
    generate,
    generate_together,
    trajectories,
    unguided_without_conditions,
)
from diffcore.runs.kept_draws import draws_of
from diffcore.runs.model import Model
from diffcore.runs.sampling_config import SamplingConfig, known_conditions
from diffcore.system.distributed import by_leader, gathered, world
from diffcore.system.progress import counter

logger = logging.getLogger(__name__)

Complain = Callable[[str], None]
"""A function that is told what could not be computed."""


def evaluate(model: Model, data: Data, request: EvaluationRequest) -> list[Metric]:
    """The metrics of `request.n` samples, the speed of sampling, and the error of samples with scalar targets.

    The conditions of the samples cover the possible values in equal parts; if the model takes texts, they are those of
    held-out examples, and of training examples where these are fewer than `request.n` (`asked_examples`).
    `request.extra_metrics` are computed in addition to those of the modality. An evaluator or a metric that fails is
    left out, and `request.complain` is called with the reason. With several processes, the leader evaluates the samples
    of all processes, and the others get no metrics of them.

    Raises `NothingToEvaluateError` if there are no metrics for the modality.
    """
    made = model.modality.evaluator
    if made is None and not request.extra_metrics:
        raise NothingToEvaluateError(f"the plugin for {model.modality.name} has no metrics; name some with `metrics`")
    logger.info("preparing the evaluation")
    evaluator = None if made is None else by_leader(lambda: evaluator_of(model, data, request))
    found = of_drawn(model, data, request, evaluator)
    if not made:
        return found
    targets = _of_targets(model, evaluator, data, request)
    return [*found, *targets, *side_metrics(model, data, request, evaluator)]


def of_drawn(model: Model, data: Data, request: EvaluationRequest, evaluator: Any) -> list[Metric]:
    """The metrics of `request.n` samples by the evaluator, and the speed of sampling; see `evaluate`."""
    config, n, seed, extra_metrics = request.config, request.n, request.seed, request.extra_metrics
    conditions = _requested(model, data, n, config)
    plain = unguided_without_conditions(model, config, conditions)
    kept = draws_of(request.drawn, model, plain, conditions, seed)
    with counter("sampling", n) as after_batch:
        started = time.perf_counter()
        drawn = generate_together(model, plain, conditions, n, seed, after_batch, kept=kept)
        seconds = time.perf_counter() - started
    earlier = sum(gathered(lambda: kept.found))
    if earlier:
        logger.info(f"{earlier} of {n} samples were drawn by an evaluation that was interrupted")

    def measured() -> list[Metric]:
        assert drawn is not None
        samples = decode(model, drawn.state, drawn.mask)
        return [
            *(
                _measured(f"of {model.modality.name}", evaluator, samples, conditions, request.complain)
                if evaluator
                else ()
            ),
            *(
                metric
                for name, measure in extra_metrics.items()
                for metric in _measured(name, measure, samples, conditions, request.complain)
            ),
        ]

    several = f", {world()} processes" if world() > 1 else ""
    return [
        *(by_leader(measured) or ()),
        Metric("samples", n, f"drawn with {plain.describe()}, seed {seed}"),
        *(
            [Metric("samples_per_second", (n - earlier) / seconds, f"on {model.device}{several}")]
            if earlier < n
            else []
        ),
    ]


def _requested(model: Model, data: Data, n: int, config: SamplingConfig) -> Conditions:
    """The conditions of `n` samples: example values; for texts and what has the form of states, those of examples."""
    conditions = example_conditions(model, n, config)
    texts = any(isinstance(each, TextCondition) for each in model.codec.conditions)
    asked = data.held_out if data.asked is None else data.asked
    if asked is None or not (texts or _enlarges(model)):
        return conditions
    others = None if data.asked is not None or _enlarges(model) else data.examples
    return conditions | asked_conditions(model, asked, others, n)


def asked_conditions(model: Model, asked: TensorDict, others: TensorDict | None, n: int) -> Conditions:
    """The conditions of the examples that `asked_examples` chooses, each `[n, ...]`."""
    found = [encode(model, examples).conditions for examples in asked_examples(asked, others, n)]
    return {name: torch.cat([values[name] for values in found]) for name in found[0]}


def asked_examples(asked: TensorDict, others: TensorDict | None, n: int) -> list[TensorDict]:
    """`n` examples whose conditions samples are drawn for: the first ones of `asked`, and then some of `others`.

    A text that is asked for twice gives two samples which are more alike than two examples, and so a larger distance to
    the examples. So texts are repeated only where there are no others.
    """
    if others is None or n <= len(asked):
        return [asked[torch.arange(n) % len(asked)]]
    count = n - len(asked)
    return [asked, others[torch.arange(count) * max(len(others), count) // count % len(others)]]


def _enlarges(model: Model) -> bool:
    """Whether a condition has the form of the state, so that only examples have typical values."""
    return any("like_state" in condition.inputs.names for condition in model.codec.conditions)


def _measured(
    name: str, metric: MetricFunction, samples: Any, conditions: Conditions, complain: Complain
) -> list[Metric]:
    try:
        found = metric(samples, conditions)
        require_metrics(found, name)
        return found
    except RAISED_BY_PLUGINS as error:  # code of other packages can raise any exception
        complain(f"the metric {name} failed: {told(error)}")
        return []


def evaluator_of(model: Model, data: Data, request: EvaluationRequest) -> Any:
    """The evaluator of the modality; None, with a warning, if its code fails. Raises `UserError` where it does."""
    try:
        return part_of(model.modality, "evaluator", model.codec, data, request.cache)
    except UserError:
        raise
    except RAISED_BY_PLUGINS as error:  # code of other packages can raise any exception
        request.complain(f"the evaluator of {model.modality.name} could not be prepared: {told(error)}")
        return None


def _of_targets(model: Model, evaluator: Any, data: Data, request: EvaluationRequest) -> Sequence[Metric]:
    try:
        return property_metrics(model, request.config, evaluator, data, request.n, request.seed, request.drawn)
    except UserError:
        raise
    except RAISED_BY_PLUGINS as error:  # code of other packages can raise any exception
        request.complain(f"the values that samples reached could not be measured: {told(error)}")
        return []


def _real(model: Model, data: Data, conditions: Conditions, n: int) -> Callable[[], Any] | None:
    """What makes `n` real examples of the classes of the samples; None where examples cannot be shown as samples.

    They are held-out examples, if there are any: of each class one after another, and again from the first one. Of
    classes without examples, and without classes, they are any.
    """
    as_samples = getattr(of_samples(model.codec), "as_samples", None)
    if as_samples is None:
        return None
    examples = data.examples if data.held_out is None else data.held_out
    rows = torch.arange(n) % len(examples)
    for condition in model.codec.conditions:
        if isinstance(condition, ClassCondition) and condition.name in examples.keys():
            asked, there = conditions[condition.name].cpu(), examples[condition.name]
            for value in asked.unique():
                places, found = (asked == value).nonzero()[:, 0], (there == value).nonzero()[:, 0]
                if len(found):
                    rows[places] = found[torch.arange(len(places)) % len(found)]
            break
    return lambda: as_samples(examples[rows])


def pictures(model: Model, data: Data, request: EvaluationRequest) -> Iterator[Picture]:
    """Pictures of samples, and of a few trajectories from noise to data.

    If all processes draw together, only the leader gets pictures, and only that of samples.
    """
    config, seed = request.config, request.seed
    of = _requested(model, data, request.n, config) if _enlarges(model) else None
    known, conditions = known_conditions(model, config), of or example_conditions(model, request.n, config)
    config = unguided_without_conditions(model, config, conditions)
    draw = generate_together if request.together else generate
    drawn = draw(model, config, conditions, request.n, seed)
    if drawn is None:
        return
    samples = decode(model, drawn.state, drawn.mask)
    yield Picture(
        "Samples",
        samples,
        captions=captions_of(known, conditions, request.n),
        real=_real(model, data, conditions, request.n),
    )
    if request.together:
        return
    if (nearest := nearest_picture(model, data, samples)) is not None:
        yield nearest
    yield from side_pictures(model, data, request)
    moments, rows = 9, min(5, request.n)
    few = {name: value[:rows] for name, value in conditions.items()}
    steps = trajectories(model, config, few, rows, moments, seed)
    yield Picture(
        "From noise to data",
        decode(model, steps.state, steps.mask),
        moments + 1,
        captions_of(known, steps.conditions, steps.state.shape[0]),
        trajectories=True,
    )
