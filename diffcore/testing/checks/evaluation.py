"""Checks of what is used after training: evaluators, readers, and noisy classifiers."""

import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffcore.denoising.conditions import Conditions, ScalarCondition
from diffcore.evaluation.effort import few_steps
from diffcore.plugins.building import part_of, require_metrics
from diffcore.plugins.output import Metric
from diffcore.states.form import form_difference, shapes_of
from diffcore.states.state import fields, first_field, map_fields
from diffcore.testing.checks.check import Measurement, NotApplicableError
from diffcore.testing.checks.common import ROUNDING, combined, name_list, source_location
from diffcore.testing.checks.sampling import draw_samples
from diffcore.testing.plugin import NoisyBatch, PluginUnderTest, randomised

_EXAMINED = 40
"""Real examples, and samples, that evaluators are given: some compare those of each class, and need several."""


def evaluator_measures(plugin: PluginUnderTest) -> Measurement:
    """The evaluator gives metrics of real examples and of samples of an untrained network.

    Otherwise the figures of a run would be missing after its training. The networks of an evaluator are trained for a
    few steps only (`diffcore.evaluation.effort.few_steps`), so its figures mean nothing here. Metrics have different
    names, real numbers (nan where there is none) and a meaning in words. `measure` gives one number for each sample, by
    the names of scalar conditions.
    """
    if plugin.modality.evaluator is None:
        raise NotApplicableError("the modality has no evaluator")
    with tempfile.TemporaryDirectory() as cache, few_steps():
        evaluator = part_of(plugin.modality, "evaluator", plugin.codec, plugin.data, Path(cache))
        if evaluator is None:
            raise NotApplicableError("there is no evaluator for these data")
        where = source_location(type(evaluator) if not callable(evaluator) else evaluator)
        measurements, names = [], []
        for what, samples, conditions in examined(plugin):
            found = evaluator(samples, conditions)
            measurements.append(metrics_measurement(found, f"metrics of {what}", where))
            names += [metric.name for metric in found] if measurements[-1].passed else []
            if (measure := getattr(evaluator, "measure", None)) is not None:
                measurements += [
                    Measurement(False, f"`measure` of {what}: {complaint}", "one number for each sample", where)
                    for complaint in _values(plugin, measure(samples), len(samples))
                ]
    summary = Measurement(True, f"metrics: {name_list(dict.fromkeys(names))}", "metrics of all samples", where)
    return combined(*[m for m in measurements if not m.passed], summary)


def examined(plugin: PluginUnderTest) -> Iterator[tuple[str, Any, Conditions]]:
    """Decoded examples with their own conditions, and samples of an untrained network; each with a name."""
    examples = plugin.data.examples if plugin.data.held_out is None else plugin.data.held_out
    encoded = plugin.encode(examples[:_EXAMINED])
    yield "real examples", plugin.decode(encoded.state, encoded.mask), encoded.conditions
    conditions = {condition.name: condition.examples(_EXAMINED) for condition in plugin.codec.conditions}
    yield "samples of an untrained network", draw_samples(plugin, 0, _EXAMINED).decoded, conditions


def metrics_measurement(found: Any, what: str, where: str) -> Measurement:
    """Whether something is a list of metrics with different names, real numbers and meanings."""
    expected = "a list of Metric with different names, numbers, and meanings in words"
    try:
        require_metrics(found, "of the evaluator")
    except Exception as error:
        return Measurement(False, f"{what}: {error}", expected, where)
    names = [metric.name for metric in found]
    return combined(
        *(
            Measurement(complaint is None, f"{what}: {complaint}", expected, where)
            for complaint in map(_wrong_metric, found)
        ),
        Measurement(len({*names}) == len(names), f"{what}: two have the same name among {names}", expected, where),
        Measurement(bool(names), f"{what}: there are none", expected, where),
    )


def _wrong_metric(metric: Metric) -> str | None:
    if not isinstance(metric.name, str) or not metric.name:
        return f"the name {metric.name!r} is no text"
    value = metric.value
    if not isinstance(value, int | float) or isinstance(value, bool):
        return f"the value of {metric.name} is a {type(value).__name__}, not a number of Python"
    return None if isinstance(metric.meaning, str) and metric.meaning else f"{metric.name} has no meaning in words"


def _values(plugin: PluginUnderTest, found: Any, count: int) -> Iterator[str]:
    scalars = [c.name for c in plugin.codec.conditions if isinstance(c, ScalarCondition)]
    if not isinstance(found, dict):
        yield f"it returns {'None' if found is None else f'a {type(found).__name__}'}, not a dictionary"
        return
    for name, value in found.items():
        if name not in scalars:
            yield f"it has {name!r}, which is no scalar condition; there are: {name_list(scalars) or 'none'}"
        elif not isinstance(value, Tensor) or tuple(value.shape) != (count,):
            shape = [*value.shape] if isinstance(value, Tensor) else type(value).__name__
            yield f"{name} has the shape {shape} for {count} samples"


