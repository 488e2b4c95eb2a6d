"""Samples in stages: what a run that enlarges is given of the samples of another run."""

from typing import Any

from diffcore.api.opened import OpenedRun
from diffcore.denoising.conditions.coarse_condition import CoarseCondition, enlarging_condition
from diffcore.errors import UserError
from diffcore.plugins.building import of_samples
from diffcore.runs.generation import resized
from diffcore.runs.model import Model
from diffcore.runs.samples import Samples


def conditions_of(run: OpenedRun, samples: Samples) -> dict[str, Any]:
    """The conditions with which `run` enlarges the samples: themselves, and the conditions that both models have.

    Raises `UserError` if the run does not enlarge such samples.
    """
    condition = require_enlarges(run, samples.model)
    codec = run.model.codec
    own = {each.name: each for each in codec.conditions}
    shared = {each.name: samples.conditions[each.name] for each in samples.known if own.get(each.name) == each}
    return {**shared, condition.name: condition.values(codec.coarse(samples))}


def require_enlarges(run: OpenedRun, small: Model, size: str | None = None) -> CoarseCondition:
    """The condition that samples of the model `small`, of `size` elements if that is given, are for `run`.

    Raises `UserError` if the run does not enlarge such samples.
    """
    model = run.model
    if model.modality.name != small.modality.name:
        raise UserError(f"{run.path} is a run of {model.modality.name}, and cannot enlarge {small.modality.name}")
    condition = enlarging_condition(model.codec.conditions)
    if condition is None:
        can = hasattr(run.settings.data, "upscale")  # type: ignore[attr-defined]
        why = "it was trained without `data.upscale`" if can else "its data set has no option `data.upscale`"
        raise UserError(f"{run.path} does not enlarge samples: {why}")
    if size is not None and small.codec.sizes is None:
        small = resized(small, size)
    try:
        model.codec.require_smaller(of_samples(small.codec))
    except UserError as error:
        raise UserError(f"{run.path}: {error}") from None
    return condition
