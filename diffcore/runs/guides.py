"""The list of guidance with which samples are drawn, made from the settings of a run and the options of a caller."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from diffcore.denoising.conditions import Condition
from diffcore.denoising.precision import compute_in
from diffcore.errors import UserError
from diffcore.plugins.building import build, require_part
from diffcore.plugins.guidance import (
    Decorator,
    Guidance,
    GuidanceContext,
    LoadNetwork,
    as_guidance,
    with_effect,
    words_of,
)
from diffcore.plugins.records import Component, Settings
from diffcore.plugins.registry import Registry
from diffcore.plugins.text import NAME
from diffcore.process.schedules import ByField, Schedule
from diffcore.runs.checkpoints import tensors_digest
from diffcore.runs.choices import Choice, chosen, function_name
from diffcore.runs.loading import Loader
from diffcore.runs.model import Model, codec_digest, require_help
from diffcore.runs.settings import SampleSettings
from diffcore.states.spaces import describe_difference

logger = logging.getLogger(__name__)

Guide = Choice | Decorator | Guidance
"""A guidance as a caller gives it: its name, its name and options, or the guidance itself."""

SHORT = {
    "weak": "auto",
    "guidance": "classifier-free",
    "negative_prompt": "classifier-free",
    "classifier": "classifier",
    "guidance_rescale": "rescale",
    "guidance_interval": "interval",
}
"""The options that are short for a guidance, with its name."""


def short_guides(
    sampling: SampleSettings,
    classifier: str | Path | None = None,
    weak: str | Path | None = None,
    guides: Sequence[Guide] = (),
    negative_prompt: str | None = None,
) -> list[Guide]:
    """The list that the short options stand for, with `guides` at their place in it.

    First autoguidance with `weak`, then classifier-free guidance, away from `negative_prompt` if there is one, and the
    gradient of a `classifier`, then `guides`, and at last rescaling and the interval, which apply to all before.
    """
    found: list[Guide] = []
    if weak is not None:
        found.append({"name": "auto", "weak": place_of(weak), "weight": sampling.autoguidance})
    against = {} if negative_prompt is None else {"against": {NAME: negative_prompt}}
    found.append({"name": "classifier-free", "weight": sampling.guidance, **against})
    if classifier is not None:
        found.append({"name": "classifier", "run": place_of(classifier), "weight": sampling.classifier_weight})
    found += guides
    found.append({"name": "rescale", "factor": sampling.guidance_rescale})
    if sampling.guidance_interval is not None:
        low, high = sampling.guidance_interval
        found.append({"name": "interval", "low": low, "high": high})
    return found


def place_of(source: str | Path) -> str:
    """The absolute path of a run folder, or the unchanged name of a checkpoint."""
    return str(Path(source).absolute()) if Path(source).is_dir() else str(source)


def no_networks(source: str, use: str) -> nn.Module:
    """In place of a loader where guidance by other runs is not possible. Raises `UserError`."""
    raise UserError(f"the network of {source} cannot guide here")


def build_guides(
    guides: Sequence[Guide],
    registry: Registry,
    model: Model,
    load: LoadNetwork = no_networks,
    named: Sequence[Guide] = (),
) -> tuple[Guidance, ...]:
    """The guidances of a list, the innermost first; those that have no effect are left out.

    A line is logged for each that is left out and is among those `named` by the caller.
    """
    offered = registry.offered("guidance", model.modality.name)
    conditions = tuple(model.codec.conditions)
    built: list[Guidance] = []
    for guide in guides:
        if isinstance(guide, str | Mapping):
            context = GuidanceContext(model.modality, model.codec, conditions, load)
            part = _named_guide(*chosen(guide, offered, "guide"), context)
        else:
            require_part("guide", guide, "`guides`")
            part = as_guidance(guide)
            part = part if part.name else replace(part, name=function_name(guide))
        conditions = with_new(conditions, part)
        built.append(part)
    kept = with_effect(built)
    for guide, part in zip(guides, built, strict=True):
        if not any(part is other for other in kept) and any(guide is other for other in named):
            logger.warning(
                f"the guide {part.words} changes nothing at its place in the list, as a guide applies to those before "
                "it; it is left out"
            )
    return kept


def _named_guide(component: Component, options: Settings, context: GuidanceContext) -> Guidance:
    """The guidance of a record with its name and options, and with the tensors of the networks that it loads."""
    tensors: dict[str, Mapping[str, Tensor]] = {}

    def load(source: str, use: str) -> nn.Module:
        network = context.load(source, use)
        tensors[source] = network.state_dict()
        return network

    part = as_guidance(build("guide", component, options, replace(context, load=load)))
    values = options.model_dump(mode="json")
    return replace(part, name=component.name, options=values, tensors={**part.tensors, **tensors})


def with_new(conditions: Sequence[Condition], guide: Guidance) -> tuple[Condition, ...]:
    """The conditions, and those of a guidance whose names are not among them."""
    names = {condition.name for condition in conditions}
    return (*conditions, *(condition for condition in guide.towards or () if condition.name not in names))


def recipe_of(guide: Guidance) -> dict[str, Any]:
    """Everything that decides what a guidance does, as values of JSON; files and networks by a digest."""
    digests = {place: tensors_digest(tensors) for place, tensors in guide.tensors.items()}
    options = {
        name: digests.get(value, value) if isinstance(value, str) else value for name, value in guide.options.items()
    }
    return {"name": guide.name, **options}


def recipe_words(recipes: Sequence[Mapping[str, Any]]) -> str:
    """Recipes of guidances in words, with the first characters of digests."""
    shown = [{name: value[:12] if _is_digest(value) else value for name, value in each.items()} for each in recipes]
    return " and ".join(words_of(str(each.pop("name", "")), each) for each in shown) or "none"


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64


def network_loader(path: Path, model: Model, sampling: SampleSettings, load: Loader, registry: Registry) -> LoadNetwork:
    """Loads networks that guide the `model` of the run in the folder `path`, with the precision of `sampling`."""

    def network(source: str, use: str) -> nn.Module:
        place = Path(source)
        own = use in model.task.helps and not place.is_dir() and len(place.parts) == 1
        helper = load(path if own else place, source if own else None).model
        what = f"the run {source}" if not own else f"the checkpoint {source}"
        require_help(helper, use, what, registry.offered("tasks"))
        check_helper(model, helper, what)
        compute_in(helper.network, sampling.precision, sampling.compile)
        return helper.network

    return network


def check_helper(model: Model, helper: Model, what: str) -> None:
    """Raise `UserError` if a network of another run, called `what` in the message, cannot guide this model.

    Both must have the same kind of data, the same shape of states, and the same definition of shared conditions.
    """
    if helper.modality.name != model.modality.name:
        raise UserError(f"{what} is a model of {helper.modality.name}, but this is a model of {model.modality.name}")
    if difference := describe_difference(helper.codec.space, model.codec.space):
        raise UserError(f"{what} was trained on data of a different form than this model: {difference}")
    if _several_levels(model.schedule) and not isinstance(helper.schedule, ByField):
        raise UserError(
            f"the network of {what} is told one noise level, and the fields of this model have levels of their own: "
            "train it with `levels.shifts` or `levels.independent`"
        )
    if codec_digest(helper.codec) != codec_digest(model.codec):
        raise UserError(f"{what} was trained with other weights of the codec than this model: their states differ")
    own = {condition.name: condition for condition in model.codec.conditions}
    for condition in helper.codec.conditions:
        if own.get(condition.name, condition) != condition:
            raise UserError(
                f"{what} and this model define the condition {condition.name!r} differently: they were trained "
                "on different values"
            )


def _several_levels(schedule: Schedule) -> bool:
    """Whether fields have different levels at the same time."""
    return isinstance(schedule, ByField) and len(set(schedule.shifts.values())) > 1
