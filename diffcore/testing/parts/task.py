"""The contract of tasks: a loss of each example that trains the network, metrics, pictures, and exact resuming."""

import tempfile
from pathlib import Path

import torch
from torch import Tensor

from diffcore.evaluation.effort import few_steps
from diffcore.evaluation.evaluate import evaluate
from diffcore.evaluation.request import EvaluationRequest, NothingToEvaluateError
from diffcore.plugins.building import part_of
from diffcore.plugins.output import Picture
from diffcore.runs.model import Model
from diffcore.runs.sampling_config import sampling_config
from diffcore.states.global_random import seeded
from diffcore.testing.checks.check import Check, Measurement, NotApplicableError
from diffcore.testing.checks.common import combined, name_list, source_location
from diffcore.testing.checks.evaluation import metrics_measurement
from diffcore.testing.checks.training import exact_resume
from diffcore.testing.parts.part import PartUnderTest

_SHOWN = 20
"""The number of examples or samples that are evaluated and shown."""


def builds(part: PartUnderTest) -> Measurement:
    """A module is built of the codec and the network, with weights to train."""
    model = part.modality.model
    count = sum(parameter.numel() for parameter in model.network.parameters() if parameter.requires_grad)
    measured = f"a {type(model.network).__name__} with {count:,} weights, for {part.modality.modality.name}"
    return Measurement(count > 0, measured, "a module with weights to train", part.where)


def loss_trains(part: PartUnderTest) -> Measurement:
    """There is a finite loss of each example, which is the same again, and has a gradient in the weights."""
    plugin = part.modality
    model = plugin.new_model()
    where = source_location(plugin.task.loss)
    first, again = _losses(part, model), _losses(part, model)
    if not isinstance(first, Tensor) or first.shape != (plugin.settings.train.batch_size,):
        found = f"the shape {[*first.shape]}" if isinstance(first, Tensor) else f"a {type(first).__name__}"
        return Measurement(False, f"the loss is {found}", "one number for each example, [B]", where)
    gradients = torch.autograd.grad(first.mean(), list(model.network.parameters()), allow_unused=True)
    reached = sum(1 for gradient in gradients if gradient is not None and bool(gradient.any()))
    numbers = name_list(f"{value:.3g}" for value in first.tolist())
    return combined(
        Measurement(bool(first.isfinite().all()), f"losses {numbers}", "finite losses", where),
        Measurement(bool((first == again).all()), "the loss of the same batch differs", "the same loss again", where),
        Measurement(
            reached > 0, f"a gradient in {reached} of {len(gradients)} tensors of weights", "a gradient", where
        ),
    )


def _losses(part: PartUnderTest, model: Model) -> Tensor:
    plugin = part.modality
    batch = plugin.task.draw(model, plugin.settings, plugin.prepared, 0)
    with seeded(batch.dropout_seed):
        losses: Tensor = plugin.task.loss(model, batch, plugin.settings)
    return losses


def loss_has_parts(part: PartUnderTest) -> Measurement:
    """The parts of the loss by name are numbers."""
    plugin = part.modality
    if plugin.task.losses_by_field is None:
        raise NotApplicableError("the task has no `losses_by_field`")
    batch = plugin.task.draw(plugin.model, plugin.settings, plugin.prepared, 0)
    with torch.no_grad():
        found = plugin.task.losses_by_field(plugin.model, batch, plugin.settings)
    ok = isinstance(found, dict) and found and all(isinstance(value, float) for value in found.values())
    return Measurement(
        bool(ok), f"the parts {found!r}", "numbers by name", source_location(plugin.task.losses_by_field)
    )


def evaluates(part: PartUnderTest) -> Measurement:
    """There are metrics of an untrained network, with different names, numbers, and meanings."""
    plugin = part.modality
    with tempfile.TemporaryDirectory() as cache, few_steps():
        try:
            found = evaluate(_untrained(plugin.new_model()), plugin.data, _request(part, Path(cache)))
        except NothingToEvaluateError as nothing:
            raise NotApplicableError(str(nothing)) from None
    return metrics_measurement(found, "metrics", source_location(plugin.task.evaluate))


def shows(part: PartUnderTest) -> Measurement:
    """The writer of the kind of data shows the pictures, and the sections of the report are pairs of text."""
    plugin = part.modality
    task, model = plugin.task, _untrained(plugin.new_model())
    if task.pictures is None and task.report is None:
        raise NotApplicableError("the task has neither `pictures` nor `report`")
    where = source_location(task.pictures or task.report)
    writer = part_of(plugin.modality, "writer", plugin.codec)
    titles = []
    with tempfile.TemporaryDirectory() as folder:
        request = _request(part, Path(folder))
        for picture in [] if task.pictures is None else task.pictures(model, plugin.data, request):
            if not isinstance(picture, Picture):
                return Measurement(False, f"`pictures` yields a {type(picture).__name__}", "a Picture", where)
            path = Path(folder) / f"picture{writer.endings[0]}"
            writer.together(picture.samples, path, picture.columns, picture.captions)
            titles.append(picture.title)
        sections = [] if task.report is None else list(task.report(model, plugin.data, request))
    if not all(isinstance(section, tuple) and [*map(type, section)] == [str, str] for section in sections):
        return Measurement(False, "a section of `report` is no pair of a title and HTML", "pairs of text", where)
    titles += [title for title, _ in sections]
    return Measurement(bool(titles), f"the report shows {name_list(titles) or 'nothing'}", "something to show", where)


def resumes(part: PartUnderTest) -> Measurement:
    """A run that is stopped and resumed equals an unbroken one, bit for bit."""
    return exact_resume(part.modality)


def _untrained(model: Model) -> Model:
    model.network.eval().requires_grad_(False)
    return model


def _request(part: PartUnderTest, cache: Path) -> EvaluationRequest:
    settings, model = part.modality.settings, part.modality.model
    return EvaluationRequest(settings, sampling_config(settings.sample, part.registry, model), _SHOWN, cache=cache)


CHECKS = (
    Check("builds", "a module is built of the codec and the network", builds),
    Check("loss_trains", "there is a loss of each example that trains the network", loss_trains, ("builds",)),
    Check("loss_has_parts", "the loss has parts by name", loss_has_parts, ("builds",)),
    Check("evaluates", "there are metrics of an untrained network", evaluates, ("builds",)),
    Check("shows", "the pictures and sections of the report can be shown", shows, ("builds",)),
    Check("resumes", "a resumed run equals an unbroken one", resumes, ("builds", "loss_trains")),
)