def reader_reads(plugin: PluginUnderTest) -> Measurement:
    """The reader reads the files that the writer writes, and finds the sample in them.

    `read` and `read_part` are tried, as far as the reader has them, with decoded training examples. What is read has
    the form of a state `[1, ...]` and is nearer to the example in the file than to another one.
    """
    if plugin.modality.reader is None:
        raise NotApplicableError("the modality has no reader")
    reader = part_of(plugin.modality, "reader", plugin.codec)
    methods = [name for name in ("read", "read_part") if hasattr(reader, name)]
    if not methods:
        raise NotApplicableError("the reader has neither `read` nor `read_part`")
    encoded = plugin.encoded(2)
    samples = plugin.decode(encoded.state, encoded.mask)
    measurements = []
    with tempfile.TemporaryDirectory() as folder:
        writer = part_of(plugin.modality, "writer", plugin.codec)
        paths = writer.each(samples, Path(folder), ["0", "1"])
        for name in methods:
            method = getattr(reader, name)
            for complaint in _reading(plugin, method, name, paths[0], encoded.state):
                measurements.append(
                    Measurement(False, complaint, "the state of the sample in the file", source_location(method))
                )
    read = f"read from {paths[0].suffix or 'files'} by {', '.join(methods)}"
    return combined(*measurements, Measurement(True, f"the sample is {read}", "the state of the sample in the file"))


def _reading(
    plugin: PluginUnderTest, method: Callable[[Path], Any], name: str, path: Path, states: Any
) -> Iterator[str]:
    found, known = method(path), None
    if name == "read_part":
        if not isinstance(found, tuple) or len(found) != 2:
            yield f"`read_part` returns {'None' if found is None else f'a {type(found).__name__}'}, not a pair"
            return
        found, known = found
    expected = {field: (1, *shape[1:]) for field, shape in shapes_of(plugin.space.empty(1)).items()}
    for what, state in (("state", found), *([("known", known)] if name == "read_part" else ())):
        if difference := form_difference(state, expected):
            yield f"`{name}`: the {what} has another form than a sample: {difference}"
            return
    if not all(bool(value.isfinite().all()) for value in fields(found).values()):
        yield f"`{name}` returns nan or infinite numbers"
        return
    if known is not None:
        flags = fields(known)
        if any(value.dtype != torch.bool for value in flags.values()) or not any(v.any() for v in flags.values()):
            yield f"`{name}`: what is known must be booleans, some of which are True"
            return
    own, other = (_distance(found, states[row : row + 1], known) for row in (0, 1))
    if len(states) > 1 and other > 0 and not own < other:
        yield f"`{name}` returns a state at a distance of {own:.3g} from the sample, and {other:.3g} from another one"


def _distance(first: Any, second: Any, known: Any) -> float:
    squares = map_fields(lambda a, b: (a - b.to(a)).square(), first, second)
    if known is not None:
        squares = map_fields(lambda square, flag: square * flag, squares, known)
    return math.sqrt(sum(value.sum().item() for value in fields(squares).values()))


def classifier_predicts(plugin: PluginUnderTest) -> Measurement:
    """The noisy classifier gives the outputs of the conditions, for each sample alone, with a gradient for guidance.

    Otherwise `--task classify` would train a network that cannot guide. The first of the modality's `classifiers` is
    tried, with its `small` options.
    """
    if not plugin.modality.classifiers:
        raise NotApplicableError("the modality has no classifiers")
    if not plugin.codec.conditions:
        raise NotApplicableError("the codec has no conditions to predict")
    if not any(condition.head for condition in plugin.codec.conditions):
        raise NotApplicableError("no condition has a head")
    classifier = randomised(plugin.with_task("classify").model.classifier)
    where = source_location(type(classifier.backbone))
    batch = plugin.noisy_batch()
    every = {**batch.conditions, **plugin.encoded(len(first_field(batch.x))).conditions}

    def log_likelihood(part: NoisyBatch) -> Tensor:
        values = {name: value[: len(first_field(part.x))] for name, value in every.items()}
        return classifier.log_likelihood(part.x, part.level, values, part.mask)

    leaf = map_fields(lambda field: field.detach().requires_grad_(), batch.x)
    total = classifier.log_likelihood(leaf, batch.level, every, batch.mask)
    gradients = torch.autograd.grad(total.sum(), list(fields(leaf).values()), allow_unused=True)
    reached = any(gradient is not None and bool(gradient.any()) for gradient in gradients)
    with torch.no_grad():
        whole, alone = log_likelihood(batch), log_likelihood(batch[torch.tensor([0])])
    change = ((whole[:1] - alone).abs() / whole.abs().max().clamp(min=1e-6)).item()
    return combined(
        Measurement(
            bool(whole.isfinite().all()),
            f"log-likelihoods {name_list(f'{value:.3g}' for value in whole.tolist())}",
            "finite log-likelihoods",
            where,
        ),
        Measurement(reached, f"{'a' if reached else 'no'} gradient in the state", "a gradient, for guidance", where),
        Measurement(
            change <= ROUNDING,
            f"a batch of one changes the log-likelihood by {change:.2g}",
            f"at most {ROUNDING:g} of the largest",
            where,
        ),
    )
